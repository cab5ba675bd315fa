"""Time a training step with statistics for 20 domains beside the plain norm on the same batch.

python benchmarks/domains.py                   # batches of 512, float64, one thread: matrices with n = 20, and others
python benchmarks/domains.py --only bures      # norms whose name contains this
"""

from __future__ import annotations

import argparse
import platform
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


def cases(n: int, d: int) -> dict[str, tuple[Make, Any]]:
    """Return the norms that are timed, by name, with their geometries: matrices of size n, vectors of length d."""
    nn = mn.nn
    lie, gyro, riemannian = nn.LieBatchNorm, nn.GyroBatchNorm, nn.RiemannianBatchNorm
    kinds: dict[str, tuple[Any, Any]] = {
        "affine-invariant, Lie": (lie, mn.AffineInvariant(n)),
        "affine-invariant, gyro": (gyro, mn.AffineInvariant(n)),
        "affine-invariant, power 0.5": (riemannian, mn.PowerDeformed(mn.AffineInvariant(n), 0.5)),
        "log-Euclidean": (lie, mn.LogEuclidean(n)),
        "adaptive log-Euclidean": (lie, mn.AdaptiveLogEuclidean(n, 0.7, 1.6)),
        "log-Cholesky": (lie, mn.LogCholesky(n)),
        "Cholesky right-invariant": (lie, mn.CholeskyRightInvariant(n)),
        "Bures-Wasserstein": (riemannian, mn.BuresWasserstein(n)),
        "Bures-Wasserstein, power 0.5": (riemannian, mn.PowerDeformed(mn.BuresWasserstein(n), 0.5)),
        "generalised Bures-Wasserstein, learned": (nn.BuresWassersteinBatchNorm, n),
        "correlation, Euclidean-Cholesky": (lie, mn.CorrelationEuclideanCholesky(n)),
        "correlation, log-Euclidean-Cholesky": (lie, mn.CorrelationLogEuclideanCholesky(n)),
        "correlation, off-log": (lie, mn.CorrelationOffLog(n)),
        "correlation, log-scaling": (lie, mn.CorrelationLogScaling(n)),
        "correlation, poly-hyperbolic": (gyro, mn.CorrelationPolyHyperbolic(n)),
        "Euclidean": (riemannian, mn.Euclidean(d)),
        "symmetric matrices": (lie, mn.manifolds.SymmetricMatrices(n)),
        "Poincaré ball": (gyro, mn.PoincareBall(d)),
        "Poincaré ball, midpoint": (nn.PoincareMidpointBatchNorm, mn.PoincareBall(d)),
        "Lorentz": (gyro, mn.Lorentz(d)),
        "Lorentz, centroid": (nn.LorentzCentroidBatchNorm, mn.Lorentz(d)),
        "Klein": (gyro, mn.Klein(d)),
        "sphere": (gyro, mn.Sphere(d)),
        "projected sphere": (gyro, mn.ProjectedSphere(d)),
        "Grassmann, 50 x 10": (gyro, mn.Grassmann(50, 10)),
        "rotations": (lie, mn.Rotations(3)),
        "product": (riemannian, mn.Product(mn.AffineInvariant(n), mn.PoincareBall(d))),
    }
    return {name: (partial(kind, manifold), manifold) for name, (kind, manifold) in kinds.items()}


def points(manifold: Any, batch: int) -> Tensor:
    """Return covariance-like matrices, their correlations, or points about the origin."""
    x: Tensor
    if isinstance(manifold, int):
        return wishart(batch, manifold, torch.float64)
    if isinstance(manifold, mn.Product):
        x = manifold.merge(*(points(factor, batch) for factor in manifold.factors))
        return x
    name = type(manifold).__name__
    square = len(manifold.point_shape) == 2 and manifold.point_shape[0] == manifold.point_shape[1]
    if square and name != "Rotations":
        x = wishart(batch, manifold.point_shape[0], torch.float64)
        root = x.diagonal(dim1=-2, dim2=-1).rsqrt()
        return x * root.unsqueeze(-1) * root.unsqueeze(-2) if name.startswith("Correlation") else x
    generator = torch.Generator().manual_seed(0)
    origin = manifold.origin(batch, dtype=torch.float64).contiguous()
    x = manifold.exp(origin, manifold.random_tangent(origin, generator) * (0.7 / manifold.dim**0.5))
    return x


def step(layer: Any, x: Tensor, *domain: Tensor) -> None:
    """Run forward and backward."""
    y = layer(x.detach().requires_grad_(), *domain)
    y.backward(torch.ones_like(y))


def row(make: Make, x: Tensor, domain: Tensor, domains: int, rounds: int, through: bool) -> tuple[float, float, float]:
    """Return the milliseconds of the plain norm and of the one per domain, and their ratio."""
    k: dict[str, Any] = {"dtype": torch.float64, "grad_through_stats": through}
    plain, several = make(**k), mn.nn.DomainBatchNorm(make(**k), domains)  # type: ignore[arg-type]
    calls = {"plain": partial(step, plain, x), "domains": partial(step, several, x, domain)}
    times = alternate(calls, 2.0, least=8, most=rounds)
    pairs = zip(times["domains"].samples, times["plain"].samples, strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    return 1e3 * times["plain"].median, 1e3 * times["domains"].median, ratio


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--n", type=int, default=20, help="size of matrices")
    parser.add_argument("--dim", type=int, default=64, help="length of vectors")
    parser.add_argument("--domains", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6, help="of four calls each")
    parser.add_argument("--only", default="", help="part of a norm's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    domain = torch.arange(options.batch)[torch.randperm(options.batch, generator=generator)] % options.domains
    head = f"{platform.machine()}, torch {torch.__version__}, medians of up to {options.rounds} rounds of four calls"
    sys.stdout.write(f"{head}\n\n")
    sys.stdout.write(
        "| norm | gradients through the statistics | plain ms | domains ms | ratio |\n|---|---|---|---|---|\n"
    )
    for name, (make, manifold) in cases(options.n, options.dim).items():
        if options.only.lower() not in name.lower():
            continue
        x = points(manifold, options.batch)
        for through in (False, True):
            plain, several, ratio = row(make, x, domain, options.domains, options.rounds, through)
            cells = f"{'yes' if through else 'no'} | {plain:.1f} | {several:.1f} | {ratio:.2f}"
            sys.stdout.write(f"| {name} | {cells} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
