"""Time a training step with statistics for 20 domains beside the plain norm on the same batch.

python benchmarks/domains.py                   # 512 matrices, n = 20, float64, one thread
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.bench.norms import wishart
from manifoldnorm.bench.timing import alternate

Make = Callable[..., torch.nn.Module]


def cases(n: int) -> dict[str, Make]:
    """Return the norms that are timed, by name."""
    nn = mn.nn
    return {
        "affine-invariant, Lie": partial(nn.LieBatchNorm, mn.AffineInvariant(n)),
        "affine-invariant, gyro": partial(nn.GyroBatchNorm, mn.AffineInvariant(n)),
        "log-Euclidean": partial(nn.LieBatchNorm, mn.LogEuclidean(n)),
        "log-Cholesky": partial(nn.LieBatchNorm, mn.LogCholesky(n)),
        "Bures-Wasserstein": partial(nn.RiemannianBatchNorm, mn.BuresWasserstein(n)),
    }


def step(layer: Any, x: Tensor, *domain: Tensor) -> None:
    """Run forward and backward."""
    y = layer(x.detach().requires_grad_(), *domain)
    y.backward(torch.ones_like(y))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--domains", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = wishart(options.batch, options.n, torch.float64)
    domain = torch.arange(options.batch)[torch.randperm(options.batch)] % options.domains
    sys.stdout.write(
        "| norm | gradients through the statistics | plain ms | domains ms | ratio |\n|---|---|---|---|---|\n"
    )
    for name, make in cases(options.n).items():
        for through in (False, True):
            k: dict[str, Any] = {"dtype": torch.float64, "grad_through_stats": through}
            plain, several = make(**k), mn.nn.DomainBatchNorm(make(**k), options.domains)  # type: ignore[arg-type]
            calls = {"plain": partial(step, plain, x), "domains": partial(step, several, x, domain)}
            times = alternate(calls, 3600.0, most=options.rounds)
            pairs = zip(times["domains"].samples, times["plain"].samples, strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            cells = (f"{1e3 * times[key].median:.1f}" for key in ("plain", "domains"))
            sys.stdout.write(f"| {name} | {'yes' if through else 'no'} | {' | '.join(cells)} | {ratio:.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
