"""Weights over a batch: normalised, with masked samples left out, without looking at values on the host."""

from __future__ import annotations

import torch
from torch import Tensor


def _spread(w: Tensor, axes: int) -> Tensor:
    return w.reshape(w.shape + (1,) * axes)


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
    if weights is None:
        raw = valid.to(dtype)
    else:
        weights = _spread(weights, valid.ndim - weights.ndim).to(dtype)
        raw = torch.where(valid & weights.isfinite(), weights, 0.0)
    total = raw.sum(0)
    any_valid = total > 0
    none = 1 - any_valid.to(dtype)  # where nothing is valid, uniform weights keep everything finite
    return (raw + none) / (total + none * max(valid.shape[0], 1)), any_valid


def weighted_mean(x: Tensor, weights: Tensor | None, point_ndim: int) -> Tensor:
    """Return the mean over dimension 0 of ``x`` (N, *groups, *point) with weights (N, *groups) that sum to one."""
    if weights is None:
        return x.mean(0)
    if weights.ndim == 1:
        return (weights.to(x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    return (_spread(weights.to(x.dtype), point_ndim) * x).sum(0)
