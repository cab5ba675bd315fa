"""Time one training step of the norms on spaces of constant curvature: forward, backward, statistics.

python benchmarks/hyperbolic.py                       # batch 1024, dimension 64, one thread, both precisions
python benchmarks/hyperbolic.py --batch 256 --dim 8 --out results/hyperbolic.md

The unit is the same run's time of ten products of two batches, which tells a busy machine from a slow layer.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.stats import Exact, Midpoint, Newton

Step = Callable[[], None]


def cases(d: int, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return the layers that are timed, by name."""
    k = {"dtype": dtype}
    nn, ball = mn.nn, mn.PoincareBall(d)
    learned = nn.LearnableManifold(mn.Stereographic(d, -0.5), ("curvature",), **k)
    return {
        "GyroBN ball, default mean": nn.GyroBatchNorm(ball, **k),
        "GyroBN ball, Newton(1)": nn.GyroBatchNorm(ball, mean=Newton(1), **k),
        "GyroBN ball, Exact()": nn.GyroBatchNorm(ball, mean=Exact(), **k),
        "GyroBN ball, Midpoint()": nn.GyroBatchNorm(ball, mean=Midpoint(), **k),
        "GyroBN learned curvature": nn.GyroBatchNorm(learned, **k),
        "RBN ball, direct": nn.RiemannianBatchNorm(ball, route="direct", **k),
        "midpoint BN": nn.PoincareMidpointBatchNorm(ball, **k),
        "midpoint BN, recentred": nn.PoincareMidpointBatchNorm(ball, recenter=True, **k),
        "GyroBN Lorentz": nn.GyroBatchNorm(mn.Lorentz(d), **k),
        "GyroBN Klein": nn.GyroBatchNorm(mn.Klein(d), **k),
        "GyroBN sphere": nn.GyroBatchNorm(mn.Sphere(d), **k),
        "GyroBN projected sphere": nn.GyroBatchNorm(mn.ProjectedSphere(d), **k),
        "torch BatchNorm1d": torch.nn.BatchNorm1d(d, **k),
    }


def peers(d: int, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return hypll's layers if it is installed."""
    try:
        from hypll.manifolds.poincare_ball import Curvature, PoincareBall
        from hypll.nn import HBatchNorm
        from hypll.tensors import ManifoldTensor
    except ImportError:
        print("hypll is not installed: its rows are left out (pip install hypll)")
        return {}
    ball = PoincareBall(Curvature(1.0))

    class Layer(torch.nn.Module):
        def __init__(self, midpoint: bool) -> None:
            super().__init__()
            self.norm = HBatchNorm(d, ball, use_midpoint=midpoint)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(ManifoldTensor(x, manifold=ball, man_dim=-1)).tensor

    layers = {"hypll midpoint": Layer(True), "hypll Frechet mean": Layer(False)}
    return {name: layer.to(dtype) for name, layer in layers.items()}


def training_step(layer: torch.nn.Module, x: Tensor, g: Tensor) -> Step:
    """Return one forward and backward pass."""

    def step() -> None:
        layer(x.detach().requires_grad_()).backward(g)

    return step


def samples(layer: torch.nn.Module, batch: int, d: int, dtype: torch.dtype) -> Tensor:
    """Return points of the layer's geometry about one from its origin (of the ball for other layers)."""
    geometry = layer.manifold if isinstance(layer, mn.nn.ManifoldNorm) else mn.PoincareBall(d)
    generator = torch.Generator().manual_seed(0)
    return geometry.random_point(batch, generator=generator, dtype=torch.float64).detach().to(dtype)


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Time all steps interleaved, so that a change of the machine's speed meets all of them."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def table(batch: int, d: int, dtype: torch.dtype, rounds: int) -> list[str]:
    """Return the rows of one precision."""
    steps: dict[str, Step] = {}
    a, b = torch.randn(2, batch, d, dtype=dtype)
    steps["ten products"] = lambda: [a * b for _ in range(10)] and None
    for name, layer in {**cases(d, dtype), **peers(d, dtype)}.items():
        x = samples(layer, batch, d, dtype)
        steps[name] = training_step(layer, x, torch.randn_like(x))
    times = measure(steps, rounds)
    unit = statistics.median(times["ten products"])
    rows = [f"| {batch} x {d}, {dtype} | ms | fastest | spread | units |", "|---|---|---|---|---|"]
    for name, values in times.items():
        quartiles = [1e3 * q for q in statistics.quantiles(values, n=4)]
        spread = f"{quartiles[0]:.2f}-{quartiles[2]:.2f}"
        rows.append(
            f"| {name} | {quartiles[1]:.2f} | {1e3 * min(values):.2f} | {spread} | {quartiles[1] / 1e3 / unit:.0f} |"
        )
    return rows


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    head = f"{platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s)"
    lines = [f"{head}, medians of {arguments.rounds} interleaved rounds", ""]
    for dtype in (torch.float64, torch.float32):
        lines += [*table(arguments.batch, arguments.dim, dtype, arguments.rounds), ""]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
