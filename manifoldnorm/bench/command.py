"""``python -m manifoldnorm bench``: our kernels and norms beside those of others, in one run.

``eigh``: decompositions by size, batch and threads; ``--tune`` measures where ours are faster on this machine and
writes the table that the choice of a solver reads. ``norms``: one training step of every norm. Neither: both.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from manifoldnorm import linalg
from manifoldnorm.bench import eigh, norms, report, tuning


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m manifoldnorm bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["eigh", "norms"], help="default: both")
    parser.add_argument("--tune", action="store_true", help="measure and write this machine's table, nothing else")
    parser.add_argument(
        "--table", type=Path, help="with --tune: where to; default: MANIFOLDNORM_TUNE or the user's cache"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the tables and the picture there")
    parser.add_argument("--quick", action="store_true", help="a few small sizes, seconds in all; figures mean little")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float64", "complex64", "complex128"],
        nargs="+",
        default=["float64", "float32"],
        help="complex ones for the decompositions only",
    )
    parser.add_argument("--threads", type=int, default=1)
    norms.add_options(parser)
    options = parser.parse_args(arguments)
    if options.out:  # before the measurements, not after them
        if options.out.exists() and not options.out.is_dir():
            parser.error(f"--out {options.out}: a folder is expected, and this is a file")
        options.out.mkdir(parents=True, exist_ok=True)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device")
    if any(name.startswith("complex") for name in options.dtype) and (
        options.what == "norms" or options.device == "cuda"
    ):
        parser.error("--dtype complex64 and complex128 go with eigh, on CPU")
    if options.tune and options.what == "norms":
        parser.error("--tune goes with eigh")
    if options.device == "cuda" and options.what == "norms":
        parser.error("norms are timed on CPU here; benchmarks/gpu.py times them on a GPU")
    return options


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _decompositions(options: argparse.Namespace) -> None:
    lines, found = [eigh.HEADER, report.rule(eigh.HEADER)], []
    _say("\n".join(lines))
    dtypes = [getattr(torch, name) for name in options.dtype]
    with linalg.backend(options.backend):
        for varied, row in eigh.rows(
            options.device, dtypes, quick=options.quick, seconds=0.02 if options.quick else 0.4
        ):
            found.append((varied, row))
            lines.append(str(row))
            _say(lines[-1])
    _say("")
    if options.out:
        (options.out / "eigh.md").write_text("\n".join([_heading(options), "", *lines, ""]))
        _say(report.picture(found, options.out / "eigh.png"))


def _norms(options: argparse.Namespace) -> None:
    lines = []
    with linalg.backend(options.backend):
        for name in options.dtype:
            if name.startswith("complex"):
                continue
            for line in norms.tables(options, getattr(torch, name)):
                lines.append(line)
                _say(line)
    if options.out:
        (options.out / "norms.md").write_text("\n".join([_heading(options), "", *lines, ""]))


def _heading(options: argparse.Namespace) -> str:
    said = "; ".join(f"{key}: {value}" for key, value in linalg.backends().items())
    return (
        f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), medians and quartiles of "
        f"alternating calls, float32 decomposed in float32\nbackend {options.backend}: {said}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit code."""
    options = _options(arguments)
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        if options.tune:
            return tuning.tune(options.device, options.table, _say, limit=5.0 if options.quick else 120.0)
        with linalg.backend(options.backend):
            _say(_heading(options) + "\n")
        if options.what != "norms":
            _decompositions(options)
        if options.what != "eigh" and options.device == "cpu":
            _norms(options)
        return 0
    finally:
        torch.set_num_threads(before)
