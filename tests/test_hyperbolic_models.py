"""Hyperbolic networks: norms of activations, training, models that agree, graphs."""

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn

F64 = torch.float64
NORMS = {
    "none": None,
    "gyro": mn.nn.GyroBatchNorm,
    "midpoint": functools.partial(mn.nn.MidpointBatchNorm, route="direct"),
    "factory": mn.nn.RiemannianBatchNorm.of(mn.PoincareBall, momentum=0.2),
}


def _images(n: int, channels: int = 1, size: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _radius(manifold: Any, x: Tensor) -> float:
    return manifold.dist(manifold.origin(dtype=x.dtype), x).square().mean().sqrt().item()


# ---- Poincare ResNet


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [0.3, 3.0])
def test_twenty_layers_keep_the_norm_of_activations(norm: str, clip: float) -> None:
    torch.manual_seed(0)
    net = mn.models.PoincareResNet(3, 10, norm=NORMS[norm], widths=(4, 8, 16), clip=clip)
    radii: list[float] = []
    for block in net.stages:
        block.register_forward_hook(lambda block, args, y: radii.append(_radius(block.manifold, y.detach())))
    with torch.no_grad():
        lifted = net.lift(mn.nn.from_channels_first(10 * _images(6, 3)))
        stem = _radius(net.stem.out_manifold, net.stem(lifted))
        scores = net(10 * _images(6, 3))
    assert len(radii) == 9 and bool(scores.isfinite().all())
    assert all(stem / 1.2 < radius < 1.2 * stem for radius in radii)
    assert _radius(net.lift.manifold, lifted) / 2 < radii[-1] < 2 * _radius(net.lift.manifold, lifted)


def test_blocks_start_as_isometric_embeddings_exactly() -> None:
    net = mn.models.PoincareResNet(1, 3, norm=mn.nn.GyroBatchNorm, widths=(3, 5), depth=10)
    x = mn.PoincareBall(3).random_point(2, 6, 6)
    y = net.stages(x).detach()
    assert torch.equal(y[..., :3], x[:, ::2, ::2]) and bool((y[..., 3:] == 0).all())


@pytest.mark.parametrize("lr", [0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("norm", ["none", "gyro", "midpoint"])
def test_twenty_layers_train_without_nan(norm: str, lr: float) -> None:
    torch.manual_seed(0)
    net = mn.models.PoincareResNet(1, 2, norm=NORMS[norm], widths=(2, 3, 4))
    x = _images(8)
    x[4:, :, :, 4:] += 1
    y = torch.tensor([0] * 4 + [1] * 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item())
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    net.eval()
    assert bool(net(x).isfinite().all())


def test_resnet_learns() -> None:
    torch.manual_seed(0)
    net = mn.models.PoincareResNet(1, 2, norm=mn.nn.GyroBatchNorm, widths=(3, 4, 6), depth=8)
    x = _images(24)
    x[12:, :, :, 4:] += 0.7
    y = torch.arange(24) // 12
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).float().mean().item() == 1
    assert max(block.gain.abs().item() for block in net.stages) > 0.01


@pytest.mark.parametrize("model", [mn.Lorentz, mn.Klein])
@pytest.mark.parametrize("norm", [None, mn.nn.GyroBatchNorm])
def test_networks_agree_on_all_models_of_hyperbolic_space(model: Any, norm: Any) -> None:
    torch.manual_seed(0)
    first = mn.models.PoincareResNet(
        2, 3, norm=norm, widths=(3, 4), depth=6, manifold=mn.PoincareBall(2, -0.7), clip=2.0, dtype=F64
    )
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    for block in first.stages:  # on the ball a tangent bias is half as long
        for layer in block.branch:
            if isinstance(layer, mn.nn.ManifoldNorm):
                torch.nn.init.zeros_(layer.bias)
    second = mn.models.PoincareResNet(
        2, 3, norm=norm, widths=(3, 4), depth=6, manifold=model(2, -0.7), clip=2.0, dtype=F64
    )
    own = second.state_dict()
    same = {key: value for key, value in first.state_dict().items() if own[key].shape == value.shape}
    second.load_state_dict({**own, **same})
    x = _images(4, 2, dtype=F64) - 0.5
    # features of the ball land twice as far: its metric is 4 at the origin
    torch.testing.assert_close(second(2 * x), first(x), atol=1e-11, rtol=1e-11)


def test_one_curvature_is_learned_for_the_whole_network() -> None:
    geometry = mn.nn.LearnableManifold(mn.PoincareBall(1), "curvature")
    net = copy.deepcopy(
        mn.models.PoincareResNet(1, 2, norm=mn.nn.GyroBatchNorm, widths=(2, 3), depth=6, manifold=geometry)
    )
    curvatures = [p for name, p in net.named_parameters() if name.endswith("raw_curvature")]
    assert len(curvatures) == 1
    net(_images(4)).square().sum().backward()
    assert curvatures[0].grad is not None and curvatures[0].grad.item() != 0


def test_errors_of_the_models() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 2 for 3 stages of n blocks, got 18"):
        mn.models.PoincareResNet(1, 2, depth=18)
    with pytest.raises(ValueError, match="images have 3 channels, the manifold 2 dimensions"):
        mn.models.PoincareResNet(3, 2, manifold=mn.PoincareBall(2))
    with pytest.raises(ValueError, match="needs at least two dimensions"):
        mn.models.HyperbolicGraphNet(3, [4])
    with pytest.raises(ValueError, match=r"widths\[0\] is 4, the manifold has 3"):
        mn.models.HyperbolicGraphNet(3, [4, 4], manifold=mn.PoincareBall(3))
    with pytest.raises(ValueError, match="built without n_outputs"):
        mn.models.HyperbolicGraphNet(3, [4, 4]).classify(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"edge_index must hold integers \(2, E\)"):
        mn.nn.HyperbolicAggregation(mn.PoincareBall(3))(torch.zeros(2, 3), torch.zeros(4, 2, dtype=torch.long))


# ---- graphs


def _graph(nodes: int = 12, edges: int = 30) -> Tensor:
    index = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(3))
    return torch.cat([index, index.flip(0)], 1)


