"""Properties that tie the SPD norms together: limits, isometries, moments, equivariance."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm import linalg
from manifoldnorm.manifolds import Manifold, PowerDeformed
from manifoldnorm.nn import (
    BuresWassersteinBatchNorm,
    GyroBatchNorm,
    LieBatchNorm,
    ManifoldNorm,
    RiemannianBatchNorm,
    published,
)
from manifoldnorm.stats import Exact, Karcher, MeanPolicy

F64 = torch.float64
N = 5
AIM, LEM, LCM, CRIM = mn.AffineInvariant(N), mn.LogEuclidean(N), mn.LogCholesky(N), mn.CholeskyRightInvariant(N)
BW = mn.BuresWasserstein(N)


@pytest.fixture
def batch() -> Callable[..., Tensor]:
    """Return a maker of batches with a given spread around a centre that is no multiple of the identity."""

    def make(spread: float = 0.35, count: int = 16) -> Tensor:
        noise = torch.randn(count, N, N, dtype=F64)
        centre, _ = torch.linalg.qr(torch.randn(N, N, dtype=F64))
        root = (centre * torch.linspace(-0.5, 0.6, N, dtype=F64).exp()) @ centre.mT
        return linalg.congruence(root, linalg.expm(spread * (noise + noise.mT) / 2))

    return make


def bias_point() -> Tensor:
    v = 0.3 * torch.randn(N, N, dtype=F64)
    return linalg.expm((v + v.mT) / 2)


def gap(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def output(kind: type[ManifoldNorm], manifold: Manifold, x: Tensor, mean: MeanPolicy | None = None) -> Tensor:
    return kind(manifold, mean=mean, bias=False, dtype=F64)(x).detach()


# ---- limits and isometries


def test_power_deformed_affine_invariant_tends_to_log_euclidean_quadratically(batch: Callable[..., Tensor]) -> None:
    x, y = batch(), batch()
    errors = [gap(PowerDeformed(AIM, t).dist(x, y), LEM.dist(x, y)) for t in (0.1, 0.01, 0.001)]
    assert errors[2] < 1e-6
    assert all(80 < before / after < 120 for before, after in pairwise(errors)), errors


@pytest.mark.parametrize(("kind", "rate"), [(GyroBatchNorm, 100), (LieBatchNorm, 10)])
def test_layers_of_small_powers_tend_to_the_log_euclidean_layer(
    batch: Callable[..., Tensor], kind: type[ManifoldNorm], rate: float
) -> None:
    """Quadratically for symmetric roots; the Cholesky group is not symmetric in the sign of the power, so linearly."""
    x = batch()
    limit = output(kind, LEM, x)
    errors = [gap(output(kind, PowerDeformed(AIM, t), x, Exact()), limit) for t in (0.1, 0.01, 0.001)]
    assert errors[2] < 1e-3
    assert all(0.8 * rate < before / after < 1.2 * rate for before, after in pairwise(errors)), errors


def test_power_deformed_log_cholesky_tends_to_a_flat_metric_on_logarithms(batch: Callable[..., Tensor]) -> None:
    """Chol(exp(t S)) = I + t (strict lower S + diag S / 2) + O(t^2): off-diagonals weigh four times the diagonal."""
    x, y = batch(), batch()
    s = linalg.logm(x) - linalg.logm(y)
    limit = (s.tril(-1).square().sum((-2, -1)) + s.diagonal(dim1=-2, dim2=-1).square().sum(-1) / 4).sqrt()
    errors = [gap(PowerDeformed(LCM, t).dist(x, y), limit) for t in (0.1, 0.01, 0.001)]
    assert errors[2] < 2e-3
    assert all(8 < before / after < 12 for before, after in pairwise(errors)), errors


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.25), (0.5, -0.05)])
def test_alpha_beta_enter_distances_only(batch: Callable[..., Tensor], alpha: float, beta: float) -> None:
    x, y = batch(), batch()
    for plain, weighted, logs in (
        (LEM, mn.LogEuclidean(N, alpha, beta), linalg.logm(x) - linalg.logm(y)),
        (AIM, mn.AffineInvariant(N, alpha, beta), linalg.logm(linalg.congruence(linalg.inv_sqrtm(x), y))),
    ):
        trace = logs.diagonal(dim1=-2, dim2=-1).sum(-1)
        expected = alpha * logs.square().sum((-2, -1)) + beta * trace.square()
        torch.testing.assert_close(weighted.squared_dist(x, y), expected, rtol=1e-12, atol=1e-12)
        assert gap(weighted.geodesic(x, y, 0.3), plain.geodesic(x, y, 0.3)) < 1e-12
        assert gap(weighted.frechet_mean(x), plain.frechet_mean(x)) < 1e-12
        assert gap(weighted.log(x, y), plain.log(x, y)) < 1e-11


def test_log_cholesky_layer_is_cholesky_norm_with_the_metrics_dilation(batch: Callable[..., Tensor]) -> None:
    x, w = batch(), bias_point()
    layer = LieBatchNorm(LCM, dtype=F64)
    layer.bias_point, layer.scale = w, 1.3

    factor, bias = linalg.cholesky(x), linalg.cholesky(w)
    lower, diagonal = factor.tril(-1), factor.diagonal(dim1=-2, dim2=-1)
    lower, diagonal = lower - lower.mean(0), diagonal / diagonal.log().mean(0).exp()
    variance = lower.square().sum((-2, -1)).mean() + diagonal.log().square().sum(-1).mean()
    f = 1.3 / (variance + layer.eps).sqrt()
    scaled = f * lower + bias.tril(-1) + torch.diag_embed(diagonal**f * bias.diagonal())
    assert gap(layer(x), scaled @ scaled.mT) < 1e-13


def test_cholesky_and_symmetric_roots_give_the_same_eigenvalues(batch: Callable[..., Tensor]) -> None:
    x = batch()
    by_cholesky, by_root = (linalg.eigvalsh(output(kind, AIM, x)) for kind in (LieBatchNorm, RiemannianBatchNorm))
    assert gap(by_cholesky, by_root) < 1e-12


# ---- moments

MOMENTS: list[tuple[type[ManifoldNorm], Manifold]] = [
    (LieBatchNorm, LEM),
    (GyroBatchNorm, mn.LogEuclidean(N, 2.0, 0.25)),
    (LieBatchNorm, LCM),
    (LieBatchNorm, PowerDeformed(LCM, 0.5)),
    (LieBatchNorm, PowerDeformed(LCM, -0.5)),
    (RiemannianBatchNorm, AIM),
    (LieBatchNorm, AIM),
    (GyroBatchNorm, mn.AffineInvariant(N, 2.0, 0.25)),
    (LieBatchNorm, PowerDeformed(AIM, 0.5)),
    (LieBatchNorm, CRIM),
    (LieBatchNorm, mn.AdaptiveLogEuclidean(N, 0.7, 1.4)),
    (RiemannianBatchNorm, PowerDeformed(BW, 0.5)),
]


@pytest.mark.parametrize(("kind", "manifold"), MOMENTS, ids=lambda v: getattr(v, "__name__", repr(v)))
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_moments_of_the_output(
    batch: Callable[..., Tensor], kind: type[ManifoldNorm], manifold: Manifold, scale: float
) -> None:
    check_moments(kind(manifold, mean=Exact(), momentum=1.0, dtype=F64), batch(), scale)


def generalised(power: float) -> Manifold:
    manifold = mn.GeneralizedBuresWasserstein(N, bias_point())
    return manifold if power == 1 else PowerDeformed(manifold, power)


@pytest.mark.parametrize("power", [1.0, 0.5, -0.5])
def test_moments_of_bures_wasserstein_inside_its_domain(batch: Callable[..., Tensor], power: float) -> None:
    for manifold in (PowerDeformed(BW, power), generalised(power)):
        check_moments(BuresWassersteinBatchNorm(manifold, mean=Exact(), momentum=1.0, dtype=F64), batch(), 0.4)


def test_bures_wasserstein_outside_its_domain_stays_a_contraction(batch: Callable[..., Tensor]) -> None:
    """Steps that would leave the cone are shortened: positive definite, and no more spread than asked for."""
    layer = BuresWassersteinBatchNorm(BW, mean=Exact(), dtype=F64)
    w = bias_point()
    layer.bias_point, layer.scale = w, 4.0
    out = layer(batch(0.7)).detach()
    assert float(linalg.eigvalsh(out).min()) > 0
    assert float(BW.squared_dist(w, out).mean()) < 0.99 * 16


def test_published_bures_wasserstein_misses_its_variance(batch: Callable[..., Tensor]) -> None:
    """Its variance is about the identity and before centring, so that of the output is far below the scale's square."""
    layer = published.GBWBN(BW, mean=Exact(), dtype=F64)
    w = bias_point()
    layer.bias_point, layer.scale = w, 0.4
    out = layer(batch()).detach()
    assert float(BW.dist(BW.frechet_mean(out), w)) < 1e-10
    assert float(BW.squared_dist(w, out).mean()) < 0.75 * 0.4**2


