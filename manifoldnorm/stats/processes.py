"""Sums over the processes of `torch.distributed`: one packed all-reduce for all that a step of the statistics needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True, eq=False)
class Processes:
    """The processes whose samples count in a statistic; every one of them must take part in every sum.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        None is the default group at the time of the sum.

    Examples
    --------
    >>> from manifoldnorm.stats import Processes
    >>> Processes().size
    1
    """

    group: Any = None

    def __deepcopy__(self, memo: Any) -> Processes:
        return self  # a process group cannot be copied

    @property
    def size(self) -> int:
        """How many; 1 where `torch.distributed` is not initialised and in a process outside of the group."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return max(dist.get_world_size(self.group), 1)

    def sum(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the sums over all processes of tensors of any shape and dtype, in one all-reduce.

        Differentiable: the gradient of a sum, which every process uses, is the sum of their gradients.
        """
        real = [torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in parts]
        dtype = reduce(torch.promote_types, (part.dtype for part in real))
        packed = torch.cat([part.flatten().to(dtype) for part in real])
        if torch.is_grad_enabled() and packed.requires_grad:
            packed = _Sum.apply(packed, self)
        else:
            self._reduce(packed)
        pieces = packed.split([part.numel() for part in real])
        shaped = [piece.to(part.dtype).reshape(part.shape) for piece, part in zip(pieces, real, strict=True)]
        return tuple(torch.view_as_complex(s) if p.is_complex() else s for s, p in zip(shaped, parts, strict=True))

    def average_gradient(self, value: Tensor) -> Tensor:
        """Return a value that all processes share, with the mean of their gradients as the gradient of each.

        What is not linear in the gradient, such as a few conjugate-gradient steps, then sees that of the whole batch.
        """
        if not (torch.is_grad_enabled() and value.requires_grad):
            return value
        return _AverageGradient.apply(value, self)

    def _reduce(self, values: Tensor) -> None:
        try:
            dist.all_reduce(values, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"Synchronised statistics: process {dist.get_rank()} could not sum over the {self.size} processes; "
                f"another one has ended or does not answer, and the step cannot be finished without it; or it sums "
                f"other than the {values.numel()} numbers here, as with another number of domains (call add_domain in "
                f"every process). Look for the first error among all processes, and start again from the last "
                f"checkpoint (torchrun does so with --max-restarts). The backend says: {error}"
            ) from error


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        total = values.clone()
        processes._reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return *ctx.processes.sum(g), None


class _AverageGradient(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.processes.sum(g)[0] / ctx.processes.size, None
