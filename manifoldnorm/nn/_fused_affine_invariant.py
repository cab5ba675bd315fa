"""The affine-invariant norms as one program for each direction, on CPU: two decompositions of the batch.

The template of `ManifoldNorm` says what they compute; this says it once more without a graph in between, for real
matrices with the compiled kernels. The notation of the comments: ``M`` the mean, ``A M A^T = 1``, ``Y = A X A^T``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldnorm import linalg
from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.manifolds import AffineInvariant
from manifoldnorm.nn._programmed import Groups, Programmed, Run, within
from manifoldnorm.stats import Exact, Karcher, Newton


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
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, run: Run
    ) -> Tensor:
        """Return the output; the running statistics follow in ``run``.

        The bias is a tangent vector at the identity (its symmetric part counts), or a point.
        """
        bias, kind = tangent, "" if tangent is None else "tangent"
        if point is not None:
            bias, kind = linalg.cholesky(point) if self.group else linalg.sqrtm(point), "colour"
        run.shape = Shape(
            plan=self,
            batch=x.shape[0],
            n=x.shape[-1],
            dtype=working_dtype(x.dtype, widens(x)),
            precision=torch.finfo(x.dtype).eps,
            scaled=log_scale is not None,
            bias=kind,
            tracks=bool(run.tracks),
            domains=run.domains,
            min_samples=run.min_samples,
        )
        out: Any = FusedAffineInvariant.apply(x, log_scale, bias, run)
        return out


@dataclass(frozen=True)
class Shape:
    """What a program depends on: the plan's choices, and the batch.

    ``precision`` is eps of the input's dtype, ``bias`` is ``"tangent"`` (at the identity; its symmetric part counts),
    ``"colour"`` (the factor K of the bias point) or empty, ``domains`` is 0 without domains.
    """

    plan: Plan
    batch: int
    n: int
    dtype: torch.dtype
    precision: float
    scaled: bool
    bias: str
    tracks: bool
    domains: int
    min_samples: int

    @property
    def many(self) -> tuple[int, int, int]:
        """The shape of the batch."""
        return (self.batch, self.n, self.n)


class Eigen(NamedTuple):
    """Eigenvalues (clamped as the template's are), their logarithms, and the eigenvectors as rows."""

    values: Place
    log: Place
    rows: Place

    def items(self, begin: int, end: int) -> Eigen:
        """Return those of consecutive matrices."""
        return Eigen(*(place.items(begin, end) for place in self))


class Forward(NamedTuple):
    """A program, and where it leaves what the way back and the buffers need."""

    program: Program
    groups: Groups
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
    mean: Place

    @property
    def found(self) -> tuple[Place, Place]:
        """The mean and the variance that were used."""
        return self.mean, self.variance


class _Writer:
    """Writes the forward program, part by part; ``s.plan`` says how, ``groups`` for which statistics."""

    def __init__(self, shape: Shape) -> None:
        self.s, self.p, self.one = shape, Program(shape.n, shape.dtype), (shape.n, shape.n)
        self.x, self.out = self.p.argument(*shape.many), self.p.argument(*shape.many)
        self.groups = Groups.of(self.p, shape.batch, shape.domains, shape.min_samples)
        self.means, self.numbers = (self.groups.count, *self.one), (self.groups.count, 1)
        self.product = self.p.scratch(*shape.many)  # congruences of the batch: each is decomposed at once

    def eigen(self, x: Place, new: Any) -> Eigen:
        found = Eigen(new(*x.shape[:-1]), new(*x.shape[:-1]), new(*x.shape))
        self.p.eigen(x, found.values, found.rows)
        tolerance = INDEFINITE_TOL * self.s.n * self.s.precision
        self.p.floor_log(found.values, found.values, found.log, self.s.precision, tolerance)
        return found

    def lower(self, x: Place, new: Any) -> tuple[Place, Place]:
        lower, inverse = new(*x.shape), new(*x.shape)
        self.p.cholesky(x, lower)
        self.p.add(_program.INVERT_LOWER, [lower], [inverse])
        return lower, inverse

    def start(self) -> Place:
        """Where the last step to the mean starts."""
        p, s, middle = self.p, self.s, self.p.scratch(*self.means)
        self.groups.mean(p, self.x, middle)
        if s.plan.start == "arithmetic":
            return middle
        # the geometric mean with the mean P of the inverses, A # P^-1 = L (L^T P L)^-1/2 L^T for A = L L^T
        self.groups.choose(p, middle, self.identities())
        parts, inverses, turned, lower = p.scratch(s.batch, 2), *(p.scratch(*self.means) for _ in range(3))
        share = 1 / s.batch if self.groups.index is None else 1.0
        p.add(_program.RIDGES, [self.x], [parts], numbers=(INDEFINITE_TOL * s.precision, share), like=self.x)
        if self.groups.index is None:
            p.add(Operation.SUM_OF_INVERSES, [self.x, parts], [None, None, inverses], like=self.x)
        else:
            p.add(Operation.SUM_OF_INVERSES, [self.x, parts], [None, self.product], like=self.x)
            self.groups.mean(p, self.product, inverses)
            self.groups.choose(p, inverses, self.identities())
        p.cholesky(middle, lower)
        p.rearrange(_program.TRANSPOSED, lower, turned)
        p.congruence(turned, inverses, inverses)
        between = self.eigen(inverses, p.scratch)
        p.map(_program.EXP, between.log, between.values, by=-0.5)
        p.rebuild(between.values, between.rows, middle, lower)
        return middle

    def identities(self) -> Place:
        eye = self.p.scratch(*self.means)
        self.p.add(_program.IDENTITIES, [], [eye])
        return eye

    def write(self) -> Forward:
        """Return the whole."""
        p, s, groups = self.p, self.s, self.groups
        log_scale = p.argument(1) if s.scaled else None
        given = p.argument(*self.one) if s.bias else None
        start = p.argument(*self.means) if s.plan.start == "given" else self.start()
        running = (p.argument(*self.means), p.argument(*self.numbers), p.argument(*self.numbers)) if s.tracks else None
        groups.choose(p, start, None if running is None else running[0])
        lower0, inverse0 = self.lower(start, p.kept)
        p.congruence(inverse0, self.x, self.product, groups.index)
        first = self.eigen(self.product, p.kept if s.plan.through else p.scratch)
        small, points = self.points(first, given)
        mean = points.items(0, groups.count)
        p.congruence(lower0, mean, mean)
        groups.choose(p, mean, None if running is None else running[0])
        whiten, frame, colour, between = self.move(points, given, running)
        p.congruence(whiten, self.x, self.product, groups.index)
        second = self.eigen(self.product, p.kept)
        variance, factor, power = p.kept(*self.numbers), p.kept(*self.numbers), p.kept(s.batch, s.n)
        groups.variance(p, second.log, None, variance, s.plan.metric_scale)
        groups.choose(p, variance, None if running is None else running[1])
        p.add(_program.FACTOR, [variance, log_scale], [factor], numbers=(s.plan.eps,))
        p.map(_program.EXP, second.log, power, factor=factor, **groups.options)
        p.rebuild(power, second.rows, self.out, colour)
        tracked = () if running is None else self.track(running, between, variance)
        return Forward(
            program=p,
            groups=groups,
            lower0=lower0,
            inverse0=inverse0,
            first=first,
            small=small,
            frame=frame,
            whiten=whiten,
            colour=colour,
            second=second,
            power=power,
            variance=variance,
            factor=factor,
            tracked=tracked,
            mean=mean,
        )

    def points(self, first: Eigen, given: Place | None) -> tuple[Eigen, Place]:
        """The steps to the means and the tangent bias, and their exponentials."""
        p, s, groups = self.p, self.s, self.groups
        tangents = p.scratch(groups.count + (s.bias == "tangent"), *self.one)
        steps = tangents.items(0, groups.count)
        if groups.index is None:
            p.add(Operation.SUM_OF_FUNCTIONS, [first.log, first.rows], [None, None, steps], like=first.rows)
            p.map(_program.SCALE, steps, steps, by=1 / s.batch)
        else:
            p.rebuild(first.log, first.rows, self.product)
            groups.mean(p, self.product, steps)
        if s.plan.cg_steps:
            _solve(p, groups, first, steps, s.plan.cg_steps)
        if given is not None and s.bias == "tangent":
            by = 1.0 if s.plan.group else 0.5
            p.rearrange(_program.SYMMETRIC, given, tangents.item(groups.count), by=by)
        small = Eigen(p.kept(*tangents.shape[:-1]), p.kept(*tangents.shape[:-1]), p.kept(*tangents.shape))
        points = p.kept(*tangents.shape)
        p.eigen(tangents, small.values, small.rows)
        p.map(_program.EXP, small.values, small.log)  # of these the exponentials
        p.rebuild(small.log, small.rows, points)
        return small, points

    def move(self, points: Place, given: Place | None, running: Any) -> Any:
        """Return A, what it is made of, the bias point's factor, and how the old means see the new ones."""
        p, s, count = self.p, self.s, self.groups.count
        mean, colour = points.items(0, count), given
        pair = p.scratch(2 * count, *self.one)  # the means, and the means as the running ones see them
        old = None if running is None else self.lower(running[0], p.scratch)
        if old is not None:
            p.congruence(old[1], mean, pair.items(count, 2 * count))
        if s.plan.group:
            lowers, inverses = self.lower(points, p.kept)
            seen = None if old is None else self.eigen(pair.items(count, 2 * count), p.scratch)
            colour = lowers.item(count) if s.bias == "tangent" else colour
            return inverses.items(0, count), (lowers, inverses), colour, (old, seen)
        p.map(_program.SCALE, mean, pair.items(0, count))
        both = self.eigen(pair if old is not None else pair.items(0, count), p.kept)
        root, seen = both.items(0, count), None if old is None else both.items(count, 2 * count)
        inverse, whiten = p.scratch(count, s.n), p.kept(*self.means)
        p.map(_program.INVERSE_ROOT, root.values, inverse)
        p.rebuild(inverse, root.rows, whiten)
        colour = points.item(count) if s.bias == "tangent" else colour
        return whiten, (root.values, root.rows), colour, (old, seen)

    def track(self, running: Any, between: Any, variance: Place) -> tuple[Place, ...]:
        """The running mean moves along ``L (L^-1 M L^-T)^t L^T``."""
        p, groups = self.p, self.groups
        (lower, _), seen = between
        weight, new_variance = groups.variance_follows(p, running, variance)
        new = p.kept(*self.means)
        p.map(_program.EXP, seen.log, seen.values, factor=weight, groups=groups.count)
        p.rebuild(seen.values, seen.rows, new, lower)
        p.add(_program.FINITE, [new], [], like=new)
        return (new, new_variance) if groups.enough is None else (new, new_variance, groups.enough)


def _solve(p: Program, groups: Groups, first: Eigen, step: Place, steps: int) -> None:
    """Replace residuals by conjugate gradients on the Hessians, the means of the samples' kernels."""
    many, one = first.rows.shape, step.shape
    weights, terms = p.scratch(*many), p.scratch(*many) if groups.index is not None else None
    image, x, residual, direction = (p.scratch(*one) for _ in range(4))
    square, before, length = (p.scratch(groups.count, 1) for _ in range(3))
    tiny, share = torch.finfo(p.dtype).tiny, 1 / groups.batch if groups.index is None else 1.0
    each: dict[str, Any] = {"groups": groups.count}
    p.add(Operation.HYPERBOLIC_WEIGHTS, [first.log], [weights])
    p.map(_program.SCALE, step, residual)
    p.map(_program.SCALE, step, direction)
    p.map(_program.SCALE, step, x, by=0.0)
    p.add(_program.DOT, [residual, residual], [square], like=residual, numbers=(1.0,), **each)
    for k in range(steps):
        inputs = [direction, first.rows, weights]
        if terms is None:
            p.add(Operation.SUM_OF_KERNELS, inputs, [None, None, image], like=first.rows)
        else:
            p.add(Operation.SUM_OF_KERNELS, inputs, [terms], kind=1, index=groups.index)
            groups.mean(p, terms, image)
        p.add(_program.DOT, [direction, image], [before], like=image, numbers=(share,), **each)
        p.add(_program.SLOPE, [square, before], [length], numbers=(1.0, tiny))
        p.add(_program.SHIFT, [direction, None, length, x], [x], kind=1, numbers=(1.0,), **each)
        if k + 1 == steps:
            break
        p.add(_program.SLOPE, [square, before], [length], numbers=(-share, tiny))
        p.add(_program.SHIFT, [image, None, length, residual], [residual], kind=1, numbers=(1.0,), **each)
        p.map(_program.SCALE, square, before)
        p.add(_program.DOT, [residual, residual], [square], like=residual, numbers=(1.0,), **each)
        p.add(_program.SLOPE, [square, before], [length], numbers=(1.0, tiny))
        p.add(_program.SHIFT, [direction, None, length, residual], [direction], kind=1, numbers=(1.0,), **each)
    p.map(_program.SCALE, x, step)


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
    f, p, one = _forward(s), Program(s.n, s.dtype), (s.n, s.n)
    memory, g, out = p.argument(f.program.kept_size), p.argument(*s.many), p.argument(*s.many)
    groups, here = f.groups.within(p, memory), functools.partial(within, memory)
    given = p.argument(*one) if s.bias == "colour" else None
    second, power, factor, whiten = Eigen(*map(here, f.second)), here(f.power), here(f.factor), here(f.whiten)
    colour = None if f.colour is None else given or here(f.colour)
    exponent, inner, each = p.scratch(s.batch, 1), p.scratch(s.batch, s.n), p.scratch(groups.count, 1)
    log_scale, bias, grad_colour = p.kept(1), p.kept(*one), p.scratch(*one)
    p.map(_program.FILL, None, exponent, factor=factor, **groups.options)
    spectrum = (second.values, power, exponent, second.rows)
    wanted = grad_colour if s.bias else None
    p.adjoint(fn.POWER, spectrum, g, out, inner=inner, k=colour, a=whiten, colour=wanted, index=groups.index)
    p.add(_program.DOT, [inner, power, None, second.log], [each], like=inner, numbers=(1.0,), **groups.options)
    p.map(_program.SCALE, each, each, factor=factor, groups=groups.count)  # in the logarithm of each factor
    p.add(_program.SUM_ROWS, [each], [log_scale], like=each, numbers=(1.0,))
    if s.bias == "colour":
        p.map(_program.SCALE, grad_colour, bias)
    small = Eigen(*map(here, f.small))
    if s.bias == "tangent":
        if s.plan.group:
            lower, inverse = (here(place).item(groups.count) for place in f.frame)
            half = p.scratch(*one)
            p.add(_program.MULTIPLY, [lower, grad_colour], [half], kind=_program.TRANSPOSE_A)
            _through_factor(p, inverse, half, grad_colour)
        values, grown, rows = (place.item(groups.count) for place in small)
        p.adjoint(fn.EXP, (values, grown, None, rows), grad_colour, bias)
        p.map(_program.SCALE, bias, bias, by=1.0 if s.plan.group else 0.5)
    if s.plan.through:
        p.add(_program.SLOPE, [each, here(f.variance)], [each], numbers=(-s.plan.metric_scale, s.plan.eps))
        groups.shares(p, each)
        groups.mask(p, each)
        x = p.argument(*s.many)
        _through_statistics(p, s, f, groups, here, second, small.items(0, groups.count), each, x, out)
    return Backward(p, log_scale, bias)


def _through_factor(p: Program, inverse: Place, product: Place, out: Place, by: float = 1.0) -> None:
    """The symmetric gradients in ``M = L L^T`` for ``L^T dL``, of which only the lower triangle counts."""
    half, turned = p.scratch(*product.shape), p.scratch(*product.shape)
    p.rearrange(_program.OF_HALF_LOWER, product, half, by=by)
    p.rearrange(_program.TRANSPOSED, inverse, turned)
    p.congruence(turned, half, out)


def _through_statistics(
    p: Program,
    s: Shape,
    f: Forward,
    groups: Groups,
    here: Any,
    second: Eigen,
    small: Eigen,
    slope: Place,
    x: Place,
    out: Place,
) -> None:
    """Add to the gradient in X what passes through the variances and the means."""
    means = (groups.count, s.n, s.n)
    whiten, lower0, first = here(f.whiten), here(f.lower0), Eigen(*map(here, f.first))
    turned, rates, terms = p.scratch(*means), p.scratch(s.batch, s.n), p.scratch(*s.many)
    p.map(_program.RATIO, second.log, rates, factor=slope, under=second.values, **groups.options)
    p.rearrange(_program.TRANSPOSED, whiten, turned)
    p.rebuild(rates, second.rows, terms, turned, groups.index)
    p.add(_program.SHIFT, [terms, None, None, out], [out], kind=1, numbers=(1.0,))
    products, grad_mean = p.scratch(*means), p.scratch(*means)
    if groups.index is None:
        p.add(Operation.PRODUCTS, [out, x], [None, None, products], like=out)
    else:
        p.add(Operation.PRODUCTS, [out, x], [terms])
        p.add(_program.SUM_ROWS, [terms], [products], like=terms, numbers=(1.0,), **groups.options)
    _grad_mean(p, s, groups, [here(place) for place in f.frame], whiten, turned, products, grad_mean)
    groups.mask(p, grad_mean)
    p.rearrange(_program.TRANSPOSED, lower0, turned)
    p.congruence(turned, grad_mean, grad_mean)
    steps = p.scratch(*means)
    p.adjoint(fn.EXP, (small.values, small.log, None, small.rows), grad_mean, steps)
    _solve(p, groups, first, steps, s.plan.mean.backward_steps)
    groups.shares(p, steps)
    p.add(_program.GATHER, [steps], [terms], numbers=(1.0,), **groups.options)
    spectrum, more = (first.values, first.log, None, first.rows), p.scratch(*s.many)
    p.adjoint(fn.LOG, spectrum, terms, more, a=here(f.inverse0), index=groups.index)
    p.add(_program.SHIFT, [more, None, None, out], [out], kind=1, numbers=(1.0,))


def _grad_mean(
    p: Program, s: Shape, groups: Groups, frame: Any, whiten: Place, turned: Place, products: Place, out: Place
) -> None:
    """The symmetric gradients in M, given ``sum dX X`` for those in X with A constant: ``dA = 2 A^-T sum dX X``."""
    half = p.scratch(*products.shape)
    if s.plan.group:
        lower, product = frame[0].items(0, groups.count), p.scratch(*products.shape)
        p.add(_program.MULTIPLY, [lower, products], [half], kind=_program.TRANSPOSE_A)
        p.add(_program.MULTIPLY, [half, turned], [product])
        _through_factor(p, whiten, product, out, by=-2.0)  # dL = -A^T dA A^T
        return
    values, rows = frame
    roots, root = p.scratch(*values.shape), p.scratch(*products.shape)
    p.map(_program.ROOT, values, roots)
    p.rebuild(roots, rows, root)
    p.add(_program.MULTIPLY, [root, products], [half])
    p.adjoint(fn.INV_SQRT, (values, roots, None, rows), half, out)
    p.map(_program.SCALE, out, out, by=2.0)


class FusedAffineInvariant(Programmed):
    """``Y = K (A X A^T)^t K^T`` with the A and t of the batch, or of each sample's domain.

    ``bias`` is a symmetric tangent vector at the identity, whose exponential is ``K K^T``, or K.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, run: Run) -> Tensor:
        plan: Plan = run.shape.plan
        start = run.start(plan.mean, plan.manifold, x) if plan.start == "given" else None
        return Programmed.start(ctx, _forward(run.shape), run, x, (log_scale, bias, start), (log_scale, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        s: Shape = ctx.run.shape
        x, _, bias = ctx.saved_tensors
        others = ([bias] if s.bias == "colour" else []) + ([x] if s.plan.through else [])
        gradients = Programmed.finish(ctx, _backward(s), g, *(t.to(s.dtype).contiguous() for t in others))
        return *gradients[:3], None
