"""Correlation matrices and products: geometries and norm layers, by the name that reports use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from manifoldnorm import nn as layers
from manifoldnorm.manifolds import (
    AffineInvariant,
    BuresWasserstein,
    CorrelationEuclideanCholesky,
    CorrelationLogEuclideanCholesky,
    CorrelationLogScaling,
    CorrelationOffLog,
    CorrelationPolyHyperbolic,
    Euclidean,
    Grassmann,
    LogEuclidean,
    Manifold,
    PoincareBall,
    PowerDeformed,
    Product,
    Rotations,
    Sphere,
)
from manifoldnorm.testing.actions import Symmetry, equivariant, group_translation, invariant, permutation

N = 4


def _curved(**options: bool) -> Product:
    return Product(AffineInvariant(2), PoincareBall(2), PowerDeformed(LogEuclidean(2), 0.5), **options)


MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    "CorrelationEuclideanCholesky": lambda: CorrelationEuclideanCholesky(N),
    "CorrelationLogEuclideanCholesky": lambda: CorrelationLogEuclideanCholesky(N),
    "CorrelationOffLog": lambda: CorrelationOffLog(N),
    "CorrelationOffLog-2": lambda: CorrelationOffLog(2),
    "CorrelationOffLog-alpha-beta-gamma": lambda: CorrelationOffLog(N, 1.0, 0.5, 0.25),
    "CorrelationLogScaling": lambda: CorrelationLogScaling(N),
    "CorrelationLogScaling-alpha-delta-zeta": lambda: CorrelationLogScaling(N, 1.0, 0.5, 0.25),
    "CorrelationPolyHyperbolic": lambda: CorrelationPolyHyperbolic(N),
    "Product-flat": lambda: Product(CorrelationOffLog(3), Euclidean(2), Euclidean()),
    "Product-curved": _curved,
    "Product-compact": lambda: Product(Sphere(2), Grassmann(3, 1), Rotations(2)),
    "Product-Bures": lambda: Product(BuresWasserstein(2), AffineInvariant(2)),
    "Product-complex": lambda: Product(AffineInvariant(2, field="complex"), LogEuclidean(2, field="complex")),
}

_F64 = torch.float64
R, L, G = layers.RiemannianBatchNorm, layers.LieBatchNorm, layers.GyroBatchNorm
_GROUP = (Symmetry(group_translation, invariant),)
_ORDER = (Symmetry(permutation, equivariant), *_GROUP)

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[Symmetry, ...]]] = {
    "Lie-CorrelationEuclideanCholesky": (lambda: L(CorrelationEuclideanCholesky(N), dtype=_F64), _GROUP),
    "Lie-CorrelationLogEuclideanCholesky": (
        lambda: L(CorrelationLogEuclideanCholesky(N), channels=2, dtype=_F64),
        _GROUP,
    ),
    "Gyro-CorrelationOffLog": (lambda: G(CorrelationOffLog(N, 1.0, 0.5, 0.25), dtype=_F64), _ORDER),
    "Riemannian-CorrelationLogScaling": (
        lambda: R(CorrelationLogScaling(N), channels=2, bias="manifold", dtype=_F64),
        _ORDER,
    ),
    "Gyro-CorrelationPolyHyperbolic": (lambda: G(CorrelationPolyHyperbolic(N), channels=2, dtype=_F64), ()),
    "Gyro-Product-joint": (lambda: G(_curved(per_factor=False), channels=2, dtype=_F64), ()),
    "Riemannian-Product-joint": (
        lambda: R(Product(BuresWasserstein(2), Euclidean(2), per_factor=False), dtype=_F64),
        (),
    ),
    "Lie-Product-joint": (
        lambda: L(Product(CorrelationOffLog(3), AffineInvariant(2), per_factor=False), bias="manifold", dtype=_F64),
        _GROUP,
    ),
}