def check_moments(layer: ManifoldNorm, x: Tensor, scale: float) -> None:
    w = bias_point()
    layer.bias_point, layer.scale = w, scale
    manifold = layer.manifold
    out = layer(x).detach()
    variance = manifold.squared_dist(layer.running_mean, x).mean()
    expected = scale**2 * variance / (variance + layer.eps)
    assert float(manifold.dist(manifold.frechet_mean(out), w)) < 1e-10
    assert abs(float(manifold.squared_dist(w, out).mean() / expected) - 1) < 1e-10


def test_moments_with_one_step_hold_up_to_the_step(batch: Callable[..., Tensor]) -> None:
    """The variance about the bias is exact for any mean; the mean itself is off by what one step leaves."""
    layer = LieBatchNorm(AIM, mean=Karcher(1), dtype=F64)
    out = layer(batch()).detach()
    variance = (layer.running_var - 0.9) / 0.1
    eye = torch.eye(N, dtype=F64)
    assert abs(float(AIM.squared_dist(eye, out).mean() * (variance + layer.eps) / variance) - 1) < 1e-10
    off = float(AIM.dist(AIM.frechet_mean(out), eye))
    assert 1e-6 < off < 2e-2


# ---- equivariance, with a neutral bias

Group = Callable[[Manifold, Tensor, Tensor], Tensor]


