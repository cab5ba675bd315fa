"""Faults of charts, groups, domains and of manifolds as values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds import (
    AffineInvariant,
    BuresWasserstein,
    CholeskyInverse,
    Congruence,
    LogCholeskyChart,
    Manifold,
    MatrixLog,
    MatrixPower,
    PowerDeformed,
    Pullback,
    Stiefel,
    TraceScaling,
    bures,
    spd,
)
from manifoldnorm.manifolds.cone import PositiveDefiniteCone
from manifoldnorm.testing.mutants import Mutant, swap

_AIM, _BW = AffineInvariant, BuresWasserstein


def _pull_without_diagonal(self: Any, y: Tensor, w: Tensor) -> Tensor:
    scale = y.diagonal(dim1=-2, dim2=-1).exp()
    factor = y.tril(-1) + torch.diag_embed(scale)
    product = w @ factor.mH
    return product + product.mH


def _identity_gyration(self: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return z + torch.zeros_like(x + y)


def _symmetric_compose(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return linalg.congruence(linalg.sqrtm(x), y)


def _matrix_inverse(self: Any, x: Tensor) -> Tensor:
    return linalg.powm(x, -1.0)


def _unclamped_projection(x: Tensor) -> Tensor:
    return linalg.symmetrize(x)


def _forgetful_replace(self: Any, **changes: Any) -> Any:
    return type(self)(*self.point_shape[:1])


def _whole_step(s: Tensor) -> Tensor:
    return torch.ones_like(s[..., 0, 0].real)


def _skew_projection(self: Any, p: Tensor, v: Tensor) -> Tensor:
    return v - p @ (p.mH @ v)


def _no_adjoint(self: Any, y: Tensor, g: Tensor) -> Tensor:
    return self.push(self.inverse(y), g)


def _arithmetic_mean(self: Any, x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean(0)  # the samples, not their charts


def _unscaled_power(self: Any, base: Manifold, power: Any) -> None:
    self._setup({"base": base, "power": power}, MatrixPower(power), base, 1.0)


_GOLDEN = "a consistently rescaled metric obeys every law; a golden number fixes the scale"

STRUCTURE_FAULTS = (
    Mutant(
        "gradient pushed instead of pulled",
        "the adjoint of the wrong map",
        "PowerDeformed-LogEuclidean",
        swap((MatrixLog, "pull_adjoint", _no_adjoint)),
    ),
    Mutant(
        "pull without diagonal factor",
        "d exp(diag) taken as the identity",
        "LogCholesky",
        swap((LogCholeskyChart, "pull", _pull_without_diagonal)),
    ),
    Mutant(
        "push at the identity",
        "half of the diagonal forgotten",
        "LogCholesky",
        swap((LogCholeskyChart, "push_identity", lambda self, v: v.tril())),
    ),
    Mutant(
        "push of the inverse",
        "sign lost",
        "CholeskyRightInvariant",
        swap((CholeskyInverse, "push_identity", lambda self, v: v)),
    ),
    Mutant(
        "congruence not inverted",
        "the preimage uses the same root",
        "GeneralizedBuresWasserstein",
        swap((Congruence, "inverse", lambda self, y: self(y))),
    ),
    Mutant(
        "trace scaling one way",
        "the inverse ignores beta",
        "LogEuclidean-alpha-beta",
        swap((TraceScaling, "inverse", lambda self, y: y / self.alpha**0.5)),
    ),
    Mutant(
        "mean before the chart",
        "the closed form averages samples",
        "LogCholesky",
        swap((Pullback, "closed_form_mean", _arithmetic_mean)),
    ),
    Mutant("gyroaddition by Cholesky", "x + y = L y L^H", "AffineInvariant", swap((_AIM, "gyroadd", _AIM.compose))),
    Mutant("trivial gyration", "gyr[x, y] z = z", "AffineInvariant", swap((_AIM, "gyration", _identity_gyration))),
    Mutant(
        "group product by the root",
        "x^1/2 y x^1/2 is not associative",
        "AffineInvariant",
        swap((_AIM, "compose", _symmetric_compose)),
    ),
    Mutant(
        "group inverse of the matrix",
        "x^-1 is not the inverse of the Cholesky group",
        "AffineInvariant",
        swap((_AIM, "inverse", _matrix_inverse)),
    ),
    Mutant(
        "dilation by the inverse factor",
        "gyroscale(t) raises to -t",
        "AffineInvariant",
        swap((_AIM, "gyroscale", lambda self, t, x: linalg.powm(x, -t))),
    ),
    Mutant(
        "projection without a floor",
        "negative eigenvalues stay",
        "AffineInvariant",
        swap((PositiveDefiniteCone, "project", staticmethod(_unclamped_projection))),
    ),
    Mutant(
        "options lost",
        "replace forgets alpha and beta",
        "AffineInvariant-alpha-beta",
        swap((Manifold, "replace", _forgetful_replace)),
    ),
    Mutant(
        "domain ignored",
        "steps beyond the cone are taken whole",
        "BuresWasserstein",
        swap((bures, "_inside", _whole_step)),
    ),
    Mutant(
        "wrong tangent space",
        "projection orthogonal to the columns",
        "Stiefel",
        swap((Stiefel, "project_tangent", _skew_projection)),
    ),
    Mutant(
        "power not undone",
        "the chart's inverse raises to the same power",
        "PowerDeformed-AffineInvariant",
        swap((MatrixPower, "inverse", lambda self, y: linalg.powm(y, self.power))),
    ),
    Mutant(
        "wrong dimension",
        "n^2 for symmetric matrices",
        "AffineInvariant",
        swap((spd, "spd_dim", lambda n, field: n * n)),
    ),
    Mutant(
        "power without 1 / power^2",
        "the deformed metric is not normalised",
        "PowerDeformed-AffineInvariant",
        swap((PowerDeformed, "__init__", _unscaled_power)),
        _GOLDEN,
    ),
)