@pytest.mark.parametrize("model", [mn.PoincareBall, mn.Lorentz, mn.Klein])
def test_aggregation_is_the_midpoint_of_each_neighbourhood(model: Any) -> None:
    manifold, edges = model(3, -0.6), _graph()
    x = manifold.random_point(12, generator=torch.Generator().manual_seed(1), dtype=F64)
    weights = torch.rand(edges.shape[1], generator=torch.Generator().manual_seed(2), dtype=F64)
    plain, weighted = (mn.nn.HyperbolicAggregation(manifold)(x, edges, w) for w in (None, weights))
    for node in range(12):
        incoming = edges[1] == node
        points = torch.cat([x[node : node + 1], x[edges[0, incoming]]])
        torch.testing.assert_close(plain[node], manifold.midpoint(points), atol=1e-12, rtol=1e-12)
        shares = torch.cat([torch.ones(1, dtype=F64), weights[incoming]])
        want = manifold.midpoint(points, shares / shares.sum())
        torch.testing.assert_close(weighted[node], want, atol=1e-12, rtol=1e-12)


def test_aggregation_commutes_with_isometries_and_has_finite_gradients_far_out() -> None:
    ball, edges = mn.PoincareBall(3), _graph()
    layer = mn.nn.HyperbolicAggregation(ball)
    x = ball.random_point(12, generator=torch.Generator().manual_seed(1), dtype=F64)
    shift = torch.tensor([0.3, -0.5, 0.2], dtype=F64)
    want = ball.gyroadd(shift, layer(x, edges))
    torch.testing.assert_close(layer(ball.gyroadd(shift, x), edges), want, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: layer(x, edges), (x[:, :].clone().requires_grad_(),))
    far = ball.project(torch.nn.functional.normalize(x.float(), dim=1)).requires_grad_()
    layer(far, edges).sum().backward()
    assert bool(far.grad.isfinite().all())


@pytest.mark.parametrize("norm", NORMS)
def test_graph_network_learns_classes_and_does_not_depend_on_the_order_of_nodes(norm: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(24) % 2
    left, right = torch.triu_indices(24, 24, 1)
    linked = (labels[left] == labels[right]) & (torch.rand(len(left)) < 0.3)
    edges = torch.stack([left, right])[:, linked]
    edges = torch.cat([edges, edges.flip(0)], 1)
    features = torch.randn(24, 5) + 0.6 * labels[:, None]
    net = mn.models.HyperbolicGraphNet(5, [8, 8, 8], 2, norm=NORMS[norm])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net.classify(net(features, edges)), labels).backward()
        optimizer.step()
    net.eval()
    scores = net.classify(net(features, edges)).detach()
    assert (scores.argmax(1) == labels).float().mean().item() > 0.9
    order = torch.randperm(24)
    moved = net.classify(net(features[order], order.argsort()[edges])).detach()
    torch.testing.assert_close(moved, scores[order], atol=1e-4, rtol=1e-4)


def test_link_scores_fall_with_the_distance() -> None:
    net = mn.models.HyperbolicGraphNet(2, [2, 2], dtype=F64)
    points = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.9, 0.0]], dtype=F64)
    odds = net.links(points, torch.tensor([[0, 0, 0], [0, 1, 2]]))
    distance = net.manifold.dist(points[0], points)
    torch.testing.assert_close(odds, 2 - distance**2)
