"""Cholesky factor and the charts built on it, with exact triangular differentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._precision import check_matrix, widens, without_autocast


def half_lower(a: Tensor) -> Tensor:
    """Return the strict lower part plus half of the diagonal; for a Hermitian matrix, ``X = half + half^H``.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg import half_lower
    >>> half_lower(torch.ones(2, 2))
    tensor([[0.5000, 0.0000],
            [1.0000, 0.5000]])
    """
    return a.tril(-1) + torch.diag_embed(_real(a.diagonal(dim1=-2, dim2=-1)) * 0.5).to(a.dtype)


def _real(d: Tensor) -> Tensor:
    return d.real if d.is_complex() else d


def _solve_lower(factor: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, b, upper=False)  # type: ignore[no-any-return]


class _Cholesky(Function):
    """L with A = L L^H; dA = L^-H half(L^H dL) L^-1, written in differentiable operations (any order)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, wide: bool, name: str) -> Tensor:
        return torch.ops.manifoldnorm.cholesky(a, wide, name)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)
        ctx.dtype = inputs[0].dtype

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        inner = half_lower(factor.mH @ g)
        inner = inner + inner.mH  # Hermitian, twice the symmetric part
        left = torch.linalg.solve_triangular(factor.mH, inner, upper=True)
        grad = torch.linalg.solve_triangular(factor, left, upper=False, left=False)
        return (grad * 0.5).to(ctx.dtype), None, None


def _wide_cholesky(a: Tensor, name: str) -> Tensor:
    check_matrix(a, name)
    return _Cholesky.apply(a, widens(a), name)  # type: ignore[no-any-return]


def cholesky(a: Tensor, *, name: str = "cholesky") -> Tensor:
    """Return the lower Cholesky factor of symmetric (Hermitian) positive-definite matrices (..., n, n).

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or dtype.
    torch.linalg.LinAlgError
        On CPU, if a matrix is not positive definite; names the sample and its extreme eigenvalues.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.cholesky(4 * torch.eye(2))
    tensor([[2., 0.],
            [0., 2.]])
    """
    return _wide_cholesky(a, name).to(a.dtype)


def inverse_cholesky(a: Tensor, *, name: str = "inverse_cholesky") -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor L and its inverse.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> factor, inverse = mn.linalg.inverse_cholesky(4 * torch.eye(2))
    >>> float(factor[0, 0]), float(inverse[0, 0])
    (2.0, 0.5)
    """
    factor = _wide_cholesky(a, name)
    inverse = inverse_lower(factor)
    return factor.to(a.dtype), inverse.to(a.dtype)


def inverse_lower(factor: Tensor) -> Tensor:
    """Return the inverse of lower-triangular matrices (..., n, n).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg import inverse_lower
    >>> inverse_lower(torch.tensor([[2.0, 0.0], [2.0, 1.0]]))
    tensor([[ 0.5000,  0.0000],
            [-1.0000,  1.0000]])
    """
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return _solve_lower(factor, eye.expand_as(factor))


def log_cholesky(a: Tensor) -> Tensor:
    """Return the log-Cholesky chart ``strict_lower(L) + log diag(L)`` of positive-definite matrices, A = L L^H.

    Source: Lin 2019, "Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition", eq. (2).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.log_cholesky(torch.eye(2))
    tensor([[0., 0.],
            [0., 0.]])
    """
    factor = _wide_cholesky(a, "log_cholesky")
    diagonal = _real(factor.diagonal(dim1=-2, dim2=-1))
    return (factor.tril(-1) + torch.diag_embed(diagonal.log()).to(factor.dtype)).to(a.dtype)


@without_autocast
def exp_cholesky(y: Tensor) -> Tensor:
    """Return the positive-definite matrix whose log-Cholesky chart is ``y``, the inverse of `log_cholesky`.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.exp_cholesky(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    diagonal = _real(y.diagonal(dim1=-2, dim2=-1))
    factor = y.tril(-1) + torch.diag_embed(diagonal.exp()).to(y.dtype)
    return factor @ factor.mH
