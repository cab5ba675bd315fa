"""The backward program of `_fused_bures`, in the notation of `_bures_forward`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from manifoldnorm.linalg import _program
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._fused import Operation
from manifoldnorm.linalg._program import Place, Program
from manifoldnorm.nn._bures_forward import Forward, Shape, forward
from manifoldnorm.nn._programmed import within


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
    grad_step = p.scratch(*s.many) if s.bias else None
    inputs = [g, moved, here(f.weight), here(f.change), rows, target, kernel, scale]
    p.add(Operation.BURES_ADJOINT, inputs, [grad_root, grad_step, total, grad_scale], **several)
    log_scale, bias, mean = p.kept(1), p.kept(*one), p.kept(groups.count, *one)
    p.add(_program.SUM_ROWS, [grad_scale], [log_scale], like=grad_scale, numbers=(1.0,))
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
        _through_statistics(p, s, f, here, log_scale, grad_root, mean)
    spectrum = (here(f.values), here(f.floored), None, here(f.rows))
    p.adjoint(fn.SQRT, spectrum, grad_root, out, a=here(f.factor), index=groups.index)
    return Backward(p, log_scale, bias, mean)


def _through_statistics(
    p: Program, s: Shape, f: Forward, here: Any, log_scale: Place, grad_root: Place, mean: Place
) -> None:
    """Add what passes through the variance to the gradient in the roots; write that in the mean."""
    one, spectrum = (s.n, s.n), here(f.spectrum)
    slope, in_moved, log, two = p.scratch(1), p.scratch(*s.many), p.scratch(*s.many), p.scratch(1)
    total, work, turned = (p.scratch(*one) for _ in range(3))
    numbers = (-0.25 * s.plan.metric_scale / s.batch, s.plan.eps)
    p.add(_program.SLOPE, [log_scale, here(f.variance)], [slope], numbers=numbers)
    inputs = [here(f.roots), here(f.rows), slope, spectrum, here(f.weight)]
    p.add(Operation.BURES_MEAN_ADJOINT, inputs, [grad_root, in_moved, total, log])
    p.map(_program.FILL, None, two, by=2.0)  # the kernel to the identity is twice the step's
    p.add(_program.BURES_GRADIENT, [spectrum, in_moved, log, two], [total, work], like=log)
    p.rearrange(_program.TRANSPOSED, here(f.basis).item(0), turned)
    p.congruence(turned, total, mean)
