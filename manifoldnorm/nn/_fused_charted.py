"""The log-Euclidean and log-Cholesky norms as one program for each direction, chart and running statistics included.

In the chart they are `_fused_flat`; here nothing returns to Python between the chart, the four steps and the way back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.manifolds import LogCholesky, LogEuclidean
from manifoldnorm.manifolds.base import spread
from manifoldnorm.manifolds.charts import LogCholeskyChart, MatrixLog
from manifoldnorm.nn import _fused_flat
from manifoldnorm.nn._programmed import Groups, Programmed, Run, within
from manifoldnorm.nn._tracking import where_enough
from manifoldnorm.stats import gather, weighted_mean


class LogChart:
    """``log`` by eigenvalues: what a batch of matrices leaves for the way back is its spectra."""

    axes = 2
    bias_kind, bias_adjoint = _program.SYMMETRIC, _program.SYMMETRIC

    @staticmethod
    def enter(p: Program, x: Place, y: Place, new: Callable[..., Place], eps: float) -> tuple[Place, ...]:
        """Write the chart of ``x``; return what its adjoint needs."""
        n, rows = p.n, new(*x.shape)
        values, log = new(*x.shape[:-1]), new(*x.shape[:-1])
        p.eigen(x, values, rows)
        p.floor_log(values, values, log, eps, INDEFINITE_TOL * n * eps)
        p.rebuild(log, rows, y)
        return values, log, rows

    @staticmethod
    def leave(p: Program, y: Place, x: Place, new: Callable[..., Place]) -> tuple[Place, ...]:
        """Write the matrices with chart ``y``; return what its adjoint needs."""
        values, grown, rows = new(*y.shape[:-1]), new(*y.shape[:-1]), new(*y.shape)
        p.eigen(y, values, rows)
        p.map(_program.EXP, values, grown)
        p.rebuild(grown, rows, x)
        return values, grown, rows

    @staticmethod
    def enter_adjoint(p: Program, left: tuple[Place, ...], g: Place, out: Place) -> None:
        """Write the gradient in what entered, from that in the chart."""
        values, log, rows = left
        p.adjoint(fn.LOG, (values, log, None, rows), g, out, inner=p.scratch(*values.shape))

    @staticmethod
    def leave_adjoint(p: Program, left: tuple[Place, ...], g: Place, out: Place) -> None:
        """Write the gradient in the chart, from that in what left it."""
        values, grown, rows = left
        p.adjoint(fn.EXP, (values, grown, None, rows), g, out, inner=p.scratch(*values.shape))


class CholeskyChart:
    """The log-Cholesky chart: what a batch leaves for the way back is its factors."""

    axes = 2
    bias_kind, bias_adjoint = _program.HALF_LOWER, _program.OF_HALF_LOWER

    @staticmethod
    def enter(p: Program, x: Place, y: Place, new: Callable[..., Place], eps: float) -> tuple[Place, ...]:
        """Write the chart of ``x``; return what its adjoint needs."""
        factor = new(*x.shape)
        p.cholesky(x, factor, y)
        return (factor,)

    @staticmethod
    def leave(p: Program, y: Place, x: Place, new: Callable[..., Place]) -> tuple[Place, ...]:
        """Write the matrices with chart ``y``; return what its adjoint needs."""
        diagonal, factor = p.scratch(*y.shape[:-1]), new(*y.shape)
        p.add(_program.DIAGONAL_EXP, [y], [diagonal], like=y)
        p.add(Operation.FROM_CHART, [y, diagonal], [factor, x], like=y)
        return (factor,)

    @staticmethod
    def enter_adjoint(p: Program, left: tuple[Place, ...], g: Place, out: Place) -> None:
        """Write the gradient in what entered, from that in the chart."""
        p.add(Operation.CHOLESKY_ADJOINT, [*left, g], [out], kind=1)

    @staticmethod
    def leave_adjoint(p: Program, left: tuple[Place, ...], g: Place, out: Place) -> None:
        """Write the gradient in the chart, from that in what left it."""
        p.add(Operation.FROM_CHART_ADJOINT, [*left, g], [out])


@dataclass(frozen=True)
class Shape:
    """What a program depends on.

    Attributes
    ----------
    chart : type
        `LogChart`, `CholeskyChart`, or none at all: `_fused_flat_domains.Rows`.
    batch, n, dtype, precision
        Of the samples, n x n matrices or rows of n numbers; the dtype in which is computed, and eps of the input's.
    metric_scale, eps : float
        Of squared distances; added to the variance.
    scaled, bias : bool, str
        Whether there is a scale; ``"tangent"`` (the parameter), ``"point"`` (of the chart) or empty.
    leaves : bool
        Whether the output leaves the chart.
    tracks : bool
        Whether the running statistics follow.
    domains, min_samples : int
        Domains with statistics of their own (0: none), and how many samples they need.
    """

    chart: Any
    batch: int
    n: int
    dtype: torch.dtype
    precision: float
    metric_scale: float
    eps: float
    scaled: bool
    bias: str
    leaves: bool
    tracks: bool
    domains: int = 0
    min_samples: int = 1

    @property
    def one(self) -> tuple[int, ...]:
        """The shape of one point."""
        return (self.n,) * self.chart.axes


class Forward(NamedTuple):
    """A program, and where it leaves what the way back and the buffers need."""

    program: Program
    groups: Groups
    entered: tuple[Place, ...]
    left: tuple[Place, ...]
    chart: Place
    mean: Place
    variance: Place
    factor: Place
    tracked: tuple[Place, ...]

    @property
    def found(self) -> tuple[Place, Place]:
        """The mean and the variance that were used."""
        return self.mean, self.variance


@functools.lru_cache(maxsize=256)
def _forward(s: Shape) -> Forward:
    p, chart, one = Program(s.n, s.dtype), s.chart, s.one
    many = (s.batch, *one)
    x, out = p.argument(*many), p.argument(*many)
    groups = Groups.of(p, s.batch, s.domains, s.min_samples)
    means, numbers = (groups.count, *one), (groups.count, 1)
    log_scale = p.argument(1) if s.scaled else None
    given = p.argument(*one) if s.bias else None
    running = (p.argument(*means), p.argument(*numbers), p.argument(*numbers)) if s.tracks else None
    y, moved = p.kept(*many), p.kept(*many) if s.leaves else out
    mean, variance, factor, old = p.kept(*means), p.kept(*numbers), p.kept(*numbers), p.scratch(*means)
    if running is not None:
        chart.enter(p, running[0], old, p.scratch, s.precision)
    entered = chart.enter(p, x, y, p.kept, s.precision)
    groups.mean(p, y, mean)
    groups.choose(p, mean, old)
    groups.variance(p, y, mean, variance, s.metric_scale)
    groups.choose(p, variance, None if running is None else running[1])
    p.add(_program.FACTOR, [variance, log_scale], [factor], numbers=(s.eps,))
    bias = given
    if given is not None and s.bias == "tangent":
        bias = p.scratch(*one)
        p.rearrange(chart.bias_kind, given, bias)
    p.add(_program.SHIFT, [y, mean, factor, bias], [moved], numbers=(1.0,), **groups.options)
    left = chart.leave(p, moved, out, p.kept) if s.leaves else ()
    tracked: tuple[Place, ...] = ()
    if running is not None:
        weight, new_variance = groups.variance_follows(p, running, variance)
        new = p.kept(*means)
        p.add(_program.LERP, [old, mean, weight], [old], groups=groups.count)
        chart.leave(p, old, new, p.scratch)
        p.add(_program.FINITE, [new], [], like=new)
        tracked = (new, new_variance) if groups.enough is None else (new, new_variance, groups.enough)
    return Forward(p, groups, entered, left, y, mean, variance, factor, tracked)


class Backward(NamedTuple):
    """A program, and where it leaves the small gradients."""

    program: Program
    log_scale: Place
    bias: Place


@functools.lru_cache(maxsize=256)
def _backward(s: Shape, through: bool) -> Backward:
    f, p, one = _forward(s), Program(s.n, s.dtype), s.one
    many = (s.batch, *one)
    memory, g, out = p.argument(f.program.kept_size), p.argument(*many), p.argument(*many)
    groups, here = f.groups.within(p, memory), functools.partial(within, memory)
    moved = g
    if s.leaves:
        moved = p.scratch(*many)
        s.chart.leave_adjoint(p, tuple(map(here, f.left)), g, moved)
    y, mean, factor = here(f.chart), here(f.mean), here(f.factor)
    each, log_scale = p.scratch(groups.count, 1), p.kept(1)  # gradients in the logarithm of each factor, their sum
    p.add(_program.DOT, [moved, y, mean], [each], like=y, numbers=(1.0,), **groups.options)
    p.map(_program.SCALE, each, each, factor=factor, groups=groups.count)
    p.add(_program.SUM_ROWS, [each], [log_scale], like=each, numbers=(1.0,))
    bias, inner = p.kept(*one), p.scratch(*many)
    if s.bias:
        total = p.scratch(*one)
        p.add(_program.SUM_ROWS, [moved], [total], like=moved, numbers=(1.0,))
        if s.bias == "tangent":
            p.rearrange(s.chart.bias_adjoint, total, bias)
        else:
            p.map(_program.SCALE, total, bias)
    if through:
        # factor (g - mean of g) + slope (y - mean)
        slope, centred, grad_mean = p.scratch(groups.count, 1), p.scratch(*many), p.scratch(groups.count, *one)
        p.add(_program.SLOPE, [each, here(f.variance)], [slope], numbers=(-s.metric_scale, s.eps))
        groups.shares(p, slope)
        groups.mean(p, moved, grad_mean)
        groups.mask(p, slope)
        groups.mask(p, grad_mean)
        p.add(_program.SHIFT, [y, mean, slope], [centred], **groups.options)
        p.add(_program.SHIFT, [moved, grad_mean, factor], [inner], **groups.options)
        p.add(_program.SHIFT, [inner, None, None, centred], [inner], kind=1, numbers=(1.0,))
    else:
        p.map(_program.SCALE, moved, inner, factor=factor, **groups.options)
    s.chart.enter_adjoint(p, tuple(map(here, f.entered)), inner, out)
    return Backward(p, log_scale, bias)


@dataclass
class ChartedRun(Run):
    """One batch, with what a second derivative needs: the flat plan, and the chart (None: the samples are in it)."""

    flat: Any = None
    diffeo: Any = None

    def template(self, x: Tensor, log_scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the output by the steps that can be differentiated again."""
        if bias is not None and self.shape.bias == "tangent":
            bias = self.diffeo.push_identity(linalg.symmetrize(bias))
        y = x if self.diffeo is None else self.diffeo(x)
        plain = self.domain is None
        moved = _fused_flat.template(y, log_scale, bias, self.flat)[0] if plain else self._by_domain(y, log_scale, bias)
        return self.diffeo.inverse(moved) if self.shape.leaves else moved

    def _by_domain(self, y: Tensor, log_scale: Tensor | None, bias: Tensor | None) -> Tensor:
        assert self.domain is not None and self.segments is not None
        axes, segments = len(self.flat.manifold.point_shape), self.segments()
        seen = y if self.flat.through else y.detach()
        running = self.tracks[0] if self.diffeo is None else self.diffeo(self.tracks[0])
        mean = where_enough(self.enough, weighted_mean(seen, segments, axes), running)
        square = (seen - gather(mean, self.domain)).square().reshape(len(y), -1).sum(1) * self.flat.metric_scale
        variance = where_enough(self.enough, weighted_mean(square, segments, 0), self.tracks[1])
        factor = (variance + self.flat.eps).rsqrt()
        if log_scale is not None:
            factor = factor * log_scale.exp()
        out: Tensor = spread(gather(factor, self.domain), axes) * (y - gather(mean, self.domain))
        return out if bias is None else out + bias


class FusedCharted(Programmed):
    """``back(t (log X - M) + b)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: ChartedRun) -> Tensor:
        return Programmed.start(ctx, _forward(run.shape), run, x, (log_scale, bias), (log_scale, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, log_scale, bias, _ = saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            inputs = [t for t in (x, log_scale, bias) if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(ctx.run.template(x, log_scale, bias), inputs, g, create_graph=True))
            return *(next(found) if t is not None and t.requires_grad else None for t in (x, log_scale, bias)), None
        gradients = Programmed.finish(ctx.run, saved, _backward(ctx.run.shape, ctx.run.flat.through), g)
        return *gradients[:3], None


CHARTS: dict[tuple[type, type], type] = {
    (LogEuclidean, MatrixLog): LogChart,
    (LogCholesky, LogCholeskyChart): CholeskyChart,
}
