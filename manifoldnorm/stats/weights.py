"""Weights over a batch: normalised, with masked samples left out, without looking at values on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.stats.reduction import Reduction, trailing

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
    total = raw.sum(0)
    any_valid = total > 0
    none = 1 - any_valid.to(dtype)  # where nothing is valid, uniform weights keep everything finite
    return (raw + none) / (total + none * max(valid.shape[0], 1)), any_valid


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
    if weights is None:
        return x.mean(0)
    if isinstance(weights, Reduction):
        return weights.mean(x, point_ndim)
    if weights.ndim == 1:
        return (weights.to(x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    return (trailing(weights.to(x.dtype), point_ndim) * x).sum(0)


def weighted_apply(spectrum: linalg.Spectrum, f: SpectralFunction, weights: Weights) -> Tensor:
    """Return the weighted mean over dimension 0 of a function of decomposed matrices (N, *groups, n, n)."""
    if isinstance(weights, Reduction):
        return weights.mean(linalg.apply(spectrum, f), 2)
    return linalg.weighted_apply(spectrum, f, weights)


def spread(p: Tensor, weights: Weights) -> Tensor:
    """Return a point per statistic so that it broadcasts against the samples: ``p`` itself unless there are segments.

    A manifold's `mean_system` applies it to whatever it derives from its base point before that meets the samples.
    """
    return weights.spread(p) if isinstance(weights, Reduction) else p
