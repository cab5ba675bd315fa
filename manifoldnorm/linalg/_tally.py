"""Counting what is decomposed, where somebody asks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

_counts: ContextVar[Counter[tuple[str, int]] | None] = ContextVar("manifoldnorm_tally", default=None)


@contextlib.contextmanager
def tally() -> Iterator[Counter[tuple[str, int]]]:
    """Count the decompositions on CPU: how often each kind was called, by the number of matrices in the call.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> with mn.linalg.tally() as counts:
    ...     _ = mn.linalg.logm(torch.eye(3).expand(30, 3, 3))
    >>> dict(counts)
    {('eigh', 30): 1}
    """
    counts: Counter[tuple[str, int]] = Counter()
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)


def counting() -> Counter[tuple[str, int]] | None:
    """Return the counts, if somebody asks."""
    return _counts.get()


def record(kind: str, a: Tensor) -> None:
    """Count one call that decomposes the matrices (..., n, n)."""
    counts = _counts.get()
    if counts is not None:
        counts[kind, a.shape[:-2].numel()] += 1
