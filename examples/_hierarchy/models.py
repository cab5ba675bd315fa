"""The embeddings to compare: tables of points with a distance, ours with and without a norm, and geoopt's own ball."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import manifoldnorm as mn

GEOMETRIES = {"ball": mn.PoincareBall, "lorentz": mn.Lorentz}
RADIUS = 1e-2  # of the start


class Ours(nn.Module):
    """`HyperbolicEmbedding` with any norm."""

    def __init__(self, items: int, geometry: str, d: int, norm: Any, temperature: bool, sparse: bool) -> None:
        super().__init__()
        self.space = GEOMETRIES[geometry](d)
        self.table = mn.nn.HyperbolicEmbedding(
            items,
            self.space,
            normalize=norm,
            statistics="batch" if sparse else "table",
            sparse=sparse,
            radius=RADIUS,
            dtype=torch.float64,
        )
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64)) if temperature else None

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        d = self.space.dist(p, q)
        return d if self.log_scale is None else self.log_scale.exp() * d

    def forward(self, items: Tensor, others: Tensor) -> Tensor:
        """Return distances (B, K) between items (B, 1) and others (B, K), of which a norm sees all in one call."""
        if self.table.norm is None:
            return self.distance(self.table(items), self.table(others))
        if self.table.statistics == "table":
            points = self.table.table()
            return self.distance(*(points.index_select(0, i.flatten()).unflatten(0, i.shape) for i in (items, others)))
        points = self.table(torch.cat([items, others], 1))
        return self.distance(points[:, :1], points[:, 1:])

    def points(self) -> Tensor:
        return self.table.table()

    def optimizers(self, lr: float) -> list[torch.optim.Optimizer]:
        if not self.table.sparse:
            return [mn.optim.RiemannianAdam(self.parameters(), lr=lr)]
        rest = [p for p in self.parameters() if p is not self.table.weight]
        dense = [torch.optim.Adam(rest, lr=lr)] if rest else []
        return [mn.optim.SparseRiemannianAdam([self.table.weight], lr=lr), *dense]


class Geoopt(nn.Module):
    """The same recipe with geoopt's ball and geoopt's parameter."""

    def __init__(self, items: int, d: int) -> None:
        super().__init__()
        import geoopt

        self.space = geoopt.PoincareBall()
        start = torch.randn(items, d, dtype=torch.float64) * RADIUS / (2 * d**0.5)
        self.weight = geoopt.ManifoldParameter(self.space.expmap0(start), manifold=self.space)

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        return self.space.dist(p, q)

    def forward(self, items: Tensor, others: Tensor) -> Tensor:
        return self.distance(self.weight[items], self.weight[others])

    def points(self) -> Tensor:
        return self.weight.detach()

    def optimizers(self, lr: float) -> list[torch.optim.Optimizer]:
        return [mn.optim.RiemannianAdam(self.parameters(), lr=lr)]


class Choice(NamedTuple):
    """A row of the comparison."""

    label: str
    norm: Any = None
    temperature: bool = False


NORMS = {
    "none": Choice("no norm"),
    "temperature": Choice("no norm, distances times a learned number", temperature=True),
    "gyro": Choice("GyroBN = RBN", mn.nn.GyroBatchNorm),
    "direct": Choice("RBN, direct transport", functools.partial(mn.nn.RiemannianBatchNorm, route="direct")),
    "midpoint": Choice("midpoint BN", functools.partial(mn.nn.MidpointBatchNorm, route="direct")),
}
PEER = "geoopt"


def label(name: str, geometry: str) -> str:
    return "geoopt's ball, no norm" if name == PEER else f"{geometry}, {NORMS[name].label}"


def build(name: str, items: int, geometry: str, d: int, sparse: bool) -> nn.Module:
    if name == PEER:
        return Geoopt(items, d)
    return Ours(items, geometry, d, NORMS[name].norm, NORMS[name].temperature, sparse)
