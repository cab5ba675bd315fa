"""The norms of flat geometries as one operation for each direction, on CPU: `torch.nn.BatchNorm` of the chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.manifolds import Euclidean
from manifoldnorm.manifolds.base import spread


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the geometry, the factor of its squared distances, eps, and which gradient.

    ``through`` says whether gradients pass through the statistics.
    """

    manifold: Euclidean
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = False
    is_program: ClassVar[bool] = False

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and the variance without gradient; the bias is a point."""
        outputs: Any = FusedFlat.apply(x, log_scale, point, self)
        return outputs


def _sum(product: Tensor, axes: int) -> Tensor:
    """Return the sum over samples and coordinates (*groups)."""
    return product.sum((0, *range(-axes, 0)))


def template(x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan) -> tuple[Tensor, ...]:
    """Return output, mean, variance, the centred samples and their factor, in steps that autograd follows."""
    axes = len(plan.manifold.point_shape)
    mean = x.mean(0) if plan.through else x.detach().mean(0)
    centred = x - mean
    square = centred if plan.through else centred.detach()
    variance = _sum(square.square(), axes) * (plan.metric_scale / x.shape[0])
    factor = (variance + plan.eps).rsqrt()
    if log_scale is not None:
        factor = factor * log_scale.exp()
    out: Any = spread(factor, axes) * centred
    return (out if bias is None else out + bias), mean, variance, centred, factor


class FusedFlat(Function):
    """``t (x - m) + b``; also the mean m and the variance, for the buffers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, mean, variance, centred, factor = template(x, log_scale, bias, plan)
        ctx.plan = plan
        ctx.save_for_backward(x, log_scale, bias, centred, variance, factor)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, log_scale, bias, centred, variance, factor = ctx.saved_tensors
        plan: Plan = ctx.plan
        if torch.is_grad_enabled():  # a second derivative is asked for
            inputs = [t for t in (x, log_scale, bias) if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(template(x, log_scale, bias, plan)[0], inputs, g, create_graph=True))
            return *(next(found) if t is not None and t.requires_grad else None for t in (x, log_scale, bias)), None
        axes = len(plan.manifold.point_shape)
        wide: Any = spread(factor, axes)
        grad_bias = g.sum(0) if bias is not None or plan.through else None
        grad_log_scale = _sum(g * centred, axes) * factor if log_scale is not None or plan.through else None
        grad_x = wide * g
        if plan.through:
            assert grad_bias is not None and grad_log_scale is not None
            slope: Any = spread(grad_log_scale / (variance + plan.eps) * (-plan.metric_scale / x.shape[0]), axes)
            grad_x = torch.addcmul(grad_x, slope, centred).sub_(wide * (grad_bias / x.shape[0]))
        return grad_x, None if log_scale is None else grad_log_scale, None if bias is None else grad_bias, None
