"""The table of this machine: the batches from which on our kernels are faster than torch's solver."""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
from pathlib import Path

import torch

VARIABLE = "MANIFOLDNORM_TUNE"
_FORMAT = 1
_NEVER = sys.maxsize
_REAL, _COMPLEX = ("float32", "float64"), ("complex64", "complex128")
Rows = dict[str, dict[int, int | None]]  # dtype -> size -> smallest batch, or None for never


def location() -> Path | None:
    """Return where the table is kept, or None if ``MANIFOLDNORM_TUNE`` is ``off`` or there is no home."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        cache = "Library/Caches" if sys.platform == "darwin" else ".cache"
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(f"~/{cache}")
    return Path(base, "manifoldnorm", "eigh.json") if base and not base.startswith("~") else None


def machine(device: str, instructions: str) -> dict[str, str]:
    """Return what a table depends on: one of another processor or torch is not used."""
    if device == "cuda":
        return {"processor": torch.cuda.get_device_name(), "torch": torch.__version__}
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name, "instructions": instructions, "torch": torch.__version__}


class Table:
    """The smallest batch at which the kernels are faster, for each dtype and every size up to the largest measured."""

    def __init__(self, rows: Rows) -> None:
        self._least: dict[torch.dtype, list[int]] = {}
        for name in (*_REAL, *(name for name in _COMPLEX if name in rows)):  # older tables have no complex rows
            sizes = sorted(rows[name])
            if not sizes or not all(isinstance(b, int) or b is None for b in rows[name].values()):
                raise ValueError(f"no batches for {name}")
            least = [_NEVER] * (sizes[-1] + 1)
            for size in reversed(sizes):  # a size between two that were measured counts as the larger one
                batch = rows[name][size]
                least[: size + 1] = [_NEVER if batch is None else batch] * (size + 1)
            self._least[getattr(torch, name)] = least

    def knows(self, dtype: torch.dtype) -> bool:
        """Return whether this dtype was measured."""
        return dtype in self._least

    def faster(self, n: int, batch: int, dtype: torch.dtype) -> bool:
        """Return whether the kernels are faster than torch's solver; sizes beyond the table are torch's."""
        least = self._least[dtype]
        return n < len(least) and batch >= least[n]


def save(device: str, instructions: str, rows: Rows, path: Path) -> None:
    """Write a device's rows to a file, and keep those of other devices that it has."""
    tables = {}
    if path.exists():
        try:
            tables = json.loads(path.read_text())["tables"]
        except (ValueError, KeyError, TypeError):
            tables = {}  # broken: made anew
    tables[device] = {"machine": machine(device, instructions), "smallest_batch": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"format": _FORMAT, "tables": tables}, indent=1) + "\n")
    fresh.replace(path)  # whoever reads meanwhile sees the old one or the new one


@functools.cache
def table(device: str, instructions: str) -> Table | str | None:
    """Return the table of this machine, read once; why it is not used; or None if there is none."""
    path = location()
    if path is None or not (path.exists() or os.environ.get(VARIABLE)):
        return None
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            return f"{path.name} has another format"
        found = content["tables"].get(device)
        if found is None:
            return None
        if found["machine"] != machine(device, instructions):
            return f"{path.name} was measured on another machine or with another torch"
        rows = {name: {int(n): b for n, b in entry.items()} for name, entry in found["smallest_batch"].items()}
        return Table(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path.name} cannot be read ({type(error).__name__}: {error})"
