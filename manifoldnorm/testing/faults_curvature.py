"""Faults of spaces of constant curvature, each with the law that it breaks."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from manifoldnorm.manifolds import Klein, Lorentz, PoincareBall, Sphere, Stereographic, _conformal, stereographic
from manifoldnorm.manifolds._conformal import ConformalManifold
from manifoldnorm.manifolds._curvature import Disk, Space, arctan_ratio, sine_cosine, tan_ratio
from manifoldnorm.testing.mutants import Mutant, swap

_GYRATE, _SQUARED = Space.gyrate, ConformalManifold.squared_dist
_SPHERE_SQUARED, _SINE_COSINE = Sphere.squared_dist, sine_cosine


def _reversed_gyration(self: Any, x: Disk, y: Disk, vector: Tensor) -> Tensor:
    return _GYRATE(self, y, x, vector)


def _ungyrated_transport(self: Any, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    return self.from_origin(q, self.to_origin(p, v))


def _of_the_other_sign(self: Any, p: Tensor, q: Tensor) -> Tensor:
    moved = self.gyrosub(p, q).square().sum(-1, keepdim=True)
    z = -self.curvature * moved
    return (4 * moved * arctan_ratio(z, 1 + z).square()).squeeze(-1)


def _of_unit_curvature(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return -self.curvature * _SQUARED(self, p, q)


def _exp_of_unit_curvature(self: Any, frame: Tensor) -> Disk:
    half = 0.5 * frame
    norm2 = half.square().sum(-1, keepdim=True)
    ratio, _ = tan_ratio(-norm2)
    return self.disk(ratio * half)


def _unflipped_gradient(self: Any, p: Tensor, g: Tensor) -> Tensor:
    return self.project_tangent(p, g)  # the time component keeps its sign


def _angle_only(self: Any, p: Tensor, q: Tensor) -> Tensor:
    return self.curvature * _SPHERE_SQUARED(self, p, q)


def _along_the_unscaled_base(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return v - (p * v).sum(-1, keepdim=True) * p


def _projection_of_vectors(self: Any, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    return self.project_tangent(q, v)


def _swapped(z: Tensor, sign: int | None = None) -> tuple[Tensor, Tensor]:
    sine, cosine = _SINE_COSINE(z, sign)
    return cosine, sine


CURVATURE_FAULTS = (
    Mutant(
        "trivial Mobius gyration",
        "gyr[x, y] z = z",
        "PoincareBall",
        swap((Space, "gyrate", lambda self, x, y, v: v)),
        law="gyro_associativity",
    ),
    Mutant(
        "inverse gyration",
        "gyr[y, x] for gyr[x, y]",
        "Klein",
        swap((Space, "gyrate", _reversed_gyration)),
        law="gyro_associativity",
    ),
    Mutant(
        "transport without gyration",
        "through the origin: isometric, not parallel",
        "Lorentz",
        swap((ConformalManifold, "transport", _ungyrated_transport)),
        law="transport_is_parallel",
    ),
    Mutant(
        "curvature of the other sign",
        "in the distance",
        "PoincareBall",
        swap((PoincareBall, "squared_dist", _of_the_other_sign)),
        law="dist_is_norm_of_log",
    ),
    Mutant(
        "distance of curvature -1",
        "whatever the curvature",
        "Lorentz-curvature",
        swap((Lorentz, "squared_dist", _of_unit_curvature)),
        law="dist_is_norm_of_log",
    ),
    Mutant(
        "exponential of curvature -1",
        "whatever the curvature",
        "Stereographic-negative",
        swap((Space, "exp", _exp_of_unit_curvature)),
        law="exp_log",
    ),
    Mutant(
        "sign of the time gradient",
        "not flipped",
        "Lorentz",
        swap((Lorentz, "egrad2rgrad", _unflipped_gradient)),
        law="gradient_duality",
    ),
    Mutant(
        "points beyond the boundary",
        "projection leaves them there",
        "PoincareBall",
        swap((stereographic, "keep_inside", lambda x, curvature, dtype: x)),
        law="projection",
    ),
    Mutant(
        "Poincare metric on Klein points",
        "conformal factor of the wrong model",
        "Klein",
        swap((Klein, "_frame", PoincareBall._frame), (Klein, "_unframe", PoincareBall._unframe)),
        law="exp_velocity",
    ),
    Mutant(
        "angle for distance",
        "the radius is forgotten",
        "Sphere-curvature",
        swap((Sphere, "squared_dist", _angle_only)),
        law="dist_is_norm_of_log",
    ),
    Mutant(
        "tangent space of another radius",
        "the base is not normalised",
        "Sphere-curvature",
        swap((Sphere, "project_tangent", _along_the_unscaled_base)),
        law="tangent_projection",
    ),
    Mutant(
        "projection for transport",
        "shortens vectors along the way",
        "Sphere",
        swap((Sphere, "transport", _projection_of_vectors)),
        law="transport_isometry",
    ),
    Mutant(
        "Hessian across samples inverted",
        "tan(a) / a for a / tan(a)",
        "ProjectedSphere",
        swap((_conformal, "sine_cosine", _swapped)),
        law="newton_hessian",
    ),
    Mutant(
        "cut locus too far",
        "at twice the distance of antipodes",
        "Sphere",
        swap((Sphere, "injectivity_radius", 2 * math.pi)),
        law="injectivity",
    ),
    Mutant(
        "cut locus forgotten",
        "a closed space without one",
        "Stereographic-positive",
        swap((Stereographic, "injectivity_radius", 1e3)),
        law="injectivity",
    ),
)
