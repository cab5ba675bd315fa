"""The affine-invariant norms as one operation for each direction, on CPU: two decompositions of the batch.

The template of `ManifoldNorm` says what they compute; this says it once more without a graph in between, for real
matrices with the compiled kernels. The notation of the comments: ``M`` the mean, ``A M A^T = 1``, ``Y = A X A^T``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manifoldnorm import linalg
from manifoldnorm.linalg import _fused, kernels
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._ops import cholesky_cpu, eigh_cpu
from manifoldnorm.linalg._precision import widens
from manifoldnorm.manifolds import AffineInvariant
from manifoldnorm.stats import EigenHessian, Exact, Karcher, Newton

_NAME = "AffineInvariant"


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch.

    Attributes
    ----------
    group : bool
        Whether points are moved by Cholesky factors (else by symmetric roots).
    mean : Karcher, Newton or Exact
        How the mean is found.
    metric_scale : float
        Of squared distances, for the sum of squared logarithms.
    eps : float
        Added to the variance.
    through : bool
        Whether gradients pass through the statistics.
    """

    manifold: AffineInvariant
    group: bool
    mean: Karcher | Newton | Exact
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = True

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and the variance without gradient.

        The bias is a tangent vector at the identity (its symmetric part counts), or a point.
        """
        colour = None
        if point is not None:
            colour = linalg.cholesky(point) if self.group else linalg.sqrtm(point)
        outputs: Any = FusedAffineInvariant.apply(x, log_scale, tangent, colour, self)
        return outputs


class Eigen(NamedTuple):
    """Eigenvalues (clamped as the template's are), their logarithms, and the eigenvectors as rows."""

    values: Tensor
    log: Tensor
    rows: Tensor


def _eigen(x: Tensor) -> Eigen:
    values, rows = eigh_cpu(x, widens(x), True, _NAME)
    values = fn.LOG.clamp(values, torch.finfo(x.dtype).eps)
    return Eigen(values, values.log(), rows)


def _inverse(lower: Tensor) -> Tensor:
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype)
    return torch.linalg.solve_triangular(lower, eye, upper=False)


def _through_factor(inverse: Tensor, product: Tensor) -> Tensor:
    """Return the symmetric gradient in ``M = L L^T`` for ``L^T dL``, of which only the lower triangle counts."""
    half = product.tril()
    half.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    return inverse.mT @ linalg.symmetrize(half) @ inverse


