"""Running statistics: how the buffers of a batch norm follow its batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.manifolds import Diffeo, Manifold
from manifoldnorm.manifolds.base import spread


def update(
    layer: Any, base: Manifold, chart: Diffeo | None, mean: Tensor, variance: Tensor, valid: Tensor | None
) -> None:
    """Move the running statistics of a layer towards the batch's, except where no sample was valid.

    Parameters
    ----------
    layer : ManifoldNorm
        Its buffers are changed in place.
    base, chart
        Where ``mean`` (*groups, *point_shape) lives, and how the layer's manifold is mapped there (None: it is the
        base).
    mean, variance : Tensor
        Of the batch, without gradient; ``variance`` is (*groups, ...).
    valid : Tensor or None
        Boolean (*groups); None where every sample is valid.
    """
    with torch.no_grad():  # not the writes too: torch.export (2.13) cannot load a region that returns nothing
        valid = sound(base, mean, variance, valid)
        old = layer.running_mean if chart is None else chart(layer.running_mean)
        weight = _weight(layer, valid)
        new = base.geodesic(old, mean, weight)
        new = new if chart is None else chart.inverse(new)
        spread_variance = layer.running_var.lerp(variance.to(layer.running_var.dtype), _over(weight, variance))
    write(layer, "running", new, spread_variance, valid)
    count(layer, valid)


def before(layer: Any, chart: Diffeo | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the running means in the chart, the running variances and the weights of the new batch, for a program.

    The means have a gradient where the chart learns.
    """
    mean = layer.running_mean if chart is None else chart(layer.running_mean)
    if layer.momentum is not None:
        weight = torch.full_like(layer.running_var, layer.momentum, dtype=torch.float64)
    else:
        weight = 1 / (layer.num_batches_tracked.double() + 1)
    return mean, layer.running_var, weight


@torch.no_grad()
def after(layer: Any, chart: Diffeo | None, mean: Tensor, variance: Tensor, valid: Tensor | None) -> None:
    """Write what a program made of `before`: means in the chart and variances, where valid."""
    mean = mean.view_as(layer.running_mean)
    write(layer, "running", mean if chart is None else chart.inverse(mean), variance.view_as(layer.running_var), valid)
    count(layer, valid)


def sound(base: Manifold, mean: Tensor, variance: Tensor, valid: Tensor | None) -> Tensor | None:
    """Return which of the valid statistics may enter the buffers; None for all.

    Finite samples may still overflow in a mean; whether any has is one question where looking at values costs nothing.
    """
    if plain(mean) and math.isfinite(abs((mean.sum() + variance.sum()).item())):
        return valid
    groups = mean.ndim - len(base.point_shape)
    finite = (_total(mean, groups).real + _total(variance, groups)).isfinite()
    return finite if valid is None else finite & valid


def write(layer: Any, kind: str, mean: Tensor, variance: Tensor, valid: Tensor | None) -> None:
    """Copy a mean (a point of the layer's manifold) and a variance into a pair of buffers where they are valid."""
    for buffer, value in ((getattr(layer, f"{kind}_mean"), mean), (getattr(layer, f"{kind}_var"), variance)):
        if valid is None:
            buffer.copy_(value)
        else:
            kept: Any = spread(valid, buffer.ndim - valid.ndim)
            copy_into(buffer, torch.where(kept, value.to(buffer.dtype), buffer))


def count(layer: Any, valid: Tensor | None) -> None:
    """Count a batch, for every domain with a valid statistic."""
    tracked = layer.num_batches_tracked
    if valid is None:
        tracked.add_(1)
    else:
        copy_into(tracked, tracked + _any(valid, tracked.ndim))


def copy_into(buffer: Tensor, value: Tensor) -> None:
    """Copy a value into a buffer, also while tracing."""
    # through a view: torch.compile (2.13) loses an in-place change of a float64 tensor without dimensions
    buffer.view(-1).copy_(value.reshape(-1))


def _weight(layer: Any, valid: Tensor | None) -> Any:
    """Return the weight of the new batch (*groups), 0 where it is not valid."""
    if valid is None:
        return layer.momentum if layer.momentum is not None else 1 / (layer.num_batches_tracked.item() + 1)
    # in the buffers' dtype throughout: a Python number times a boolean tensor is float32
    share = valid.to(layer.running_var.dtype)
    if layer.momentum is not None:
        return share * layer.momentum
    tracked = layer.num_batches_tracked
    batches = (tracked + _any(valid, tracked.ndim)).clamp_min(1)
    return share / spread(batches, valid.ndim - batches.ndim)


def _any(valid: Tensor, axes: int) -> Tensor:
    return valid.flatten(axes).any(-1) if valid.ndim > axes else valid


def _total(t: Tensor, groups: int) -> Tensor:
    return t.flatten(groups).sum(-1) if t.ndim > groups else t


def _over(weight: Any, variance: Tensor) -> Any:
    return spread(weight, variance.ndim - weight.ndim) if isinstance(weight, Tensor) else weight
