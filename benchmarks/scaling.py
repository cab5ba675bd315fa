"""What synchronised statistics move between processes: sums, bytes and time of a training step.

python benchmarks/scaling.py                                  # 1, 2 and 4 processes of this machine, gloo
python benchmarks/scaling.py --n 20 64 --batch 32 --latency 5 --bandwidth 50
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing

import manifoldnorm as mn
from manifoldnorm.stats import Karcher, Newton

NORMS: dict[str, Callable[[int], mn.nn.ManifoldNorm]] = {
    "LieBN LEM": lambda n: mn.nn.LieBatchNorm(mn.LogEuclidean(n)),
    "LieBN AIM, Karcher(1)": lambda n: mn.nn.LieBatchNorm(mn.AffineInvariant(n), mean=Karcher(1)),
    "LieBN AIM, Newton(1)": lambda n: mn.nn.LieBatchNorm(mn.AffineInvariant(n), mean=Newton(1)),
    "RBN BW, Newton(1)": lambda n: mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(n), mean=Newton(1)),
}


class Sums:
    """Counts what `torch.distributed.all_reduce` does."""

    def __init__(self) -> None:
        self.plain, self.count, self.bytes, self.seconds = dist.all_reduce, 0, 0, 0.0

    def __call__(self, values: torch.Tensor, **options: object) -> object:
        start = time.perf_counter()
        done = self.plain(values, **options)
        self.seconds += time.perf_counter() - start
        self.count += 1
        self.bytes += values.numel() * values.element_size()
        return done


class Row(NamedTuple):
    """One training step, forward and backward."""

    norm: str
    n: int
    batch: int
    processes: int
    sums: int
    bytes: int
    ms: float
    ms_in_sums: float


def measure(name: str, n: int, batch: int, rounds: int) -> Row:
    """Time a step of one norm in all processes at once."""
    layer = mn.nn.convert_sync_batchnorm(NORMS[name](n))
    samples = torch.randn(batch, n, 3 * n)
    x = (samples @ samples.mT / (3 * n)).requires_grad_()
    g = torch.randn_like(x)
    times, inside = [], []
    for step in range(rounds + 2):
        dist.barrier()
        sums = dist.all_reduce = Sums()
        start = time.perf_counter()
        layer(x).backward(g)
        if step > 1:
            times.append(time.perf_counter() - start)
            inside.append(sums.seconds)
        dist.all_reduce = sums.plain
    middle, waiting = 1e3 * statistics.median(times), 1e3 * statistics.median(inside)
    return Row(name, n, batch, dist.get_world_size(), sums.count, sums.bytes, middle, waiting)


def work(rank: int, world: int, folder: str, arguments: argparse.Namespace) -> None:
    """Measure every case in one process of the group."""
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    torch.manual_seed(rank)
    store = f"file://{folder}/store{world}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    rows = [measure(name, n, b, arguments.rounds) for name in NORMS for n in arguments.n for b in arguments.batch]
    if rank == 0:
        torch.save([tuple(row) for row in rows], f"{folder}/rows{world}.pt")
    dist.destroy_process_group()


def measured(rows: list[Row]) -> list[str]:
    """Return the table of what was measured."""
    worlds = sorted({row.processes for row in rows})
    heads = " | ".join(f"ms, {p} process{'es' * (p > 1)}" for p in worlds)
    lines = [
        f"| norm | n | samples of each process | sums | kB | {heads} |",
        "|---|--:|--:|--:|--:|" + "--:|" * len(worlds),
    ]
    for norm, n, batch in dict.fromkeys((row.norm, row.n, row.batch) for row in rows):
        same = sorted((r for r in rows if (r.norm, r.n, r.batch) == (norm, n, batch)), key=lambda r: r.processes)
        times = " | ".join(f"{r.ms:.1f} ({r.ms_in_sums:.1f} in sums)" if r.sums else f"{r.ms:.1f}" for r in same)
        lines.append(f"| {norm} | {n} | {batch} | {same[-1].sums} | {same[-1].bytes / 1e3:.1f} | {times} |")
    return lines


def forecast(rows: list[Row], latency: float, bandwidth: float) -> list[str]:
    """Return the table of what the model says about more processes."""
    many = [8, 64, 512]
    heads = " | ".join(f"{p} processes" for p in many)
    lines = [f"| ms in sums, modelled: {latency:g} us a message, {bandwidth:g} GB/s a link | n | {heads} |"]
    lines.append("|---|--:|" + "--:|" * len(many))
    most = max(row.processes for row in rows)
    for row in {(r.norm, r.n): r for r in rows if r.processes == most}.values():
        times = " | ".join(f"{modelled(row, p, latency, bandwidth):.2f}" for p in many)
        lines += [f"| {row.norm} | {row.n} | {times} |"]
    return lines


def modelled(row: Row, processes: int, latency: float, bandwidth: float) -> float:
    """The milliseconds of a step's sums: a tree there and back for each, and every byte twice through the slowest link.

    Latency in microseconds, bandwidth in GB/s.
    """
    levels = 2 * (processes - 1).bit_length()
    return 1e-3 * row.sums * levels * latency + 1e-6 * 2 * (processes - 1) / processes * row.bytes / bandwidth


def main() -> None:
    """Print the measured and the modelled table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--n", type=int, nargs="+", default=[20, 40])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128], help="samples of each process")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--latency", type=float, default=20.0, help="of one message, in microseconds, for the model")
    parser.add_argument("--bandwidth", type=float, default=3.0, help="of one process's link, in GB/s, for the model")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for world in arguments.processes:
            torch.multiprocessing.spawn(work, (world, folder, arguments), nprocs=world)
            rows += [Row(*row) for row in torch.load(Path(folder, f"rows{world}.pt"))]
    print(f"{platform.machine()}, torch {torch.__version__}, gloo, {arguments.dtype}, one thread for each process\n")
    print("\n".join([*measured(rows), "", *forecast(rows, arguments.latency, arguments.bandwidth)]))


if __name__ == "__main__":
    main()
