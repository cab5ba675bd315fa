"""Linear maps with orthonormal columns: the weight of BiMap and of FRMap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Stiefel
from manifoldnorm.manifolds._checks import check_count
from manifoldnorm.manifolds.stiefel import polar_factor
from manifoldnorm.nn._points import HoldsPoints


class OrthonormalMap(HoldsPoints):
    """A layer whose ``weight`` has orthonormal columns, whatever the optimizer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        field: str = "real",
        parametrization: str = "polar",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_features = check_count(in_features, f"{name}: in_features")
        out_features = check_count(out_features, f"{name}: out_features")
        if out_features > in_features:
            raise ValueError(
                f"{name}: out_features={out_features} exceeds in_features={in_features}: the output would be singular."
            )
        if parametrization not in ("polar", "manifold"):
            raise ValueError(f"{name}: parametrization must be 'polar' or 'manifold', got {parametrization!r}.")
        self.in_features, self.out_features, self.field = in_features, out_features, field
        self.parametrization = parametrization
        self.stiefel = Stiefel(in_features, out_features, field=field)
        real = (dtype or torch.get_default_dtype()).to_real()
        initial = self.stiefel.random_point(dtype=real.to_complex() if field == "complex" else real, device=device)
        if parametrization == "polar":
            self.raw_weight = nn.Parameter(initial)
        else:
            from manifoldnorm._geoopt import manifold_parameter

            self.weight_on_manifold = manifold_parameter(initial, self.stiefel)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a new uniformly distributed weight."""
        old = self._parameter
        old.copy_(self.stiefel.random_point(dtype=old.dtype, device=old.device))

    @property
    def _parameter(self) -> Tensor:
        return self.raw_weight if self.parametrization == "polar" else self.weight_on_manifold

    @property
    def weight(self) -> Tensor:
        """W (in_features, out_features) with orthonormal columns; may be assigned."""
        return polar_factor(self.raw_weight) if self.parametrization == "polar" else self.weight_on_manifold

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self.stiefel.check_point(value, f"{type(self).__name__}.weight")
        with torch.no_grad():
            self._parameter.copy_(value)

    def _weight_for(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.dtype != x.dtype:
            name = type(self).__name__
            remedy = "Convert one of them, e.g. x.to(weight.dtype) or model.to(x.dtype)."
            if x.is_complex() != weight.is_complex():
                remedy = "Build the network with field='complex' for Hermitian and field='real' for symmetric matrices."
            raise TypeError(f"{name}: the weight is {weight.dtype}, the input {x.dtype}. {remedy}")
        return weight

    def extra_repr(self) -> str:
        """Return the sizes and options."""
        return f"{self.in_features}, {self.out_features}, field={self.field}, parametrization={self.parametrization}"
