"""The published norms as modules: factories, copies, checkpoints, and the defects they keep on purpose."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import CholeskyInverse
from manifoldnorm.nn import NormFactory, published

F64 = torch.float64
FACTORIES = [
    published.LieBN.of(mn.LogEuclidean),
    published.LieBN.of(mn.CholeskyRightInvariant),
    published.AdaptiveLieBN.of(),
    published.LieBNSPDNet.of(published.TracedLogCholesky, alpha=2.0, beta=0.25),
    published.LieBNSPDNN.of(published.Float32AffineInvariant),
    published.BrooksBatchNorm.of(),
    published.GBWBN.of(power=0.5),
    published.GBWBNRResNet.of(power=0.5),
    published.CBN.of(),
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f"{f.norm.__name__}-{f.manifold.__name__}")
def test_trains_in_a_network_and_resumes(factory: NormFactory, spd: Callable[..., Tensor]) -> None:
    build = pickle.loads(pickle.dumps(factory))
    torch.manual_seed(0)
    net = mn.models.SPDNet([6, 4], 3, norm=build, dtype=F64)
    x = spd(6, 12)
    optimizer = mn.optim.RiemannianAdam(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), torch.arange(12) % 3)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    net.eval()
    resumed = mn.models.SPDNet([6, 4], 3, norm=build, dtype=F64)
    resumed.load_state_dict(net.state_dict())
    assert torch.equal(resumed.eval()(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


@pytest.mark.parametrize(
    "norm", [published.LieBN(mn.LogEuclidean(4), dtype=F64), published.AdaptiveLieBN(4, dtype=F64)]
)
def test_followed_by_a_logarithm(norm: published.PublishedNorm, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 8)
    norm.bias_point = spd(4)
    norm.eval()  # two forwards with the same statistics
    fused = mn.nn.Sequential(norm, mn.nn.LogEig())(x)
    torch.testing.assert_close(fused, mn.linalg.logm(norm(x)), rtol=1e-11, atol=1e-11)


def test_copies_of_learned_index_weights_are_independent(spd: Callable[..., Tensor]) -> None:
    layer = published.AdaptiveLieBN(4, dtype=F64)
    other = copy.deepcopy(layer)
    other.weights = 2 * layer.weights
    assert torch.equal(layer.weights, torch.ones(4, dtype=F64))
    x, eye = spd(4, 8), torch.eye(4, dtype=F64)
    # the variance is one in either metric, and distances in the second are twice as long
    lengths = [mn.LogEuclidean(4).squared_dist(eye, norm(x)).mean() for norm in (layer, other)]
    torch.testing.assert_close(lengths[0], 4 * lengths[1], rtol=1e-4, atol=0)


def test_reset(spd: Callable[..., Tensor]) -> None:
    layer = published.LieBN(mn.LogEuclidean(4, 2.0, 0.25), dtype=F64)
    start = layer.running_mean.clone()
    layer(spd(4, 8))
    layer.scale = -2.0
    layer.reset_parameters()
    assert torch.equal(layer.running_mean, start)
    assert layer.scale.item() == 1


def test_without_affine_there_is_no_scale(spd: Callable[..., Tensor]) -> None:
    for layer in (
        published.LieBN(mn.LogCholesky(4), affine=False, dtype=F64),
        published.BrooksBatchNorm(4, affine=False),
    ):
        assert layer.scale is None
        assert not list(layer.parameters())
        with pytest.raises(ValueError, match="has no scale"):
            layer.scale = 2.0


def test_index_weights_need_one_per_eigenvalue() -> None:
    with pytest.raises(ValueError, match=r"weights must have shape \(4,\)"):
        published.IndexedLogEuclidean(4, torch.ones(3))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_index_weights_have_exact_gradients(direction: str) -> None:
    s = torch.randn(3, 4, 4, dtype=F64).requires_grad_()
    a = torch.tensor([0.8, 1.0, 1.2, 1.5], dtype=F64).requires_grad_()

    def f(s: Tensor, a: Tensor) -> Tensor:
        chart = published.IndexWeights(a)
        return (chart if direction == "forward" else chart.inverse)((s + s.mT) / 2)

    assert torch.autograd.gradcheck(f, (s, a))


def test_equal_index_weights_are_exact_at_ties() -> None:
    """With equal weights the map is a multiple of the identity, wherever eigenvalues coincide."""
    s = torch.diag(torch.tensor([1.0, 1.0, 2.0], dtype=F64)).requires_grad_()
    g = torch.randn(3, 3, dtype=F64)
    (published.IndexWeights(torch.full((3,), 1.5, dtype=F64))(s) * g).sum().backward()
    torch.testing.assert_close(s.grad, 1.5 * (g + g.mT) / 2)


def test_unequal_index_weights_are_no_pullback(spd: Callable[..., Tensor]) -> None:
    x = spd(5, 8)
    for spread, consistent in ((0.0, True), (0.02, False)):
        metric = published.IndexedLogEuclidean(5, torch.linspace(1 - spread, 1 + spread, 5, dtype=F64))
        error = float((metric.chart.inverse(metric.chart(x)) - x).abs().max())
        assert error < 1e-12 if consistent else error > 1e-2


def test_index_weights_jump_where_eigenvalues_cross() -> None:
    chart = published.IndexWeights(torch.tensor([0.9, 1.1], dtype=F64))
    near = [chart(torch.diag(torch.tensor([1.0, 1.0 + h], dtype=F64))) for h in (-1e-9, 1e-9)]
    assert float((near[0] - near[1]).abs().max()) > 0.1


def test_early_stop_ignores_concentrated_batches(spd: Callable[..., Tensor]) -> None:
    manifold: Any = mn.AffineInvariant(4)
    tangent = 0.1 * torch.randn(32, 4, 4, dtype=F64)
    x = mn.linalg.congruence(mn.linalg.cholesky(spd(4)), mn.linalg.expm((tangent + tangent.mT) / 2))
    policy = published.EarlyStoppedKarcher(steps=100)
    assert torch.equal(policy(manifold, x), x.mean(0))
    exact = policy.__class__(steps=100, tolerance=1e-12)(manifold, x)
    torch.testing.assert_close(exact, manifold.frechet_mean(x), rtol=1e-10, atol=1e-10)


def test_right_invariant_mean_of_the_code_is_not_right_invariant(spd: Callable[..., Tensor]) -> None:
    """It starts at the arithmetic mean of the matrices; from that of the group inverses every step is equivariant."""
    manifold: Any = mn.CholeskyRightInvariant(4)
    x, shift = spd(4, 16), spd(4)
    moved = manifold.compose(shift, x)
    code = published.EarlyStoppedKarcher(tolerance=0.0, chart=CholeskyInverse())
    for policy, equivariant in ((code, False), (mn.stats.Karcher(1), True)):
        layer = mn.nn.LieBatchNorm(manifold, mean=policy, dtype=F64)
        error = (layer(moved) - layer(x)).abs().max().item()
        assert error < 1e-11 if equivariant else error > 1e-3


def test_differentials_of_index_weights(spd: Callable[..., Tensor]) -> None:
    chart = published.IndexWeights(torch.tensor([0.8, 1.0, 1.2, 1.5], dtype=F64))
    s, v, w = (torch.randn(3, 4, 4, dtype=F64) for _ in range(3))
    s, v, w = s + s.mT, v + v.mT, w + w.mT
    h = 1e-5
    for map_, differential in ((chart, chart.push), (chart.inverse, chart.pull)):
        expected = (map_(s + h * v) - map_(s - h * v)) / (2 * h)
        torch.testing.assert_close(differential(s, v), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close((chart.pull(s, v) * w).sum(), (chart.pull_adjoint(s, w) * v).sum())
