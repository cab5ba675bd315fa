"""Graph breaks and recompilations of every norm, policy, layer and network under torch.compile, over batch sizes.

python benchmarks/traces.py                       # the table of docs/compilation.md
python benchmarks/traces.py --only Bures --backend aot_eager
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import manifoldnorm as mn
from manifoldnorm.testing.catalogue import NORMS

BATCHES = (2, 3, 8, 31)
Inputs = Callable[[int], tuple[Tensor, ...]]


class Case(NamedTuple):
    """A module, and its inputs for a batch size."""

    module: nn.Module
    inputs: Inputs


class Trace(NamedTuple):
    """How often a module was compiled beyond its first graph, and why."""

    breaks: int
    recompilations: int


def points(manifold: Any, *groups: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    wide = torch.complex128 if manifold.is_complex else torch.float64
    return lambda batch: (manifold.random_point(batch, *groups, generator=generator, dtype=wide).detach(),)


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return lambda batch: (torch.randn(batch, *shape, generator=generator, dtype=dtype),)


def with_domain(inputs: Inputs, domains: int) -> Inputs:
    return lambda batch: (*inputs(batch), torch.arange(batch) % domains)


def with_edges(inputs: Inputs) -> Inputs:
    """Return nodes and the edges of a ring through them."""
    ring = lambda batch: torch.stack([torch.arange(batch), (torch.arange(batch) + 1) % batch])  # noqa: E731
    return lambda batch: (*inputs(batch), ring(batch))


def of_norm(norm: Any) -> Case:
    """Return a norm in double precision with points of its manifold."""
    groups = () if norm.channels is None else (norm.channels,)
    return Case(norm.double(), points(norm.manifold, *groups))


def norms() -> dict[str, Case]:
    return {name: of_norm(make()) for name, (make, _) in NORMS.items()}


def policies() -> dict[str, Case]:
    aim, nns, stats = mn.AffineInvariant(4), mn.nn, mn.stats
    schedule = nns.Momentum(schedule=nns.MomentumSchedule(epochs=4, ratio=0.5))
    statistics = {"Momentum": nns.Momentum(0.5, 0.1), "Momentum, schedule": schedule, "Renorm": nns.Renorm()}
    means: dict[str, Any] = {"Karcher(2)": stats.Karcher(2), "Newton(2)": stats.Newton(2), "Exact": stats.Exact()}
    found = {name: nns.RiemannianBatchNorm(aim, statistics=policy) for name, policy in statistics.items()}
    found |= {name: nns.RiemannianBatchNorm(aim, mean=policy) for name, policy in means.items()}
    found["FixedPoint(2)"] = nns.RiemannianBatchNorm(mn.BuresWasserstein(4), mean=stats.FixedPoint(2))
    found["Midpoint"] = nns.GyroBatchNorm(mn.PoincareBall(3), mean=stats.Midpoint())
    found["momentum=None"] = nns.LieBatchNorm(mn.LogEuclidean(4), momentum=None)
    return {name: of_norm(norm) for name, norm in found.items()}


def domain_norms() -> dict[str, Case]:
    nns = mn.nn
    inner: dict[str, Any] = {
        "affine-invariant": nns.RiemannianBatchNorm(mn.AffineInvariant(4)),
        "affine-invariant, Lie": nns.LieBatchNorm(mn.AffineInvariant(4)),
        "affine-invariant, Momentum": nns.RiemannianBatchNorm(mn.AffineInvariant(4), statistics=nns.Momentum(0.5)),
        "log-Euclidean": nns.LieBatchNorm(mn.LogEuclidean(4)),
        "log-Euclidean, channels": nns.LieBatchNorm(mn.LogEuclidean(4), channels=2),
        "log-Cholesky": nns.LieBatchNorm(mn.LogCholesky(4)),
        "Bures-Wasserstein": nns.RiemannianBatchNorm(mn.BuresWasserstein(4)),
        "Bures-Wasserstein, detached": nns.RiemannianBatchNorm(mn.BuresWasserstein(4), grad_through_stats=False),
        "Poincare ball": nns.GyroBatchNorm(mn.PoincareBall(3)),
        "sphere": nns.GyroBatchNorm(mn.Sphere(3)),
        "Grassmann": nns.GyroBatchNorm(mn.Grassmann(5, 2)),
    }
    cases = {name: of_norm(norm) for name, norm in inner.items()}
    return {name: Case(nns.DomainBatchNorm(c.module, 3), with_domain(c.inputs, 3)) for name, c in cases.items()}


def layers() -> dict[str, Case]:
    nns, spd, frames = mn.nn, points(mn.AffineInvariant(4)), points(mn.Grassmann(5, 2))
    m, ball = mn.PoincareBall(3), points(mn.PoincareBall(3))
    image: Inputs = lambda batch: (mn.PoincareBall(3).random_point(batch, 4, 4, dtype=torch.float64),)  # noqa: E731
    return {
        "BiMap": Case(nns.BiMap(4, 3), spd),
        "ReEig": Case(nns.ReEig(), spd),
        "LogEig": Case(nns.LogEig(), spd),
        "ExpEig": Case(nns.ExpEig(), spd),
        "SPDVectorize": Case(nns.SPDVectorize(4), spd),
        "Covariance, shrinkage": Case(nns.Covariance(shrinkage="oas"), noise(4, 20)),
        "SPDMLR, affine-invariant": Case(nns.SPDMLR(mn.AffineInvariant(4), 3), spd),
        "SPDMLR, log-Cholesky": Case(nns.SPDMLR(mn.LogCholesky(4), 3), spd),
        "FRMap, ReOrth": Case(nns.Sequential(nns.FRMap(5, 4), nns.ReOrth()), frames),
        "ProjMap, ProjPool": Case(nns.Sequential(nns.ProjMap(), nns.ProjPool(5)), frames),
        "ProjMap, OrthMap": Case(nns.Sequential(nns.ProjMap(), nns.OrthMap(2)), frames),
        "Lift": Case(nns.Lift(m, 1.0), noise(3)),
        "Lower": Case(nns.Lower(m), ball),
        "HyperbolicLinear": Case(nns.HyperbolicLinear(m, 2), ball),
        "HyperbolicMLR": Case(nns.HyperbolicMLR(m, 2), ball),
        "BusemannLinear": Case(nns.BusemannLinear(m, 2), ball),
        "BusemannMLR": Case(nns.BusemannMLR(m, 2), ball),
        "HyperbolicActivation": Case(nns.HyperbolicActivation(m), ball),
        "HyperbolicResidual": Case(nns.HyperbolicResidual(m, nns.HyperbolicLinear(m, 3)), ball),
        "HyperbolicAggregation": Case(nns.HyperbolicAggregation(m), with_edges(ball)),
        "HyperbolicEmbedding": Case(nns.HyperbolicEmbedding(40, m), lambda batch: (torch.arange(batch),)),
        "PoincareConv2d": Case(nns.PoincareConv2d(m, 2), image),
    }


def networks() -> dict[str, Case]:
    nns, models = mn.nn, mn.models
    aim, lem = nns.RiemannianBatchNorm.of(mn.AffineInvariant), nns.LieBatchNorm.of(mn.LogEuclidean)
    bures = nns.BuresWassersteinBatchNorm
    spd, domain = points(mn.AffineInvariant(4)), nns.DomainBatchNorm.of(aim, 3)
    return {
        "SPDNet": Case(models.SPDNet((4, 3), 2), spd),
        "SPDNet, affine-invariant": Case(models.SPDNet((4, 3), 2, norm=aim), spd),
        "SPDNet, log-Euclidean": Case(models.SPDNet((4, 3), 2, norm=lem), spd),
        "SPDNet, Bures-Wasserstein": Case(models.SPDNet((4, 3), 2, norm=bures), spd),
        "SPDNet, domains": Case(models.SPDNet((4, 3), 2, norm=domain), with_domain(spd, 3)),
        "SSVEPNet, log-Euclidean": Case(
            models.SSVEPNet(4, 3, norm=lem, spatial=6, temporal=5, features=4, kernel=4), noise(4, 20)
        ),
        "GrassmannNet, gyro": Case(
            models.GrassmannNet((5, 4), 2, 2, norm=nns.GyroBatchNorm), points(mn.Grassmann(5, 2))
        ),
        "HyperbolicGraphNet, gyro": Case(
            models.HyperbolicGraphNet(4, [3, 3], 2, norm=nns.GyroBatchNorm), with_edges(noise(4))
        ),
        "PoincareResNet, gyro": Case(
            models.PoincareResNet(1, 2, norm=nns.GyroBatchNorm, widths=(2, 2, 2), depth=8), noise(1, 8, 8)
        ),
    }


PLURAL = {"policy": "policies"}
GROUPS = {
    "norm": norms,
    "policy": policies,
    "domain norm": domain_norms,
    "layer": layers,
    "network": networks,
}


def trace(case: Case, training: bool, backend: str) -> Trace:
    """Run every batch size through one compiled module, with the backward pass in training."""
    torch._dynamo.reset()
    counters.clear()
    module = case.module.double().train(training)
    compiled = torch.compile(module, dynamic=True, backend=backend)
    for batch in BATCHES:
        x, *rest = case.inputs(batch)
        out = compiled(x.requires_grad_(training and x.dtype != torch.int64), *rest)
        if training:
            out.abs().sum().backward()
    breaks = sum(counters["graph_break"].values())
    # finished graphs: aot_eager and inductor may start the first one twice (`TensorifyScalarRestartAnalysis`)
    return Trace(breaks, counters["stats"]["unique_graphs"] - 1 - breaks)


def rows_of(group: str, cases: dict[str, Case], backend: str) -> list[list[str]]:
    """Return the group's row, sums over its cases, and a row for each case that is not clean."""
    total, bad = [0] * 4, []
    for name, case in cases.items():
        counts = [count for training in (True, False) for count in trace(case, training, backend)]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        row = [f"{group}: {name}", "1", *map(str, counts)]
        bad += [row] if any(counts) else []
        print(" | ".join(row), file=sys.stderr, flush=True)
    return [[PLURAL.get(group, f"{group}s"), str(len(cases)), *map(str, total)], *bad]


HEADER = ["", "cases", "training: graph breaks", "recompilations", "evaluation: graph breaks", "recompilations"]


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="", help="only what has this in its name")
    p.add_argument(
        "--backend", default="eager", help="of torch.compile; default %(default)s: it counts the same graphs"
    )
    args = p.parse_args(argv)
    torch.fx.experimental._config.use_duck_shape = False  # a batch as large as a matrix is an accident, not a rule
    warnings.simplefilter("ignore")  # Dynamo's own, about how it traces autograd Functions
    torch.set_num_threads(1)
    rows, clean = [], True
    for group, make in GROUPS.items():
        cases = {name: case for name, case in make().items() if args.only.lower() in f"{group}: {name}".lower()}
        found = rows_of(group, cases, args.backend) if cases else []
        rows, clean = rows + found, clean and len(found) <= 1
    print(f"| {' | '.join(HEADER)} |\n|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\nBatches of {', '.join(map(str, BATCHES))}; torch {torch.__version__}.")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
