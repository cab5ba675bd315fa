"""Time whole networks stage by stage, forward and backward, beside torch's own best forms of the linear stages.

python benchmarks/networks.py                  # one thread; --rounds 40
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.bench.norms import wishart
from manifoldnorm.bench.timing import Call, alternate

Stage = tuple[str, Callable[[Tensor], Tensor]]


def step(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Run forward and backward, the gradient in the input included."""
    y = call(x.detach().requires_grad_())
    y.backward(torch.ones_like(y))


def covariance(x: Tensor) -> Tensor:
    """Return what `Covariance` returns, in torch's products alone."""
    centred = x - x.mean(-1, keepdim=True)
    c = centred @ centred.mT / (x.shape[-1] - 1)
    trace: Tensor = c.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return c / trace


class Orthogonal(torch.nn.Module):
    """``W X W^T`` with torch's own orthogonal parametrization."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(n, m, bias=False, dtype=torch.float64)
        torch.nn.utils.parametrizations.orthogonal(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        """Return the products."""
        w: Tensor = self.linear.weight
        return w @ x @ w.mT


def ssvep() -> tuple[Tensor, list[Stage], dict[str, Stage]]:
    """Return signals (60, 8, 125), the stages of the EEG network, and torch's forms."""
    net = mn.models.SSVEPNet(8, 5, norm=mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant))
    ridge = net.threshold * torch.eye(15, dtype=torch.float64)
    features: Any = net.features
    stages: list[Stage] = [
        ("convolutions", lambda x: net.front(x).to(torch.float64, memory_format=torch.contiguous_format)),
        ("covariance", lambda x: net.covariance(x) + ridge),
        ("BiMap", features[0]),
        ("norm", features[1]),
        ("ReEig, LogEig", mn.nn.Sequential(*features[2:])),
        ("classifier", lambda x: net.classifier(net.vectorize(x))),
    ]
    peers: dict[str, Stage] = {
        "convolutions": ("two convolutions, two batch norms", lambda x: net.front.plain(x).double()),
        "covariance": ("products", lambda x: covariance(x) + ridge),
        "BiMap": ("orthogonal parametrization, products", Orthogonal(15, 12)),
    }
    return torch.randn(60, 8, 125, generator=torch.Generator().manual_seed(0)), stages, peers


def spdnet() -> tuple[Tensor, list[Stage], dict[str, Stage]]:
    """Return matrices (30, 20, 20), the stages of an SPD network, and torch's forms."""
    norm = mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant)
    net = mn.models.SPDNet([20, 16, 12], 5, norm=norm, dtype=torch.float64)
    features: Any = net.features
    stages: list[Stage] = [
        ("BiMap 20 to 16", features[0]),
        ("norm 16", features[1]),
        ("ReEig", features[2]),
        ("BiMap 16 to 12", features[3]),
        ("norm 12", features[4]),
        ("LogEig", features[5]),
        ("classifier", lambda x: net.classifier(net.vectorize(x))),
    ]
    peers: dict[str, Stage] = {
        "BiMap 20 to 16": ("orthogonal parametrization, products", Orthogonal(20, 16)),
        "BiMap 16 to 12": ("orthogonal parametrization, products", Orthogonal(16, 12)),
    }
    return wishart(30, 20, torch.float64), stages, peers


def table(name: str, x: Tensor, stages: list[Stage], peers: dict[str, Stage], rounds: int) -> Iterator[str]:
    """Yield the rows of one network."""
    inputs, calls = [x], {}
    for stage, run in stages:
        # the first call after another stage pays for that one's memory: it is not counted
        calls[f"{stage}: first"] = calls[stage] = partial(step, run, inputs[-1])
        if stage in peers:
            calls[f"{stage}: {peers[stage][0]}"] = partial(step, peers[stage][1], inputs[-1])
        inputs.append(run(inputs[-1]).detach())
    timed: dict[str, Call] = dict(calls)
    times = alternate(timed, 3600.0, most=rounds)
    total = sum(times[stage].median for stage, _ in stages)
    yield f"| {name}, input {tuple(x.shape)} | ms | share | torch's form | ms |"
    yield "|---|---|---|---|---|"
    for stage, _ in stages:
        peer = f"{stage}: {peers[stage][0]}" if stage in peers else ""
        other = (peers[stage][0], f"{1e3 * times[peer].median:.2f}") if peer else ("", "")
        median = times[stage].median
        yield f"| {stage} | {1e3 * median:.2f} | {100 * median / total:.0f} % | {other[0]} | {other[1]} |"
    yield f"| together | {1e3 * total:.2f} | | | |"
    yield ""


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, network in (("EEG network", ssvep), ("SPDNet 20-16-12", spdnet)):
        for line in table(name, *network(), options.rounds):
            sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
