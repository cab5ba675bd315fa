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
from manifoldnorm.nn._fused_affine_invariant import _NAME, Plan, _eigen, _grad_mean, _inverse, _through_factor
from manifoldnorm.nn._fused_domains import Domains
from manifoldnorm.stats import EigenHessian, Karcher


def run(
    plan: Plan, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, domains: Domains
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and means and variances (D, ...) without gradient, as `Plan.run`."""
    colour = None
    if point is not None:
        colour = linalg.cholesky(point) if plan.group else linalg.sqrtm(point)
    outputs: Any = FusedDomains.apply(x, log_scale, tangent, colour, plan, domains)
    return outputs


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
        inverse0 = domains.to_samples(_inverse(lower0))
        first = _eigen(_fused.congruence(inverse0.to(x.dtype), x))
        step = domains.means(_fused.rebuild(first.log, first.rows))
        hessian = EigenHessian(first.rows, lambda: kernels.hyperbolic_weights(first.log), domains.segments)
        if not isinstance(plan.mean, Karcher):
            step = hessian.solve(step, plan.mean.cg_steps, 0)
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
        each = domains.to_samples(whiten)
        second = _eigen(_fused.congruence(each.to(x.dtype), x))
        variance = domains.variance_or_running(domains.means(second.log.square().sum(-1)) * plan.metric_scale)
        factor = (variance + plan.eps).rsqrt()
        if log_scale is not None:
            factor = factor * log_scale.exp().to(wide)
        exponent = domains.to_samples(factor)
        power = (exponent.unsqueeze(-1) * second.log).exp_()
        wide_colour = None if colour is None else colour.to(wide)
        out = _fused.rebuild(power, second.rows, wide_colour).to(x.dtype)
        ctx.plan, ctx.domains, ctx.hessian = plan, domains, hessian
        ctx.has_bias, ctx.likes = bias is not None, (log_scale, colour)
        kept = (x, wide_colour, each, *second, power, exponent, factor, variance, lower0, inverse0)
        ctx.save_for_backward(*kept, first.values, first.rows, small, small_rows, whiten, *frame)
        statistics = mean.to(x.dtype), variance.to(x.dtype)
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, colour, each, w, log, rows, power, exponent, factor, variance, lower0, inverse0, *rest = ctx.saved_tensors
        w0, rows0, small, small_rows, whiten, *frame = rest
        plan, domains, count = ctx.plan, ctx.domains, len(factor)
        log_scale, given = ctx.likes
        wants_colour = colour is not None and (ctx.has_bias or ctx.needs_input_grad[3])
        grad_x, inner, grad_colour = _fused.adjoint(
            fn.POWER, w, exponent, rows, g.to(w.dtype), colour, each, colour=wants_colour, values=power
        )
        grad_factor = domains.sums((inner * power * log).sum(-1))
        upstream = []  # gradients in the small exponentials
        if plan.through:
            slope = domains.of_batch(-grad_factor * factor / (variance + plan.eps) * plan.metric_scale)
            grad_x += _fused.rebuild(domains.shared(slope).unsqueeze(-1) * log / w, rows, each.mT)
            product = 2 * domains.sums(grad_x @ x.to(grad_x.dtype))
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
                step = ctx.hessian.solve(tangents[:count], plan.mean.backward_steps, 0)
                grad_x += _fused.adjoint(fn.LOG, w0, None, rows0, domains.shared(step), None, inverse0)[0]
        return (
            grad_x.to(x.dtype),
            None if log_scale is None else (grad_factor * factor).sum().to(log_scale.dtype),
            None if grad_bias is None else grad_bias.to(x.dtype),
            None if ctx.has_bias or grad_colour is None else grad_colour.to(given.dtype),
            None,
            None,
        )
