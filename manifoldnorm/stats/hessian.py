"""Hessians of the mean's objective in a sample's own eigenbasis, and the solve whose backward is a solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call


class Hessian(Protocol):
    """What a manifold's Hessian must offer to the mean policies."""

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual``; its gradient is ``H^-1`` applied to the incoming one (the implicit gradient)."""
        ...

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` unchanged; its gradient is ``H^-1`` applied to the incoming one."""
        ...


class EigenHessian:
    """``H[S] = sum_i w_i U_i (k_i o U_i^H S U_i) U_i^H + G S + S G`` on Hermitian matrices S (*groups, n, n).

    Parameters
    ----------
    vectors_h : Tensor
        Rows are conjugated eigenvectors, (N, *groups, n, n).
    kernel : callable
        Returns the symmetric weights k_i, (N, *groups, n, n); only called if the Hessian is used.
    weights : Tensor or None
        (N, *groups), sum to one over dimension 0; None is uniform.
    shift : Tensor, optional
        Hermitian G (*groups, n, n), default 0.
    """

    def __init__(
        self,
        vectors_h: Tensor,
        kernel: Callable[[], Tensor],
        weights: Tensor | None,
        shift: Tensor | None = None,
    ) -> None:
        self.vectors_h = vectors_h.detach()
        self.shift = None if shift is None else shift.detach().to(vectors_h.dtype)
        self._kernel, self._weights = kernel, weights

    def _weighted_kernel(self) -> Tensor:
        with torch.no_grad():  # as a decorator it would break a compiled graph
            kernel = self._kernel()
            if self._weights is None:
                return kernel / self.vectors_h.shape[0]
            return kernel * self._weights.detach().to(kernel.dtype)[..., None, None]

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual`` by conjugate gradients, with the implicit gradient."""
        return call(_Solve, residual, self.vectors_h, self._weighted_kernel(), self.shift, steps, backward_steps)

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the implicit gradient."""
        if not (torch.is_grad_enabled() and residual.requires_grad):
            return residual
        return call(_Solve, residual, self.vectors_h, self._weighted_kernel(), self.shift, 0, backward_steps)


def _matvec(s: Tensor, uh: Tensor, k: Tensor, shift: Tensor | None) -> Tensor:
    """Return H[s]; without groups both outer products are single large matrix products."""
    n = s.shape[-1]
    s = s.to(uh.dtype)
    if uh.ndim == 3:
        rows = uh.reshape(-1, n)
        rotated = (rows @ s).reshape(uh.shape) @ uh.mH
        image = rows.mH @ ((k * rotated) @ uh).reshape(-1, n)
    else:
        rotated = uh @ s @ uh.mH
        image = (uh.mH @ (k * rotated) @ uh).sum(0)
    if shift is None:
        return image
    product = shift @ s
    return image + product + product.mH


def _inner(a: Tensor, b: Tensor) -> Tensor:
    product = (a.conj() * b).real if a.is_complex() else a * b
    return product.sum((-2, -1), keepdim=True)


def conjugate_gradients(r: Tensor, uh: Tensor, k: Tensor, shift: Tensor | None, steps: int) -> Tensor:
    """Run a fixed number of conjugate-gradient steps on ``H x = r`` (no host synchronisation, safe at r = 0)."""
    tiny = torch.finfo(k.dtype).tiny
    r = r.to(uh.dtype)
    x = torch.zeros_like(r)
    direction, square = r, _inner(r, r)
    for step in range(steps):
        image = _matvec(direction, uh, k, shift)
        length = square / (_inner(direction, image) + tiny)
        x = x + length * direction
        if step + 1 == steps:
            break
        r = r - length * image
        new_square = _inner(r, r)
        direction = r + new_square / (square + tiny) * direction
        square = new_square
    return x


class _Solve(Function):
    """Forward: ``steps`` of conjugate gradients (0: identity); backward: ``backward_steps`` of them on the gradient."""

    @staticmethod
    def forward(r: Tensor, uh: Tensor, k: Tensor, shift: Tensor | None, steps: int, backward_steps: int) -> Tensor:
        return conjugate_gradients(r, uh, k, shift, steps).to(r.dtype) if steps else r.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, uh, k, shift, _, backward_steps = inputs
        ctx.save_for_backward(uh, k, shift)
        ctx.backward_steps = backward_steps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        uh, k, shift = ctx.saved_tensors
        g = (g + g.mH) * 0.5
        return call(_Solve, g, uh, k, shift, ctx.backward_steps, ctx.backward_steps), None, None, None, None, None
