"""Norm layers with reproducible generic data: away from the origin, with a bias and a scale that are not neutral."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import stats
from manifoldnorm.testing.cases import ManifoldCase

BATCH = 10


def recast(layer: nn.Module, dtype: torch.dtype, device: Any = None) -> nn.Module:
    """Return a copy with real parameters and buffers in ``dtype`` and complex ones in the matching complex dtype."""

    def convert(t: Tensor) -> Tensor:
        if t.is_complex():
            return t.to(dtype=dtype.to_complex(), device=device)
        return t.to(dtype=dtype if t.is_floating_point() else None, device=device)

    return copy.deepcopy(layer)._apply(convert)


def state_of(layer: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the layer's state."""
    return {name: value.detach().clone() for name, value in layer.state_dict().items()}


class NormCase(ManifoldCase):
    """A norm layer with data.

    Parameters
    ----------
    prototype : Module
        Never changed; every call of `fresh` and `generic` copies it.
    dtype, seed, sampler, device
        As in `ManifoldCase`.
    manifold : Manifold, optional
        The layer's geometry, default ``prototype.manifold``.
    """

    def __init__(
        self,
        prototype: nn.Module,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        sampler: Callable[..., Tensor] | None = None,
        device: Any = None,
        manifold: Any = None,
    ) -> None:
        self.prototype = prototype
        super().__init__(manifold or self._manifold_of(recast(prototype, torch.float64)), dtype, seed, sampler, device)
        self.channels: int | None = getattr(prototype, "channels", None)

    @torch.no_grad()
    def _manifold_of(self, layer: Any) -> Any:
        return layer.manifold

    # ---- layers

    def fresh(self) -> Any:
        """Return a new layer in the case's precision, as if just built, in training mode."""
        layer = recast(self.prototype, self.dtype, self.device)
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        return layer.train()

    def exact(self) -> Any:
        """Return a fresh layer with a converged mean, where the layer lets its mean be chosen."""
        layer = self.fresh()
        if hasattr(layer, "_mean_policy"):
            layer._mean_policy = stats.Exact()
        return layer

    def generic(self) -> Any:
        """Return a layer with a converged mean, a bias away from the origin and a scale other than one."""
        layer = self.exact()
        if getattr(layer, "affine", False) and hasattr(layer, "scale"):
            everywhere = self.manifold.injective_fraction(*self._origin_pair()) is None
            layer.scale = (1.3 if self.unit == 1 else 0.3 * self.unit) if everywhere else 0.2
        if getattr(layer, "bias_kind", ""):
            layer.bias_point = self.points(*self.groups) if self.groups else self.points(1)[0]
        return layer

    def _origin_pair(self) -> tuple[Tensor, Tensor]:
        e = self.manifold.origin(dtype=self.wide)
        return e, torch.zeros_like(e)

    def trained(self) -> Any:
        """Return a generic layer after two optimizer steps, with running statistics that have moved."""
        layer = self.generic()
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3) if list(layer.parameters()) else None
        for _ in range(2):
            y = layer(self.batch())
            if optimizer is not None:
                optimizer.zero_grad()
                (y * y.conj()).real.sum().backward()
                optimizer.step()
        return layer

    # ---- data

    @property
    def groups(self) -> tuple[int, ...]:
        """The shape of a statistic: one per channel."""
        return () if self.channels is None else (self.channels,)

    def wide_batch(self, *lead: int) -> Tensor:
        """Return a batch in double precision, (*lead, C?, *point_shape), default `BATCH` samples."""
        return self.wide_cloud(*(lead or (BATCH,)), *self.groups, size=0.6)

    def batch(self, *lead: int) -> Tensor:
        """Return `wide_batch` in the case's precision."""
        return self.cast(self.wide_batch(*lead))

    def bias_of(self, layer: Any) -> Tensor:
        """Return the bias point of a layer, the origin where it has none."""
        bias = getattr(layer, "bias_point", None)
        return (self.origin(*self.groups) if bias is None else bias).detach()

    def scale_of(self, layer: Any) -> Tensor:
        """Return the scale of a layer, one where it has none."""
        scale = getattr(layer, "scale", None)
        return torch.ones(self.groups, dtype=self.dtype, device=self.device) if scale is None else scale.detach()

    def needs(self, layer: Any, *names: str) -> Any:
        """Return the layer if it has these attributes."""
        for name in names:
            if getattr(layer, name, None) is None:
                raise NotImplementedError(f"the layer has no {name}")
        return layer

    def lenient(self, layer: Any) -> Any:
        """Return the layer if it takes batches with bad samples."""
        if getattr(layer, "check_input", False):
            raise NotImplementedError("the layer refuses bad samples: check_input=True")
        return layer

    def weighing(self, layer: Any) -> Any:
        """Return the layer if its forward takes weights."""
        if "weights" not in inspect.signature(layer.forward).parameters:
            raise NotImplementedError("the layer takes no weights")
        return layer

    def tracking(self, layer: Any) -> Any:
        """Return the layer if it keeps running statistics."""
        return self.needs(layer, "running_mean", "running_var")
