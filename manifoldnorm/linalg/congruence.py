"""Congruences K X K^H."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize, without_autocast


class _Congruence(Function):
    """K X K^H by the fused kernel: dL/dX = K^H sym(G) K, dL/dK = sum (G + G^H) K X over what K is shared by.

    With an index K has no gradient.
    """

    @staticmethod
    def forward(k: Tensor, x: Tensor, index: Tensor | None) -> Tensor:
        return _fused.congruence(k, x, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        k, x, index = ctx.saved_tensors
        grad_k = None
        if ctx.needs_input_grad[0]:
            grad_k = summed(g + g.mH, k @ x, k.ndim - 2)
        if not ctx.needs_input_grad[1]:
            return grad_k, None, None
        if g.is_complex() or not _fused.usable(g, k):  # the real kernel takes the symmetric part itself
            g = symmetrize(g)
        return grad_k, congruence(k.mH, g, index), None


def summed(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """Return ``sum left^H right`` over the batch dimensions before the last ``groups`` ones."""
    n = left.shape[-1]
    if groups == 0:
        return left.reshape(-1, n).mH @ right.reshape(-1, n)
    product = left.mH @ right
    axes = tuple(range(product.ndim - 2 - groups))
    return product.sum(axes) if axes else product  # the sum over no axes would be over all


@without_autocast
def congruence(k: Tensor, x: Tensor, index: Tensor | None = None) -> Tensor:
    """Return ``K X K^H`` for a Hermitian ``x`` (N, ..., n, n) and ``k`` that broadcasts against it.

    Or ``index`` (N,) says which of the matrices ``k`` (D, ..., n, n) is that of each ``x``. Without the compiled
    kernels a single ``k`` takes two large matrix multiplications instead of small ones per sample.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg import congruence
    >>> congruence(2 * torch.eye(2), torch.eye(2).expand(3, 2, 2))[0]
    tensor([[4., 0.],
            [0., 4.]])
    """
    square = k.shape[-2:] == x.shape[-2:]
    if index is not None:
        constant = not (k.requires_grad and torch.is_grad_enabled())
        if square and constant and k.ndim == x.ndim == 3 and _fused.usable(x, k):
            return call(_Congruence, k, x, index)
        k = k.index_select(0, index)
    alone = square and x.ndim > 2 and torch.broadcast_shapes(k.shape, x.shape) == x.shape  # x has every sample
    if alone and _fused.usable(x, k, real=()):
        return call(_Congruence, k, x, None)
    if k.ndim == 2:
        half = x @ k.mH  # for Hermitian x its adjoint is K X
        product = half.mH @ k.mH
        return symmetrize(product) if square else product  # as the kernel, values and gradients
    return k @ x @ k.mH
