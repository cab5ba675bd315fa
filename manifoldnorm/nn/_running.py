"""Running statistics: how the buffers of a batch norm follow its batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.manifolds import Diffeo, Manifold
from manifoldnorm.manifolds.base import spread


@torch.no_grad()
def update(
    layer: Any, base: Manifold, chart: Diffeo | None, mean: Tensor, variance: Tensor, valid: Tensor | None
) -> None:
    """Move the running statistics of a layer towards the batch's, except where no sample was valid.

    Parameters
    ----------
    layer : ManifoldNorm
        Its buffers are changed in place.
    base, chart
        Where ``mean`` (C?, *point_shape) lives, and how the layer's manifold is mapped there (None: it is the base).
    mean, variance : Tensor
        Of the batch, without gradient; ``variance`` is (C?).
    valid : Tensor or None
        Boolean (C?); None where every sample is valid.
    """
    old = layer.running_mean if chart is None else chart(layer.running_mean)
    if valid is None and plain(mean) and math.isfinite(abs((mean.sum() + variance.sum()).item())):
        count = layer.num_batches_tracked.add_(1)
        weight = layer.momentum if layer.momentum is not None else 1 / count.item()
        new = base.geodesic(old, mean, weight)
        layer.running_mean.copy_(new if chart is None else chart.inverse(new))
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), weight)
        return
    # finite samples may still overflow in a mean
    sound = (mean.flatten(variance.ndim).sum(-1).real + variance).isfinite()
    valid = sound if valid is None else sound & valid
    count = layer.num_batches_tracked + valid.any()
    # in the buffers' dtype throughout: a Python number times a boolean tensor is float32
    share = valid.to(layer.running_var.dtype)
    weight = share * layer.momentum if layer.momentum is not None else share / count.clamp_min(1)
    new = base.geodesic(old, mean, weight)
    new = new if chart is None else chart.inverse(new)
    variance = torch.where(valid, variance, layer.running_var)
    keep: Any = spread(valid, len(base.point_shape))
    _write(layer.running_mean, torch.where(keep, new, layer.running_mean))
    _write(layer.running_var, layer.running_var.lerp(variance.to(layer.running_var.dtype), weight))
    layer.num_batches_tracked.copy_(count)


def _write(buffer: Tensor, value: Tensor) -> None:
    # through a view: torch.compile (2.13) loses an in-place change of a float64 tensor without dimensions
    buffer.view(-1).copy_(value.reshape(-1))
