"""The gyro norms of Grassmann manifolds as one operation for each direction, on CPU.

The template of `ManifoldNorm` says what they compute; this says it once more without a graph in between, in the
compiled kernels. ``half`` is a frame of the middle of the geodesic from the origin to the mean, or to the bias: the
isometries that move samples are reflections in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _grassmann as kernels
from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._grassmann import Angles, NotConverged, Shot
from manifoldnorm.linalg._program import Declined
from manifoldnorm.manifolds import Grassmann
from manifoldnorm.stats import Exact, Karcher, Newton
from manifoldnorm.stats.conjugate import conjugate_gradients


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the geometry, the mean policy, the factor of squared distances, and eps.

    ``through`` says whether gradients pass through the statistics.
    """

    manifold: Grassmann
    mean: Karcher | Newton | Exact
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = True
    is_program: ClassVar[bool] = False

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and the variance without gradient.

        The bias is a tangent vector at the origin (its lower block counts), or a point.
        """
        try:
            outputs: Any = FusedGrassmann.apply(x, log_scale, tangent, point, self)
        except NotConverged as error:
            raise Declined from error  # torch's solver decomposes for the template
        return outputs

    def start(self, x: Tensor) -> Tensor:
        """Return the point from which the last step of the mean starts."""
        base = kernels.chordal_mean(x) if self.mean.steps == 1 and type(self.mean) is not Exact else None
        return self.mean.before_last(self.manifold, x, None).contiguous() if base is None else base


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float64).contiguous()


def _flat(way: Shot | None) -> tuple[Tensor | None, ...]:
    return (None,) * 8 if way is None else (way.half, *way.angles, way.direction, way.base)


def _shot(half: Any, *parts: Any) -> Shot | None:
    return None if half is None else Shot(half, None, Angles(*parts[:5]), *parts[5:])


def _solve(angles: Any, residual: Tensor, steps: int) -> Tensor:
    """Return what conjugate gradients find for the Hessian of the mean in some steps; without any, the residual."""
    if not steps:
        return residual
    return conjugate_gradients(lambda y: kernels.hessian(y, angles), residual, steps, 2)


class FusedGrassmann(Function):
    """Frames turned to the origin by their mean, dilated, and turned to the bias; also the mean and the variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, wide = x.shape[0], _wide(x)
        base = plan.start(wide)
        newton = None if isinstance(plan.mean, Karcher) else plan.mean
        total, first = kernels.tangents(wide, base, plan.through or newton is not None)
        direction = (total.mT / count).contiguous()
        if newton is not None:
            direction = _solve(first, direction, newton.cg_steps)
        to_mean = kernels.shot(direction, base, point=True)
        angles, squared = kernels.centre(wide, to_mean.half)
        variance = float(squared.sum()) * plan.metric_scale / count
        factor = 1 / math.sqrt(variance + plan.eps) if variance + plan.eps else math.inf
        if log_scale is not None:
            factor *= math.exp(float(log_scale))
        to_bias = None
        if tangent is not None:
            to_bias = kernels.shot(_wide(tangent), None)
        elif point is not None:
            to_bias = kernels.shot(None, _wide(point))
        out = torch.empty_like(wide)
        kernels.finish(angles, factor, None if to_bias is None else to_bias.half, out)
        ctx.plan, ctx.factor, ctx.variance = plan, factor, variance
        ctx.save_for_backward(x, log_scale, tangent, point, *angles, *_flat(to_mean), *_flat(to_bias), *(first or ()))
        assert to_mean.point is not None
        mean, scalar = to_mean.point.to(x.dtype), torch.tensor(variance, dtype=x.dtype, device="cpu")
        ctx.mark_non_differentiable(mean, scalar)
        return out.to(x.dtype), mean, scalar

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, log_scale, tangent, point, *saved = ctx.saved_tensors
        sources = (x, g, log_scale, tangent, point)
        with torch.no_grad():
            gradients = _gradients(ctx.plan, ctx.factor, ctx.variance, g, x, saved)
        pairs = zip((x, log_scale, tangent, point), gradients, strict=True)
        found = [None if source is None else grad.to(source.dtype).view_as(source) for source, grad in pairs]
        if torch.is_grad_enabled():
            found = [None if grad is None else no_derivative(HIGHER_ORDER, grad, *sources) for grad in found]
        return *found, None


def _gradients(plan: Plan, factor: float, variance: float, g: Tensor, x: Tensor, saved: list[Any]) -> tuple[Any, ...]:
    """Return the gradients in the samples, in the logarithm of the scale, and in the bias (twice)."""
    angles, first, count = Angles(*saved[:5]), saved[21:], x.shape[0]
    to_mean, to_bias = _shot(*saved[5:13]), _shot(*saved[13:21])
    assert to_mean is not None
    half, bias = to_mean.half, None if to_bias is None else to_bias.half
    grad_bias, grad_x, grad_t = kernels.gradient(_wide(g), angles, factor, bias, None if plan.through else half)
    grad_log = grad_t.sum() * factor
    if plan.through:
        slope = -float(grad_log) / (variance + plan.eps) * plan.metric_scale / count / 2
        grad_half, grad_x = kernels.pull(_wide(x), angles, grad_x, half, slope)
        step = _solve(Angles(*first), kernels.shot_gradient(grad_half, to_mean), plan.mean.backward_steps)
        assert to_mean.base is not None
        kernels.tangents_gradient((step.mT / count).contiguous(), Angles(*first), to_mean.base, grad_x)
    if to_bias is not None:
        grad_bias = kernels.shot_gradient(grad_bias, to_bias)
    return grad_x, grad_log, grad_bias, grad_bias
