"""Faults of subspaces, rotations, correlation matrices and products, each with the law that it breaks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions_angles as angles
from manifoldnorm.linalg import unit_diagonal
from manifoldnorm.linalg.functions import EXP
from manifoldnorm.linalg.polar import polar
from manifoldnorm.linalg.spectral import frechet_derivative
from manifoldnorm.manifolds import Grassmann, Product, Rotations, Stiefel, _frames
from manifoldnorm.manifolds.charts_correlation import OffLog
from manifoldnorm.manifolds.poly_hyperbolic import HyperbolicRows, PoincareRows
from manifoldnorm.testing.faults_curvature import CURVATURE_FAULTS
from manifoldnorm.testing.mutants import Mutant, swap

_RAY, _GRASSMANN_TRANSPORT = _frames.ray_to, Grassmann.transport


# ---- subspaces, frames, rotations


def _symmetric_part_only(self: Any, p: Tensor, v: Tensor) -> Tensor:
    product = p.mT @ v
    return v - p @ (product + product.mT) / 2


def _untranslated(self: Any, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    factor = polar(p.mT @ q, q - p @ (p.mT @ q))[1]
    return _GRASSMANN_TRANSPORT(self, p, q, v) @ factor.mT  # the lift at another frame of q


def _in_the_frame_of_the_end(along: Tensor, off: Tensor) -> _frames.Ray:
    ray = _RAY(along, off)
    return ray._replace(velocity=off @ linalg.apply(polar(along, off)[0], angles.ARC_OVER_SINE))


def _by_entries(self: Any, center: Tensor, x: Tensor, spread: Any = None) -> Any:
    centred = self.gyrosub(center, x)
    e = self.origin(dtype=x.dtype)

    def finish(t: Tensor, bias: Tensor | None) -> Tensor:
        y = self.project(e + t[..., None, None] * (centred - e))
        return y if bias is None else self.gyroadd(bias, y)

    return self.squared_dist(e, centred), finish


def _cayley(self: Any, x: Tensor, y: Tensor) -> Tensor:
    omega = self.log(self.origin(dtype=x.dtype), x)
    n, p = self.point_shape
    omega = torch.cat([omega, omega.new_zeros(*omega.shape[:-1], n - p)], -1)
    omega = (omega - omega.mT) / 2
    eye = torch.eye(n, dtype=x.dtype)
    return torch.linalg.solve(eye - omega, eye + omega) @ y


def _skew_at_the_identity(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return (v - v.mT) / 2


def _left_quotient(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return x.mT @ y


SUBSPACE_FAULTS = (
    Mutant(
        "vertical tangent vectors",
        "turns within the subspace count",
        "Grassmann",
        swap((Grassmann, "project_tangent", _symmetric_part_only)),
        law="tangent_dimension",
    ),
    Mutant(
        "transport at another frame",
        "the factor of q is forgotten",
        "Grassmann",
        swap((Grassmann, "transport", _untranslated)),
        law="transport_velocity",
    ),
    Mutant(
        "logarithm at another frame",
        "the factor of the end point is forgotten",
        "Grassmann-wide",
        swap((_frames, "ray_to", _in_the_frame_of_the_end)),
        law="exp_log",
    ),
    Mutant(
        "dilation of entries",
        "depends on the frames of the samples",
        "Gyro-Grassmann",
        swap((Grassmann, "gyro_dilation", _by_entries)),
        law="invariant[frames]",
    ),
    Mutant(
        "Cayley transform for the exponential",
        "as in the published layer",
        "Grassmann",
        swap((Grassmann, "gyroadd", _cayley)),
        law="gyro_overrides",
    ),
    Mutant(
        "retraction for the exponential",
        "the polar factor of p + v",
        "Stiefel",
        swap((Stiefel, "exp", Stiefel.retract)),
        law="exp_log",
    ),
    Mutant(
        "tangent space at the identity",
        "at every rotation",
        "Rotations-3",
        swap((Rotations, "project_tangent", _skew_at_the_identity)),
        law="exp_velocity",
    ),
    Mutant(
        "translation for transport",
        "isometric, inverse to each other, not parallel",
        "Rotations-3",
        swap(
            (Rotations, "to_origin", lambda self, p, v: p.mT @ v), (Rotations, "from_origin", lambda self, p, v: p @ v)
        ),
        law="origin_transport_is_parallel",
    ),
    Mutant(
        "left quotient of the right group",
        "x^-1 y for y x^-1",
        "Rotations-3-right",
        swap((Rotations, "quotient", _left_quotient)),
        law="group_quotient",
    ),
    Mutant(
        "left for right throughout",
        "the option is ignored",
        "Rotations-3-right",
        swap((Rotations, "compose", lambda self, x, y: x @ y)),
        "equivalent as a group: only a comparison of both sides shows which one it is",
    ),
)


# ---- correlation matrices and products


def _plain_exponential(self: Any, y: Tensor) -> Tensor:
    return linalg.expm(y - torch.diag_embed(y.diagonal(dim1=-2, dim2=-1)))


def _explicit_only(spectrum: Any, factor: Tensor, v: Tensor | None, extra: Tensor | None) -> Tensor:
    zero = torch.zeros_like(spectrum.matrix)
    return zero if v is None else frechet_derivative(spectrum, EXP, v)


def _klein_rows(self: Any, p: Tensor) -> Tensor:
    return linalg.cholesky(p).tril(-1)


def _longest_row(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return self.ball.squared_dist(p, q).amax(-1)


def _distances_added(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return torch.stack([d.sqrt() for d in self._each("squared_dist", p, q)]).sum(0).square()


CORRELATION_FAULTS = (
    Mutant(
        "diagonal other than one",
        "the exponential of hollow matrices",
        "CorrelationOffLog",
        swap((OffLog, "inverse", _plain_exponential)),
        law="retract_velocity",
    ),
    Mutant(
        "Newton stopped early",
        "the unit diagonal is not reached",
        "CorrelationOffLog",
        swap((unit_diagonal, "_STEPS", 0)),
        law="exp_log",
    ),
    Mutant(
        "implicit gradient left out",
        "the diagonal counts as constant",
        "CorrelationOffLog",
        swap((unit_diagonal, "_tangent", _explicit_only)),
        law="autograd",
    ),
    Mutant(
        "Klein rows in the Poincare ball",
        "coordinates of the wrong model",
        "CorrelationPolyHyperbolic",
        swap((PoincareRows, "__call__", _klein_rows)),
        law="exp_log",
    ),
    Mutant(
        "the longest row for all",
        "distance of a product by maximum",
        "CorrelationPolyHyperbolic",
        swap((HyperbolicRows, "squared_dist", _longest_row)),
        law="dist_is_norm_of_log",
    ),
    Mutant(
        "distances of factors added",
        "instead of their squares",
        "Product-curved",
        swap((Product, "squared_dist", _distances_added)),
        law="dist_is_norm_of_log",
    ),
)

GEOMETRY_FAULTS = CURVATURE_FAULTS + SUBSPACE_FAULTS + CORRELATION_FAULTS
