"""Scale and bias of a norm layer: what a user reads and assigns, whatever the parametrization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds import Diffeo, Manifold
from manifoldnorm.nn._points import HoldsPoints
from manifoldnorm.nn.learnable import LearnableManifold


class Affine(HoldsPoints):
    """A module with a geometry, a positive scale and a bias point."""

    affine: bool
    bias_kind: str
    _geometry: Any
    log_scale: nn.Parameter
    bias: nn.Parameter
    bias_on_manifold: nn.Parameter

    def _allocate_affine(self, origin: Tensor, groups: tuple[int, ...], real: torch.dtype, device: Any) -> None:
        if self.affine:
            self.log_scale = nn.Parameter(torch.zeros(groups, dtype=real, device=device))
        if self.bias_kind == "tangent":
            self.bias = nn.Parameter(torch.zeros_like(origin))
        elif self.bias_kind == "manifold":
            from manifoldnorm._geoopt import manifold_parameter

            self.bias_on_manifold = manifold_parameter(origin.clone(), self._geometry)

    @torch.no_grad()
    def _reset_affine(self) -> None:
        if self.affine:
            self.log_scale.zero_()
        if self.bias_kind == "tangent":
            self.bias.zero_()
        elif self.bias_kind == "manifold":
            like = self.bias_on_manifold
            like.copy_(self.manifold.origin(dtype=like.dtype, device=like.device).expand_as(like))

    @property
    def manifold(self) -> Manifold:
        """The geometry in use (of a `LearnableManifold`, at its current options)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    @property
    def scale(self) -> Tensor | None:
        """The standard deviation of the output, positive, (C?); None without ``affine``."""
        return self.log_scale.exp() if self.affine else None

    @scale.setter
    def scale(self, value: Tensor | float) -> None:
        if not self.affine:
            raise ValueError(f"{type(self).__name__} was built with affine=False and has no scale.")
        value = torch.as_tensor(value, dtype=self.log_scale.dtype, device=self.log_scale.device)
        if not bool((value > 0).all() and value.isfinite().all()):
            raise ValueError(f"{type(self).__name__}.scale is a standard deviation and must be positive, got {value}.")
        with torch.no_grad():
            self.log_scale.copy_(value.log().expand_as(self.log_scale))

    @property
    def bias_point(self) -> Tensor | None:
        """The point of the manifold to which the mean is moved, (C?, *point_shape); None without a bias."""
        if self.bias_kind == "tangent":
            manifold = self.manifold
            return manifold.point_from_tangent(self._tangent_bias(manifold))
        return self.bias_on_manifold if self.bias_kind == "manifold" else None

    @bias_point.setter
    def bias_point(self, value: Tensor) -> None:
        manifold = self.manifold
        check_tensor(value, type(self).__name__, "bias_point")
        with torch.no_grad():
            if self.bias_kind == "tangent":
                value = value.to(self.bias)
                manifold.check_point(value, f"{type(self).__name__}.bias_point")
                self.bias.copy_(manifold.tangent_from_point(value).expand_as(self.bias))
            elif self.bias_kind == "manifold":
                value = value.to(self.bias_on_manifold)
                manifold.check_point(value, f"{type(self).__name__}.bias_point")
                self.bias_on_manifold.copy_(value.expand_as(self.bias_on_manifold))
            else:
                raise ValueError(f"{type(self).__name__} was built without a bias.")

    def _tangent_bias(self, manifold: Manifold) -> Tensor:
        origin = manifold.origin(dtype=self.bias.dtype, device=self.bias.device)
        return manifold.project_tangent(origin, self.bias)

    def _base_tangent_bias(self, manifold: Any, base: Manifold) -> Tensor:
        """Return the tangent bias at the origin of the base."""
        v = self._tangent_bias(manifold)
        while manifold is not base:
            v, manifold = manifold.base_tangent(v), manifold.base
        return v

    def _base_bias(self, manifold: Any, chart: Diffeo | None, base: Manifold) -> Tensor | None:
        if self.bias_kind == "tangent":
            return base.point_from_tangent(self._base_tangent_bias(manifold, base))
        if self.bias_kind == "manifold":
            return self.bias_on_manifold if chart is None else chart(self.bias_on_manifold)
        return None
