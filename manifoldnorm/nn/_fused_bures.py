"""The Bures-Wasserstein norm as one program for each direction, on CPU.

With ``M = V g V^T`` the mean, ``F = V g^1/2`` and ``C = (F^T X F)^1/2``, a sample's logarithm at M, moved to the
identity, is ``V (W o (C - g)) V^T`` with ``W_ij^2 = 2 (g_i + g_j) / (g_i g_j)``. In the eigenbasis of the bias point
the step of the exponential is a product entry by entry, too; all else are congruences by single matrices.
Where gradients pass through the statistics the mean is an input like the samples, with its own way back.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL, cholesky_cpu
from manifoldnorm.linalg._program import Declined, Place, Program, view
from manifoldnorm.manifolds import BuresWasserstein
from manifoldnorm.manifolds.bures import DOMAIN_MARGIN
from manifoldnorm.nn._programmed import Programmed, Run
from manifoldnorm.stats import Karcher, MeanPolicy


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the geometry, how the mean is found, the variance's factor and its eps.

    ``through`` says whether gradients pass through the statistics.
    """

    manifold: BuresWasserstein
    mean: MeanPolicy
    metric_scale: float
    eps: float
    through: bool

    takes_tangent: ClassVar[bool] = True

    @property
    def start(self) -> str:
        """What the program is given to find the mean: nothing, where its last step starts, or the mean itself."""
        if self.through or not isinstance(self.mean, Karcher):
            return "mean"
        return "arithmetic" if self.mean.steps == 1 else "start"

    def run(
        self,
        x: Tensor,
        log_scale: Tensor | None,
        tangent: Tensor | None,
        point: Tensor | None,
        tracks: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output and the running statistics that follow ``tracks``, those before and the batch's weight.

        The bias is the logarithm of a point (its symmetric part counts), or the point.
        """
        kind = "tangent" if tangent is not None else "point" if point is not None else ""
        bias = tangent if tangent is not None else point
        shape = Shape(self, x.shape[0], x.shape[-1], scaled=log_scale is not None, bias=kind, tracks=bool(tracks))
        run = Run(shape, tracks)
        mean = self.mean(self.manifold, x.to(shape.dtype)) if self.through else None
        out: Any = FusedBures.apply(x, log_scale, bias, run, mean)
        return out, run.tracked


@dataclass(frozen=True)
class Shape:
    """What a program depends on: the plan's choices, and the batch."""

    plan: Plan
    batch: int
    n: int
    scaled: bool
    bias: str
    tracks: bool

    dtype: ClassVar[torch.dtype] = torch.float64

    @property
    def many(self) -> tuple[int, int, int]:
        """The shape of the batch."""
        return (self.batch, self.n, self.n)


class Forward(NamedTuple):
    """A program, and where it leaves what the way back and the buffers need."""

    program: Program
    values: Place
    roots: Place
    rows: Place
    weight: Place
    factor: Place
    kernel: Place
    change: Place
    target_log: Place
    target: Place
    target_rows: Place
    moved: Place
    spectrum: Place
    basis: Place
    variance: Place
    scale: Place
    tracked: tuple[Place, ...]


class _Writer:
    """Writes the forward program, part by part."""

    def __init__(self, shape: Shape) -> None:
        self.s, self.p, self.one = shape, Program(shape.n, shape.dtype), (shape.n, shape.n)
        self.product = self.p.scratch(*shape.many)  # congruences of the batch: each is decomposed at once
        self.precision = torch.finfo(shape.dtype).eps

    def floor(self, values: Place, floored: Place, strict: bool = False) -> None:
        tolerance = None if strict else INDEFINITE_TOL * self.s.n * self.precision
        self.p.floor_log(values, floored, None, self.precision, tolerance)

    def lower(self, x: Place) -> tuple[Place, Place, Place]:
        lower, inverse, turned = (self.p.scratch(*x.shape) for _ in range(3))
        self.p.cholesky(x, lower)
        self.p.add(_program.INVERT_LOWER, [lower], [inverse])
        self.p.rearrange(_program.TRANSPOSED, lower, turned)
        return lower, inverse, turned

    def square(self, half: Place, out: Place) -> None:
        turned = self.p.scratch(*self.one)
        self.p.rearrange(_program.TRANSPOSED, half, turned)
        self.p.add(_program.MULTIPLY, [half, turned], [out])

    def root(self, values: Place, rows: Place) -> Place:
        roots = self.p.scratch(*values.shape)
        self.floor(values, values)
        self.p.map(_program.ROOT, values, roots)
        return roots

    def mean(self, x: Place, mean: Place) -> None:
        """A fixed-point step from P = L L^T is ``L^-T C C L^-1`` with C the mean of ``(L^T X L)^1/2``."""
        p, s, one = self.p, self.s, self.one
        if s.plan.start == "mean":
            p.map(_program.SCALE, p.argument(*one), mean)
            return
        start = p.scratch(*one) if s.plan.start == "arithmetic" else p.argument(*one)
        if s.plan.start == "arithmetic":
            p.add(_program.SUM_ROWS, [x], [start], like=x, numbers=(1 / s.batch,))
        _, inverse, turned = self.lower(start)
        values, rows, root, half = p.scratch(s.batch, s.n), p.scratch(*s.many), p.scratch(*one), p.scratch(*one)
        p.congruence(turned, x, self.product)
        p.eigen(self.product, values, rows)
        p.add(Operation.SUM_OF_FUNCTIONS, [self.root(values, rows), rows], [None, None, root], like=rows)
        p.map(_program.SCALE, root, root, by=1 / s.batch)
        p.add(_program.MULTIPLY, [inverse, root], [half], kind=1)
        self.square(half, mean)

    def write(self) -> Forward:
        """Return the whole."""
        p, s, one = self.p, self.s, self.one
        x, out = p.argument(*s.many), p.argument(*s.many)
        log_scale, given = p.argument(1) if s.scaled else None, p.argument(*one)
        points = p.scratch(3, *one)  # the mean, the bias point, the mean as the running one sees it
        self.mean(x, points.item(0))
        running = (p.argument(*one), p.argument(1), p.argument(1)) if s.tracks else None
        old = None if running is None else self.lower(running[0])
        if old is not None:
            p.congruence(old[2], points.item(0), points.item(2))
        p.rearrange(_program.SYMMETRIC, given, points.item(1))
        points = points.first(2 if old is None else 3)
        spectra, bases, target = p.kept(*points.shape[:-1]), p.kept(*points.shape), p.kept(s.n)
        p.eigen(points, spectra, bases)
        self.floor(spectra.item(0), spectra.item(0), strict=True)
        if s.bias == "tangent":
            p.map(_program.EXP, spectra.item(1), target)
        else:
            self.floor(spectra.item(1), target)
        weight, factor, kernel, turned, change = (p.kept(*one) for _ in range(5))
        p.add(_program.BURES_WEIGHTS, [spectra.item(0), bases.item(0), target], [weight, factor, kernel])
        p.rearrange(_program.TRANSPOSED, bases.item(0), turned)
        p.add(_program.MULTIPLY, [bases.item(1), turned], [change])
        values, roots, rows, moved = p.kept(s.batch, s.n), p.kept(s.batch, s.n), p.kept(*s.many), p.kept(*s.many)
        p.congruence(factor, x, self.product)
        p.eigen(self.product, values, rows)
        self.floor(values, values)
        p.map(_program.ROOT, values, roots)
        p.add(Operation.BURES_MOVE, [roots, rows, spectra.item(0), weight, change], [moved])
        variance, scale = p.kept(1), p.kept(1)
        p.add(_program.SQUARES, [moved], [variance], like=moved, numbers=(0.25 * s.plan.metric_scale / s.batch,))
        p.add(_program.FACTOR, [variance, log_scale], [scale], numbers=(s.plan.eps,))
        step = [moved, bases.item(1), target, kernel, scale]
        p.add(Operation.BURES_STEP, step, [out], numbers=(DOMAIN_MARGIN,))  # fails where a step must be shrunk
        tracked: tuple[Place, ...] = ()
        if running is not None and old is not None:
            tracked = self.track(running, old, spectra.item(2), bases.item(2), variance)
        target_log, target_rows = spectra.item(1), bases.item(1)
        return Forward(
            p,
            values,
            roots,
            rows,
            weight,
            factor,
            kernel,
            change,
            target_log,
            target,
            target_rows,
            moved,
            spectra.item(0),
            bases.item(0),
            variance,
            scale,
            tracked,
        )

    def track(self, running: Any, old: Any, values: Place, rows: Place, variance: Place) -> tuple[Place, Place]:
        """The geodesic is ``B B^T`` with ``B = (1 - t) L + t L^-T (L^T M L)^1/2``."""
        p, one = self.p, self.one
        root, half, new, new_variance = p.scratch(*one), p.scratch(*one), p.kept(*one), p.kept(1)
        p.rebuild(self.root(values, rows), rows, root)
        p.add(_program.MULTIPLY, [old[1], root], [half], kind=1)
        p.add(_program.LERP, [old[0], half, running[2]], [half])
        self.square(half, new)
        p.add(_program.LERP, [running[1], variance, running[2]], [new_variance])
        for place in (new, new_variance):
            p.add(_program.FINITE, [place], [], like=place)
        return new, new_variance


@functools.lru_cache(maxsize=256)
def _forward(shape: Shape) -> Forward:
    return _Writer(shape).write()


class Backward(NamedTuple):
    """A program, and where it leaves the small gradients."""

    program: Program
    log_scale: Place
    bias: Place
    mean: Place


@functools.lru_cache(maxsize=256)
def _backward(s: Shape) -> Backward:
    f, p, one = _forward(s), Program(s.n, s.dtype), (s.n, s.n)
    memory, g, out = p.argument(f.program.kept_size), p.argument(*s.many), p.argument(*s.many)
    here = functools.partial(_within, memory)
    moved, kernel, scale, target, rows = map(here, (f.moved, f.kernel, f.scale, f.target, f.target_rows))
    grad_root, sums = p.scratch(*s.many), p.scratch(2, *one)
    grad_step = p.scratch(*s.many) if s.bias else None
    inputs = [g, moved, here(f.weight), here(f.change), rows, target, kernel, scale]
    p.add(Operation.BURES_ADJOINT, inputs, [grad_root, grad_step, sums])
    grad_scale, log_scale, bias = p.scratch(1), p.kept(1), p.kept(*one)
    p.add(_program.DOT, [sums.item(1), kernel], [grad_scale], like=kernel, numbers=(1.0,))
    p.map(_program.SCALE, grad_scale, log_scale, factor=scale)
    if s.bias:
        assert grad_step is not None
        grad, turned, work = p.scratch(*one), p.scratch(*one), p.scratch(*one)
        p.add(_program.BURES_GRADIENT, [target, grad_step, moved, scale], [sums.item(0), work], like=grad_step)
        p.rearrange(_program.TRANSPOSED, rows, turned)
        p.congruence(turned, sums.item(0), bias if s.bias == "point" else grad)
        if s.bias == "tangent":
            spectrum = (here(f.target_log), target, None, rows)
            p.adjoint(fn.EXP.native, spectrum, grad, bias, inner=p.scratch(s.n))
    mean = p.kept(*one)
    if s.plan.through:
        g_mean, weight, basis = here(f.spectrum), here(f.weight), here(f.basis)
        slope, in_moved, log = p.scratch(1), p.scratch(*s.many), p.scratch(*s.many)
        total, work, turned, two = p.scratch(*one), p.scratch(*one), p.scratch(*one), p.scratch(1)
        numbers = (-0.25 * s.plan.metric_scale / s.batch, s.plan.eps)
        p.add(_program.SLOPE, [log_scale, here(f.variance)], [slope], numbers=numbers)
        inputs = [here(f.roots), here(f.rows), slope, g_mean, weight]
        p.add(Operation.BURES_MEAN_ADJOINT, inputs, [grad_root, in_moved, total, log])
        p.map(_program.FILL, None, two, by=2.0)  # the kernel to the identity is twice the step's
        p.add(_program.BURES_GRADIENT, [g_mean, in_moved, log, two], [total, work], like=log)
        p.rearrange(_program.TRANSPOSED, basis, turned)
        p.congruence(turned, total, mean)
    spectrum = (here(f.values), here(f.roots), None, here(f.rows))
    p.adjoint(fn.SQRT.native, spectrum, grad_root, out, inner=p.scratch(s.batch, s.n), a=here(f.factor))
    return Backward(p, log_scale, bias, mean)


def _within(memory: Place, place: Place) -> Place:
    return Place(memory.buffer, place.start, place.shape)


class FusedBures(Programmed):
    """``(I + S) B (I + S)`` at the bias point B; with gradients through the statistics the mean is an input, too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: Run, mean: Tensor | None
    ) -> Tensor:
        s = run.shape
        given = mean
        if given is None and s.plan.start == "start":
            given = s.plan.mean.before_last(s.plan.manifold, x.to(s.dtype), None)
        elif given is None and s.plan.start == "mean":
            given = s.plan.mean(s.plan.manifold, x.to(s.dtype))
        point = torch.eye(s.n, dtype=x.dtype) if bias is None else bias
        try:
            return Programmed.start(ctx, _forward(s), run, x, (log_scale, point, given), (log_scale, bias))
        except Declined:
            cholesky_cpu(x.mean(0), True, "BuresWasserstein mean")  # says if samples share a null vector
            raise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        s, grad_mean = ctx.run.shape, []
        plan = _backward(s)

        def keep(memory: Tensor, *_: Tensor) -> None:
            grad_mean.append(view(plan.mean, memory).clone())

        gradients = Programmed.finish(ctx, plan, g, add=keep if s.plan.through else None)
        return *gradients, grad_mean[0] if grad_mean else None
