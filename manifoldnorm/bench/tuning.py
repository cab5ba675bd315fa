"""Where our decomposition is faster than torch's on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from manifoldnorm import linalg
from manifoldnorm.bench.matrices import family
from manifoldnorm.bench.timing import alternate
from manifoldnorm.linalg.native import INSTRUCTION_SETS, kernels, location, save
from manifoldnorm.linalg.native._choice import filled

SIZES = {
    "cpu": (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96),
    "cuda": (1, 2, 4, 8, 16, 20, 32, 48, 64),
}
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32, 64), "cuda": (1, 8, 64, 512, 4096)}
COMPLEX = {"cpu": (torch.complex128, torch.complex64), "cuda": ()}  # the kernels for a GPU are real
Least = dict[str, dict[int, int | None]]


def _advantage(n: int, batch: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    a = family("Wishart", batch, n, dtype).to(device)

    def run(mode: str) -> None:
        with linalg.backend(mode):
            linalg.decompose(a)

    with linalg.precision("native"):
        times = alternate({mode: partial(run, mode) for mode in ("native", "torch")}, seconds, least=7)
    return times["torch"].median / times["native"].median


def least_batch(
    n: int, dtype: torch.dtype, device: str, *, seconds: float, advantage: Callable[..., float] = _advantage
) -> int | None:
    """Return the batch from which on ours is faster at every batch that is tried, or None if at the largest it is not.

    From the largest batch down, so that one lucky figure at a small batch decides nothing.
    """
    least = None
    for batch in reversed(BATCHES[device]):
        if advantage(n, batch, dtype, device, seconds) <= 1:
            break
        least = batch
    return least


def _by_rule(n: int, dtype: torch.dtype, device: str) -> int | None:
    """Return what holds without a table."""
    if device != "cpu":
        return None
    return next((batch for batch in range(1, n + 1) if filled(n, batch, dtype)), None)


def measure(device: str, say: Callable[[str], object], *, limit: float = 120.0, seconds: float = 0.02) -> Least:
    """Measure the smallest batches by dtype and size; say each one; for sizes without time left the rule stays."""
    start = time.monotonic()
    found: Least = {}
    for dtype in (torch.float64, torch.float32, *COMPLEX[device]):
        name = str(dtype).removeprefix("torch.")
        found[name] = {}
        for n in SIZES[device]:
            late = time.monotonic() - start > limit
            least = _by_rule(n, dtype, device) if late else least_batch(n, dtype, device, seconds=seconds)
            found[name][n] = least
            verdict = "torch" if least is None else f"ours from batch {least} on"
            say(f"{device} {name}, n = {n}: {verdict}{' (not measured)' if late else ''}")
    return found


def tune(device: str, path: Path | None, say: Callable[[str], object], *, limit: float = 120.0) -> int:
    """Measure, write the table and say where; return the exit code."""
    library = kernels()
    reason = library if device == "cpu" and isinstance(library, str) else None
    if device == "cuda":
        with linalg.backend("native"):  # by itself the choice waits for this measurement
            said = linalg.backends()["cuda"]
        reason = said if not said.startswith("Triton") else None
    if reason is not None:
        say(f"nothing to tune: {reason}")
        return 1
    path = path or location()
    if path is None:
        say("nowhere to write the table: set MANIFOLDNORM_TUNE to a file")
        return 1
    instructions = "" if device == "cuda" or isinstance(library, str) else INSTRUCTION_SETS[library.best]
    save(device, instructions, measure(device, say, limit=limit), path)
    say(f"written to {path}; it is read by the next process (MANIFOLDNORM_TUNE=off ignores it)")
    return 0
