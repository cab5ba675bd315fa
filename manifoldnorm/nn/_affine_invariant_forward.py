"""The forward program of `_fused_affine_invariant`.

The notation: ``M`` the mean, ``A M A^T = 1``, ``Y = A X A^T``; a last step to the mean starts from ``L0 L0^T``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from manifoldnorm.linalg import _program
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.nn._programmed import Groups


@dataclass(frozen=True)
class Shape:
    """What a program depends on: the choices of the norm's plan, and the batch.

    ``precision`` is eps of the input's dtype, ``bias`` is ``"tangent"`` (at the identity; its symmetric part counts),
    ``"colour"`` (the factor K of the bias point) or empty, ``domains`` is 0 without domains.
    """

    plan: Any
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
            solve(p, groups, first, steps, s.plan.cg_steps)
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


def solve(p: Program, groups: Groups, first: Eigen, step: Place, steps: int) -> None:
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
def forward(shape: Shape) -> Forward:
    return _Writer(shape).write()
