"""Time one training step of every norm in eigh units: time over one ``torch.linalg.eigh`` of the same batch, same run.

python benchmarks/norms.py                  # B = 30 and 512, n = 20, float64, one thread
python benchmarks/norms.py --grad-through-stats --dtype float32 --out results/norms.md
python benchmarks/norms.py --backend torch-eigh  # the compiled kernels for everything but decompositions
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import manifoldnorm as mn
from manifoldnorm.stats import Karcher, Newton

Step = Callable[[Tensor, Tensor], None]


class CountPeers(TorchDispatchMode):
    """Count the decompositions of layers that are not ours, as torch sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").removeprefix("_linalg_").removeprefix("linalg_")
        if name in ("eigh", "svd", "cholesky", "cholesky_ex"):
            self.counts[name, args[0].shape[:-2].numel()] += 1
        return func(*args, **(kwargs or {}))


def cases(n: int, through: bool, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return the layers that are timed, by name."""
    k = {"grad_through_stats": through, "dtype": dtype}
    nn = mn.nn
    aim = mn.AffineInvariant(n)
    lem = mn.LogEuclidean(n)
    return {
        "RBN AIM, Karcher(1)": nn.RiemannianBatchNorm(aim, mean=Karcher(1), **k),
        "LieBN AIM, Karcher(1)": nn.LieBatchNorm(aim, mean=Karcher(1), **k),
        "GyroBN AIM, Karcher(1)": nn.GyroBatchNorm(aim, mean=Karcher(1), **k),
        "LieBN AIM, Newton(1)": nn.LieBatchNorm(aim, mean=Newton(1), **k),
        "GyroBN AIM, Newton(1)": nn.GyroBatchNorm(aim, mean=Newton(1), **k),
        "LieBN LEM": nn.LieBatchNorm(lem, **k),
        "LieBN LEM + LogEig": nn.Sequential(nn.LieBatchNorm(lem, **k), nn.LogEig()),
        "LieBN LCM": nn.LieBatchNorm(mn.LogCholesky(n), **k),
        "BW, FixedPoint(1)": nn.RiemannianBatchNorm(mn.BuresWasserstein(n), mean=mn.stats.FixedPoint(1), **k),
        "BW, Newton(1)": nn.RiemannianBatchNorm(mn.BuresWasserstein(n), mean=Newton(1), **k),
        "generalised BW, Newton(1)": nn.BuresWassersteinBatchNorm(n, mean=Newton(1), **k),
    }


def peers(n: int, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return spd_learn's layers if it is installed."""
    try:
        from spd_learn.modules import SPDBatchNormMean, SPDBatchNormMeanVar
    except ImportError:
        print("spd_learn is not installed: its rows are left out (pip install spd_learn)")
        return {}
    layers = {"spd_learn Mean": SPDBatchNormMean(n), "spd_learn MeanVar": SPDBatchNormMeanVar(n)}
    return {name: layer.to(dtype) for name, layer in layers.items()}


def training_step(layer: torch.nn.Module) -> Step:
    """Return one forward and backward pass."""

    def step(x: Tensor, g: Tensor) -> None:
        x = x.detach().requires_grad_()
        layer(x).backward(g)

    return step


def wishart(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Return covariance-like matrices, condition about 25."""
    x = torch.randn(batch, n, 3 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (x @ x.mT / (3 * n)).to(dtype)


def measure(steps: dict[str, Step], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Time all steps interleaved, so that a change of the machine's speed meets all of them."""
    g = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    g = g + g.mT
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step(x, g)
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(x, g)
            times[name].append(time.perf_counter() - start)
    return times


def table(batch: int, n: int, dtype: torch.dtype, through: bool, rounds: int) -> list[str]:
    """Return the rows of one batch size."""
    x = wishart(batch, n, dtype)
    layers = {**cases(n, through, dtype), **peers(n, dtype)}
    steps: dict[str, Step] = {"torch.linalg.eigh": lambda x, g: torch.linalg.eigh(x) and None}
    steps.update({name: training_step(layer) for name, layer in layers.items()})
    times = measure(steps, x, rounds)
    unit = statistics.median(times["torch.linalg.eigh"])
    rows = [f"| {batch} x {n} x {n}, {dtype} | ms | spread | eigh units | decompositions |", "|---|---|---|---|---|"]
    for name, samples in times.items():
        middle = statistics.median(samples)
        quartiles = statistics.quantiles(samples, n=4)
        counted = ""
        if name in layers:
            if name.startswith("spd_learn"):
                with CountPeers() as peer:
                    steps[name](x, torch.ones_like(x))
                counts = peer.counts
            else:
                with mn.linalg.tally() as counts:
                    steps[name](x, torch.ones_like(x))
            kinds = Counter({kind: 0 for kind, _ in counts})
            for (kind, size), times_called in counts.items():
                kinds[kind if size >= batch else f"small {kind}"] += times_called
            counted = ", ".join(f"{v} {k}" for k, v in sorted(kinds.items()) if v)
        spread = f"{1e3 * quartiles[0]:.2f}-{1e3 * quartiles[2]:.2f}"
        rows.append(f"| {name} | {1e3 * middle:.2f} | {spread} | {middle / unit:.2f} | {counted} |")
    return rows


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[30, 512])
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--grad-through-stats", action="store_true")
    parser.add_argument("--backend", choices=["auto", "native", "torch-eigh", "torch"], default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        f"{platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s), "
        f"grad_through_stats={arguments.grad_through_stats}, medians of {arguments.rounds} interleaved rounds",
        f"backend {arguments.backend}: " + "; ".join(f"{k}: {v}" for k, v in mn.linalg.backends().items()),
        "",
    ]
    dtype = getattr(torch, arguments.dtype)
    with mn.linalg.backend(arguments.backend):
        for batch in arguments.batch:
            lines += [*table(batch, arguments.n, dtype, arguments.grad_through_stats, arguments.rounds), ""]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
