"""The backward program of `_fused_affine_invariant`, in the notation of `_affine_invariant_forward`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.nn._affine_invariant_forward import Eigen, Forward, Shape, forward, solve
from manifoldnorm.nn._programmed import Groups, within


class Backward(NamedTuple):
    """A program, and where it leaves the small gradients."""

    program: Program
    log_scale: Place
    bias: Place


@functools.lru_cache(maxsize=256)
def backward(s: Shape) -> Backward:
    f, p, one = forward(s), Program(s.n, s.dtype), (s.n, s.n)
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
    solve(p, groups, first, steps, s.plan.mean.backward_steps)
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
