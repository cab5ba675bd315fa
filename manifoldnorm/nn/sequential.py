"""A sequence of layers that shares decompositions between neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from manifoldnorm.manifolds import MatrixLog
from manifoldnorm.nn._domains import apply
from manifoldnorm.nn.domain import DomainBatchNorm
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.spd import LogEig, ReEig


class Sequential(nn.Sequential):
    """`torch.nn.Sequential` that saves the decompositions its neighbours would repeat.

    A norm on the log-Euclidean metric followed by `LogEig` hands over the logarithm it already has; `ReEig` followed by
    `LogEig` decomposes once. The results are those of the separate layers up to rounding. Only layers of exactly these
    types, without hooks and with their own forward are fused, never subclasses. ``domain`` is passed on to layers that
    take it, which a layer of your own says by the attribute ``takes_domain = True``; where none does it is ignored.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.nn.Sequential(mn.nn.BiMap(4, 3), mn.nn.ReEig(), mn.nn.LogEig())
    >>> net(torch.eye(4).expand(2, 4, 4)).shape
    torch.Size([2, 3, 3])
    """

    takes_domain = True

    def forward(self, input: Tensor, domain: Any = None) -> Tensor:
        """Apply the layers in order."""
        layers = list(self)
        x, position = input, 0
        while position < len(layers):
            layer = layers[position]
            following = layers[position + 1] if position + 1 < len(layers) else None
            fused = _fuse(layer, following, x, domain) if following is not None else None
            if fused is None:
                x = apply(layer, x, domain)
            else:
                x, position = fused, position + 1
            position += 1
        return x


def _hooked(layer: nn.Module) -> bool:
    """Return whether anything but the layer's own forward would run."""
    own = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return bool(own) or "forward" in vars(layer) or _has_any_global_hook()


def _plain(layer: nn.Module, kind: type) -> bool:
    return type(layer) is kind and not _hooked(layer)


def _fuse(layer: nn.Module, following: nn.Module, x: Tensor, domain: Any) -> Tensor | None:
    if not _plain(following, LogEig):
        return None
    if _plain(layer, ReEig):
        return following.after_rectification(x, layer)  # type: ignore[operator]
    if type(layer) is DomainBatchNorm:
        return layer.forward_in_chart(x, domain)[0] if not _hooked(layer) and layer.norm.ends_in(MatrixLog) else None
    if isinstance(layer, ManifoldNorm) and type(layer).__module__.startswith("manifoldnorm.nn"):
        if _hooked(layer) or not layer.ends_in(MatrixLog):
            return None
        return layer.forward_in_chart(x)[0]
    return None
