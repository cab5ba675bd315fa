"""Spaces of constant curvature and their norms, by the name that reports use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from manifoldnorm import manifolds as mf
from manifoldnorm import nn as layers
from manifoldnorm.manifolds import Manifold
from manifoldnorm.testing.actions import Symmetry, equivariant
from manifoldnorm.testing.cases import ManifoldCase

D = 3

MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    "PoincareBall": lambda: mf.PoincareBall(D),
    "PoincareBall-1": lambda: mf.PoincareBall(1),
    "PoincareBall-8": lambda: mf.PoincareBall(8, -2.0),
    "ProjectedSphere": lambda: mf.ProjectedSphere(D),
    "Stereographic-negative": lambda: mf.Stereographic(D, -0.7),
    "Stereographic-flat": lambda: mf.Stereographic(D, 0.0),
    "Stereographic-positive": lambda: mf.Stereographic(D, 0.7),
    "Stereographic-tensor": lambda: mf.Stereographic(D, torch.tensor(-0.3, dtype=torch.float64)),
    "Lorentz": lambda: mf.Lorentz(D),
    "Lorentz-curvature": lambda: mf.Lorentz(D, -2.0),
    "Klein": lambda: mf.Klein(D),
    "Klein-curvature": lambda: mf.Klein(D, -0.7),
    "Sphere": lambda: mf.Sphere(D),
    "Sphere-1": lambda: mf.Sphere(1),
    "Sphere-curvature": lambda: mf.Sphere(D, 0.5),
}


def turn(case: ManifoldCase) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rotation about the origin, of the coordinates or of all but the first."""
    d = case.manifold.dim
    rotation = case.cast(torch.linalg.qr(case.noise(d, d))[0])
    skip = case.manifold.point_shape[0] - d
    return lambda x: torch.cat([x[..., :skip], x[..., skip:] @ rotation.mT], -1)


_TURN = (Symmetry(turn, equivariant),)
_F64 = torch.float64
R, G = layers.RiemannianBatchNorm, layers.GyroBatchNorm

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[Symmetry, ...]]] = {
    "Gyro-PoincareBall": (lambda: G(mf.PoincareBall(D), dtype=_F64), _TURN),
    "Gyro-PoincareBall-channels": (lambda: G(mf.PoincareBall(D, -0.7), channels=2, bias="manifold", dtype=_F64), _TURN),
    "Riemannian-PoincareBall-direct": (lambda: R(mf.PoincareBall(D), route="direct", dtype=_F64), _TURN),
    "Gyro-PoincareBall-learned": (
        lambda: G(layers.LearnableManifold(mf.PoincareBall(D), ("curvature",), dtype=_F64), dtype=_F64),
        _TURN,
    ),
    "Gyro-Stereographic-flat": (lambda: G(mf.Stereographic(D, 0.0), dtype=_F64), _TURN),
    "Riemannian-Lorentz": (lambda: R(mf.Lorentz(D), channels=2, dtype=_F64), _TURN),
    "Gyro-Lorentz": (lambda: G(mf.Lorentz(D, -2.0), bias="manifold", dtype=_F64), _TURN),
    "Gyro-Klein": (lambda: G(mf.Klein(D), dtype=_F64), _TURN),
    # of radius 2: the scaled samples of the laws stay in the convexity ball, away from the point at infinity
    "Gyro-ProjectedSphere": (lambda: G(mf.ProjectedSphere(D, 0.25), dtype=_F64), _TURN),
    "Riemannian-Sphere": (lambda: R(mf.Sphere(D), channels=2, bias="manifold", dtype=_F64), _TURN),
    "Gyro-Sphere": (lambda: G(mf.Sphere(D), dtype=_F64), _TURN),
    "PoincareMidpoint": (lambda: layers.PoincareMidpointBatchNorm(D, dtype=_F64), _TURN),
    "LorentzCentroid": (lambda: layers.LorentzCentroidBatchNorm(D, channels=2, dtype=_F64), _TURN),
}
