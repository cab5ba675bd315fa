"""Time a training step (forward and backward) of the Grassmann batch norms, and of the published layer's operations.

python benchmarks/grassmann.py                                   # batch 30 and 512, n = 50, p = 10, float64, one thread
python benchmarks/grassmann.py --dtype float32 --batch 128 --out results/grassmann.md

The published GyroBN layer is not a dependency: its rows run the same operations (three singular value decompositions
and one n x n solve per sample, detached statistics, one Karcher step from the first sample), from its description.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import manifoldnorm as mn

Step = Callable[[], None]


class PublishedOperations(nn.Module):
    """GyroBN on Grassmann manifolds by full decompositions and n x n Cayley transforms or exponentials."""

    def __init__(self, n: int, p: int, exponential: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.n, self.p, self.exponential = n, p, exponential
        self.bias = nn.Parameter(torch.zeros(n - p, p, dtype=dtype))
        self.shift = nn.Parameter(torch.ones((), dtype=dtype))
        self.register_buffer("running_mean", torch.eye(n, p, dtype=dtype))
        self.register_buffer("running_var", torch.ones((), dtype=dtype))

    def turn(self, b: Tensor) -> Tensor:
        """An orthogonal n x n matrix from the lower block of omega."""
        omega = b.new_zeros(*b.shape[:-2], self.n, self.n)
        omega[..., : self.p, self.p :] = -b.mT
        omega[..., self.p :, : self.p] = b
        if self.exponential:
            return torch.linalg.matrix_exp(omega)
        eye = torch.eye(self.n, dtype=b.dtype)
        return torch.linalg.solve(eye + omega, eye - omega, left=False)

    def log(self, base: Tensor | None, x: Tensor) -> Tensor:
        """The logarithm, at the origin its lower block."""
        product = x[..., : self.p, :].mT if base is None else x.mT @ base
        u, cosine, vh = torch.linalg.svd(product)
        sine = (1 - cosine.clamp(0, 1).square()).sqrt()
        ratio = torch.where(sine != 0, sine.asin() / sine, sine.asin())
        y = x @ u
        rest = y[..., self.p :, :] if base is None else y - base @ (base.mT @ y)
        return (rest * ratio.unsqueeze(-2)) @ vh

    def exp(self, base: Tensor, v: Tensor) -> Tensor:
        """The exponential, orthonormalised."""
        u, angle, vh = torch.linalg.svd(v, full_matrices=False)
        return torch.linalg.qr((base @ vh.mT * angle.cos().unsqueeze(-2) + u * angle.sin().unsqueeze(-2)) @ vh)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch."""
        with torch.no_grad():
            mean = self.exp(x[0], self.log(x[0], x).mean(0))
            variance = torch.linalg.svd(x.mT @ mean)[1].clamp(-1, 1).acos().square().sum(-1).mean()
            self.running_mean.copy_(self.exp(self.running_mean, 0.1 * self.log(self.running_mean, mean)))
            self.running_var.lerp_(variance, 0.1)
        centred = self.turn(-self.log(None, mean)) @ x
        scaled = self.turn(self.shift / (variance + 1e-5).sqrt() * self.log(None, centred))[..., : self.p]
        return self.turn(self.bias) @ scaled


def cases(n: int, p: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The layers that are timed, by name."""
    m, norm = mn.Grassmann(n, p), mn.nn.GyroBatchNorm
    karcher = mn.stats.Karcher(1)
    return {
        "published operations, Cayley (its default)": PublishedOperations(n, p, False, dtype),
        "published operations, exponential (exact)": PublishedOperations(n, p, True, dtype),
        "GyroBN, detached statistics, Karcher(1)": norm(m, grad_through_stats=False, mean=karcher, dtype=dtype),
        "GyroBN, detached statistics": norm(m, grad_through_stats=False, dtype=dtype),
        "GyroBN": norm(m, dtype=dtype),
        "RBN, direct": mn.nn.RiemannianBatchNorm(m, route="direct", dtype=dtype),
    }


def batch_of(count: int, n: int, p: int, dtype: torch.dtype) -> Tensor:
    """Frames about half a unit away from a common centre."""
    m, generator = mn.Grassmann(n, p), torch.Generator().manual_seed(0)
    centre = m.random_point(generator=generator, dtype=torch.float64).expand(count, n, p)
    return m.exp(centre, 0.5 * m.random_tangent(centre, generator) / m.dim**0.5).detach().to(dtype)


CLOCKS = {"wall": time.perf_counter, "thread": time.thread_time}


def measure(steps: dict[str, Step], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Time all steps interleaved, so that a change of the machine's speed meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    return times


def table(count: int, n: int, p: int, dtype: torch.dtype, rounds: int, clock: str) -> list[str]:
    """The rows of one batch size."""
    x = batch_of(count, n, p, dtype)
    weight = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    finite = {}

    def training_step(name: str, layer: nn.Module) -> Step:
        def step() -> None:
            leaf = x.clone().requires_grad_()
            layer(leaf).backward(weight)
            finite[name] = bool(leaf.grad.isfinite().all())

        return step

    layers = cases(n, p, dtype)
    times = measure({name: training_step(name, layer) for name, layer in layers.items()}, rounds, CLOCKS[clock])
    unit = statistics.median(times["published operations, Cayley (its default)"])
    rows = [
        f"| batch {count}, n {n}, p {p}, {dtype} | ms | quartiles | times faster | finite gradient |",
        "|---|---|---|---|---|",
    ]
    for name, samples in times.items():
        low, middle, high = statistics.quantiles(samples, n=4)
        rows.append(
            f"| {name} | {1e3 * middle:.2f} | {1e3 * low:.2f}-{1e3 * high:.2f} | {unit / middle:.1f} | {finite[name]} |"
        )
    return rows


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[30, 512])
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--p", type=int, default=10)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="thread: processor time of one thread, on a busy machine"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.clock == "thread" and arguments.threads != 1:
        parser.error("--clock thread counts one thread only: use --threads 1")
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    lines = [
        f"{platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s), "
        f"medians of {arguments.rounds} interleaved rounds, {arguments.clock} time",
        "",
    ]
    for count in arguments.batch:
        lines += [*table(count, arguments.n, arguments.p, dtype, arguments.rounds, arguments.clock), ""]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
