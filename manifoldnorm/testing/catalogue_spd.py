"""Flat spaces, positive-definite matrices and Stiefel, and their norms, by the name that reports use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from manifoldnorm import manifolds as mf
from manifoldnorm import nn as layers
from manifoldnorm.manifolds import Manifold, PowerDeformed, Pullback
from manifoldnorm.testing.actions import (
    Symmetry,
    equivariant,
    general_congruence,
    group_translation,
    gyro_translation,
    invariant,
    permutation,
    rotation,
    same_spectrum,
    triangular_congruence,
    units,
)

N = 3


def _metric() -> Tensor:
    return torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.7]], dtype=torch.float64)


def _gbw() -> Manifold:
    return mf.GeneralizedBuresWasserstein(N, _metric())


MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    "Euclidean": lambda: mf.Euclidean(4),
    "Euclidean-scalar": lambda: mf.Euclidean(),
    "Symmetric": lambda: mf.SymmetricMatrices(N),
    "Symmetric-complex": lambda: mf.SymmetricMatrices(N, "complex"),
    "Triangular": lambda: mf.TriangularMatrices(N),
    "Triangular-complex": lambda: mf.TriangularMatrices(N, "complex"),
    "AffineInvariant": lambda: mf.AffineInvariant(N),
    "AffineInvariant-1": lambda: mf.AffineInvariant(1),
    "AffineInvariant-8": lambda: mf.AffineInvariant(8),
    "AffineInvariant-alpha-beta": lambda: mf.AffineInvariant(N, 2.0, 0.5),
    "AffineInvariant-complex": lambda: mf.AffineInvariant(N, field="complex"),
    "LogEuclidean": lambda: mf.LogEuclidean(N),
    "LogEuclidean-alpha-beta": lambda: mf.LogEuclidean(N, 2.0, 0.5),
    "LogEuclidean-complex": lambda: mf.LogEuclidean(N, field="complex"),
    "LogCholesky": lambda: mf.LogCholesky(N),
    "LogCholesky-complex": lambda: mf.LogCholesky(N, field="complex"),
    "BuresWasserstein": lambda: mf.BuresWasserstein(N),
    "BuresWasserstein-complex": lambda: mf.BuresWasserstein(N, field="complex"),
    "GeneralizedBuresWasserstein": _gbw,
    "CholeskyRightInvariant": lambda: mf.CholeskyRightInvariant(N),
    "CholeskyRightInvariant-alpha-beta": lambda: mf.CholeskyRightInvariant(N, 2.0, 0.5),
    "AdaptiveLogEuclidean": lambda: mf.AdaptiveLogEuclidean(N, 0.7, 1.6),
    "PowerDeformed-AffineInvariant": lambda: PowerDeformed(mf.AffineInvariant(N), 0.5),
    "PowerDeformed-AffineInvariant-complex": lambda: PowerDeformed(mf.AffineInvariant(N, field="complex"), -0.7),
    "PowerDeformed-LogEuclidean": lambda: PowerDeformed(mf.LogEuclidean(N), 1.5),
    "PowerDeformed-LogCholesky": lambda: PowerDeformed(mf.LogCholesky(N), 0.5),
    "PowerDeformed-CholeskyRightInvariant": lambda: PowerDeformed(mf.CholeskyRightInvariant(N), 0.8),
    "PowerDeformed-BuresWasserstein": lambda: PowerDeformed(mf.BuresWasserstein(N), 0.5),
    "PowerDeformed-GeneralizedBuresWasserstein": lambda: PowerDeformed(_gbw(), 0.7),
    "Pullback-precision-LogCholesky": lambda: Pullback(
        mf.LogCholeskyChart() @ mf.CholeskyInverse(), mf.TriangularMatrices(N), 0.5
    ),
}

# how each layer with a neutral bias treats transformed data
_ROTATION = (Symmetry(rotation, equivariant), Symmetry(permutation, equivariant))
_UNITS = (Symmetry(units, invariant),)
_GROUP = (Symmetry(group_translation, invariant),)
_CONGRUENCE = (Symmetry(general_congruence, same_spectrum), Symmetry(triangular_congruence, same_spectrum))
_AFFINE = (*_ROTATION, *_CONGRUENCE, *_UNITS, Symmetry(gyro_translation, same_spectrum))
_CHOLESKY = (Symmetry(triangular_congruence, invariant), *_CONGRUENCE, *_GROUP, *_UNITS)

_F64 = torch.float64
R, L, G = layers.RiemannianBatchNorm, layers.LieBatchNorm, layers.GyroBatchNorm

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[Symmetry, ...]]] = {
    "Riemannian-AffineInvariant": (lambda: R(mf.AffineInvariant(N), dtype=_F64), _AFFINE),
    "Riemannian-AffineInvariant-direct": (lambda: R(mf.AffineInvariant(N), route="direct", dtype=_F64), _AFFINE),
    "Riemannian-AffineInvariant-complex": (
        lambda: R(mf.AffineInvariant(N, field="complex"), channels=2, dtype=_F64),
        _AFFINE,
    ),
    "Gyro-AffineInvariant": (lambda: G(mf.AffineInvariant(N), channels=2, dtype=_F64), _AFFINE),
    "Lie-AffineInvariant": (lambda: L(mf.AffineInvariant(N), dtype=_F64), _CHOLESKY),
    "Lie-AffineInvariant-channels": (
        lambda: L(mf.AffineInvariant(N, 2.0, 0.5), channels=2, bias="manifold", dtype=_F64),
        _CHOLESKY,
    ),
    "Riemannian-AffineInvariant-power": (
        lambda: R(PowerDeformed(mf.AffineInvariant(N), 0.5), dtype=_F64),
        (*_ROTATION, *_UNITS),
    ),
    "Lie-AffineInvariant-learned-power": (
        lambda: L(
            layers.LearnableManifold(PowerDeformed(mf.AffineInvariant(N), 0.5), ("power",), dtype=_F64), dtype=_F64
        ),
        (*_GROUP, *_UNITS),
    ),
    "Lie-LogEuclidean": (lambda: L(mf.LogEuclidean(N), dtype=_F64), (*_ROTATION, *_GROUP, *_UNITS)),
    "Riemannian-LogEuclidean-alpha-beta": (
        lambda: R(mf.LogEuclidean(N, 2.0, 0.5), channels=2, bias="manifold", dtype=_F64),
        (*_ROTATION, *_GROUP, *_UNITS),
    ),
    "Lie-LogEuclidean-complex": (lambda: L(mf.LogEuclidean(N, field="complex"), dtype=_F64), (*_ROTATION, *_GROUP)),
    "Lie-LogCholesky": (lambda: L(mf.LogCholesky(N), channels=2, dtype=_F64), _GROUP),
    "Gyro-LogCholesky-complex": (lambda: G(mf.LogCholesky(N, field="complex"), dtype=_F64), _GROUP),
    "Lie-LogCholesky-power": (lambda: L(PowerDeformed(mf.LogCholesky(N), 0.5), dtype=_F64), _GROUP),
    "Lie-LogCholesky-untracked": (lambda: L(mf.LogCholesky(N), track_running_stats=False, dtype=_F64), _GROUP),
    "Lie-LogCholesky-no-bias": (lambda: L(mf.LogCholesky(N), bias=False, dtype=_F64), _GROUP),
    "Lie-LogCholesky-not-affine": (lambda: L(mf.LogCholesky(N), affine=False, dtype=_F64), _GROUP),
    "Riemannian-LogCholesky-detached": (lambda: R(mf.LogCholesky(N), grad_through_stats=False, dtype=_F64), _GROUP),
    "BuresWasserstein": (lambda: layers.BuresWassersteinBatchNorm(N, dtype=_F64), _ROTATION),
    "BuresWasserstein-power": (
        lambda: layers.BuresWassersteinBatchNorm(N, power=0.5, channels=2, dtype=_F64),
        _ROTATION,
    ),
    "Riemannian-BuresWasserstein-complex": (lambda: R(mf.BuresWasserstein(N, field="complex"), dtype=_F64), _ROTATION),
    "Riemannian-BuresWasserstein-detached": (
        lambda: R(mf.BuresWasserstein(N), grad_through_stats=False, dtype=_F64),
        _ROTATION,
    ),
    "Riemannian-GeneralizedBuresWasserstein": (lambda: R(_gbw(), bias="manifold", dtype=_F64), ()),
    "Lie-CholeskyRightInvariant": (lambda: L(mf.CholeskyRightInvariant(N), dtype=_F64), (*_GROUP, *_UNITS)),
    "Lie-AdaptiveLogEuclidean-learned": (
        lambda: L(
            layers.LearnableManifold(mf.AdaptiveLogEuclidean(N, 0.7, 1.6), ("low", "high"), dtype=_F64), dtype=_F64
        ),
        (*_ROTATION, *_GROUP),
    ),
    "Riemannian-Euclidean": (lambda: R(mf.Euclidean(4), channels=2, dtype=_F64), _GROUP),
    "Gyro-Symmetric": (lambda: G(mf.SymmetricMatrices(N), dtype=_F64), (*_ROTATION, *_GROUP)),
}
