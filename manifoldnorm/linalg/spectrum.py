"""A matrix that carries its decomposition."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldnorm.linalg import _ops
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import check_matrix, widens


class Spectrum(NamedTuple):
    """A matrix with its decomposition, so that several functions of it share one.

    ``values`` (..., n) ascending and ``vectors_h`` (..., n, n), whose rows are the conjugated eigenvectors, carry no
    gradient: gradients flow through ``matrix`` by divided differences.
    """

    matrix: Tensor
    values: Tensor
    vectors_h: Tensor


def decompose(a: Tensor, *, positive: bool = False, name: str = "decompose") -> Spectrum:
    """Decompose a stack of symmetric or Hermitian matrices once, for use by several spectral functions.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n); the Hermitian part is decomposed.
    positive : bool
        On CPU raise for matrices that are indefinite beyond rounding (elsewhere they become NaN).
    name : str
        What error messages call the caller.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or dtype.
    torch.linalg.LinAlgError
        On CPU, for an indefinite matrix if ``positive``; names the sample and its extreme eigenvalues.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> spectrum = linalg.decompose(torch.diag(torch.tensor([1.0, 4.0])))
    >>> linalg.apply(spectrum, linalg.functions.SQRT)
    tensor([[1., 0.],
            [0., 2.]])
    """
    a = check_matrix(a, name)
    operator = _ops.eigh_cpu if plain(a) else torch.ops.manifoldnorm.eigh
    values, vectors_h = operator(a.detach(), widens(a), positive, name)
    return Spectrum(a, values, vectors_h)
