"""Running statistics from data: the converged mean and the variance about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold, flatten
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _inputs, _running
from manifoldnorm.stats import converged_mean, raw_weights, weighted_mean


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

    Raises
    ------
    ValueError
        If there are no samples, or in a domain fewer that count than the layer's ``min_samples``; nothing is changed.
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
    samples = _counted(layer, y, finite, shares, base)
    if domain is not None:
        _check_enough(layer, domain, samples)
    share, valid = layer._shares(y, finite, shares, base)
    mean = converged_mean(base, y, share)
    index = None if domain is None else shares.domain
    squared = layer._moved(base, mean, y, index).squared
    variance = weighted_mean(squared, share, len(base.variance_shape)) * metric_scale
    valid = _running.sound(base, mean, variance, valid)
    point = mean if chart is None else chart.inverse(mean)
    lonely: Any = spread(samples == 1, variance.ndim - samples.ndim)
    for kind in layer.statistics.kinds:
        # one sample has no variance: a scale by 1 / sqrt(eps) would be wrong for every other
        _running.write(layer, kind, point, torch.where(lonely, getattr(layer, f"{kind}_var"), variance), valid)


def _counted(layer: Any, y: Tensor, finite: Tensor | None, shares: Any, base: Manifold) -> Tensor:
    """Return how many samples count in each statistic (D?, *groups), over all processes."""
    if finite is None:
        finite = torch.ones(y.shape[: y.ndim - len(base.point_shape)], dtype=torch.bool, device=y.device)
    domain, weights = shares if isinstance(shares, _inputs.PerDomain) else (None, shares)
    counts = (raw_weights(finite, weights, torch.float64) > 0).double()
    if domain is None:
        own = counts.sum(0)
    else:
        own = counts.new_zeros(len(layer.running_mean), *counts.shape[1:]).index_add(0, domain, counts)
    others = layer._others()
    return own if others is None else others.sum(own)[0]


def _check_enough(layer: Any, domain: Tensor, samples: Tensor) -> None:
    """Raise where a domain occurs, in any process, but has too few samples that count."""
    here = samples.new_zeros(len(samples)).index_add(0, domain, samples.new_ones(len(domain)))
    others = layer._others()
    fewest = samples.flatten(1).amin(1) if samples.ndim > 1 else samples
    few = ((here if others is None else others.sum(here)[0]) > 0) & (fewest < layer.min_samples)
    if few.any():
        first = int(few.nonzero()[0])
        raise ValueError(
            f"DomainBatchNorm.adapt: domain {first} has {int(fewest[first])} samples that count, fewer than "
            f"min_samples={layer.min_samples}; nothing was changed. Pass more samples of it, or leave it out. "
            f"(With DomainBatchNorm(..., min_samples=1) one sample sets the mean, and the variance stays.)"
        )
