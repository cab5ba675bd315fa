"""Running statistics from data: the converged mean and the variance about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import flatten
from manifoldnorm.nn import _inputs, _running
from manifoldnorm.stats import converged_mean, weighted_mean


@torch.no_grad()
def refit(layer: Any, x: Tensor, weights: Tensor | None, domain: Tensor | None = None) -> None:
    """Set every pair of buffers of a layer to the statistics of ``x``; see `ManifoldNorm.refit`.

    Parameters
    ----------
    layer : ManifoldNorm
        Its buffers are changed in place, except where no sample counts.
    x, weights
        As in the layer's forward.
    domain : Tensor, optional
        Index (N,) of each sample's domain; domains that do not occur keep their statistics.
    """
    if not layer.track_running_stats:
        raise ValueError(f"{type(layer).__name__}.refit: the layer keeps no running statistics.")
    manifold = layer.manifold
    layer._check(manifold, x, weights)
    flat, shares = layer._flatten(x, weights)
    if domain is not None:
        shares = _inputs.PerDomain(_inputs.pool_domain(layer, x, domain), shares)
    if flat.shape[0] == 0 and layer._others() is not None:
        flat, shares = _inputs.one_left_out(flat, shares)
    elif flat.shape[0] == 0:
        raise ValueError(f"{type(layer).__name__}.refit: no samples; the running statistics stay as they are.")
    chart, base, metric_scale = flatten(manifold)
    finite = _inputs.finite_samples(manifold, flat)
    if finite is not None:
        flat = _inputs.origin_where_not(finite, manifold, flat)
    y = flat if chart is None else chart(flat)
    share, valid = layer._shares(y, finite, shares, base)
    mean = converged_mean(base, y, share)
    index = None if domain is None else shares.domain
    squared = layer._moved(base, mean, y, index).squared
    variance = weighted_mean(squared, share, len(base.variance_shape)) * metric_scale
    valid = _running.sound(base, mean, variance, valid)
    point = mean if chart is None else chart.inverse(mean)
    for kind in layer.statistics.kinds:
        _running.write(layer, kind, point, variance, valid)
