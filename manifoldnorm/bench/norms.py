"""One training step of every norm in eigh units: time over one ``torch.linalg.eigh`` of the same batch, same run."""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import manifoldnorm as mn
from manifoldnorm.bench import hyperbolic
from manifoldnorm.bench.timing import Call, alternate
from manifoldnorm.stats import Karcher, Newton

Step = Callable[[Tensor, Tensor], None]
Cases = Callable[[int, bool, torch.dtype], dict[str, torch.nn.Module]]
PEERS = ("spd_learn", "hypll")  # geoopt has manifolds and optimizers, but no norms


class CountPeers(TorchDispatchMode):
    """Count the decompositions of layers that are not ours, as torch sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then run."""
        name = func._schema.name.removeprefix("aten::").removeprefix("_linalg_").removeprefix("linalg_")
        if name in ("eigh", "svd", "cholesky", "cholesky_ex"):
            self.counts[name, args[0].shape[:-2].numel()] += 1
        return func(*args, **(kwargs or {}))


def cases(n: int, through: bool, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return the layers that are timed, by name."""
    k: dict[str, Any] = {"grad_through_stats": through, "dtype": dtype}
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


def table(batch: int, n: int, dtype: torch.dtype, through: bool, *, rounds: int, cases: Cases = cases) -> Iterator[str]:
    """Yield the rows of one batch size."""
    x = wishart(batch, n, dtype)
    g = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    g = g + g.mT
    others = peers(n, dtype)
    layers = {**cases(n, through, dtype), **others}
    steps = {name: training_step(layer) for name, layer in layers.items()}
    calls: dict[str, Call] = {"torch.linalg.eigh": lambda: torch.linalg.eigh(x)}
    calls.update({name: partial(step, x, g) for name, step in steps.items()})
    times = alternate(calls, 3600.0, most=rounds)
    unit = times["torch.linalg.eigh"].median
    yield f"| {batch} x {n} x {n}, {dtype} | ms | spread | eigh units | decompositions |"
    yield "|---|---|---|---|---|"
    for name, t in times.items():
        counted = "" if name not in steps else decompositions(steps[name], x, peer=name in others)
        low, high = t.quartiles
        cells = (f"{1e3 * t.median:.2f}", f"{1e3 * low:.2f}-{1e3 * high:.2f}", f"{t.median / unit:.2f}", counted)
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def decompositions(step: Step, x: Tensor, *, peer: bool) -> str:
    """Return what one step decomposes: calls by kind, those of the whole batch and small ones."""
    if peer:
        with CountPeers() as counter:
            step(x, torch.ones_like(x))
        counts = counter.counts
    else:
        with mn.linalg.tally() as counts:
            step(x, torch.ones_like(x))
    kinds: Counter[str] = Counter()
    for (kind, size), called in counts.items():
        kinds[kind if size >= len(x) else f"small {kind}"] += called
    return ", ".join(f"{v} {k}" for k, v in sorted(kinds.items()))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run of the norms can vary."""
    parser.add_argument("--batch", type=int, nargs="+", default=[30, 512], help="of norms")
    parser.add_argument("--n", type=int, nargs="+", default=[20], help="of norms")
    parser.add_argument("--rounds", type=int, default=40, help="of norms")
    parser.add_argument("--grad-through-stats", action="store_true", help="of norms")
    parser.add_argument("--backend", choices=["auto", "native", "torch-eigh", "torch"], default="auto")


def tables(options: argparse.Namespace, dtype: torch.dtype) -> Iterator[str]:
    """Yield the tables of every batch and size, and which peers are missing."""
    batches, rounds = ([4], 3) if options.quick else (options.batch, options.rounds)
    for n in [5] if options.quick else options.n:
        for batch in batches:
            yield from table(batch, n, dtype, options.grad_through_stats, rounds=rounds)
    batch, d = (8, 4) if options.quick else (1024, 64)
    yield from hyperbolic.table(batch, d, dtype, rounds=rounds)
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        yield f"not installed, so without rows: {', '.join(missing)}"
