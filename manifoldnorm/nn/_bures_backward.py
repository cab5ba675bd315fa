"""The backward program of `_fused_bures`, in the notation of `_bures_forward`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.nn._bures_forward import Forward, Shape, forward
from manifoldnorm.nn._programmed import Groups, within


class Backward(NamedTuple):
    """A program, and where it leaves the small gradients."""

    program: Program
    log_scale: Place
    bias: Place
    mean: Place


@functools.lru_cache(maxsize=256)
def backward(s: Shape) -> Backward:
    f, p, one = forward(s), Program(s.n, s.dtype), (s.n, s.n)
    memory, g, out = p.argument(f.program.kept_size), p.argument(*s.many), p.argument(*s.many)
    groups, here = f.groups.within(p, memory), functools.partial(within, memory)
    several: dict[str, Any] = {"kind": int(groups.count > 1), "index": groups.index}
    moved, kernel, scale, target, rows = map(here, (f.moved, f.kernel, f.scale, f.target, f.target_rows))
    grad_root, total, grad_scale = p.scratch(*s.many), p.scratch(*one), p.scratch(s.batch, 1)
    each = p.scratch(groups.count, 1)  # gradients in the logarithm of each factor
    grad_step = p.scratch(*s.many) if s.bias else None
    inputs = [g, moved, here(f.weight), here(f.change), rows, target, kernel, scale]
    p.add(Operation.BURES_ADJOINT, inputs, [grad_root, grad_step, total, grad_scale], **several)
    log_scale, bias, mean = p.kept(1), p.kept(*one), p.kept(groups.count, *one)
    p.add(_program.SUM_ROWS, [grad_scale], [each], like=grad_scale, numbers=(1.0,), **groups.options)
    p.add(_program.SUM_ROWS, [each], [log_scale], like=each, numbers=(1.0,))
    if s.bias:
        assert grad_step is not None
        grad, turned, work = p.scratch(*one), p.scratch(*one), p.scratch(*one)
        inputs = [target, grad_step, moved, scale]
        p.add(_program.BURES_GRADIENT, inputs, [total, work], like=grad_step, **groups.options)
        p.rearrange(_program.TRANSPOSED, rows, turned)
        p.congruence(turned, total, bias if s.bias == "point" else grad)
        if s.bias == "tangent":
            p.adjoint(fn.EXP, (here(f.target_log), target, None, rows), grad, bias)
    if s.plan.through:
        p.add(_program.SLOPE, [each, here(f.variance)], [each], numbers=(-0.25 * s.plan.metric_scale, s.plan.eps))
        groups.shares(p, each)
        groups.mask(p, each)
        _through_statistics(p, s, f, groups, here, each, grad_root, mean)
        groups.mask(p, mean)
    spectrum = (here(f.values), here(f.floored), None, here(f.rows))
    p.adjoint(fn.SQRT, spectrum, grad_root, out, a=here(f.factor), index=groups.index)
    return Backward(p, log_scale, bias, mean)


def _through_statistics(
    p: Program, s: Shape, f: Forward, groups: Groups, here: Any, slope: Place, grad_root: Place, mean: Place
) -> None:
    """Add what passes through the variances to the gradient in the roots; write those in the means."""
    means, spectrum = mean.shape, here(f.spectrum)
    in_moved, log, two = p.scratch(*s.many), p.scratch(*s.many), p.scratch(groups.count, 1)
    total, work, turned = p.scratch(*means), p.scratch(s.n, s.n), p.scratch(*means)
    inputs = [here(f.roots), here(f.rows), slope, spectrum, here(f.weight)]
    if groups.count == 1:
        p.add(Operation.BURES_MEAN_ADJOINT, inputs, [grad_root, in_moved, total, log])
    else:
        terms = p.scratch(*s.many)
        outputs = [grad_root, in_moved, terms, log]
        p.add(Operation.BURES_MEAN_ADJOINT, inputs, outputs, kind=1, index=groups.index)
        p.add(_program.SUM_ROWS, [terms], [total], like=terms, numbers=(1.0,), **groups.options)
    p.map(_program.FILL, None, two, by=2.0)  # the kernel to the identity is twice the step's
    inputs = [spectrum, in_moved, log, two]
    p.add(_program.BURES_GRADIENT, inputs, [total, work], like=log, kind=1, **groups.options)
    p.rearrange(_program.TRANSPOSED, here(f.basis), turned)
    p.congruence(turned, total, mean)
