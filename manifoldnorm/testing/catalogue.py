"""Every geometry and every norm layer of the package, by the name that reports use."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.testing import catalogue_correlation, catalogue_curvature, catalogue_orthogonal, catalogue_spd
from manifoldnorm.testing.actions import Symmetry

_FAMILIES = (catalogue_spd, catalogue_curvature, catalogue_orthogonal, catalogue_correlation)

MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    name: make for family in _FAMILIES for name, make in family.MANIFOLDS.items()
}
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[Symmetry, ...]]] = {
    name: case for family in _FAMILIES for name, case in family.NORMS.items()
}
