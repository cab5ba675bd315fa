"""What the norms that run as programs share: an autograd Function whose two directions are programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._program import Declined, view


@dataclass
class Run:
    """One batch: what its programs depend on, the running statistics before it, and what they become."""

    shape: Any
    tracks: tuple[Tensor, ...]
    tracked: tuple[Tensor, ...] = ()


class Programmed(Function):
    """A norm with inputs X, the logarithm of the scale, and the bias.

    A forward program is given X, room for the output, what a norm needs, and the running statistics with the weight of
    the batch; a backward program what the forward one kept, the gradient, and room for that in X.
    """

    @staticmethod
    def start(
        ctx: Any, plan: Any, run: Run, x: Tensor, others: Sequence[Tensor | None], parameters: Sequence[Tensor | None]
    ) -> Tensor:
        """Return the output; raise `Declined` where the program failed."""
        dtype = run.shape.dtype
        wide = x.to(dtype).contiguous()
        out = torch.empty(wide.shape, dtype=dtype)
        given = [t.to(dtype).contiguous() for t in (*others, *run.tracks) if t is not None]
        memory = plan.program.run(wide, out, *given)
        if memory is None:
            raise Declined
        run.tracked = tuple(view(place, memory) for place in plan.tracked)
        ctx.run, ctx.memory = run, memory
        ctx.save_for_backward(x, *parameters)
        return out.to(x.dtype)

    @staticmethod
    def finish(
        ctx: Any, plan: Any, g: Tensor, *others: Tensor, add: Callable[[Tensor, Tensor, Tensor], None] | None = None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients in X, the logarithm of the scale and the bias.

        ``add`` is called with what the program kept and the first two, to add to the first what the program leaves out.
        """
        x, log_scale, bias = ctx.saved_tensors
        dtype = ctx.run.shape.dtype
        wide = g.to(dtype).contiguous()
        grad_x = torch.empty(wide.shape, dtype=dtype)
        memory = plan.program.run(ctx.memory, wide, grad_x, *others)
        if memory is None:  # no line of it can fail
            raise RuntimeError("The native library failed in the backward pass of a norm.")
        if add is not None:
            add(memory, grad_x, view(plan.log_scale, memory))
        return (
            grad_x.to(x.dtype),
            None if log_scale is None else view(plan.log_scale, memory).to(x.dtype).reshape(log_scale.shape),
            None if bias is None else view(plan.bias, memory).to(x.dtype),
            None,
        )
