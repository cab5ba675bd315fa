"""A synchronised norm: several processes, for which threads stand here, equal one with the whole batch."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.stats import Processes
from manifoldnorm.testing.cases import mismatch
from manifoldnorm.testing.norm_cases import BATCH, NormCase

SIZES = (BATCH - 4, 0, 4)  # uneven, and one without samples
_SECONDS = 60.0


@dataclass(eq=False)
class _Board:
    """Where the threads leave what is to be summed."""

    slots: list[Any] = field(default_factory=lambda: [None] * len(SIZES))
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(len(SIZES), timeout=_SECONDS))


@dataclass(frozen=True, eq=False)
class _Thread(Processes):
    """One thread among those that stand for processes."""

    rank: int = 0
    board: _Board = field(default_factory=_Board)

    @property
    def size(self) -> int:
        return len(SIZES)

    def _reduce(self, values: Tensor) -> None:
        self.board.slots[self.rank] = values.clone()
        self.board.barrier.wait()
        total = torch.stack(self.board.slots).sum(0)
        self.board.barrier.wait()
        values.copy_(total)


def processes_equal_one(case: NormCase) -> float:
    """Outputs, gradients and state of several processes with parts of a batch are those of one with all of it."""
    layer, x = case.generic(), case.batch()
    if not hasattr(layer, "processes"):
        raise NotImplementedError("the layer does not take part in sums over processes")
    if x.device.type != "cpu":
        raise NotImplementedError("threads stand for processes on the CPU only: others run all backward passes in one")
    weight = case.cast(case.noise(*x.shape))
    whole = _step(copy.deepcopy(layer), x, weight)
    board, parts = _Board(), zip(x.split(SIZES), weight.split(SIZES), strict=True)
    tasks = [_task(copy.deepcopy(layer), _Thread(rank=rank, board=board), *part) for rank, part in enumerate(parts)]
    with ThreadPoolExecutor(len(SIZES)) as pool:
        found = [future.result() for future in [pool.submit(task) for task in tasks]]
    outputs, inputs, parameters, states = zip(*found, strict=True)
    pairs = [(torch.cat(outputs), whole[0]), (torch.cat(inputs), whole[1])]
    pairs += [(sum(of), one) for *of, one in zip(*parameters, whole[2], strict=True)]
    pairs += [(got, one) for state in states for got, one in zip(state, whole[3], strict=True)]
    return max(mismatch(got.to(case.wide), one.to(case.wide)) for got, one in pairs)


def _task(layer: Any, process: _Thread, x: Tensor, weight: Tensor) -> Callable[[], Any]:
    context = contextvars.copy_context()

    def run() -> Any:
        layer.processes = process
        try:
            return context.run(_step, layer, x, weight)
        except BaseException:
            process.board.barrier.abort()  # the others would wait
            raise

    return run


def _step(layer: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Return output, gradients of the input and of the parameters, and buffers of one training step."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    sources = [leaf, *layer.parameters()]
    gradients = torch.autograd.grad((y * weight.conj()).real.sum(), sources, allow_unused=True)
    slope, *own = (torch.zeros_like(s) if g is None else g for g, s in zip(gradients, sources, strict=True))
    return y.detach(), slope, own, [buffer.clone() for buffer in layer.buffers()]


PROCESS_LAWS = (processes_equal_one,)
