"""The forward program of `_fused_bures`.

With ``M = V g V^T`` the mean, ``F = V g^1/2`` and ``C = (F^T X F)^1/2``, a sample's logarithm at M, moved to the
identity, is ``V (W o (C - g)) V^T`` with ``W_ij^2 = 2 (g_i + g_j) / (g_i g_j)``. In the eigenbasis of the bias point
the step of the exponential is a product entry by entry, too; all else are congruences by single matrices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from manifoldnorm.linalg import _program
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._ops import INDEFINITE_TOL
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.manifolds.bures import DOMAIN_MARGIN
from manifoldnorm.nn._programmed import Groups


@dataclass(frozen=True)
class Shape:
    """What a program depends on: the choices of the norm's plan, and the batch.

    ``precision`` is eps of the input's dtype, ``domains`` is 0 without domains.
    """

    plan: Any
    batch: int
    n: int
    precision: float
    scaled: bool
    bias: str
    tracks: bool
    domains: int
    min_samples: int

    dtype: ClassVar[torch.dtype] = torch.float64

    @property
    def many(self) -> tuple[int, int, int]:
        """The shape of the batch."""
        return (self.batch, self.n, self.n)


class Forward(NamedTuple):
    """A program, and where it leaves what the way back and the buffers need."""

    program: Program
    groups: Groups
    values: Place
    roots: Place
    floored: Place
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
    mean: Place

    @property
    def found(self) -> tuple[Place, Place]:
        """The mean and the variance that were used."""
        return self.mean, self.variance


class _Writer:
    """Writes the forward program, part by part."""

    def __init__(self, shape: Shape) -> None:
        self.s, self.p, self.one = shape, Program(shape.n, shape.dtype), (shape.n, shape.n)
        self.x, self.out = self.p.argument(*shape.many), self.p.argument(*shape.many)
        self.groups = Groups.of(self.p, shape.batch, shape.domains, shape.min_samples)
        self.means, self.numbers = (self.groups.count, *self.one), (self.groups.count, 1)
        self.product = self.p.scratch(*shape.many)  # congruences of the batch: each is decomposed at once

    def floor(self, values: Place, floored: Place, eps: float | None = None, strict: bool = False) -> None:
        eps = torch.finfo(self.s.dtype).eps if eps is None else eps
        tolerance = None if strict else INDEFINITE_TOL * self.s.n * self.s.precision
        self.p.floor_log(values, floored, None, eps, tolerance)

    def lower(self, x: Place) -> tuple[Place, Place, Place]:
        lower, inverse, turned = (self.p.scratch(*x.shape) for _ in range(3))
        self.p.cholesky(x, lower)
        self.p.add(_program.INVERT_LOWER, [lower], [inverse])
        self.p.rearrange(_program.TRANSPOSED, lower, turned)
        return lower, inverse, turned

    def square(self, half: Place, out: Place) -> None:
        turned = self.p.scratch(*half.shape)
        self.p.rearrange(_program.TRANSPOSED, half, turned)
        self.p.add(_program.MULTIPLY, [half, turned], [out])

    def roots(self, values: Place) -> Place:
        roots = self.p.scratch(*values.shape)
        self.floor(values, roots, 0.0)  # no more than that: these are spectra of products, with squared conditions
        self.p.map(_program.ROOT, roots, roots)
        return roots

    def mean(self, mean: Place, given: Place | None, running: Place | None) -> None:
        """A fixed-point step from P = L L^T is ``L^-T C C L^-1`` with C the mean of ``(L^T X L)^1/2``."""
        p, s, groups = self.p, self.s, self.groups
        if s.plan.start == "mean":
            assert given is not None
            p.map(_program.SCALE, given, mean)
            groups.choose(p, mean, running)
            return
        start = given or p.scratch(*self.means)
        if given is None:
            groups.mean(p, self.x, start)
        groups.choose(p, start, running)
        _, inverse, turned = self.lower(start)
        values, rows, root, half = (p.scratch(*shape) for shape in ((s.batch, s.n), s.many, self.means, self.means))
        p.congruence(turned, self.x, self.product, groups.index)
        p.eigen(self.product, values, rows)
        if groups.index is None:
            p.add(Operation.SUM_OF_FUNCTIONS, [self.roots(values), rows], [None, None, root], like=rows)
            p.map(_program.SCALE, root, root, by=1 / s.batch)
        else:
            p.rebuild(self.roots(values), rows, self.product)
            groups.mean(p, self.product, root)
        p.add(_program.MULTIPLY, [inverse, root], [half], kind=_program.TRANSPOSE_A)
        self.square(half, mean)
        groups.choose(p, mean, running)

    def write(self) -> Forward:
        """Return the whole."""
        p, s, one, groups, count = self.p, self.s, self.one, self.groups, self.groups.count
        log_scale, given = p.argument(1) if s.scaled else None, p.argument(*one)
        # the means, the bias point, the means as the running ones see them
        points = p.kept(2 * count + 1, *one)
        means, bias, seen = points.items(0, count), points.item(count), points.items(count + 1, 2 * count + 1)
        statistics = p.argument(*self.means) if s.plan.start != "arithmetic" else None
        running = (p.argument(*self.means), p.argument(*self.numbers), p.argument(*self.numbers)) if s.tracks else None
        self.mean(means, statistics, None if running is None else running[0])
        old = None if running is None else self.lower(running[0])
        if old is not None:
            p.congruence(old[2], means, seen)
        p.rearrange(_program.SYMMETRIC, given, bias)
        points = points.items(0, count + 1 if old is None else 2 * count + 1)
        values, bases, target = p.kept(*points.shape[:-1]), p.kept(*points.shape), p.kept(s.n)
        p.eigen(points, values, bases)
        spectra, basis, target_log, target_rows = (
            values.items(0, count),
            bases.items(0, count),
            values.item(count),
            bases.item(count),
        )
        self.floor(spectra, spectra, strict=True)
        if s.bias == "tangent":
            p.map(_program.EXP, target_log, target)
        else:
            self.floor(target_log, target)
        weight, factor, change = (p.kept(*self.means) for _ in range(3))
        kernel, turned = p.kept(*one), p.scratch(*self.means)
        p.add(_program.BURES_WEIGHTS, [spectra, basis, target], [weight, factor, kernel])
        p.rearrange(_program.TRANSPOSED, basis, turned)
        p.add(_program.MULTIPLY, [target_rows, turned], [change], kind=_program.ONE_A)
        roots, rows, moved = p.kept(s.batch, s.n), p.kept(*s.many), p.kept(*s.many)
        values_x = p.kept(s.batch, s.n)
        p.congruence(factor, self.x, self.product, groups.index)
        p.eigen(self.product, values_x, rows)
        floored = p.kept(s.batch, s.n)  # for the derivative of the root alone
        self.floor(values_x, roots, 0.0)
        self.floor(values_x, values_x)
        p.map(_program.ROOT, roots, roots)
        p.map(_program.ROOT, values_x, floored)
        several: dict[str, Any] = {"kind": int(count > 1), "index": groups.index}
        p.add(Operation.BURES_MOVE, [roots, rows, spectra, weight, change], [moved], **several)
        variance, scale = p.kept(*self.numbers), p.kept(*self.numbers)
        groups.variance(p, moved, None, variance, 0.25 * s.plan.metric_scale)
        groups.choose(p, variance, None if running is None else running[1])
        p.add(_program.FACTOR, [variance, log_scale], [scale], numbers=(s.plan.eps,))
        step = [moved, target_rows, target, kernel, scale]  # fails where a step must be shrunk
        p.add(Operation.BURES_STEP, step, [self.out], numbers=(DOMAIN_MARGIN,), **several)
        tracked: tuple[Place, ...] = ()
        if running is not None and old is not None:
            later = values.items(count + 1, 2 * count + 1), bases.items(count + 1, 2 * count + 1)
            tracked = self.track(running, old, later, variance)
        return Forward(
            program=p,
            groups=groups,
            values=values_x,
            roots=roots,
            floored=floored,
            rows=rows,
            weight=weight,
            factor=factor,
            kernel=kernel,
            change=change,
            target_log=target_log,
            target=target,
            target_rows=target_rows,
            moved=moved,
            spectrum=spectra,
            basis=basis,
            variance=variance,
            scale=scale,
            tracked=tracked,
            mean=means,
        )

    def track(self, running: Any, old: Any, seen: tuple[Place, Place], variance: Place) -> tuple[Place, ...]:
        """The geodesic is ``B B^T`` with ``B = (1 - t) L + t L^-T (L^T M L)^1/2``."""
        p, groups = self.p, self.groups
        weight, new_variance = groups.variance_follows(p, running, variance)
        root, half, new = p.scratch(*self.means), p.scratch(*self.means), p.kept(*self.means)
        p.rebuild(self.roots(seen[0]), seen[1], root)
        p.add(_program.MULTIPLY, [old[1], root], [half], kind=_program.TRANSPOSE_A)
        p.add(_program.LERP, [old[0], half, weight], [half], groups=groups.count)
        self.square(half, new)
        p.add(_program.FINITE, [new], [], like=new)
        return (new, new_variance) if groups.enough is None else (new, new_variance, groups.enough)


@functools.lru_cache(maxsize=256)
def forward(shape: Shape) -> Forward:
    return _Writer(shape).write()
