"""What the norms that run as programs share: lines for statistics, of all samples or per domain, and the Function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _program
from manifoldnorm.linalg._basis import no_derivative
from manifoldnorm.linalg._program import Declined, Place, Program, view
from manifoldnorm.stats import Segments

_ONCE = (
    "This norm is differentiable once. Those of flat geometries, such as LogEuclidean and LogCholesky, have second "
    "derivatives."
)


@dataclass(frozen=True)
class Groups:
    """The groups of samples that have statistics of their own: all together, or those of each domain.

    Attributes
    ----------
    batch, count : int
        Samples, and groups.
    index, share, enough : Place or None
        The domain of each sample, its share in the domain's statistics, and whether the domain has enough samples.
    """

    batch: int
    count: int
    index: Place | None = None
    share: Place | None = None
    enough: Place | None = None

    @staticmethod
    def of(p: Program, batch: int, domains: int, min_samples: int) -> Groups:
        """Return the groups, counted by the program; with domains their index is its next argument."""
        if not domains:
            return Groups(batch, 1)
        index, share, enough = p.argument(batch, 1), p.kept(domains, 1), p.kept(domains, 1)
        numbers = (float(min_samples),)
        p.add(_program.COUNTS, [], [share, enough], like=index, numbers=numbers, index=index, groups=domains)
        return Groups(batch, domains, index, share, enough)

    def within(self, p: Program, memory: Place) -> Groups:
        """Return them for another program that has what the first one kept."""
        if self.share is None or self.enough is None:
            return self
        index = p.argument(self.batch, 1)
        return Groups(self.batch, self.count, index, within(memory, self.share), within(memory, self.enough))

    @property
    def options(self) -> dict[str, Any]:
        """What a line on rows of samples needs to know."""
        return {"index": self.index, "groups": self.count}

    def mean(self, p: Program, rows: Place, out: Place) -> None:
        """The mean of the samples of each group, 0 where there is none."""
        number = 1.0 if self.share is not None else 1 / self.batch
        p.add(_program.SUM_ROWS, [rows, self.share], [out], like=rows, numbers=(number,), **self.options)

    def variance(self, p: Program, rows: Place, centre: Place | None, out: Place, by: float) -> None:
        """The mean square distance from the centre, times ``by``."""
        number = by if self.share is not None else by / self.batch
        inputs = [rows, centre, self.share]
        p.add(_program.SQUARES, inputs, [out], like=rows, numbers=(number,), **self.options)

    def choose(self, p: Program, statistic: Place, running: Place | None) -> None:
        """Replace the statistics of domains with too few samples by the running ones."""
        if self.enough is not None:
            p.add(_program.SELECT, [statistic, running, self.enough], [statistic])

    def mask(self, p: Program, x: Place) -> None:
        """Put zeros where a domain has too few samples."""
        if self.enough is not None:
            p.map(_program.SCALE, x, x, factor=self.enough, groups=self.count)

    def shares(self, p: Program, x: Place) -> None:
        """Turn numbers of groups into what each of their samples gets."""
        by = 1.0 if self.share is not None else 1 / self.batch
        p.map(_program.SCALE, x, x, by=by, factor=self.share, groups=self.count)

    def variance_follows(self, p: Program, running: Sequence[Place], variance: Place) -> tuple[Place, Place]:
        """Return the weight of the batch for each group, and the running variance after it."""
        _, old, given = running
        weight, new = p.scratch(self.count, 1), p.kept(self.count, 1)
        p.map(_program.SCALE, given, weight, factor=self.enough, groups=self.count)
        p.add(_program.LERP, [old, variance, weight], [new], groups=self.count)
        p.add(_program.FINITE, [new], [], like=new)
        return weight, new


def within(memory: Place, place: Place) -> Place:
    """Return where something kept lies for a program that is given the memory."""
    return Place(memory.buffer, place.start, place.shape)


@dataclass
class Run:
    """One batch.

    What its programs depend on, the running statistics before it with its weight, its domains, and what the program
    makes of the statistics: ``tracked`` are the running mean, the running variance and, with domains, which of them
    have enough samples; ``found`` the mean and the variance that were used. Both are views of what the program keeps
    for its way back: who has read them calls `forget`, which leaves ``enough``.
    """

    shape: Any
    tracks: tuple[Tensor, ...]
    domain: Tensor | None = None
    domains: int = 0
    min_samples: int = 1
    segments: Callable[[], Segments] | None = None
    tracked: tuple[Tensor, ...] = ()
    found: tuple[Tensor, ...] = ()
    enough: Tensor | None = None

    def forget(self) -> None:
        """Let autograd alone decide when the program's memory is freed."""
        self.enough = self.tracked[2].view(-1) != 0 if len(self.tracked) > 2 else None
        self.tracked = self.found = ()

    def start(self, policy: Any, manifold: Any, x: Tensor) -> Tensor:
        """Return where the policy's last step to the mean starts."""
        found: Tensor = policy.before_last(manifold, x, None if self.segments is None else self.segments())
        return found


class Programmed(Function):
    """A norm with inputs X, the logarithm of the scale, and the bias.

    A forward program is given X, room for the output, the domains if there are any, what a norm needs, and the running
    statistics with the weight of the batch; a backward program what the forward one kept, the gradient, room for that
    in X, and the domains.
    """

    @staticmethod
    def start(
        ctx: Any, plan: Any, run: Run, x: Tensor, others: Sequence[Tensor | None], parameters: Sequence[Tensor | None]
    ) -> Tensor:
        """Return the output; raise `Declined` where the program failed."""
        dtype = run.shape.dtype
        wide = x.resolve_neg().to(dtype).contiguous()
        out = torch.empty_like(wide)
        run.domain = None if run.domain is None else run.domain.long().contiguous()
        given = [t.resolve_neg().to(dtype).contiguous() for t in (*others, *run.tracks) if t is not None]
        memory = plan.program.run(wide, out, *(() if run.domain is None else (run.domain,)), *given)
        if memory is None:
            raise Declined
        run.tracked = tuple(view(place, memory) for place in plan.tracked)
        run.found = tuple(view(place, memory) for place in plan.found)
        ctx.run = run
        ctx.save_for_backward(x, *parameters, memory)
        return out.to(x.dtype)

    @staticmethod
    def finish(run: Run, saved: Sequence[Any], plan: Any, g: Tensor, *others: Tensor) -> tuple[Any, ...]:
        """Return the gradients in X, the logarithm of the scale and the bias; then what the program kept."""
        x, log_scale, bias, kept = saved
        dtype, domain = run.shape.dtype, run.domain
        wide = g.resolve_neg().to(dtype).contiguous()
        grad_x = torch.empty_like(wide)
        given = [t.resolve_neg().to(dtype).contiguous() for t in others]
        memory = plan.program.run(kept, wide, grad_x, *(() if domain is None else (domain,)), *given)
        if memory is None:  # no line of it can fail
            raise RuntimeError("The native library failed in the backward pass of a norm.")
        gradients: tuple[Tensor | None, ...] = (
            grad_x.to(x.dtype),
            None if log_scale is None else view(plan.log_scale, memory).to(x.dtype).reshape(log_scale.shape),
            None if bias is None else view(plan.bias, memory).to(x.dtype).reshape(bias.shape),
        )
        if torch.is_grad_enabled():
            sources = (g, x, log_scale, bias)
            gradients = tuple(None if grad is None else no_derivative(_ONCE, grad, *sources) for grad in gradients)
        return *gradients, memory
