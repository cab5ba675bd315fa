"""Batches that are too large for one call of a solver."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST = 65_535  # matrices that cuSOLVER's batched solvers take in one call


def in_slices(solve: Callable[[Tensor], tuple[Tensor, ...]], a: Tensor) -> tuple[Tensor, ...]:
    """Return ``solve(a)`` for matrices (..., n, n) on a GPU, in as many calls as its batched solver needs."""
    batch = a.shape[:-2]
    if not a.is_cuda or batch.numel() <= LARGEST:
        return solve(a)
    parts = [solve(part) for part in a.flatten(0, -3).split(LARGEST)]
    return tuple(torch.cat(found).unflatten(0, batch) for found in zip(*parts, strict=True))
