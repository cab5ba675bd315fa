"""The norms of flat geometries with statistics per domain as one operation for each direction.

The formulas are those of `_fused_flat`, with a mean and a factor for each domain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn._fused_domains import Domains
from manifoldnorm.nn._fused_flat import Plan


def run(
    plan: Plan, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, domains: Domains
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and means and variances (D, ...) without gradient, as `Plan.run`."""
    outputs: Any = FusedDomains.apply(x, log_scale, point, plan, domains)
    return outputs


def _each(product: Tensor, axes: int) -> Tensor:
    """Return the sum over the coordinates of each sample (N, *groups)."""
    return product.sum(tuple(range(-axes, 0)))


def _template(
    x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan, domains: Domains
) -> tuple[Tensor, ...]:
    """Return output, mean, variance, the centred samples and their factor by domain."""
    axes = len(plan.manifold.point_shape)
    mean = domains.mean_or_running(domains.means(x if plan.through else x.detach()))
    centred = x - domains.to_samples(mean)
    square = centred if plan.through else centred.detach()
    batch = domains.means(_each(square.square(), axes)) * plan.metric_scale
    variance = domains.variance_or_running(batch)
    factor = (variance + plan.eps).rsqrt()
    if log_scale is not None:
        factor = factor * log_scale.exp()
    wide: Any = spread(domains.to_samples(factor), axes)
    out = wide * centred
    return (out if bias is None else out + bias), mean, variance, centred, factor


class FusedDomains(Function):
    """``t (x - m) + b`` with m and t of each sample's domain; also the means m and the variances, for the buffers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan, domains: Domains
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, mean, variance, centred, factor = _template(x, log_scale, bias, plan, domains)
        ctx.plan, ctx.domains = plan, domains
        ctx.save_for_backward(x, log_scale, bias, centred, variance, factor)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, log_scale, bias, centred, variance, factor = ctx.saved_tensors
        plan, domains = ctx.plan, ctx.domains
        if torch.is_grad_enabled():  # a second derivative is asked for
            inputs = [t for t in (x, log_scale, bias) if t is not None and t.requires_grad]
            out = _template(x, log_scale, bias, plan, domains)[0]
            found = iter(torch.autograd.grad(out, inputs, g, create_graph=True))
            parts = (next(found) if t is not None and t.requires_grad else None for t in (x, log_scale, bias))
            return *parts, None, None
        axes = len(plan.manifold.point_shape)
        wide: Any = spread(domains.to_samples(factor), axes)
        grad_x = wide * g
        grad_factor = domains.sums(_each(g * centred, axes)) * factor
        grad_bias = g.sum(0) if bias is not None else None
        if plan.through:
            slope = domains.of_batch(grad_factor / (variance + plan.eps) * -plan.metric_scale)
            mean = domains.of_batch(domains.sums(grad_x))
            each: Any = spread(domains.shared(slope), axes)
            grad_x = torch.addcmul(grad_x, each, centred).sub_(domains.shared(mean))
        return grad_x, None if log_scale is None else grad_factor.sum(0), grad_bias, None, None