class FusedAffineInvariant(Function):
    """``Y = K (A X A^T)^t K^T`` with the batch's A and t; also the mean and the variance, for the buffers.

    ``bias`` is a symmetric tangent vector at the identity, whose exponential is ``K K^T``; or ``colour`` is K.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, colour: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if widens(x) else x.dtype
        start = plan.mean.before_last(plan.manifold, x, None)
        lower0 = cholesky_cpu(start, widens(start), f"{_NAME} mean")
        inverse0 = _inverse(lower0)
        first = _eigen(_fused.congruence(inverse0.to(x.dtype), x))
        step = _fused.sum_of_functions(first.log / x.shape[0], first.rows)
        hessian = EigenHessian(first.rows, lambda: kernels.hyperbolic_weights(first.log), None)
        if not isinstance(plan.mean, Karcher):
            step = hessian.solve(step, plan.mean.cg_steps, 0)
        tangents = step[None]
        if bias is not None:  # both small exponentials in one decomposition
            tangents = torch.stack([step, (bias if plan.group else 0.5 * bias).to(wide)])  # eigh takes symmetric parts
        small, small_rows = eigh_cpu(tangents, False, False, _NAME)
        points = _fused.rebuild(small.exp(), small_rows)
        mean = lower0 @ points[0] @ lower0.mT
        if plan.group:
            lowers = cholesky_cpu(torch.stack([mean, points[1]]) if bias is not None else mean[None], False, _NAME)
            inverses = _inverse(lowers)
            whiten, frame = inverses[0], (lowers, inverses)
            colour = lowers[1] if bias is not None else colour
        else:
            root = _eigen(mean)
            whiten, frame = _fused.rebuild(root.values.rsqrt(), root.rows), (root.values, root.rows)
            colour = points[1] if bias is not None else colour
        second = _eigen(_fused.congruence(whiten.to(x.dtype), x))
        variance = float(second.log.square().sum()) * plan.metric_scale / x.shape[0]
        factor = 1 / math.sqrt(variance + plan.eps)
        if log_scale is not None:
            factor *= math.exp(float(log_scale))
        power = (factor * second.log).exp_()
        wide_colour = None if colour is None else colour.to(wide)
        out = _fused.rebuild(power, second.rows, wide_colour).to(x.dtype)
        ctx.plan, ctx.factor, ctx.variance, ctx.hessian = plan, factor, variance, hessian
        ctx.has_bias, ctx.likes = bias is not None, (log_scale, colour)
        kept = (x, wide_colour, whiten, *second, power, lower0, inverse0, *first, small, small_rows, *frame)
        ctx.save_for_backward(*kept)
        scalar = torch.tensor(variance, dtype=x.dtype)
        mean = mean.to(x.dtype)
        ctx.mark_non_differentiable(mean, scalar)
        return out, mean, scalar

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, colour, whiten, w, log, rows, power, lower0, inverse0, w0, _, rows0, small, small_rows, *frame = (
            ctx.saved_tensors
        )
        plan, factor = ctx.plan, ctx.factor
        log_scale, given = ctx.likes
        wants_colour = colour is not None and (ctx.has_bias or ctx.needs_input_grad[3])
        exponent = torch.full(x.shape[:1], factor, dtype=w.dtype)
        grad_x, inner, grad_colour = _fused.adjoint(
            fn.POWER, w, exponent, rows, g.to(w.dtype), colour, whiten, colour=wants_colour, values=power
        )
        grad_factor = float((inner * power * log).sum())
        upstream = []  # gradients in the small exponentials
        if plan.through:
            slope = -grad_factor * factor / (ctx.variance + plan.eps) * plan.metric_scale / x.shape[0]
            grad_x += _fused.rebuild(slope * log / w, rows, whiten.mT)
            n = x.shape[-1]
            product = 2 * (grad_x.view(-1, n).mT @ x.to(grad_x.dtype).reshape(-1, n))
            upstream.append(lower0.mT @ _grad_mean(plan, product, whiten, frame) @ lower0)
        if ctx.has_bias:
            assert grad_colour is not None
            if plan.group:
                lowers, inverses = frame
                grad_colour = _through_factor(inverses[1], lowers[1].mT @ grad_colour)
            upstream.append(grad_colour)
        grad_bias = None
        if upstream:
            chosen = slice(0 if plan.through else 1, 2 if ctx.has_bias else 1)
            inner_w, inner_rows = small[chosen], small_rows[chosen]
            tangents = _fused.adjoint(fn.EXP, inner_w, None, inner_rows, torch.stack(upstream))[0]
            if ctx.has_bias:
                grad_bias = tangents[-1] if plan.group else 0.5 * tangents[-1]
            if plan.through:
                step = ctx.hessian.solve(tangents[0], plan.mean.backward_steps, 0)
                spread = (step / x.shape[0]).expand_as(rows0)
                grad_x += _fused.adjoint(fn.LOG, w0, None, rows0, spread, None, inverse0)[0]
        return (
            grad_x.to(x.dtype),
            None if log_scale is None else torch.full_like(log_scale, grad_factor * factor),
            None if grad_bias is None else grad_bias.to(x.dtype),
            None if ctx.has_bias or grad_colour is None else grad_colour.to(given.dtype),
            None,
        )


def _grad_mean(plan: Plan, product: Tensor, whiten: Tensor, frame: Any) -> Tensor:
    """Return the symmetric gradient in M, given ``2 sum dX X`` for those in X with A constant."""
    # dA = A^-T 2 sum dX X
    if plan.group:
        lower = frame[0][: len(whiten)] if whiten.ndim == 3 else frame[0][0]
        return -_through_factor(whiten, lower.mT @ product @ whiten.mT)  # dL = -A^T dA A^T
    values, rows = frame
    root = (rows.mT * values.sqrt().unsqueeze(-2)) @ rows
    return _fused.adjoint(fn.INV_SQRT, values, None, rows, root @ product)[0]
