"""The Hessian of the squared distance on Grassmann manifolds, from the eigenvalues of its Jacobi operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call
from manifoldnorm.linalg.functions_angles import x_cot_x
from manifoldnorm.linalg.principal import Principal
from manifoldnorm.stats import Processes, Reduction, Weights, gather, over, total
from manifoldnorm.stats.conjugate import conjugate_gradients


class JacobiHessian:
    """``H[Y] = sum_i w_i (x cot x)(ad_i)[Y]`` on tangent vectors Y (*groups, n, p) at a frame.

    With principal vectors ``log(x_i) = W theta V^T`` and ``N = W^T Y V`` the Jacobi operator of sample i has the angles
    ``theta_j - theta_k`` on the symmetric part of N, ``theta_j + theta_k`` on the antisymmetric one and ``theta_k`` on
    column k of the rest: ``H_i[Y] = Y V k(theta) V^T + W (own o N + mixed o N^T) V^T`` with ``k(x) = x cot x``.

    Parameters
    ----------
    principal : Principal
        Of the samples (N, *groups, n, p) with respect to the frame.
    weights : Tensor, Reduction or None
        (N, *groups), sum to one over dimension 0; None is uniform. With segments Y is (D, *groups, n, p).
    """

    def __init__(self, principal: Principal, weights: Weights) -> None:
        self._principal, self._weights = principal, weights

    def _parts(self, residual: Tensor) -> tuple[Any, ...]:
        _, _, angles, _, left, _ = self._principal
        with torch.no_grad():  # as a decorator it would break a compiled graph
            row, column = angles.unsqueeze(-1), angles.unsqueeze(-2)
            even, odd, own = x_cot_x(row - column), x_cot_x(row + column), x_cot_x(angles)
            weights = self._weights
            shares = weights.shares if isinstance(weights, Reduction) else weights
            if shares is None:
                share = angles.new_full((), 1 / angles.shape[0])
            else:
                share = shares.to(angles.dtype)[..., None, None]
            right = share * (left * own.unsqueeze(-2)) @ left.mT
            half = share / 2
            same, turned = half * (even + odd - 2 * own.unsqueeze(-2)), half * (even - odd)
            known = weights if isinstance(weights, Reduction) else None
            processes, index = (None, None) if known is None else (known.processes, known.index)
            right = total(right, index, residual[..., : left.shape[-1], :].to(right.dtype))
            return processes, self._principal.out, left.mT.contiguous(), same, turned, right, index

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual`` by conjugate gradients, with the implicit gradient."""
        return call(_Solve, residual, steps, backward_steps, *self._parts(residual))

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the implicit gradient."""
        if not (torch.is_grad_enabled() and residual.requires_grad):
            return residual
        return self.solve(residual, 0, backward_steps)


def _matvec(
    y: Tensor, rows: Tensor, vh: Tensor, own: Tensor, mixed: Tensor, right: Tensor, index: Tensor | None
) -> Tensor:
    """Return what the samples at hand add to H[y]; without groups and segments in single large matrix products."""
    n = (rows @ gather(y, index)) @ vh.mT
    inner = (own * n + mixed * n.mT) @ vh
    if rows.ndim == 3 and index is None:
        flat = rows.reshape(-1, rows.shape[-1])
        return y @ right + flat.mT @ inner.reshape(-1, inner.shape[-1])
    return y @ right + total(rows.mT @ inner, index, y)


class _Solve(Function):
    """Forward: ``steps`` of conjugate gradients (0: identity); backward: ``backward_steps`` of them on the gradient."""

    @staticmethod
    def forward(
        r: Tensor,
        steps: int,
        backward_steps: int,
        processes: Processes | None,
        rows: Tensor,
        vh: Tensor,
        own: Tensor,
        mixed: Tensor,
        right: Tensor,
        index: Tensor | None,
    ) -> Tensor:
        if not steps:
            return r.clone()

        def apply(y: Tensor) -> Tensor:
            return over(processes, _matvec(y, rows, vh, own, mixed, right, index))

        return conjugate_gradients(apply, r.to(rows.dtype), steps, 2).to(r.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.backward_steps, ctx.processes = inputs[2:4]
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        steps = ctx.backward_steps
        return call(_Solve, g, steps, steps, ctx.processes, *ctx.saved_tensors), *(None,) * 9
