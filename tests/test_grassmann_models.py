"""GrassmannNet and its example: every norm, representatives, learning, errors, the command."""

from typing import Any

import pytest
import torch

import manifoldnorm as mn
from manifoldnorm.models import GrassmannNet
from manifoldnorm.nn import GyroBatchNorm, RiemannianBatchNorm, published

NORMS = {
    "none": None,
    "gyro": GyroBatchNorm,
    "direct": RiemannianBatchNorm.of(mn.Grassmann, route="direct"),
    "exact": lambda manifold, **kind: GyroBatchNorm(manifold, mean=mn.stats.Exact(), **kind),
    "published": published.GyroBNGr.of(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_norm_fits(norm: str, dtype: torch.dtype) -> None:
    net = GrassmannNet([8, 6, 5], 2, 3, norm=NORMS[norm], dtype=dtype)
    x = mn.Grassmann(8, 2).random_point(12, dtype=dtype)
    y = net(x)
    assert y.shape == (12, 3) and y.dtype == dtype
    assert [layer.manifold.point_shape for layer in net.features if hasattr(layer, "manifold")] == [
        shape for shape in ((6, 2), (5, 2)) if NORMS[norm] is not None
    ]
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    twin = GrassmannNet([8, 6, 5], 2, 3, norm=NORMS[norm], dtype=dtype)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.eval()(x), net.eval()(x))


@pytest.mark.parametrize("norm", ["none", "gyro", "direct", "exact"])
def test_scores_are_functions_of_the_subspaces(norm: str) -> None:
    net = GrassmannNet([8, 6, 5], 2, 3, norm=NORMS[norm], dtype=torch.float64)
    x = mn.Grassmann(8, 2).random_point(12, dtype=torch.float64)
    for layer in net.features:
        if hasattr(layer, "bias_point"):
            layer.bias_point = layer.manifold.random_point(dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(12, 2, 2, dtype=torch.float64))[0]
    order = torch.randperm(12)
    assert torch.allclose(net(x @ turn), net(x), atol=1e-10)
    assert torch.allclose(net(x[order]), net(x)[order], atol=1e-10)


@pytest.mark.parametrize("norm", ["none", "gyro"])
def test_network_learns(norm: str) -> None:
    manifold = mn.Grassmann(8, 2)
    centers = manifold.random_point(3)
    y = torch.arange(90) % 3
    x = manifold.exp(centers[y], 0.05 * manifold.random_tangent(centers[y]))
    net = GrassmannNet([8, 6, 5], 2, 3, norm=NORMS[norm])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == y).double().mean() > 0.9


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="at least one output"):
        GrassmannNet([8], 2, 3)
    with pytest.raises(ValueError, match="below every size"):
        GrassmannNet([8, 2], 2, 3)
    with pytest.raises(ValueError, match="the norm on"):
        GrassmannNet([8, 6], 2, 3, norm=lambda manifold, **kind: GyroBatchNorm(mn.Grassmann(6, 3), **kind))


def test_factories_take_every_size() -> None:
    assert published.GyroBNGr.of(karcher_steps=3)(6, 2).manifold.point_shape == (6, 2)
    table = mn.nn.HyperbolicEmbedding(7, mn.Grassmann(6, 2), normalize=GyroBatchNorm.of(mn.Grassmann))
    assert table(torch.arange(3)).shape == (3, 6, 2)


# ---- the example


def test_subspaces_forget_strength_and_offset(load: Any) -> None:
    subspaces = load("grassmann_signals").subspaces
    signals = torch.randn(4, 3, 50, dtype=torch.float64)
    x = subspaces(signals, 2, 4)
    assert x.shape == (4, 6, 4)
    same = subspaces(7 * signals + torch.randn(4, 3, 1, dtype=torch.float64), 2, 4)
    assert torch.allclose(same @ same.mT, x @ x.mT, atol=1e-10)
    # one sine has two directions, whatever the channels and delays
    time = torch.arange(400, dtype=torch.float64) * 2 * torch.pi / 40
    sine = torch.stack([torch.sin(time), 2 * torch.cos(time)])[None]
    plane = subspaces(sine, 3, 2)
    delayed = torch.stack([sine[0, c, lag : lag + 398] for c in range(2) for lag in range(3)])
    assert torch.allclose(plane[0] @ plane[0].mT @ delayed, delayed, atol=1e-10)
