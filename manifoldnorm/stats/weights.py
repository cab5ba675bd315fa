"""Weights over a batch: normalised, with masked samples left out, without looking at values on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.stats.processes import Processes
from manifoldnorm.stats.reduction import Pooled, Reduction, trailing, weighted_sum

Weights = Tensor | Reduction | None
"""Uniform (None), weights (N, *groups) that sum to one over the batch, or another way to reduce it."""


def masked_weights(valid: Tensor, weights: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weights over dimension 0 that sum to one and vanish on invalid samples, and whether any sample counts.

    Parameters
    ----------
    valid : Tensor
        Boolean (N, *groups).
    weights : Tensor or None
        Non-negative (N, *groups) or (N,), any scale; None is uniform. A weight that is not finite counts as 0.
    dtype : torch.dtype
        Real dtype of the result.

    Returns
    -------
    tuple of Tensor
        Weights (N, *groups), uniform where nothing is valid, and a boolean (*groups).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.stats import masked_weights
    >>> masked_weights(torch.tensor([True, False, True]), None, torch.float32)[0]
    tensor([0.5000, 0.0000, 0.5000])
    """
    raw = raw_weights(valid, weights, dtype)
    return _normalised(raw, raw.sum(0), max(valid.shape[0], 1))


def check_weights(weights: Tensor, total: Tensor | None, name: str) -> None:
    """Raise a ValueError unless weights are finite, not negative, and their totals (if given) not 0; reads values."""
    check_tensor(weights, name, "weights")
    weights = weights.detach()
    fine = weights.isfinite() & (weights >= 0)
    if not bool(fine.all()):
        first = int((~fine).flatten().to(torch.uint8).argmax())
        value = weights.flatten()[first].item()
        raise ValueError(
            f"{name}: weights must not be negative, NaN or infinite: {linalg.sample_index(first, weights.shape)} has "
            f"{value:.3g}. Give samples to leave out weight 0."
        )
    if total is not None and not bool((total > 0).all()):
        raise ValueError(f"{name}: weights must not all be 0: no sample is left. Give one a positive weight.")


def pooled(raw: Tensor, processes: Processes) -> tuple[Pooled, Tensor]:
    """Return the same for the samples of all processes, given `raw_weights` (N, *groups) of those at hand."""
    total, count = processes.sum(raw.sum(0), raw.new_tensor(raw.shape[0]))
    shares, any_valid = _normalised(raw, total, count)
    return Pooled(shares, processes), any_valid


def _normalised(raw: Tensor, total: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor]:
    any_valid = total > 0
    none = 1 - any_valid.to(raw.dtype)  # where nothing is valid, uniform weights keep everything finite
    return (raw + none) / (total + none * count), any_valid


def raw_weights(valid: Tensor, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the weights (N, *groups), not normalised, 0 on invalid samples."""
    if weights is None:
        return valid.to(dtype)
    weights = trailing(weights, valid.ndim - weights.ndim).to(dtype)
    return torch.where(valid & weights.isfinite(), weights, 0.0)


def weighted_mean(x: Tensor, weights: Weights, point_ndim: int) -> Tensor:
    """Return the mean over dimension 0 of ``x`` (N, *groups, *point) with weights (N, *groups) that sum to one.

    With a `Reduction` the result is what that makes of the samples, such as one mean per segment.
    """
    return joined(weights, own_mean(x, weights, point_ndim))[0]


def weighted_means(weights: Weights, *values: tuple[Tensor, int]) -> tuple[Tensor, ...]:
    """Return `weighted_mean` of several pairs (x, point_ndim): over processes in one all-reduce."""
    return joined(weights, *(own_mean(x, weights, point_ndim) for x, point_ndim in values))


def joined(weights: Weights, *own: Tensor) -> tuple[Tensor, ...]:
    """Return means from what the samples at hand add to each, `own_mean` or `own_apply`; in one all-reduce as well."""
    return weights.join(*own) if isinstance(weights, Reduction) else own


def own_mean(x: Tensor, weights: Weights, point_ndim: int) -> Tensor:
    """Return what the samples at hand add to the `weighted_mean`: all of it, unless other processes have samples."""
    if weights is None:
        return x.mean(0)
    if isinstance(weights, Reduction):
        return weights.own_mean(x, point_ndim)
    return weighted_sum(x, weights, point_ndim)


def own_apply(spectrum: linalg.Spectrum, f: SpectralFunction, weights: Weights) -> Tensor:
    """Return `own_mean` of a function of decomposed matrices (N, *groups, n, n)."""
    if isinstance(weights, Pooled):
        weights = weights.shares
    if isinstance(weights, Reduction):
        return weights.own_mean(linalg.apply(spectrum, f), 2)
    return linalg.weighted_apply(spectrum, f, weights)


def spread(p: Tensor, weights: Weights) -> Tensor:
    """Return a point per statistic so that it broadcasts against the samples: ``p`` itself unless there are segments.

    A manifold's `mean_system` applies it to whatever it derives from its base point before that meets the samples.
    """
    return weights.spread(p) if isinstance(weights, Reduction) else p
