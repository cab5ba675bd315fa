"""The positive diagonal scaling of a positive-definite matrix to unit row sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._diagonals import widened
from manifoldnorm.linalg._precision import check_matrix, without_autocast
from manifoldnorm.linalg.cholesky import cholesky

_NEWTON_STEPS = 12
_FULL_STEP = 0.3  # Newton decrement below which a self-concordant function takes full steps


def _hessian_factor(c: Tensor, x: Tensor) -> Tensor:
    return cholesky(c + torch.diag_embed(x**-2), name="unit_row_scaling")


def _solve(factor: Tensor, b: Tensor) -> Tensor:
    return torch.cholesky_solve(b.unsqueeze(-1), factor).squeeze(-1)


def _times(c: Tensor, x: Tensor) -> Tensor:
    return (c @ x.unsqueeze(-1)).squeeze(-1)


def _newton_step(c: Tensor, x: Tensor) -> Tensor:
    """Return x after one Newton step on ``x^T C x / 2 - sum log x``, at the best of a few lengths while far away."""
    gradient = _times(c, x) - 1 / x
    step = -_solve(_hessian_factor(c, x), gradient)
    ratio = step / x
    decrement = (-gradient * step).sum(-1, keepdim=True).clamp_min(0).sqrt()
    # up to 0.99 of the way to the boundary of the positive orthant, and the damped step, which always descends
    reach = (0.99 / (-ratio).amax(-1, keepdim=True).clamp_min(0.03)).clamp_min(0.0)
    lengths = torch.cat([1 / (1 + decrement), reach.clamp_max(1.0), *(f * reach for f in (0.25, 0.5, 0.75, 1.0))], -1)
    image = _times(c, step)
    slope, curvature = (x * image).sum(-1, keepdim=True), (step * image).sum(-1, keepdim=True)
    logs = (lengths.unsqueeze(-1) * ratio.unsqueeze(-2)).log1p().sum(-1)
    values = lengths * slope + lengths.square() / 2 * curvature - logs
    best = lengths.gather(-1, values.argmin(-1, keepdim=True))
    return x + torch.where(decrement < _FULL_STEP, 1.0, best) * step


class _Scaling(Function):
    """x with ``C x = 1 / x``; ``(C + diag x^-2) dx = -dC x``. The backward is differentiable to any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        c, x = ctx.saved_tensors
        outer = _solve(_hessian_factor(c, x), g).unsqueeze(-1) * x.unsqueeze(-2)
        return -(outer + outer.mT) / 2, None


@without_autocast
def unit_row_scaling(c: Tensor) -> Tensor:
    """Return the positive x (..., n) such that ``diag(x) C diag(x)`` has unit row sums, for positive-definite C.

    Damped Newton steps, a fixed number, on a self-concordant function. The result has the precision of the solve,
    double on CPU; its gradient is the implicit one, differentiable to any order.

    References
    ----------
    Marshall and Olkin 1968, "Scaling of matrices to achieve specified row and column sums"; Thanwerdas 2024,
    "Permutation-invariant log-Euclidean geometries on full-rank correlation matrices".

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.row_scaling import unit_row_scaling
    >>> unit_row_scaling(torch.full((4, 4), 0.5) + torch.diag(torch.full((4,), 0.5))) ** -2
    tensor([2.5000, 2.5000, 2.5000, 2.5000], dtype=torch.float64)
    """
    c = check_matrix(c, "unit_row_scaling")
    c = widened(c)
    fixed = c.detach()
    total = fixed.sum((-2, -1)).unsqueeze(-1)
    x = (c.shape[-1] / total).sqrt() * torch.ones_like(fixed[..., 0])  # the best multiple of (1, ..., 1)
    for _ in range(_NEWTON_STEPS):
        x = _newton_step(fixed, x)
    return call(_Scaling, c, x)
