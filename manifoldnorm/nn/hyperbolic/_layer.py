"""What the hyperbolic layers share: their geometry, its checks, and geometries of other sizes with one curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.manifolds._conformal import ConformalManifold
from manifoldnorm.nn import _inputs
from manifoldnorm.nn.learnable import LearnableManifold


class SameCurvature(LearnableManifold):
    """A learnable geometry of another dimension that shares the parameters of ``source``.

    Parameters
    ----------
    source : LearnableManifold
        Owns the parameters.
    d : int
        Dimension here.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> ball = mn.nn.LearnableManifold(mn.PoincareBall(2), "curvature")
    >>> wide = mn.nn.SameCurvature(ball, 8)
    >>> wide().point_shape, wide().curvature is ball().curvature, len(list(wide.parameters()))
    ((8,), False, 1)
    """

    def __init__(self, source: LearnableManifold, d: int) -> None:
        nn.Module.__init__(self)
        self.source, self.learn = source, source.learn
        self.template = source.template.replace(d=d)

    def forward(self) -> Manifold:
        """Return the source's manifold in this dimension."""
        return self.source().replace(d=self.template.d)  # type: ignore[attr-defined]


def resize(geometry: Any, d: int) -> Any:
    """Return the geometry, learnable or not, in dimension ``d``."""
    template: Any = geometry.template if isinstance(geometry, LearnableManifold) else geometry
    if template.d == d:
        return geometry
    return SameCurvature(geometry, d) if isinstance(geometry, LearnableManifold) else geometry.replace(d=d)


def hyperbolic(manifold: Any, name: str) -> Any:
    """Return the geometry of a layer, or raise unless it is hyperbolic space in one of its models."""
    geometry = _inputs.as_geometry(manifold)
    value = geometry() if isinstance(geometry, LearnableManifold) else geometry
    if not isinstance(value, ConformalManifold) or value._sign != -1:
        raise TypeError(
            f"{name}: needs hyperbolic space, got {value}. Use PoincareBall(d, K), Lorentz(d, K) or Klein(d, K) with "
            f"K < 0, or a LearnableManifold of one of them."
        )
    return geometry


def bias_kind(bias: str | bool, name: str) -> str:
    """Return ``"hyperplane"``, ``"gyro"`` or, for no bias, the empty string."""
    if isinstance(bias, bool):
        return "hyperplane" if bias else ""
    if bias not in ("hyperplane", "gyro"):
        raise ValueError(f"{name}: bias must be 'hyperplane', 'gyro', True or False, got {bias!r}.")
    return bias


class Hyperbolic(nn.Module):
    """A layer on hyperbolic space."""

    weight: Tensor

    def __init__(self, manifold: Any) -> None:
        super().__init__()
        self._geometry = hyperbolic(manifold, type(self).__name__)

    @property
    def manifold(self) -> ConformalManifold:
        """The geometry of the input (of a `LearnableManifold`, at its current curvature)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    def _check(self, manifold: Manifold, x: Tensor) -> None:
        name = type(self).__name__
        manifold.check_shape(x, f"{name} input")
        _inputs.check_same_kind(getattr(self, "weight", None), x, name)

    def _show(self) -> str:
        return f"learnable {self._geometry.template}" if isinstance(self._geometry, nn.Module) else f"{self._geometry}"


class ToDimension(Hyperbolic):
    """A hyperbolic layer whose output has another dimension."""

    def __init__(self, manifold: Any, out_features: int) -> None:
        super().__init__(manifold)
        if not isinstance(out_features, int) or out_features < 1:
            raise ValueError(f"{type(self).__name__}: out_features must be a positive integer, got {out_features!r}.")
        self.out_features = out_features
        self.out_geometry = resize(self._geometry, out_features)

    @property
    def out_manifold(self) -> ConformalManifold:
        """The geometry of the output, at the current curvature; ``out_geometry`` is what following layers take."""
        return self.out_geometry() if isinstance(self.out_geometry, LearnableManifold) else self.out_geometry


@torch.no_grad()
def identity_(weight: Tensor) -> Tensor:
    """Fill (out, in) with the identity; coordinates that appear r times, where out > in, are divided by sqrt(r)."""
    out, inside = weight.shape
    source = torch.arange(out, device=weight.device) % inside
    copies = torch.bincount(source, minlength=inside)[source].to(weight.dtype)
    weight.zero_()[torch.arange(out, device=weight.device), source] = copies.rsqrt()
    return weight
