"""One training step of the norms on spaces of constant curvature, beside hypll's.

The unit is the same run's time of ten products of two batches, which tells a busy machine from a slow layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.bench.timing import Call, alternate
from manifoldnorm.stats import Exact, Midpoint, Newton

UNIT = "ten products"


def cases(d: int, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return the layers that are timed, by name."""
    k: dict[str, Any] = {"dtype": dtype}
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


class _Hypll(torch.nn.Module):
    """hypll's layer on plain tensors."""

    def __init__(self, d: int, midpoint: bool) -> None:
        super().__init__()
        from hypll.manifolds.poincare_ball import Curvature, PoincareBall
        from hypll.nn import HBatchNorm

        self.ball = PoincareBall(Curvature(1.0))
        self.norm = HBatchNorm(d, self.ball, use_midpoint=midpoint)

    def forward(self, x: Tensor) -> Tensor:
        from hypll.tensors import ManifoldTensor

        return self.norm(ManifoldTensor(x, manifold=self.ball, man_dim=-1)).tensor


def peers(d: int, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return hypll's layers if it is installed."""
    try:
        layers = {"hypll midpoint": _Hypll(d, True), "hypll Frechet mean": _Hypll(d, False)}
    except ImportError:
        return {}
    return {name: layer.to(dtype) for name, layer in layers.items()}


def training_step(layer: torch.nn.Module, x: Tensor, g: Tensor) -> None:
    """Run one forward and backward pass."""
    layer(x.detach().requires_grad_()).backward(g)


def samples(layer: torch.nn.Module, batch: int, d: int, dtype: torch.dtype) -> Tensor:
    """Return points of the layer's geometry about one from its origin (of the ball for other layers)."""
    geometry = layer.manifold if isinstance(layer, mn.nn.ManifoldNorm) else mn.PoincareBall(d)
    generator = torch.Generator().manual_seed(0)
    return geometry.random_point(batch, generator=generator, dtype=torch.float64).detach().to(dtype)


def table(batch: int, d: int, dtype: torch.dtype, *, rounds: int) -> Iterator[str]:
    """Yield the rows of one precision."""
    a, b = torch.randn(2, batch, d, dtype=dtype)
    calls: dict[str, Call] = {UNIT: lambda: [a * b for _ in range(10)]}
    for name, layer in {**cases(d, dtype), **peers(d, dtype)}.items():
        x = samples(layer, batch, d, dtype)
        calls[name] = partial(training_step, layer, x, torch.randn_like(x))
    times = alternate(calls, 3600.0, most=rounds)
    yield f"| {batch} x {d}, {dtype} | ms | fastest | spread | units |"
    yield "|---|---|---|---|---|"
    for name, t in times.items():
        low, high = t.quartiles
        cells = (f"{1e3 * t.median:.2f}", f"{1e3 * min(t.samples):.2f}", f"{1e3 * low:.2f}-{1e3 * high:.2f}")
        yield f"| {name} | {' | '.join(cells)} | {t.median / times[UNIT].median:.0f} |"
    yield ""