def conjugated(manifold: Manifold, a: Tensor, x: Tensor) -> Tensor:
    q, _ = torch.linalg.qr(a)
    return q @ x @ q.mT


def permuted(manifold: Manifold, a: Tensor, x: Tensor) -> Tensor:
    order = torch.randperm(N)
    return x[..., order, :][..., order]


def by_lower_triangular(manifold: Manifold, a: Tensor, x: Tensor) -> Tensor:
    factor = a.tril(-1) / 2 + torch.diag(a.diagonal().exp())
    return linalg.congruence(factor, x)


def by_own_group(manifold: Any, a: Tensor, x: Tensor) -> Tensor:
    return manifold.compose(linalg.expm((a + a.mT) / 4), x)  # type: ignore[no-any-return]


LEM_AB = mn.LogEuclidean(N, 2.0, 0.25)
AIM_HALF = PowerDeformed(AIM, 0.5)
# layer, map of the input, "same" (output unchanged), "with" (output transformed alike) or "no"
TABLE: list[tuple[type[ManifoldNorm], Manifold, Group, str]] = [
    (RiemannianBatchNorm, AIM, conjugated, "with"),
    (RiemannianBatchNorm, AIM, permuted, "with"),
    (GyroBatchNorm, AIM_HALF, conjugated, "with"),
    (LieBatchNorm, LEM, conjugated, "with"),
    (LieBatchNorm, LEM_AB, permuted, "with"),
    (LieBatchNorm, LEM, by_lower_triangular, "no"),
    (LieBatchNorm, LEM, by_own_group, "same"),
    (LieBatchNorm, LCM, permuted, "no"),
    (LieBatchNorm, LCM, by_own_group, "same"),
    (LieBatchNorm, AIM, permuted, "no"),
    (LieBatchNorm, AIM, by_lower_triangular, "same"),
    (LieBatchNorm, AIM, by_own_group, "same"),
    (LieBatchNorm, AIM_HALF, permuted, "no"),
    (LieBatchNorm, AIM_HALF, by_lower_triangular, "no"),
    (LieBatchNorm, AIM_HALF, by_own_group, "same"),
    (LieBatchNorm, CRIM, conjugated, "no"),
    (LieBatchNorm, CRIM, by_lower_triangular, "no"),
    (LieBatchNorm, CRIM, by_own_group, "same"),
    (RiemannianBatchNorm, BW, conjugated, "with"),
    (RiemannianBatchNorm, BW, permuted, "with"),
]


