"""The gyro norms of Grassmann manifolds as one operation for each direction, on CPU.

The template of `ManifoldNorm` says what they compute; this says it once more without a graph in between, in the
compiled kernels. ``half`` is a frame of the middle of the geodesic from the origin to the mean, or to the bias: the
isometries that move samples are reflections in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _grassmann as kernels
from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._grassmann import Angles, Groups, NotConverged, Shot
from manifoldnorm.linalg._program import Declined
from manifoldnorm.manifolds import Grassmann
from manifoldnorm.stats import Exact, Karcher, Newton, segment
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
        out, mean, variance, _ = self._apply(x, log_scale, tangent, point, None)
        return out, mean.squeeze(0), variance.squeeze(0)

    def by_domain(self, layer: Any, domain: Tensor, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the same for each domain of a layer, and which of them have enough samples."""
        found: Any = self._apply(*inputs, Domains(domain, layer.running_mean, layer.running_var, layer.min_samples))
        return found

    def _apply(self, *inputs: Any) -> Any:
        try:
            return FusedGrassmann.apply(*inputs, self)
        except NotConverged as error:
            raise Declined from error  # torch's solver decomposes for the template

    def start(self, x: Tensor, groups: Groups) -> Tensor:
        """Return the points from which the last step of each group's mean starts."""
        base = kernels.chordal_mean(x, groups) if self.mean.steps == 1 and type(self.mean) is not Exact else None
        if base is not None:
            return base
        segments = None
        if groups.index is not None and groups.order is not None:
            domain = torch.empty_like(groups.index).scatter_(0, groups.order, groups.index)
            segments = segment(torch.ones_like(x[:, 0, 0]), domain, groups.count, alike=True)[0]
        found = self.mean.before_last(self.manifold, x, segments)
        return found.reshape(groups.count, *x.shape[1:]).contiguous()


@dataclass(frozen=True)
class Domains:
    """The domain of each sample, and the running statistics that those with fewer than ``few`` samples keep to."""

    domain: Tensor
    mean: Tensor
    variance: Tensor
    few: int

    def groups(self) -> tuple[Groups, Tensor]:
        """Return the groups, and which of them have enough samples."""
        counts = torch.bincount(self.domain, minlength=len(self.variance))
        index, order = self.domain.long().sort(stable=True)
        share = torch.where(counts > 0, 1 / counts.double(), 0.0)
        return Groups(share, index, order), counts >= self.few


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float64).contiguous()


def _flat(way: Shot | None) -> tuple[Tensor | None, ...]:
    return (None,) * 8 if way is None else (way.half, *way.angles, way.direction, way.base)


def _shot(half: Any, *parts: Any) -> Shot | None:
    return None if half is None else Shot(half, None, Angles(*parts[:5]), *parts[5:])


def _solve(angles: Any, residual: Tensor, steps: int, groups: Groups) -> Tensor:
    """Return what conjugate gradients find for the Hessians of the means in some steps; without any, the residuals."""
    if not steps:
        return residual
    return conjugate_gradients(lambda y: kernels.hessian(y, angles, groups), residual, steps, 2)


def _where(enough: Tensor | None, here: Tensor, there: Tensor | float) -> Tensor:
    """Return what is ``here`` for groups with enough samples."""
    return here if enough is None else torch.where(enough.view(-1, *(1,) * (here.ndim - 1)), here, there)


class FusedGrassmann(Function):
    """Frames turned to the origin by their means, dilated, and turned to the bias; also the means and the variances."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        log_scale: Tensor | None,
        tangent: Tensor | None,
        point: Tensor | None,
        domains: Domains | None,
        plan: Plan,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        groups, enough = (kernels.together(x), None) if domains is None else domains.groups()
        wide = _wide(x)
        base = plan.start(wide, groups)
        newton = None if isinstance(plan.mean, Karcher) else plan.mean
        total, first = kernels.tangents(wide, base, plan.through or newton is not None, groups)
        direction = groups.mean(total.mT)
        if newton is not None:
            direction = _solve(first, direction, newton.cg_steps, groups)
        if domains is not None:
            base, direction = _where(enough, base, domains.mean.double()), _where(enough, direction, 0.0)
        to_mean = kernels.shot(direction.contiguous(), base, point=True)
        angles, squared = kernels.centre(wide, to_mean.half, groups)
        variance = groups.mean(groups.sum(squared)) * plan.metric_scale
        if domains is not None:
            variance = _where(enough, variance, domains.variance.double())
        factor = (variance + plan.eps).rsqrt()
        if log_scale is not None:
            factor *= log_scale.detach().double().exp()
        to_bias = None
        if tangent is not None:
            to_bias = kernels.shot(_wide(tangent).unsqueeze(0), None)
        elif point is not None:
            to_bias = kernels.shot(None, _wide(point).unsqueeze(0))
        out = torch.empty_like(wide)
        kernels.finish(angles, factor, None if to_bias is None else to_bias.half, out, groups)
        ctx.plan = plan
        numbers = (groups.share, groups.index, groups.order, enough, factor, variance)
        ctx.save_for_backward(
            x, log_scale, tangent, point, *numbers, *angles, *_flat(to_mean), *_flat(to_bias), *(first or ())
        )
        assert to_mean.point is not None
        mean, variance = to_mean.point.to(x.dtype), variance.to(x.dtype, copy=True)
        ctx.mark_non_differentiable(mean, variance)
        return out.to(x.dtype), mean, variance, enough

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        x, log_scale, tangent, point, *saved = ctx.saved_tensors
        sources = (x, g, log_scale, tangent, point)
        with torch.no_grad():
            gradients = _gradients(ctx.plan, g, x, saved)
        pairs = zip((x, log_scale, tangent, point), gradients, strict=True)
        found = [None if source is None else grad.to(source.dtype).view_as(source) for source, grad in pairs]
        if torch.is_grad_enabled():
            found = [None if grad is None else no_derivative(HIGHER_ORDER, grad, *sources) for grad in found]
        return *found, None, None


def _gradients(plan: Plan, g: Tensor, x: Tensor, saved: list[Any]) -> tuple[Any, ...]:
    """Return the gradients in the samples, in the logarithm of the scale, and in the bias (twice)."""
    enough, factor, variance = saved[3:6]
    groups, angles, first = Groups(*saved[:3]), Angles(*saved[6:11]), saved[27:]
    to_mean, to_bias = _shot(*saved[11:19]), _shot(*saved[19:27])
    assert to_mean is not None
    half, bias = to_mean.half, None if to_bias is None else to_bias.half
    undone = None if plan.through else half
    grad_bias, grad_x, grad_t = kernels.gradient(_wide(g), angles, factor, bias, undone, groups)
    grad_log = groups.sum(grad_t) * factor
    if plan.through:
        slope = groups.mean(grad_log / (variance + plan.eps)) * (-plan.metric_scale / 2)
        slope = _where(enough, slope, 0.0)
        grad_half, grad_x = kernels.pull(_wide(x), angles, grad_x, half, slope, groups)
        step = _where(enough, kernels.shot_gradient(grad_half, to_mean), 0.0)
        step = _solve(Angles(*first), step, plan.mean.backward_steps, groups)
        assert to_mean.base is not None
        kernels.tangents_gradient(groups.mean(step.mT).contiguous(), Angles(*first), to_mean.base, grad_x, groups)
    if to_bias is not None:
        grad_bias = kernels.shot_gradient(grad_bias, to_bias)
    return grad_x, grad_log.sum(), grad_bias, grad_bias
