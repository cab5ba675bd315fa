"""Matrices with a prescribed diagonal, in the precision in which they are solved for."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg._precision import widens, working_dtype


def widened(a: Tensor) -> Tensor:
    """Return ``a`` in the precision in which it would be decomposed: double on CPU.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg._diagonals import widened
    >>> widened(torch.eye(2)).dtype
    torch.float64
    """
    return a.to(working_dtype(a.dtype, widens(a)))


def hollow(a: Tensor) -> Tensor:
    """Return square matrices (..., n, n) with their diagonal set to 0.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg._diagonals import hollow
    >>> hollow(torch.ones(2, 2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    return a.masked_fill(torch.eye(a.shape[-1], dtype=torch.bool, device=a.device), 0.0)


def with_unit_diagonal(a: Tensor) -> Tensor:
    """Return square matrices (..., n, n) with their diagonal set to exactly 1.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg._diagonals import with_unit_diagonal
    >>> with_unit_diagonal(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return a.masked_fill(torch.eye(a.shape[-1], dtype=torch.bool, device=a.device), 1.0)