@pytest.mark.parametrize("mean", [None, Karcher(1), Exact()], ids=["default", "one step", "converged"])
@pytest.mark.parametrize(
    ("kind", "manifold", "group", "relation"), TABLE, ids=lambda v: getattr(v, "__name__", repr(v))
)
def test_equivariance(
    batch: Callable[..., Tensor],
    kind: type[ManifoldNorm],
    manifold: Manifold,
    group: Group,
    relation: str,
    mean: MeanPolicy | None,
) -> None:
    x, a = batch(), torch.randn(N, N, dtype=F64)
    state = torch.get_rng_state()
    moved = group(manifold, a, x)
    before, after = output(kind, manifold, x, mean), output(kind, manifold, moved, mean)
    torch.set_rng_state(state)
    if relation == "same":
        assert gap(after, before) < 1e-11
    else:
        distance = gap(after, group(manifold, a, before))
        assert distance > 1e-3 if relation == "no" else distance < 1e-11


@pytest.mark.parametrize("kind", [RiemannianBatchNorm, GyroBatchNorm, LieBatchNorm])
def test_eigenvalues_are_invariant_under_every_congruence(
    batch: Callable[..., Tensor], kind: type[ManifoldNorm]
) -> None:
    x, a = batch(), torch.randn(N, N, dtype=F64)
    a = a + 3 * torch.eye(N, dtype=F64)
    before, after = (linalg.eigvalsh(output(kind, AIM, y)) for y in (x, linalg.congruence(a, x)))
    assert gap(after, before) < 1e-11


def test_bures_wasserstein_ignores_units_unlike_the_published_code(batch: Callable[..., Tensor]) -> None:
    """Transport to the identity divides by the root of the units; the code's uncentred variance spoils that."""
    x = batch()
    layer = RiemannianBatchNorm(BW, bias=False, eps=0.0, dtype=F64)
    assert gap(layer(4 * x), layer(x)) < 1e-12
    code = published.GBWBN(BW, bias=False, eps=0.0, dtype=F64)
    assert gap(code(4 * x), code(x)) > 0.05


# ---- training and evaluation


@pytest.mark.parametrize(("kind", "manifold"), MOMENTS, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_evaluation_with_the_batch_statistics_is_training(
    batch: Callable[..., Tensor], kind: type[ManifoldNorm], manifold: Manifold
) -> None:
    x = batch()
    layer = kind(manifold, momentum=1.0, dtype=F64)
    layer.bias_point, layer.scale = bias_point(), 0.8
    trained = layer(x)
    assert gap(layer.eval()(x), trained) < 1e-11


@pytest.mark.parametrize("shape", [(), (5,), (4, 1), (4, 3)])
def test_geodesic_at_several_times(shape: tuple[int, ...]) -> None:
    manifold, generator = mn.AffineInvariant(3), torch.Generator().manual_seed(0)
    p, q = (manifold.random_point(*shape[1:], generator=generator, dtype=torch.float64) for _ in range(2))
    times = torch.linspace(0, 1, 20, dtype=torch.float64)[: math.prod(shape)].reshape(shape)
    along = manifold.geodesic(p, q, times)
    with torch.no_grad():
        assert (manifold.geodesic(p, q, times) - along).abs().max() < 1e-12
