"""The affine-invariant norms as one program for each direction, on CPU: two decompositions of the batch.

The template of `ManifoldNorm` says what they compute; this says it once more without a graph in between, for real
matrices with the compiled kernels. The notation of the comments: ``M`` the mean, ``A M A^T = 1``, ``Y = A X A^T``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldnorm import linalg
from manifoldnorm.linalg import _fused, _program, kernels
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.linalg._program import Place, Program, view
from manifoldnorm.manifolds import AffineInvariant
from manifoldnorm.nn._programmed import Programmed, Run
from manifoldnorm.stats import EigenHessian, Exact, Karcher, Newton


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

    @property
    def start(self) -> str:
        """From where the last step to the mean starts: a mean that the program forms itself, or one it is given."""
        if self.mean == Karcher(1, self.mean.backward_steps):
            return "arithmetic"
        return "middle" if isinstance(self.mean, Newton) and self.mean.steps == 1 else "given"

    @property
    def cg_steps(self) -> int:
        """Conjugate-gradient steps of the last step to the mean; 0 for a gradient step."""
        return 0 if isinstance(self.mean, Karcher) else self.mean.cg_steps

    def run(
        self,
        x: Tensor,
        log_scale: Tensor | None,
        tangent: Tensor | None,
        point: Tensor | None,
        tracks: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output and the running statistics that follow ``tracks``, those before and the batch's weight.

        The bias is a tangent vector at the identity (its symmetric part counts), or a point.
        """
        bias, kind = tangent, "" if tangent is None else "tangent"
        if point is not None:
            bias, kind = linalg.cholesky(point) if self.group else linalg.sqrtm(point), "colour"
        dtype = working_dtype(x.dtype, widens(x))
        eps = torch.finfo(x.dtype).eps
        scaled = log_scale is not None
        shape = Shape(self, x.shape[0], x.shape[-1], dtype, eps, scaled=scaled, bias=kind, tracks=bool(tracks))
        run = Run(shape, tracks)
        out: Any = FusedAffineInvariant.apply(x, log_scale, bias, run)
        return out, run.tracked


@dataclass(frozen=True)
class Shape:
    """What a program depends on: the plan's choices, and the batch.

    ``precision`` is eps of the input's dtype, ``bias`` is ``"tangent"`` (at the identity; its symmetric part counts),
    ``"colour"`` (the factor K of the bias point) or empty.
    """

    plan: Plan
    batch: int
    n: int
    dtype: torch.dtype
    precision: float
    scaled: bool
    bias: str
    tracks: bool

    @property
    def many(self) -> tuple[int, int, int]:
        """The shape of the batch."""
        return (self.batch, self.n, self.n)


class Eigen(NamedTuple):
    """Eigenvalues (clamped as the template's are), their logarithms, and the eigenvectors as rows."""

    values: Any
    log: Any
    rows: Any


class Forward(NamedTuple):
    """A program, and where it leaves what the way back and the buffers need."""

    program: Program
    lower0: Place
    inverse0: Place
    first: Eigen
    small: Eigen
    frame: tuple[Place, Place]
    whiten: Place
    colour: Place | None
    second: Eigen
    power: Place
    variance: Place
    factor: Place
    tracked: tuple[Place, ...]


