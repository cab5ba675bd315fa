"""Logarithm and exponential of triangular matrices with unit diagonal: polynomials, evaluated without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg._precision import without_autocast
from manifoldnorm.linalg._quadrature import gauss_legendre
from manifoldnorm.linalg.cholesky import inverse_lower


def _resolvents(lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(I + t N)^-1`` at the Gauss nodes t of (0, 1), (..., nodes, n, n), and the weights (nodes, 1, 1).

    With n // 2 nodes the rule is exact for products of resolvents with nilpotent factors, polynomials of degree n - 2.
    """
    n = lower.shape[-1]
    t, w = (
        torch.tensor(a, dtype=lower.dtype, device=lower.device)[:, None, None] for a in gauss_legendre(max(n // 2, 1))
    )
    eye = torch.eye(n, dtype=lower.dtype, device=lower.device)
    return inverse_lower(eye + t * lower.unsqueeze(-3)), w


@without_autocast
def log_unipotent(lower: Tensor) -> Tensor:
    """Return ``log(I + N)`` for strictly lower-triangular N (..., n, n).

    ``N integral (I + t N)^-1 dt``, where the alternating series ``N - N^2 / 2 + ...`` loses all digits for n = 64.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.unipotent import log_unipotent
    >>> log_unipotent(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    tensor([[ 0.0000,  0.0000,  0.0000],
            [ 1.0000,  0.0000,  0.0000],
            [-0.5000,  1.0000,  0.0000]])
    """
    resolvents, weights = _resolvents(lower)
    return lower @ (weights * resolvents).sum(-3)


@without_autocast
def log_unipotent_derivative(lower: Tensor, v: Tensor) -> Tensor:
    """Return the derivative of `log_unipotent` at N along a strictly lower-triangular v.

    ``integral (I + t N)^-1 v (I + t N)^-1 dt``.
    """
    resolvents, weights = _resolvents(lower)
    return (weights * (resolvents @ v.unsqueeze(-3) @ resolvents)).sum(-3)


@without_autocast
def exp_nilpotent(lower: Tensor) -> Tensor:
    """Return the exponential of strictly lower-triangular matrices (..., n, n).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.unipotent import exp_nilpotent
    >>> exp_nilpotent(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    tensor([[1., 0.],
            [2., 1.]])
    """
    return torch.linalg.matrix_exp(lower.contiguous())


@without_autocast
def exp_nilpotent_derivative(lower: Tensor, v: Tensor) -> Tensor:
    """Return the derivative of `exp_nilpotent` at N along v: a block of the exponential of ``[[N, v], [0, N]]``."""
    n = lower.shape[-1]
    shape = torch.broadcast_shapes(lower.shape, v.shape)
    lower, v = lower.expand(shape), v.expand(shape)
    block = torch.cat([torch.cat([lower, v], -1), torch.cat([torch.zeros_like(lower), lower], -1)], -2)
    return torch.linalg.matrix_exp(block)[..., :n, n:]
