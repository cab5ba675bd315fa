"""Grassmann manifolds, rotations and Stiefel manifolds, and their norms, by the name that reports use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import nn as layers
from manifoldnorm.manifolds import Grassmann, Manifold, Rotations, Stiefel
from manifoldnorm.testing.actions import Action, Symmetry, equivariant, group_translation, invariant
from manifoldnorm.testing.cases import ManifoldCase


class NearStiefel(Stiefel):
    """Stiefel manifolds whose random points are near the origin: `log` does not reach every pair of uniform points."""

    def random_point(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Return the exponential at the origin of random tangent vectors of norm about 0.6."""
        if dtype is None and self.is_complex:
            dtype = torch.get_default_dtype().to_complex()
        origin = self.origin(*batch, dtype=dtype, device=device)
        return self.exp(origin, self.random_tangent(origin, generator) * (0.6 / math.sqrt(self.dim)))


MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    "Grassmann": lambda: Grassmann(6, 2),
    "Grassmann-wide": lambda: Grassmann(5, 3),
    "Grassmann-lines": lambda: Grassmann(3, 1),
    "Rotations-2": lambda: Rotations(2),
    "Rotations-3": lambda: Rotations(3),
    "Rotations-3-right": lambda: Rotations(3, right=True),
    "Rotations-5": lambda: Rotations(5),
    "Stiefel": lambda: NearStiefel(4, 2),
    "Stiefel-complex": lambda: NearStiefel(4, 2, field="complex"),
}


def _orthogonal(case: ManifoldCase, n: int) -> Tensor:
    return case.cast(torch.linalg.qr(case.noise(n, n))[0])


def frames(case: ManifoldCase) -> Action:
    """Another frame of the same subspace."""
    turn = _orthogonal(case, case.manifold.point_shape[1])
    return lambda x: x @ turn


def turn_about_origin(case: ManifoldCase) -> Action:
    """Rotation of the space that leaves the origin, and the frames nearest to it, in place."""
    n, p = case.manifold.point_shape
    turn = _orthogonal(case, p)
    whole = torch.block_diag(turn, _orthogonal(case, n - p))
    return lambda x: whole @ x @ turn.mT


def conjugation(case: ManifoldCase) -> Action:
    """Other axes."""
    turn = _orthogonal(case, case.manifold.point_shape[0])
    return lambda x: turn @ x @ turn.mT


_F64 = torch.float64
_SPAN = (Symmetry(frames, invariant), Symmetry(turn_about_origin, equivariant))
_AXES = (Symmetry(conjugation, equivariant),)
_GROUP = (Symmetry(group_translation, invariant),)
R, L, G = layers.RiemannianBatchNorm, layers.LieBatchNorm, layers.GyroBatchNorm

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[Symmetry, ...]]] = {
    "Gyro-Grassmann": (lambda: G(Grassmann(6, 2), dtype=_F64), _SPAN),
    "Riemannian-Grassmann-direct": (lambda: R(Grassmann(5, 3), route="direct", channels=2, dtype=_F64), _SPAN),
    "Lie-Rotations": (lambda: L(Rotations(3), channels=2, dtype=_F64), (*_AXES, *_GROUP)),
    "Lie-Rotations-right": (lambda: L(Rotations(3, right=True), bias="manifold", dtype=_F64), (*_AXES, *_GROUP)),
    "Lie-Rotations-5": (lambda: L(Rotations(5), dtype=_F64), (*_AXES, *_GROUP)),
    "Riemannian-Rotations": (lambda: R(Rotations(3), dtype=_F64), _AXES),
}