class _Writer:
    """Writes the forward program, part by part."""

    def __init__(self, shape: Shape) -> None:
        self.s, self.p, self.one = shape, Program(shape.n, shape.dtype), (shape.n, shape.n)
        self.product = self.p.scratch(*shape.many)  # congruences of the batch: each is decomposed at once

    def eigen(self, x: Place, new: Any, eps: float) -> Eigen:
        values, log, rows = new(*x.shape[:-1]), new(*x.shape[:-1]), new(*x.shape)
        self.p.eigen(x, values, rows)
        self.p.floor_log(values, values, log, eps, INDEFINITE_TOL * self.s.n * eps)
        return Eigen(values, log, rows)

    def lower(self, x: Place, new: Any) -> tuple[Place, Place]:
        lower, inverse = new(*x.shape), new(*x.shape)
        self.p.cholesky(x, lower)
        self.p.add(_program.INVERT_LOWER, [lower], [inverse])
        return lower, inverse

    def start(self, x: Place) -> Place:
        """Where the last step to the mean starts."""
        p, s, middle = self.p, self.s, self.p.scratch(1, *self.one)
        p.add(_program.SUM_ROWS, [x], [middle], like=x, numbers=(1 / s.batch,))
        if s.plan.start == "arithmetic":
            return middle
        # the geometric mean with the mean P of the inverses, A # P^-1 = L (L^T P L)^-1/2 L^T for A = L L^T
        parts, inverses, turned = p.scratch(s.batch, 2), p.scratch(1, *self.one), p.scratch(1, *self.one)
        p.add(_program.RIDGES, [x], [parts], numbers=(INDEFINITE_TOL * s.precision, 1 / s.batch), like=x)
        p.add(Operation.SUM_OF_INVERSES, [x, parts], [None, None, inverses], like=x)
        lower = self.p.scratch(1, *self.one)
        p.cholesky(middle, lower)
        p.rearrange(_program.TRANSPOSED, lower, turned)
        p.congruence(turned, inverses, inverses)
        between = self.eigen(inverses, p.scratch, s.precision)
        p.map(_program.EXP, between.log, between.values, by=-0.5)
        p.rebuild(between.values, between.rows, middle, lower)
        return middle

    def newton(self, step: Place, first: Eigen) -> None:
        """Replace the residual by a few steps of conjugate gradients on the Hessian, a mean of kernels."""
        p, s = self.p, self.s
        weights = p.scratch(*s.many)
        image, x, residual, direction = (p.scratch(1, *self.one) for _ in range(4))
        square, curvature, length = p.scratch(1), p.scratch(1), p.scratch(1)
        tiny, share = torch.finfo(s.dtype).tiny, 1 / s.batch
        p.add(Operation.HYPERBOLIC_WEIGHTS, [first.log], [weights])
        p.map(_program.SCALE, step, residual)
        p.map(_program.SCALE, step, direction)
        p.map(_program.SCALE, step, x, by=0.0)
        p.add(_program.DOT, [residual, residual], [square], like=residual, numbers=(1.0,))
        for k in range(s.plan.cg_steps):
            p.add(Operation.SUM_OF_KERNELS, [direction, first.rows, weights], [None, None, image], like=first.rows)
            p.add(_program.DOT, [direction, image], [curvature], like=image, numbers=(share,))
            p.add(_program.SLOPE, [square, curvature], [length], numbers=(1.0, tiny))
            p.add(_program.SHIFT, [direction, None, length, x], [x], numbers=(1.0,))
            if k + 1 == s.plan.cg_steps:
                break
            p.add(_program.SLOPE, [square, curvature], [length], numbers=(-share, tiny))
            p.add(_program.SHIFT, [image, None, length, residual], [residual], numbers=(1.0,))
            p.map(_program.SCALE, square, curvature)
            p.add(_program.DOT, [residual, residual], [square], like=residual, numbers=(1.0,))
            p.add(_program.SLOPE, [square, curvature], [length], numbers=(1.0, tiny))
            p.add(_program.SHIFT, [direction, None, length, residual], [direction], numbers=(1.0,))
        p.map(_program.SCALE, x, step)

    def write(self) -> Forward:
        """Return the whole."""
        p, s, one = self.p, self.s, self.one
        x, out = p.argument(*s.many), p.argument(*s.many)
        log_scale = p.argument(1) if s.scaled else None
        given = p.argument(*one) if s.bias else None
        start = p.argument(1, *one) if s.plan.start == "given" else self.start(x)
        running = (p.argument(1, *one), p.argument(1), p.argument(1)) if s.tracks else None
        lower0, inverse0 = self.lower(start, p.kept)
        p.congruence(inverse0, x, self.product)
        first = self.eigen(self.product, p.kept if s.plan.through else p.scratch, s.precision)
        tangents = p.scratch(2 if s.bias == "tangent" else 1, *one)  # both small exponentials in one decomposition
        p.add(Operation.SUM_OF_FUNCTIONS, [first.log, first.rows], [None, None, tangents.item(0)], like=first.rows)
        p.map(_program.SCALE, tangents.item(0), tangents.item(0), by=1 / s.batch)
        if s.plan.cg_steps:
            self.newton(tangents.item(0), first)
        if given is not None and s.bias == "tangent":
            p.rearrange(_program.SYMMETRIC, given, tangents.item(1), by=1.0 if s.plan.group else 0.5)
        small = Eigen(p.kept(*tangents.shape[:-1]), p.kept(*tangents.shape[:-1]), p.kept(*tangents.shape))
        p.eigen(tangents, small.values, small.rows)
        p.map(_program.EXP, small.values, small.log)  # of these the exponentials
        points = p.kept(*tangents.shape)
        p.rebuild(small.log, small.rows, points)
        p.congruence(lower0, points.item(0), points.item(0))
        whiten, frame, colour, tracked = self._move(points, given, running)
        p.congruence(whiten, x, self.product)
        second = self.eigen(self.product, p.kept, s.precision)
        variance, factor, power = p.kept(1), p.kept(1), p.kept(s.batch, s.n)
        p.add(_program.SQUARES, [second.log], [variance], like=second.log, numbers=(s.plan.metric_scale / s.batch,))
        p.add(_program.FACTOR, [variance, log_scale], [factor], numbers=(s.plan.eps,))
        p.map(_program.EXP, second.log, power, factor=factor)
        p.rebuild(power, second.rows, out, colour)
        if running is not None:
            new_variance = p.kept(1)
            p.add(_program.LERP, [running[1], variance, running[2]], [new_variance])
            p.add(_program.FINITE, [new_variance], [], like=new_variance)
            tracked = (*tracked, new_variance)
        return Forward(
            p, lower0, inverse0, first, small, frame, whiten, colour, second, power, variance, factor, tracked
        )

    def _move(self, points: Place, given: Place | None, running: Any) -> Any:
        """Return A, what it is made of, the bias point's factor, and the new running mean."""
        p, s, one = self.p, self.s, self.one
        mean, colour = points.item(0), given
        old = None if running is None else self.lower(running[0], p.scratch)
        pair = p.scratch(2, *one)  # the mean, and the mean as the running one sees it
        if old is not None:
            p.congruence(old[1], mean, pair.item(1))
        if s.plan.group:
            lowers, inverses = self.lower(points, p.kept)
            whiten, frame = inverses.item(0), (lowers, inverses)
            colour = lowers.item(1) if s.bias == "tangent" else colour
            between = None if old is None else self.eigen(pair.item(1), p.scratch, s.precision)
        else:
            p.map(_program.SCALE, mean, pair.item(0))
            both = self.eigen(pair.first(1 if old is None else 2), p.kept, s.precision)
            root, between = (Eigen(*(place.item(k) for place in both)) for k in range(2))
            inverse, whiten, frame = p.scratch(s.n), p.kept(*one), (root.values, root.rows)
            p.map(_program.INVERSE_ROOT, root.values, inverse)
            p.rebuild(inverse, root.rows, whiten)
            colour = points.item(1) if s.bias == "tangent" else colour
        if old is None or between is None:
            return whiten, frame, colour, ()
        new = p.kept(1, *one)
        p.map(_program.EXP, between.log, between.values, factor=running[2])
        p.rebuild(between.values, between.rows, new, old[0])
        p.add(_program.FINITE, [new], [], like=new)
        return whiten, frame, colour, (new,)


