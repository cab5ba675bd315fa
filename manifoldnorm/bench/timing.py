"""Times of calls that alternate, so that a change of the machine's speed meets all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]
IN_A_ROW = 4  # after another call the operands of this one are not in the cache, where a loop over it finds them


@dataclass(frozen=True)
class Times:
    """Seconds of repeated calls."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and upper quartile."""
        low, _, high = statistics.quantiles(self.samples, n=4)
        return low, high


def alternate(calls: Mapping[str, Call], seconds: float, *, least: int = 3, most: int = 100) -> dict[str, Times]:
    """Time all calls in turns of four, after two rounds that do not count, for about ``seconds`` in all.

    Each has at least ``least`` samples, of which there are at most ``4 * most``.

    Examples
    --------
    >>> from manifoldnorm.bench.timing import alternate
    >>> times = alternate({"a": lambda: None, "b": lambda: None}, 0.0)
    >>> {name: len(t.samples) for name, t in times.items()}
    {'a': 4, 'b': 4}
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    start = time.perf_counter()
    for _ in range(2):
        start = time.perf_counter()
        for call in calls.values():
            call()
        wait()
    one = max(time.perf_counter() - start, 1e-7)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    turns, order = list(calls.items()), random.Random(0)
    for _ in range(max(-(-least // IN_A_ROW), min(most, int(seconds / one / IN_A_ROW)))):
        for name, call in turns:
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                call()
                wait()
                samples[name].append(time.perf_counter() - start)
        order.shuffle(turns)  # nobody always runs after the same one
    return {name: Times(tuple(values)) for name, values in samples.items()}
