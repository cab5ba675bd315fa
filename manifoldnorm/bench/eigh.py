"""The decomposition: ours beside torch, SciPy and CuPy, by size, by batch and by threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.bench.matrices import family
from manifoldnorm.bench.timing import Call, Times, alternate

SIZES = (2, 4, 8, 15, 20, 32, 48, 64, 96)
BATCHES = (8, 30, 128, 512, 2048, 8192, 32768, 65536)
QUICK_SIZES, QUICK_BATCHES = (3, 8, 20), (8, 64)
MEMORY = 1 << 30  # bytes of one batch; larger ones are left out
LONGEST = 3.0  # seconds of one call; slower ones are left out
_LOOPED = 32  # matrices that SciPy decomposes one by one; its time is scaled to the batch
HEADER = "| dtype | n | B | threads | ours ms | spread | torch ms | spread | torch / ours | SciPy ms | CuPy ms |"


@dataclass(frozen=True)
class Row:
    """One comparison: seconds by solver."""

    dtype: str
    n: int
    batch: int
    threads: int
    times: dict[str, Times]
    share: float  # of the batch that SciPy decomposed

    @property
    def ratio(self) -> float:
        """How many times faster than torch's solver ours is."""
        return self.times["torch"].median / self.times["ours"].median

    def __str__(self) -> str:
        cells = [self.dtype, self.n, self.batch, self.threads]
        for name in ("ours", "torch"):
            t = self.times[name]
            low, high = t.quartiles
            cells += [f"{1e3 * t.median:.3f}", f"{1e3 * low:.3f}-{1e3 * high:.3f}"]
        cells.append(f"{self.ratio:.1f}")
        cells.append(f"{1e3 * self.times['SciPy'].median / self.share:.3f}" if "SciPy" in self.times else "")
        cells.append(f"{1e3 * self.times['CuPy'].median:.3f}" if "CuPy" in self.times else "")
        return f"| {' | '.join(map(str, cells))} |"


def _ours(a: Tensor) -> None:
    linalg.decompose(a)


def solvers(a: Tensor) -> dict[str, Call]:
    """Return the calls that decompose the matrices, by name."""
    calls: dict[str, Call] = {"ours": lambda: _ours(a), "torch": lambda: torch.linalg.eigh(a)}
    if a.is_cuda:
        with contextlib.suppress(ImportError):
            import cupy

            view = cupy.from_dlpack(a)
            calls["CuPy"] = lambda: cupy.linalg.eigh(view)
    else:
        some = a[:_LOOPED].numpy()
        calls["SciPy"] = lambda: [scipy.linalg.eigh(m, check_finite=False) for m in some]
    return calls


def compare(n: int, batch: int, dtype: torch.dtype, device: str, seconds: float) -> Row:
    """Time the solvers on one batch in the precision of its dtype."""
    a = family("Wishart", batch, n, dtype).to(device)
    with linalg.precision("native"):
        times = alternate(solvers(a), seconds)
    name = str(dtype).removeprefix("torch.")
    return Row(name, n, batch, torch.get_num_threads(), times, min(batch, _LOOPED) / batch)


def rows(device: str, dtypes: list[torch.dtype], *, quick: bool, seconds: float) -> Iterator[tuple[str, Row]]:
    """Yield what is varied (``"n"``, ``"batch"`` or ``"threads"``) and a comparison."""
    sizes, batches = (QUICK_SIZES, QUICK_BATCHES) if quick else (SIZES, BATCHES)
    for dtype in dtypes:
        for n in sizes:
            yield "n", compare(n, 16 if quick else 512, dtype, device, seconds)
        slowest = 0.0
        for batch in batches:
            grown = slowest * batch / max(batches[max(batches.index(batch) - 1, 0)], 1)
            if batch * 20 * 20 * dtype.itemsize > MEMORY or grown > LONGEST:
                break
            row = compare(20, batch, dtype, device, seconds)
            slowest = max(t.median for name, t in row.times.items() if name != "SciPy")
            yield "batch", row
        if device == "cpu":
            before = torch.get_num_threads()
            try:
                for threads in sorted({1, 2, os.cpu_count() or 1}):
                    torch.set_num_threads(threads)
                    yield "threads", compare(20, 64 if quick else 2048, dtype, device, seconds)
            finally:
                torch.set_num_threads(before)