@functools.lru_cache(maxsize=256)
def _forward(shape: Shape) -> Forward:
    return _Writer(shape).write()


class Backward(NamedTuple):
    """A program, and where it leaves the small gradients."""

    program: Program
    log_scale: Place
    bias: Place


@functools.lru_cache(maxsize=256)
def _backward(s: Shape) -> Backward:
    """Return the way back with the statistics held constant."""
    f, p, one = _forward(s), Program(s.n, s.dtype), (s.n, s.n)
    memory, g, out = p.argument(f.program.kept_size), p.argument(*s.many), p.argument(*s.many)
    given = p.argument(*one) if s.bias == "colour" else None

    def here(place: Place) -> Place:
        return Place(memory.buffer, place.start, place.shape)

    values, log, rows = map(here, f.second)
    power, factor = here(f.power), here(f.factor)
    colour = None if f.colour is None else given or here(f.colour)
    exponent, inner, grad_factor, log_scale = p.scratch(s.batch), p.scratch(s.batch, s.n), p.scratch(1), p.kept(1)
    bias, grad_colour = p.kept(*one), p.scratch(*one)
    p.map(_program.FILL, None, exponent, factor=factor)
    spectrum = (values, power, exponent, rows)
    wanted = grad_colour if s.bias else None
    p.adjoint(fn.POWER.native, spectrum, g, out, inner=inner, k=colour, a=here(f.whiten), colour=wanted)
    p.add(_program.DOT, [inner, power, None, log], [grad_factor], like=inner, numbers=(1.0,))
    p.map(_program.SCALE, grad_factor, log_scale, factor=factor)
    if s.bias == "colour":
        p.map(_program.SCALE, grad_colour, bias)
    if s.bias == "tangent":
        if s.plan.group:
            lowers, inverses = map(here, f.frame)
            half, turned = p.scratch(*one), p.scratch(*one)
            p.add(_program.MULTIPLY, [lowers.item(1), grad_colour], [half], kind=1)
            p.rearrange(_program.OF_HALF_LOWER, half, half_symmetric := p.scratch(*one))
            p.rearrange(_program.TRANSPOSED, inverses.item(1), turned)
            p.congruence(turned, half_symmetric, grad_colour)
        small = [here(place).item(1) for place in f.small]
        p.adjoint(fn.EXP.native, (small[0], small[1], None, small[2]), grad_colour, bias, inner=p.scratch(s.n))
        p.map(_program.SCALE, bias, bias, by=1.0 if s.plan.group else 0.5)
    return Backward(p, log_scale, bias)


