"""Windows of a signal and the plain covariance of fixed data sets: the one place where loaders cut and average."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def windows(signal: Tensor, window: int, hop: int | None = None) -> Tensor:
    """Cut the last axis into windows; a tail shorter than a window is left out.

    Parameters
    ----------
    signal : Tensor, shape (..., time)
        Real or complex samples.
    window : int
        Samples in a window, at least 1.
    hop : int, optional
        Samples from the start of one window to the start of the next; ``window`` (no overlap) by default.

    Returns
    -------
    Tensor, shape (..., (time - window) // hop + 1, window)
        A view of ``signal``.

    Raises
    ------
    ValueError
        If ``window`` or ``hop`` is below 1, or the signal is shorter than one window.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.datasets import windows
    >>> windows(torch.arange(5), window=3, hop=2)
    tensor([[0, 1, 2],
            [2, 3, 4]])
    """
    hop = window if hop is None else hop
    if window < 1 or hop < 1:
        raise ValueError(f"window and hop must be at least 1, got window={window}, hop={hop}.")
    if signal.shape[-1] < window:
        raise ValueError(
            f"signal has {signal.shape[-1]} samples, fewer than one window of {window}. "
            "Use a shorter window or a longer signal."
        )
    return signal.unfold(-1, window, hop)


def covariances(signals: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Sample covariance of (..., channels, time) over time, shrunk by ``shrinkage`` times trace / channels."""
    samples = signals.shape[-1]
    if samples < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {samples}. Use a longer signal or window.")
    centred = signals - signals.mean(-1, keepdim=True)
    return shrink(centred @ centred.mH / (samples - 1), shrinkage)


def shrink(covariance: Tensor, shrinkage: float) -> Tensor:
    """Add ``shrinkage`` times the mean eigenvalue to the diagonal."""
    if not 0 <= shrinkage < float("inf"):
        raise ValueError(f"shrinkage must be a finite number of at least 0, got {shrinkage}.")
    n = covariance.shape[-1]
    mean_eigenvalue = covariance.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
    return covariance + shrinkage * mean_eigenvalue * torch.eye(n, dtype=covariance.dtype, device=covariance.device)


def as_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Copy numbers to a tensor of that precision; complex numbers take the complex type of the same precision."""
    if not dtype.is_floating_point and not dtype.is_complex:
        raise TypeError(f"dtype must be a floating-point type such as torch.float64, got {dtype}.")
    tensor = torch.tensor(np.ascontiguousarray(array))
    return tensor.to(dtype.to_complex() if tensor.is_complex() or dtype.is_complex else dtype)
