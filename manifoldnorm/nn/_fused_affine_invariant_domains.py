"""The affine-invariant norms with statistics per domain as one operation for each direction.

The formulas are those of `_fused_affine_invariant`, with a mean M, its A and an exponent t for each domain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manifoldnorm import linalg
from manifoldnorm.linalg import _fused, kernels
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._ops import cholesky_cpu, eigh_cpu
from manifoldnorm.linalg._precision import widens
from manifoldnorm.nn._fused_affine_invariant import Eigen, Plan, _grad_mean, _through_factor
from manifoldnorm.nn._fused_domains import Domains
from manifoldnorm.stats import Karcher
from manifoldnorm.stats.conjugate import conjugate_gradients

_NAME = "AffineInvariant"


def _eigen(x: Tensor) -> Eigen:
    values, rows = eigh_cpu(x, widens(x), True, _NAME)
    values = fn.LOG.clamp(values, torch.finfo(x.dtype).eps)
    return Eigen(values, values.log(), rows)


def _inverse(lower: Tensor) -> Tensor:
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype)
    return torch.linalg.solve_triangular(lower, eye, upper=False)


def run(
    plan: Plan, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, domains: Domains
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and means and variances (D, ...) without gradient, as `Plan.run`."""
    colour = None
    if point is not None:
        colour = linalg.cholesky(point) if plan.group else linalg.sqrtm(point)
    outputs: Any = FusedDomains.apply(x, log_scale, tangent, colour, plan, domains)
    return outputs


def _space(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return memory for two matrices per sample: fresh memory for each would cost more than the products."""
    return torch.empty(x.shape, dtype=dtype), torch.empty(x.shape, dtype=dtype)


def _solve(
    domains: Domains, rows: Tensor, kernel: Tensor, residual: Tensor, steps: int, space: tuple[Tensor, Tensor]
) -> Tensor:
    """Return ``H^-1 residual`` by conjugate gradients, H the mean of the samples' kernels in each domain."""

    def apply(s: Tensor) -> Tensor:
        terms = _fused.each_kernel(domains.to_samples(s, space[0]), rows, kernel, space[1])
        return linalg.symmetrize(domains.means(terms))

    return conjugate_gradients(apply, linalg.symmetrize(residual), steps, 2)


class FusedDomains(Function):
    """``Y = K (A X A^T)^t K^T`` with A and t of each sample's domain; also the means and the variances."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        log_scale: Tensor | None,
        bias: Tensor | None,
        colour: Tensor | None,
        plan: Plan,
        domains: Domains,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide, count = torch.float64 if widens(x) else x.dtype, len(domains.enough)
        start = plan.mean.before_last(plan.manifold, x, domains.segments)
        lower0 = cholesky_cpu(start, widens(start), f"{_NAME} mean")
        inverse0 = _inverse(lower0)
        space = _space(x, wide)
        first = _eigen(_fused.congruence(domains.to_samples(inverse0.to(x.dtype), space[0]), x))
        step = domains.means(_fused.rebuild(first.log, first.rows, None, space[1]))
        kernel = kernels.hyperbolic_weights(first.log)
        if not isinstance(plan.mean, Karcher):
            step = _solve(domains, first.rows, kernel, step, plan.mean.cg_steps, space)
        if bias is not None:
            step = torch.cat([step, (bias if plan.group else 0.5 * bias).to(wide)[None]])
        small, small_rows = eigh_cpu(step, False, False, _NAME)
        points = _fused.rebuild(small.exp(), small_rows)
        mean = domains.mean_or_running(lower0 @ points[:count] @ lower0.mT)
        if plan.group:
            lowers = cholesky_cpu(torch.cat([mean, points[count:]]), False, _NAME)
            inverses = _inverse(lowers)
            whiten, frame = inverses[:count], (lowers, inverses)
            colour = lowers[-1] if bias is not None else colour
        else:
            root = _eigen(mean)
            whiten, frame = _fused.rebuild(root.values.rsqrt(), root.rows), (root.values, root.rows)
            colour = points[-1] if bias is not None else colour
        second = _eigen(_fused.congruence(domains.to_samples(whiten.to(x.dtype), space[0]), x))
        variance = domains.variance_or_running(domains.means(second.log.square().sum(-1)) * plan.metric_scale)
        factor = (variance + plan.eps).rsqrt()
        if log_scale is not None:
            factor = factor * log_scale.exp().to(wide)
        exponent = domains.to_samples(factor)
        power = (exponent.unsqueeze(-1) * second.log).exp_()
        wide_colour = None if colour is None else colour.to(wide)
        out = _fused.rebuild(power, second.rows, wide_colour).to(x.dtype)
        ctx.plan, ctx.domains = plan, domains
        ctx.has_bias, ctx.likes = bias is not None, (log_scale, colour)
        kept = (x, wide_colour, *second, power, exponent, factor, variance, lower0, inverse0)
        ctx.save_for_backward(*kept, first.values, first.rows, kernel, small, small_rows, whiten, *frame)
        statistics = mean.to(x.dtype), variance.to(x.dtype)
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, colour, w, log, rows, power, exponent, factor, variance, lower0, inverse0, *rest = ctx.saved_tensors
        w0, rows0, kernel, small, small_rows, whiten, *frame = rest
        plan, domains, count = ctx.plan, ctx.domains, len(factor)
        log_scale, given = ctx.likes
        space = _space(x, w.dtype)
        each = domains.to_samples(whiten, space[0])
        wants_colour = colour is not None and (ctx.has_bias or ctx.needs_input_grad[3])
        grad_x, inner, grad_colour = _fused.adjoint(
            fn.POWER, w, exponent, rows, g.to(w.dtype), colour, each, colour=wants_colour, values=power
        )
        grad_factor = domains.sums((inner * power * log).sum(-1))
        upstream = []  # gradients in the small exponentials
        if plan.through:
            slope = domains.of_batch(-grad_factor * factor / (variance + plan.eps) * plan.metric_scale)
            outer = domains.to_samples(whiten.mT.contiguous(), space[0])
            grad_x += _fused.rebuild(domains.shared(slope).unsqueeze(-1) * log / w, rows, outer, space[1])
            product = 2 * domains.sums(torch.matmul(grad_x, x.to(grad_x.dtype), out=space[1]))
            grad_mean = domains.of_batch(_grad_mean(plan, product, whiten, frame))
            upstream.append(lower0.mT @ grad_mean @ lower0)
        if ctx.has_bias:
            assert grad_colour is not None
            if plan.group:
                lowers, inverses = frame
                grad_colour = _through_factor(inverses[-1], lowers[-1].mT @ grad_colour)
            upstream.append(grad_colour[None])
        grad_bias = None
        if upstream:
            chosen = slice(0 if plan.through else count, None)
            tangents = _fused.adjoint(fn.EXP, small[chosen], None, small_rows[chosen], torch.cat(upstream))[0]
            if ctx.has_bias:
                grad_bias = tangents[-1] if plan.group else 0.5 * tangents[-1]
            if plan.through:
                step = _solve(domains, rows0, kernel, tangents[:count], plan.mean.backward_steps, space)
                spread, operand = domains.shared(step, space[1]), domains.to_samples(inverse0, space[0])
                grad_x += _fused.adjoint(fn.LOG, w0, None, rows0, spread, None, operand)[0]
        return (
            grad_x.to(x.dtype),
            None if log_scale is None else (grad_factor * factor).sum().to(log_scale.dtype),
            None if grad_bias is None else grad_bias.to(x.dtype),
            None if ctx.has_bias or grad_colour is None else grad_colour.to(given.dtype),
            None,
            None,
        )
