"""Norm layers on Grassmann manifolds: the theorems of gyrogroup normalisation, means, and the published codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import GyroBatchNorm, RiemannianBatchNorm, published
from manifoldnorm.stats import Exact, Karcher, Newton

F64 = torch.float64
SIZES = [(6, 2), (5, 3), (3, 1), (8, 3)]


def cloud(m: mn.Grassmann, count: int = 12, size: float = 0.25, dtype: torch.dtype = F64) -> Tensor:
    """Points within the convexity ball of a centre off the origin, in arbitrary frames."""
    e = m.origin(dtype=F64)
    centre = m.exp(e, 0.5 * m.random_tangent(e) / math.sqrt(m.dim))
    x = m.exp(centre, size * m.random_tangent(centre.expand(count, *centre.shape)) / math.sqrt(m.dim))
    p = m.point_shape[1]
    return (x @ torch.linalg.qr(torch.randn(count, p, p, dtype=F64))[0]).to(dtype)


def generic(layer: Any, scale: float = 0.3) -> Any:
    """Give a layer a bias off the origin and a scale that keeps its output within the convexity ball."""
    m = layer.manifold
    e = m.origin(*layer.running_mean.shape[:-2], dtype=layer.running_mean.dtype)
    layer.bias_point = m.exp(e, 0.5 * m.random_tangent(e) / math.sqrt(m.dim))
    layer.scale = scale
    return layer


# ---- means


@pytest.mark.parametrize("n_p", SIZES)
def test_means(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x = cloud(m)
    weights = torch.rand(len(x), dtype=F64) + 0.1
    mean = m.frechet_mean(x, weights)
    share = (weights / weights.sum())[:, None, None]
    assert float((share * m.log(mean, x)).sum(0).norm()) < 1e-12
    for policy in (Exact(), Newton(5, cg_steps=8), Karcher(30)):
        assert float(m.dist(policy(m, x, share[:, 0, 0]), mean)) < 1e-10
    spread = m.squared_dist(mean, x).mean().sqrt()
    assert float(m.dist(m.default_mean(m, x, share[:, 0, 0]), mean) / spread) < 1e-3
    order = torch.randperm(len(x))
    torch.testing.assert_close(m.frechet_mean(x[order], weights[order]), mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n_p", SIZES)
def test_hessian_is_the_derivative_of_the_mean_tangent(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x = cloud(m, size=0.6)
    mean = m.frechet_mean(x)
    step = 0.3 * m.random_tangent(mean)

    def residual(t: float) -> Tensor:
        return m.to_origin(moved := m.exp(mean, t * step), m.log(moved, x).mean(0))

    h = 1e-3
    change = m.from_origin(mean, (8 * (residual(h) - residual(-h)) - residual(2 * h) + residual(-2 * h)) / (12 * h))
    system = m.mean_system(mean, x, None)
    assert system.hessian is not None
    torch.testing.assert_close(system.hessian.solve(-change, 4 * m.dim, 0), step, atol=1e-8, rtol=0)


@pytest.mark.parametrize("n_p", [(6, 2), (5, 3)])
def test_gradient_of_the_mean(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x, w = cloud(m, 6), torch.randn(n_p, dtype=F64)
    direction = m.random_tangent(x)
    leaf = x.clone().requires_grad_()
    (m.frechet_mean(leaf) * w).sum().backward()

    def value(t: float) -> Tensor:
        return (m.frechet_mean(m.exp(x, t * direction)) * w).sum()

    h = 1e-3
    expected = (8 * (value(h) - value(-h)) - value(2 * h) + value(-2 * h)) / (12 * h)
    assert leaf.grad is not None
    assert abs(float((leaf.grad * direction).sum() - expected)) < 1e-8


# ---- theorems: names as in the literature on gyrogroup normalisation


@pytest.mark.parametrize("n_p", SIZES)
def test_theorems_of_the_algebra(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    e = m.origin(dtype=F64)
    a, b, c, x = cloud(m, 6), cloud(m, 6), cloud(m, 6), cloud(m)

    def same(u: Tensor, v: Tensor) -> None:
        torch.testing.assert_close(m.to_projector(u), m.to_projector(v), atol=1e-12, rtol=0)

    same(m.gyrosub(a, m.gyroadd(a, b)), b)  # T1, left cancellation
    same(m.gyrosub(m.gyroadd(a, b), m.gyroadd(a, c)), m.gyration(a, b, m.gyrosub(b, c)))  # T2
    torch.testing.assert_close(m.dist(m.gyroadd(a, b), m.gyroadd(a, c)), m.dist(b, c))  # T3
    torch.testing.assert_close(m.dist(m.gyroneg(a), m.gyroneg(b)), m.dist(a, b))
    same(m.frechet_mean(m.gyroadd(a[0], x)), m.gyroadd(a[0], m.frechet_mean(x)))  # T4, homogeneity
    torch.testing.assert_close(m.dist(e, m.gyroscale(0.7, a)), 0.7 * m.dist(e, a))  # T5, dispersion


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("n_p", SIZES)
def test_mean_and_variance_of_the_output(n_p: tuple[int, int], channels: int | None, through: bool) -> None:
    """T6: the output's Frechet mean is the bias and its variance ``s^2 v / (v + eps)``."""
    m = mn.Grassmann(*n_p)
    layer = GyroBatchNorm(m, mean=Exact(), channels=channels, grad_through_stats=through, dtype=F64)
    layer = generic(layer)
    x = cloud(m) if channels is None else torch.stack([cloud(m), cloud(m)], 1)
    y = layer(x).detach()
    assert float(m.dist(layer.bias_point, m.frechet_mean(y)).detach().max()) < 1e-12
    v = m.squared_dist(m.frechet_mean(x), x).mean(0)
    got = m.squared_dist(layer.bias_point, y).mean(0).detach()
    torch.testing.assert_close(got, 0.09 * v / (v + layer.eps), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_p", SIZES)
def test_riemannian_routes(n_p: tuple[int, int]) -> None:
    """T7: through the origin it is the same layer; directly it differs by a gyration, with the same moments."""
    m = mn.Grassmann(*n_p)
    x = cloud(m)
    gyro = generic(GyroBatchNorm(m, mean=Exact(), dtype=F64))
    outputs = []
    for route in ("origin", "direct"):
        layer = RiemannianBatchNorm(m, mean=Exact(), route=route, dtype=F64)
        layer.bias_point, layer.scale = gyro.bias_point.detach(), 0.3
        outputs.append(layer(x).detach())
    y, bias = gyro(x).detach(), gyro.bias_point.detach()
    torch.testing.assert_close(m.to_projector(outputs[0]), m.to_projector(y), atol=1e-12, rtol=0)
    torch.testing.assert_close(m.dist(bias, outputs[1]), m.dist(bias, y), atol=1e-12, rtol=0)
    neutral = RiemannianBatchNorm(m, mean=Exact(), route="direct", dtype=F64)(x)
    torch.testing.assert_close(
        m.to_projector(neutral), m.to_projector(GyroBatchNorm(m, mean=Exact(), dtype=F64)(x)), atol=1e-12, rtol=0
    )


def test_order_and_frames_do_not_matter() -> None:
    m = mn.Grassmann(6, 2)
    layer = generic(GyroBatchNorm(m, mean=Exact(), dtype=F64))
    x, order = cloud(m), torch.randperm(12)
    other = x @ torch.linalg.qr(torch.randn(12, 2, 2, dtype=F64))[0]
    y = layer(x)
    torch.testing.assert_close(layer(x[order]), y[order], atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(other), y, atol=1e-12, rtol=0)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("n_p", [(6, 2), (5, 3)])
def test_gradients_of_the_layer(n_p: tuple[int, int], through: bool) -> None:
    m = mn.Grassmann(*n_p)
    layer = generic(GyroBatchNorm(m, mean=Exact(), grad_through_stats=through, dtype=F64))
    layer(cloud(m))
    if not through:
        layer.eval()  # detached statistics are constants
    x, w = cloud(m), torch.randn(12, *n_p, dtype=F64)
    direction = 0.3 * m.random_tangent(x)
    leaf = x.clone().requires_grad_()
    (layer(leaf) * w).sum().backward()

    def value(t: float) -> Tensor:
        return (layer(m.exp(x, t * direction)) * w).sum().detach()

    h = 1e-3
    expected = (8 * (value(h) - value(-h)) - value(2 * h) + value(-2 * h)) / (12 * h)
    assert leaf.grad is not None
    assert abs(float((leaf.grad * direction).sum() - expected)) < 2e-9


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("n_p", SIZES)
def test_degenerate_batches_are_finite(n_p: tuple[int, int], dtype: torch.dtype) -> None:
    """Identical samples, a sample equal to the mean, the origin, a symmetric batch, orthogonal subspaces."""
    m = mn.Grassmann(*n_p)
    e = m.origin(4, dtype=F64)
    x = cloud(m, 4)
    v = 0.3 * m.random_tangent(e)
    far = torch.linalg.qr(torch.randn(4, n_p[0], n_p[0], dtype=F64))[0]
    p = n_p[1]
    orthogonal = torch.stack([far[0, :, :p], far[0, :, -p:], far[1, :, :p], far[1, :, -p:]])
    batches = (x[:1].expand(4, *n_p), e, torch.cat([m.exp(e[:2], v[:2]), m.exp(e[:2], -v[:2])]), orthogonal, x[:1])
    for batch in batches:
        layer = GyroBatchNorm(m, dtype=dtype)
        leaf = batch.to(dtype).clone().requires_grad_()
        y = layer(leaf)
        y.square().mul(torch.rand_like(y)).sum().backward()
        assert leaf.grad is not None and layer.bias.grad is not None
        assert all(bool(t.isfinite().all()) for t in (y, leaf.grad, layer.bias.grad, layer.running_mean))


def test_large_batches_in_single_precision() -> None:
    """The published layer has NaN gradients here."""
    m = mn.Grassmann(50, 10)
    x = cloud(m, 256, 1.0, torch.float32).requires_grad_()
    layer = GyroBatchNorm(m)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    wide = GyroBatchNorm(m, dtype=F64)(x.detach().double())
    torch.testing.assert_close(y.detach().double(), wide.detach(), atol=1e-5, rtol=0)


def test_a_mean_per_domain() -> None:
    m = mn.Grassmann(5, 2)
    norm = mn.nn.DomainBatchNorm(GyroBatchNorm(m, mean=Exact(), dtype=F64), 3)
    x, domain = cloud(m, 12), torch.arange(12) % 2
    y = norm(x, domain)
    for d in range(2):
        alone = GyroBatchNorm(m, mean=Exact(), dtype=F64)(x[domain == d])
        torch.testing.assert_close(y[domain == d], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("product", [False, True], ids=["Grassmann", "Product"])
def test_gradients_per_domain_in_single_precision(product: bool) -> None:
    m: Any = mn.Grassmann(5, 2)
    x, domain = cloud(m, 12), torch.arange(12) % 3
    if product:
        m = mn.Product(m, mn.Euclidean(3))
        x = m.merge(x, torch.randn(12, 3, dtype=F64))
    seed, results = torch.randn_like(x), []
    for dtype in (torch.float32, F64):
        leaf = x.to(dtype).requires_grad_()
        y = mn.nn.DomainBatchNorm(GyroBatchNorm(m, dtype=dtype), 3)(leaf, domain)
        (y * seed.to(dtype)).sum().backward()
        results.append((y.detach().double(), leaf.grad.double()))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about autograd Functions
@pytest.mark.parametrize("make", [lambda m: GyroBatchNorm(m, dtype=F64), lambda m: published.GyroBNGr(6, 2, dtype=F64)])
def test_compiled(make: Any) -> None:
    layer = make(mn.Grassmann(6, 2))
    x = cloud(layer.manifold)
    torch._dynamo.reset()
    fast = torch.compile(layer.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(x), layer(x))
    layer.train()
    leaf = x.clone().requires_grad_()
    fast(leaf).sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


# ---- published codes


def test_published_exact_mode_is_the_clean_layer() -> None:
    m = mn.Grassmann(6, 2)
    x = cloud(m)
    bias = generic(GyroBatchNorm(m, dtype=F64)).bias_point.detach()
    clean = GyroBatchNorm(m, mean=Exact(), grad_through_stats=False, dtype=F64)
    code = published.GyroBNGr(6, 2, exact=True, karcher_steps=50, dtype=F64)
    for layer in (clean, code):
        layer.bias_point, layer.scale = bias, torch.tensor(0.3, dtype=F64)
    torch.testing.assert_close(code(x), clean(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(code.running_var, clean.running_var)
    code.scale = -0.3
    assert float(code.scale.detach()) == pytest.approx(-0.3)


def test_published_cayley_mode_misses_mean_and_variance() -> None:
    m = mn.Grassmann(6, 2)
    x = cloud(m)
    code = published.GyroBNGr(6, 2, karcher_steps=50, dtype=F64)
    code.scale = 0.3
    y = code(x).detach()
    e = m.origin(dtype=F64)
    assert float(m.dist(e, m.frechet_mean(y))) > 0.1
    assert abs(float(m.squared_dist(e, y).mean()) - 0.09) > 0.01
    cayley = published.CayleyGrassmann(6, 2)
    omega = (b := m.log(e, x)) @ e.mT - e @ b.mT
    eye = torch.eye(6, dtype=F64)
    expected = (eye - omega) @ torch.linalg.inv(eye + omega)
    torch.testing.assert_close(cayley.gyroadd(x, x.flip(0)), expected @ x.flip(0))
    torch.testing.assert_close(cayley.gyroscale(1.0, x), expected[:, :, :2])


def test_published_karcher_step_depends_on_the_order() -> None:
    x = cloud(mn.Grassmann(6, 2), size=0.8)
    code = published.GyroBNGr(6, 2, exact=True, dtype=F64)
    assert float((code(x.flip(0)).flip(0) - code(x)).detach().abs().max()) > 1e-3


def test_published_rbn_has_the_right_moments_in_the_wrong_frames() -> None:
    m = mn.Grassmann(6, 2)
    x = cloud(m)
    bias = generic(GyroBatchNorm(m, dtype=F64)).bias_point.detach()
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=F64))[0]
    outputs = []
    for frame in (bias, bias @ turn):
        code = published.RBNGr(6, 2, karcher_steps=50, dtype=F64)
        code.bias_point, code.scale = frame, 0.3
        y = code(x).detach()
        assert float(m.dist(bias, m.frechet_mean(y))) < 1e-10
        assert float(m.squared_dist(bias, y).mean()) == pytest.approx(0.09, rel=1e-3)
        outputs.append(m.to_projector(y))
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-2
    clean = RiemannianBatchNorm(m, mean=Exact(), route="direct", dtype=F64)
    clean.bias_point, clean.scale = bias, 0.3
    assert float((m.to_projector(clean(x)) - outputs[0]).abs().max().detach()) > 1e-2


def test_published_manifoldnorm_by_its_definition() -> None:
    m = mn.Grassmann(6, 2)
    x = cloud(m)
    code = published.ManifoldNormGr(6, 2, dtype=F64)
    code.scale = 0.5
    with torch.no_grad():
        code.bias_on_manifold.copy_(torch.linalg.qr(torch.randn(6, 6, dtype=F64))[0])
    mean = published.FirstSampleKarcher(1)(m, x)
    gap = torch.cat([mean[:2] - torch.linalg.pinv(mean[:2]).mT, -mean[2:]])
    u, s, vh = torch.linalg.svd(gap, full_matrices=False)
    cosine, sine = s.atan().cos(), s.atan().sin()
    carry = -(mean @ vh.mT * sine) @ u.mT + (u * cosine) @ u.mT + torch.eye(6, dtype=F64) - u @ u.mT
    v = 0.5 * carry @ m.log(mean, x)
    q, angle, wh = torch.linalg.svd(v, full_matrices=False)
    e = m.origin(dtype=F64)
    y = (e @ wh.mT * angle.cos().unsqueeze(-2) + q * angle.sin().unsqueeze(-2)) @ wh
    expected = code.bias_on_manifold.detach() @ torch.linalg.qr(y)[0]
    torch.testing.assert_close(m.to_projector(code(x).detach()), m.to_projector(expected), atol=1e-12, rtol=0)
