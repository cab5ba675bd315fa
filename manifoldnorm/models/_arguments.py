"""What the constructors of networks accept, and errors that say what to pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds._checks import check_count


def check_sizes(sizes: Any, name: str) -> list[int]:
    """Return the sizes of a network's orthonormal maps, input first, or raise unless they are integers that fall."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(f"{name}: sizes must be a sequence of integers, input first, e.g. [8, 6, 4], got {sizes!r}.")
    if len(sizes) < 2:
        raise ValueError(f"{name}: sizes needs an input and at least one output size, got {list(sizes)}.")
    checked = [check_count(size, f"{name}: sizes[{position}]") for position, size in enumerate(sizes)]
    for position, (before, after) in enumerate(itertools.pairwise(checked), start=1):
        if after > before:
            raise ValueError(
                f"{name}: sizes {checked} grow from {before} to {after} at position {position}, where the matrices "
                f"would be singular. Give sizes that stay or fall, input first."
            )
    return checked


def check_matrices(x: Tensor, n: int, name: str) -> None:
    """Raise unless ``x`` is a batch (N, ..., n, n), ``n`` being the first of a network's sizes."""
    check_tensor(x, f"{name} input")
    if x.ndim < 2 or x.shape[-2:] != (n, n):
        found = f" Its sizes start with {n}; for these data give {x.shape[-1]} first." if x.ndim > 1 else ""
        raise ValueError(f"{name} input: expected matrices (N, {n}, {n}), got {tuple(x.shape)}.{found}")
    if x.ndim == 2:
        raise ValueError(f"{name} input: expected (N, {n}, {n}), got one matrix. Add a batch dimension: x[None].")
