"""Cholesky factor and the charts built on it, with exact triangular differentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused, _ops
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import check_matrix, widens, without_autocast, working_dtype


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
    mask = torch.ones(a.shape[-2:], dtype=a.dtype, device=a.device).tril_().fill_diagonal_(0.5)
    return _real_diagonal(a * mask)


def _solve_lower(factor: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, b, upper=False)


def _scale_diagonal(m: Tensor, d: Tensor) -> Tensor:
    """Multiply the diagonal of a fresh matrix in place and return it."""
    m.diagonal(dim1=-2, dim2=-1).mul_(d)
    return m


class _Cholesky(Function):
    """(L, Y) with A = L L^H and the chart Y = strict_lower(L) + log diag(L); dA = L^-H half(L^H dL) L^-1.

    The backward is written in differentiable operations on the outputs, so that derivatives of any order are right.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, wide: bool, name: str, chart: bool) -> tuple[Tensor, Tensor | None]:
        if a.ndim > 2 and a.dtype == working_dtype(a.dtype, wide) and _fused.usable(a):
            factor, y, sound = _fused.cholesky(a.detach(), chart)
            if sound:
                return factor, y
        operator = _ops.cholesky_cpu if plain(a) else torch.ops.manifoldnorm.cholesky
        factor = operator(a.detach(), wide, name)
        if not chart:
            return factor, None
        y = factor.clone()
        y.diagonal(dim1=-2, dim2=-1).log_()
        return factor, y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[0])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor | None, gy: Tensor | None) -> Any:
        (factor,) = ctx.saved_tensors
        given = g if gy is None else gy if g is None else None
        if given is not None and factor.ndim > 2 and not torch.is_grad_enabled():
            given = given.to(factor.dtype)
            if _fused.usable(factor, given):
                return _fused.cholesky_adjoint(factor, given, g is None).to(ctx.dtype), None, None, None
        if gy is not None:
            through = _scale_diagonal(gy.tril(), 1 / factor.diagonal(dim1=-2, dim2=-1))
            g = through if g is None else g + through
        if g is None:
            return None, None, None, None
        inner = _scale_diagonal((factor.mH @ g).tril(), _half(g))
        inner = inner + inner.mH  # Hermitian, twice the symmetric part
        left = torch.linalg.solve_triangular(factor.mH, inner, upper=True)
        grad = torch.linalg.solve_triangular(factor, left, upper=False, left=False)
        return (grad * 0.5).to(ctx.dtype), None, None, None


def _half(like: Tensor) -> Tensor:
    return torch.full((), 0.5, dtype=like.dtype, device=like.device)


def _wide_cholesky(a: Tensor, name: str, chart: bool = False) -> tuple[Tensor, Tensor]:
    a = check_matrix(a, name)
    return call(_Cholesky, a, widens(a), name, chart)


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
    return _wide_cholesky(a, name)[0].to(a.dtype)


def inverse_cholesky(a: Tensor, *, name: str = "inverse_cholesky") -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor L and its inverse.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> factor, inverse = mn.linalg.inverse_cholesky(4 * torch.eye(2))
    >>> float(factor[0, 0]), float(inverse[0, 0])
    (2.0, 0.5)
    """
    factor, _ = _wide_cholesky(a, name)
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
    return _wide_cholesky(a, "log_cholesky", True)[1].to(a.dtype)


class _ExpCholesky(Function):
    """(P, K) with K = strict_lower(Y) + exp diag(Y), P = K K^H; dK = (G + G^H) K."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> tuple[Tensor, Tensor]:
        if y.ndim > 2 and _fused.usable(y):
            return _fused.from_chart(y)
        factor = y.tril()
        factor.diagonal(dim1=-2, dim2=-1).exp_()
        return factor @ factor.mH, factor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor | None, gk: Tensor | None) -> Any:
        (factor,) = ctx.saved_tensors
        simple = gk is None and factor.ndim > 2 and not torch.is_grad_enabled()
        if simple and g is not None and _fused.usable(factor, g):
            return _fused.from_chart_adjoint(factor, g)
        if g is not None:
            through = (g + g.mH) @ factor
            gk = through if gk is None else gk + through
        return None if gk is None else _real_diagonal(_scale_diagonal(gk.tril(), factor.diagonal(dim1=-2, dim2=-1)))


def _real_diagonal(m: Tensor) -> Tensor:
    """Return the matrix with the imaginary part of its diagonal dropped: charts have a real diagonal."""
    if m.is_complex():
        m = m - torch.diag_embed(1j * m.diagonal(dim1=-2, dim2=-1).imag)
    return m


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
    return call(_ExpCholesky, _real_diagonal(y))[0]


def sum_of_inverses(x: Tensor, ridge: Tensor, weights: Tensor | float, each: bool = False) -> Tensor | None:
    """Return ``sum_i w_i (X_i + r_i)^-1`` in working precision for X (..., n, n), or its terms; without gradient.

    None where no compiled kernel does it, or a matrix is not positive definite: the caller knows what to say.
    """
    if torch.is_grad_enabled() or not _fused.usable(x, ridge):
        return None
    wide = working_dtype(x.dtype, widens(x))
    total, positive = _fused.sum_of_inverses(x.to(wide), ridge.to(wide), weights, each)
    return total if positive else None
