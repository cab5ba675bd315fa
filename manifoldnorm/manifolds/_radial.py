"""The Hessian of a Frechet mean's objective on a space of constant curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call
from manifoldnorm.stats import Processes, Reduction, Weights, gather, over, own_mean, total
from manifoldnorm.stats.conjugate import conjugate_gradients


class RadialHessian:
    """``H = sum_i w_i (u_i u_i^T + h_i (I - u_i u_i^T))``: slope one along a sample's direction ``u_i``, h_i across it.

    Solved by conjugate gradients from products with the samples, never as a matrix. On a positively curved space H may
    be indefinite away from the mean: then they stop at the first direction of negative curvature, at worst with a unit
    gradient step.

    Parameters
    ----------
    vectors : Tensor
        Logarithms of the samples (N, *groups, d) in orthonormal coordinates.
    square : Tensor
        Their squared norms (N, *groups).
    across : Tensor
        h_i, (N, *groups).
    weights : Tensor, Reduction or None
        (N, *groups), sum to one over dimension 0; None is uniform.
    """

    def __init__(self, vectors: Tensor, square: Tensor, across: Tensor, weights: Weights) -> None:
        with torch.no_grad():  # as a decorator it would break a compiled graph
            known = weights if isinstance(weights, Reduction) else None
            self.processes, self.index = (None, None) if known is None else (known.processes, known.index)
            shares = weights.shares if isinstance(weights, Reduction) else weights
            share = 1 / vectors.shape[0] if shares is None else shares.detach().to(vectors.dtype)
            if isinstance(share, Tensor):
                share = share.reshape(share.shape + (1,) * (square.ndim - share.ndim))
            across = across.detach()
            self.vectors = vectors.detach()
            reduced = (share * across).sum(0) if self.index is None else own_mean(across, weights, 0)
            self.mean = reduced.unsqueeze(-1)
            self.excess = share * (1 - across) / (square.detach() + torch.finfo(square.dtype).tiny)

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual`` by conjugate gradients, with the implicit gradient."""
        enough = self.vectors.shape[-1] + 2
        parts = self.processes, self.vectors, self.mean, self.excess, self.index
        return call(_Solve, residual, min(steps, enough), min(backward_steps, enough), *parts)

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the implicit gradient."""
        return self.solve(residual, 0, backward_steps)


def _spread_product(vectors: Tensor, excess: Tensor, direction: Tensor, index: Tensor | None) -> Tensor:
    """Return ``sum_i excess_i <vectors_i, direction> vectors_i``, per segment where there is an index."""
    if index is not None:
        dots = (vectors * gather(direction, index)).sum(-1)
        return total((excess * dots).unsqueeze(-1) * vectors, index, direction)
    if vectors.ndim == 2:
        return (excess * (vectors @ direction)) @ vectors
    dots = torch.einsum("n...d,...d->n...", vectors, direction)
    return torch.einsum("n...d,n...->...d", vectors, excess * dots)


class _Solve(Function):
    """Forward: ``steps`` of conjugate gradients (0: identity); backward: ``backward_steps`` of them on the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        r: Tensor,
        steps: int,
        backward_steps: int,
        processes: Processes | None,
        vectors: Tensor,
        mean: Tensor,
        excess: Tensor,
        index: Tensor | None,
    ) -> Tensor:
        if not steps:
            return r.clone()

        def apply(v: Tensor) -> Tensor:
            return over(processes, mean * v + _spread_product(vectors, excess, v, index))

        return conjugate_gradients(apply, r, steps, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.backward_steps, ctx.processes = inputs[2:4]
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        steps = ctx.backward_steps
        return call(_Solve, g, steps, steps, ctx.processes, *ctx.saved_tensors), *(None,) * 7