class FusedAffineInvariant(Programmed):
    """``Y = K (A X A^T)^t K^T`` with the batch's A and t.

    ``bias`` is a symmetric tangent vector at the identity, whose exponential is ``K K^T``, or K.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: Run) -> Tensor:
        plan: Plan = run.shape.plan
        start = plan.mean.before_last(plan.manifold, x, None) if plan.start == "given" else None
        return Programmed.start(ctx, _forward(run.shape), run, x, (log_scale, bias, start), (log_scale, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        s: Shape = ctx.run.shape
        colour = [ctx.saved_tensors[2].to(s.dtype).contiguous()] if s.bias == "colour" else []
        through = functools.partial(_through_statistics, s, ctx.memory, ctx.saved_tensors[0].to(s.dtype))
        return Programmed.finish(ctx, _backward(s), g, *colour, add=through if s.plan.through else None)


def _through_statistics(
    shape: Shape, memory: Tensor, x: Tensor, _: Tensor, grad_x: Tensor, grad_log_scale: Tensor
) -> None:
    """Add to the gradient in X what passes through the variance and the mean."""
    f, plan = _forward(shape), shape.plan

    def of(*places: Place) -> list[Tensor]:
        return [view(place, memory) for place in places]

    (values, log, rows), (_, log0, rows0) = of(*f.second), of(*f.first)
    whiten, lower0, inverse0 = of(f.whiten, f.lower0.item(0), f.inverse0.item(0))
    small = [t[0] for t in of(*f.small)]
    slope = -grad_log_scale / (view(f.variance, memory) + plan.eps) * plan.metric_scale / shape.batch
    grad_x += _fused.rebuild(slope * log / values, rows, whiten.mT)
    product = 2 * (grad_x.view(-1, shape.n).mT @ x.reshape(-1, shape.n))
    upstream = lower0.mT @ _grad_mean(plan, product, whiten, of(*f.frame)) @ lower0
    tangent = _fused.adjoint(fn.EXP, small[0], None, small[2], upstream)[0]
    hessian = EigenHessian(rows0, lambda: kernels.hyperbolic_weights(log0), None)
    share = (hessian.solve(tangent, plan.mean.backward_steps, 0) / shape.batch).expand_as(rows0)
    grad_x += _fused.adjoint(fn.LOG, view(f.first.values, memory), None, rows0, share, None, inverse0)[0]


def _through_factor(inverse: Tensor, product: Tensor) -> Tensor:
    """Return the symmetric gradient in ``M = L L^T`` for ``L^T dL``, of which only the lower triangle counts."""
    half = product.tril()
    half.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    return inverse.mT @ linalg.symmetrize(half) @ inverse


def _grad_mean(plan: Plan, product: Tensor, whiten: Tensor, frame: Any) -> Tensor:
    """Return the symmetric gradient in M, given ``2 sum dX X`` for those in X with A constant."""
    # dA = A^-T 2 sum dX X
    if plan.group:
        lower = frame[0][: len(whiten)] if whiten.ndim == 3 else frame[0][0]
        return -_through_factor(whiten, lower.mT @ product @ whiten.mT)  # dL = -A^T dA A^T
    values, rows = frame
    root = (rows.mT * values.sqrt().unsqueeze(-2)) @ rows
    return _fused.adjoint(fn.INV_SQRT, values, None, rows, root @ product)[0]
