"""Running statistics: how the buffers of a batch norm follow its batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Diffeo, Manifold
from manifoldnorm.manifolds.base import spread


@torch.no_grad()
def update(layer: Any, base: Manifold, chart: Diffeo | None, mean: Tensor, variance: Tensor, valid: Tensor) -> None:
    """Move the running statistics of a layer towards the batch's, except where no sample was valid.

    Parameters
    ----------
    layer : ManifoldNorm
        Its buffers are changed in place.
    base, chart
        Where ``mean`` (C?, *point_shape) lives, and how the layer's manifold is mapped there (None: it is the base).
    mean, variance, valid : Tensor
        Of the batch, without gradient; ``variance`` and the boolean ``valid`` are (C?).
    """
    # finite samples may still overflow in a mean
    valid = valid & (mean.flatten(valid.ndim).sum(-1).real + variance).isfinite()
    variance = torch.where(valid, variance, layer.running_var)
    count = layer.num_batches_tracked + valid.any()
    # in the buffers' dtype throughout: a Python number times a boolean tensor is float32
    share = valid.to(layer.running_var.dtype)
    weight = share * layer.momentum if layer.momentum is not None else share / count.clamp_min(1)
    old = layer.running_mean if chart is None else chart(layer.running_mean)
    new = base.geodesic(old, mean, weight)
    new = new if chart is None else chart.inverse(new)
    keep: Any = spread(valid, len(base.point_shape))
    _write(layer.running_mean, torch.where(keep, new, layer.running_mean))
    _write(layer.running_var, layer.running_var.lerp(variance.to(layer.running_var.dtype), weight))
    layer.num_batches_tracked.copy_(count)


def _write(buffer: Tensor, value: Tensor) -> None:
    # through a view: torch.compile (2.13) loses an in-place change of a float64 tensor without dimensions
    buffer.view(-1).copy_(value.reshape(-1))
