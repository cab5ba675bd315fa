"""Checks of values, used where the user asked for them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg import sample_index
from manifoldnorm.linalg._precision import check_tensor as check_tensor


def check_count(value: Any, name: str) -> int:
    """Return ``value`` as an ordinary integer, or raise unless it is a positive one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return int(value)


def first_bad(bad: Tensor) -> tuple[str, int] | None:
    """Return the name and flat index of the first flagged sample of a batch, or None."""
    if not bool(bad.any()):
        return None
    flat = int(bad.flatten().to(torch.uint8).argmax())
    return sample_index(flat, bad.shape), flat


def check_finite(x: Tensor, point_ndim: int, name: str) -> None:
    """Raise a ValueError that names the first sample with a NaN or infinite entry."""
    finite = x.isfinite().flatten(x.ndim - point_ndim).all(-1) if point_ndim else x.isfinite()
    where = first_bad(~finite)
    if where is not None:
        raise ValueError(f"{name}: {where[0]} has a NaN or infinite entry. Drop it, or give it weight 0.")
