"""Congruences K X K^H."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize, without_autocast


class _Congruence(Function):
    """K X K^T by the fused kernel: dL/dX = K^T sym(G) K, dL/dK = sum (G + G^T) K X."""

    @staticmethod
    def forward(k: Tensor, x: Tensor) -> Tensor:
        return _fused.congruence(k, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        k, x = ctx.saved_tensors
        grad_k = None
        if ctx.needs_input_grad[0]:
            n = k.shape[-1]
            grad_k = (g + g.mT).reshape(-1, n).mT @ (k @ x).reshape(-1, n)
        return grad_k, congruence(k.mT, symmetrize(g)) if ctx.needs_input_grad[1] else None


@without_autocast
def congruence(k: Tensor, x: Tensor) -> Tensor:
    """Return ``K X K^H`` for a Hermitian ``x`` (N, ..., n, n) and ``k`` that broadcasts against it.

    For a single ``k`` both products are large matrix multiplications instead of one small one per sample.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg import congruence
    >>> congruence(2 * torch.eye(2), torch.eye(2).expand(3, 2, 2))[0]
    tensor([[4., 0.],
            [0., 4.]])
    """
    if k.ndim == 2:
        if x.ndim > 2 and k.shape == x.shape[-2:] and _fused.usable(x, k):
            return call(_Congruence, k, x)
        half = x @ k.mH  # for Hermitian x its adjoint is K X
        product = half.mH @ k.mH
        return symmetrize(product) if k.shape == x.shape[-2:] else product  # as the kernel, values and gradients
    return k @ x @ k.mH
