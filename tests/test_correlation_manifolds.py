"""Correlation matrices: exact unit diagonals, charts solved to working precision, isometries, order, moments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.linalg.row_scaling import unit_row_scaling
from manifoldnorm.linalg.unipotent import exp_nilpotent, log_unipotent
from manifoldnorm.linalg.unit_diagonal import unit_diagonal_exp
from manifoldnorm.manifolds import Manifold
from manifoldnorm.manifolds.charts_correlation import HollowScaling, ZeroRowSumScaling
from manifoldnorm.nn import GyroBatchNorm, LearnableManifold, LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.optim import ManifoldParameter, RiemannianAdam, RiemannianSGD
from manifoldnorm.stats import Exact

F64 = torch.float64
Make = Callable[[int], Manifold]
FLAT: dict[str, Make] = {
    "Euclidean-Cholesky": mn.CorrelationEuclideanCholesky,
    "log-Euclidean-Cholesky": mn.CorrelationLogEuclideanCholesky,
    "off-log": mn.CorrelationOffLog,
    "off-log weighted": lambda n: mn.CorrelationOffLog(n, 1.0, 0.5, 0.25),
    "log-scaling": mn.CorrelationLogScaling,
    "log-scaling weighted": lambda n: mn.CorrelationLogScaling(n, 1.0, 0.5, 0.25),
}
ALL: dict[str, Make] = {**FLAT, "poly-hyperbolic": mn.CorrelationPolyHyperbolic}
SYMMETRIC = ["off-log", "off-log weighted", "log-scaling", "log-scaling weighted"]


def correlations(n: int, *batch: int, samples: int | None = None, dtype: torch.dtype = F64) -> Tensor:
    """Empirical correlation matrices; barely more samples than variables make them nearly singular."""
    x = torch.randn(*batch, n, samples or 3 * n, dtype=F64)
    return normalised(x @ x.mT).to(dtype)


def normalised(s: Tensor) -> Tensor:
    scale = s.diagonal(dim1=-2, dim2=-1).rsqrt()
    c = scale[..., :, None] * s * scale[..., None, :]
    return c.masked_fill(torch.eye(s.shape[-1], dtype=torch.bool), 1.0)


def gap(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ALL)
def test_every_output_has_an_exact_unit_diagonal(name: str, dtype: torch.dtype) -> None:
    metric: Any = ALL[name](6)
    p, q = correlations(6, 8, dtype=dtype), correlations(6, 8, dtype=dtype)
    layer = RiemannianBatchNorm(metric, dtype=dtype)
    layer.bias_point = p[0]
    outputs = [metric.exp(p, metric.log(p, q)), metric.geodesic(p, q, 0.3), metric.frechet_mean(p), metric.origin()]
    outputs += [metric.gyroadd(p, q), metric.polar(p)[1](0.5), metric.random_point(4, dtype=dtype), layer(q)]
    outputs += [metric.project(p + 0.1 * torch.randn_like(p)), metric.retract(p, metric.log(p, q))]
    for out in outputs:
        assert bool(out.isfinite().all())
        assert bool((out.diagonal(dim1=-2, dim2=-1) == 1).all())
    for tangent in (metric.log(p, q), metric.egrad2rgrad(p, torch.randn_like(p)), metric.from_origin(p, p - q)):
        assert bool((tangent.diagonal(dim1=-2, dim2=-1) == 0).all())


@pytest.mark.parametrize(("n", "samples"), [(2, 3), (5, 6), (20, 60), (20, 21), (40, 42)])
@pytest.mark.parametrize("name", ALL)
def test_charts_invert_to_working_precision(name: str, n: int, samples: int) -> None:
    metric: Any = ALL[name](n)
    c = correlations(n, 8, samples=samples)
    low = float(torch.linalg.eigvalsh(c).min())
    assert gap(metric.chart.inverse(metric.chart(c)), c) < 1e-14 / low
    single = metric.chart.inverse(metric.chart(c.float()))
    assert gap(single.double(), c) < max(1e-6, 1e-6 / low) * 10


def test_unit_diagonal_exponential() -> None:
    """Unit diagonal to rounding also for large arguments, before it is set, and the logarithm's off-diagonal back."""
    for n, size in ((2, 4.0), (5, 2.0), (20, 0.8), (40, 0.4)):
        y = size * torch.randn(16, n, n, dtype=F64)
        y = (y + y.mT) / 2
        y = y - torch.diag_embed(y.diagonal(dim1=-2, dim2=-1))
        c = unit_diagonal_exp(y)
        w, u = torch.linalg.eigh(c)
        low = float(w.min())
        log = (u * w.log().unsqueeze(-2)) @ u.mT
        off = log - torch.diag_embed(log.diagonal(dim1=-2, dim2=-1))
        assert gap(off, y) < 1e-13 / low
        # exp of the logarithm with its own diagonal has the unit diagonal that was set
        assert gap(torch.linalg.matrix_exp(log).diagonal(dim1=-2, dim2=-1), torch.ones(16, n)) < 1e-12


def test_row_scaling_of_hard_matrices() -> None:
    n = 20
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    hard = [correlations(n, samples=n + 1), (0.99**distance).to(F64), (-0.9) ** distance.to(F64)]
    hard += [torch.full((n, n), -1 / (n - 1) * (1 - 1e-4), dtype=F64).fill_diagonal_(1.0)]
    for c in hard:
        x = unit_row_scaling(c)
        assert bool((x > 0).all())
        assert float((x * (c @ x) - 1).abs().max()) < 1e-9
    assert unit_row_scaling(hard[0].float()).dtype == F64


def test_unipotent_logarithm_keeps_its_digits() -> None:
    """Of a matrix whose power series alternates with terms of size 1e17: the logarithm of 1 / (1 - r S)."""
    n, r = 64, 0.9
    gaps = (torch.arange(n)[:, None] - torch.arange(n)).to(F64)
    lower = torch.where(gaps > 0, r**gaps, 0.0)
    expected = torch.where(gaps > 0, r**gaps / gaps.clamp_min(1), 0.0)
    assert gap(log_unipotent(lower), expected) < 1e-13
    assert gap(exp_nilpotent(expected).tril(-1), lower) < 1e-12


def test_formulas_of_the_metrics() -> None:
    n = 4
    p, q = correlations(n, 5), correlations(n, 5)
    lower = [torch.linalg.cholesky(c) for c in (p, q)]
    unit = [f / f.diagonal(dim1=-2, dim2=-1)[..., None] for f in lower]
    d = mn.CorrelationEuclideanCholesky(n).squared_dist(p, q)
    torch.testing.assert_close(d, (unit[0] - unit[1]).square().sum((-2, -1)))
    y = mn.CorrelationOffLog(n).chart(p) - mn.CorrelationOffLog(n).chart(q)
    rows = y.sum(-1)
    expected = 1.5 * y.square().sum((-2, -1)) + 0.5 * rows.square().sum(-1) + 0.25 * rows.sum(-1).square()
    torch.testing.assert_close(mn.CorrelationOffLog(n, 1.5, 0.5, 0.25).squared_dist(p, q), expected)
    s = mn.CorrelationLogScaling(n).chart(p) - mn.CorrelationLogScaling(n).chart(q)
    diagonal = s.diagonal(dim1=-2, dim2=-1)
    expected = 1.5 * s.square().sum((-2, -1)) + 0.5 * diagonal.square().sum(-1) + 0.25 * diagonal.sum(-1).square()
    torch.testing.assert_close(mn.CorrelationLogScaling(n, 1.5, 0.5, 0.25).squared_dist(p, q), expected)
    assert float(s.sum(-1).abs().max()) < 1e-13
    klein = [f.tril(-1) for f in lower]
    heights = [f.diagonal(dim1=-2, dim2=-1) for f in lower]
    cosh = (1 - (klein[0] * klein[1]).sum(-1)) / (heights[0] * heights[1])
    expected = torch.acosh(cosh[..., 1:]).square().sum(-1)
    torch.testing.assert_close(mn.CorrelationPolyHyperbolic(n).squared_dist(p, q), expected)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("kind", [HollowScaling, ZeroRowSumScaling])
def test_scalings_are_isometries_and_self_adjoint(kind: Any, n: int) -> None:
    scaling = kind(1.3, 0.4, -0.02)
    spaces = {HollowScaling: mn.CorrelationOffLog(n).base, ZeroRowSumScaling: mn.CorrelationLogScaling(n).base}
    a, b = (spaces[kind].project(torch.randn(5, n, n, dtype=F64)) for _ in range(2))
    torch.testing.assert_close(scaling.inverse(scaling(a)), a)
    torch.testing.assert_close((scaling(a) * b).sum((-2, -1)), (a * scaling(b)).sum((-2, -1)))
    torch.testing.assert_close(spaces[kind].project(scaling(a)), scaling(a))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_permutation_invariance(name: str) -> None:
    metric: Any = ALL[name](6)
    p, q, order = correlations(6, 8), correlations(6, 8), torch.randperm(6)

    def moved(c: Tensor) -> Tensor:
        return c[..., order, :][..., :, order]

    torch.testing.assert_close(metric.dist(moved(p), moved(q)), metric.dist(p, q), rtol=1e-12, atol=0)
    layer = LieBatchNorm(metric, bias=False, dtype=F64)
    assert gap(layer(moved(p)), moved(layer(p))) < 1e-12


@pytest.mark.parametrize("name", ["Euclidean-Cholesky", "log-Euclidean-Cholesky", "poly-hyperbolic"])
def test_cholesky_metrics_depend_on_the_order(name: str) -> None:
    metric: Any = ALL[name](5)
    p, q = correlations(5, 8), correlations(5, 8)
    assert gap(metric.dist(p.flip(-1, -2), q.flip(-1, -2)), metric.dist(p, q)) > 1e-2


def test_inversion_is_an_isometry_of_the_log_scaled_metric() -> None:
    metric = mn.CorrelationLogScaling(5, 1.0, 0.5, 0.25)
    p, q = correlations(5, 8), correlations(5, 8)
    torch.testing.assert_close(metric.inverse(p), normalised(torch.linalg.inv(p)), rtol=1e-11, atol=1e-12)
    inverted = metric.dist(normalised(torch.linalg.inv(p)), normalised(torch.linalg.inv(q)))
    torch.testing.assert_close(inverted, metric.dist(p, q), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_mean_and_variance_are_controlled(name: str) -> None:
    metric: Any = ALL[name](5)
    x, bias = correlations(5, 16), correlations(5)
    for kind in (GyroBatchNorm, RiemannianBatchNorm) + ((LieBatchNorm,) if name in FLAT else ()):
        layer = kind(metric, mean=Exact(), dtype=F64)
        layer.bias_point, layer.scale = bias, 0.7
        y = layer(x).detach()
        v = metric.squared_dist(metric.frechet_mean(x), x).mean()
        expected = 0.49 * v / (v + layer.eps)
        assert float(metric.dist(metric.frechet_mean(y), bias)) < 1e-12
        assert abs(float(metric.squared_dist(bias, y).mean() / expected) - 1) < 1e-12


@pytest.mark.parametrize("name", FLAT)
def test_abelian_gyrogroup_is_the_lie_group(name: str) -> None:
    """T9: on the flat metrics the three layers coincide."""
    metric: Any = ALL[name](5)
    x, bias = correlations(5, 12), correlations(5)
    outputs = []
    for kind in (LieBatchNorm, GyroBatchNorm, RiemannianBatchNorm):
        layer = kind(metric, dtype=F64)
        layer.bias_point, layer.scale = bias, 1.3
        outputs.append(layer(x))
    assert gap(outputs[1], outputs[0]) < 1e-12
    assert gap(outputs[2], outputs[0]) < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_the_charts(name: str) -> None:
    metric: Any = ALL[name](4)
    c = correlations(4, 2)
    y, v = metric.chart(c), metric.project_tangent(c, torch.randn_like(c))
    w = metric.base.project_tangent(y, torch.randn_like(y))
    a, b = torch.zeros_like(c).requires_grad_(), torch.zeros_like(c).requires_grad_()

    def point(t: Tensor) -> Tensor:
        return c + metric.project_tangent(c, t)

    def image(t: Tensor) -> Tensor:
        return y + metric.base.project_tangent(y, t)

    gradcheck, gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    assert gradcheck(lambda t: metric.chart(point(t)), (a,))
    assert gradcheck(lambda t: metric.chart.inverse(image(t)), (a,))
    assert gradgradcheck(lambda t: metric.chart(point(t)), (a,))
    assert gradgradcheck(lambda t: metric.chart.inverse(image(t)), (a,))
    pushed = torch.autograd.functional.jvp(lambda t: metric.chart(point(t)), a, v)[1]
    torch.testing.assert_close(metric.chart.push(c, v), pushed, rtol=1e-10, atol=1e-11)
    pulled = torch.autograd.functional.jvp(lambda t: metric.chart.inverse(image(t)), a, w)[1]
    torch.testing.assert_close(metric.chart.pull(y, w), pulled, rtol=1e-10, atol=1e-11)
    assert gradcheck(lambda s, t: metric.chart.push(point(s), metric.project_tangent(c, t) + v), (a, b))
    assert gradcheck(lambda s, t: metric.chart.pull(image(s), metric.base.project_tangent(y, t) + w), (a, b))
    eye = torch.eye(4, dtype=F64).expand(2, 4, 4)
    torch.testing.assert_close(metric.chart.push_identity(v), metric.chart.push(eye, v))


@pytest.mark.parametrize("name", ALL)
def test_degenerate_batches_have_finite_gradients(name: str) -> None:
    metric: Any = ALL[name](4)
    c = correlations(4, dtype=torch.float32)
    batches = {"constant": c.expand(6, 4, 4), "origin": torch.eye(4).expand(6, 4, 4)}
    batches["symmetric"] = torch.stack([c, metric.gyroneg(c)])
    for x in batches.values():
        leaf = x.clone().requires_grad_()
        layer = GyroBatchNorm(metric)
        y = layer(leaf)
        (y * torch.randn_like(y)).sum().backward()
        assert bool(y.isfinite().all())
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


# optimizer, steps, decay of the learning rate per step, accuracy relative to the spread
OPTIMIZERS: dict[str, tuple[Callable[..., Any], int, float, float]] = {
    "SGD": (lambda p: RiemannianSGD(p, lr=0.7), 40, 1.0, 1e-8),
    # a short memory of squared gradients, so that early large ones do not stall it
    "Adam": (lambda p: RiemannianAdam(p, lr=0.2, betas=(0.9, 0.9)), 150, 0.96, 1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ALL)
def test_optimizers_find_the_mean(name: str, optimizer: str) -> None:
    metric: Any = ALL[name](4)
    make, steps, decay, accuracy = OPTIMIZERS[optimizer]
    x = correlations(4, 6)
    expected = metric.frechet_mean(x)
    point = ManifoldParameter(x[0].clone(), metric)
    search = make([point])
    schedule = torch.optim.lr_scheduler.ExponentialLR(search, decay)
    for _ in range(steps):
        search.zero_grad()
        (metric.squared_dist(point, x).mean() / 2).backward()
        search.step()
        schedule.step()
    spread = float(metric.squared_dist(expected, x).mean().sqrt())
    assert float(metric.dist(point.detach(), expected)) < accuracy * spread
    assert bool((point.diagonal() == 1).all())


def test_learnable_inner_product() -> None:
    geometry = LearnableManifold(mn.CorrelationOffLog(4), ("alpha",), dtype=F64)
    layer = LieBatchNorm(geometry, dtype=F64)
    layer(correlations(4, 8))[..., 0, 1].sum().backward()
    assert float(geometry.raw_alpha.grad.abs()) > 0


def test_bad_input_says_what_to_do() -> None:
    metric = mn.CorrelationOffLog(3)
    with pytest.raises(ValueError, match=r"sample 1 has a diagonal that differs from 1 .* manifold.project"):
        metric.check_point(torch.stack([torch.eye(3), 2 * torch.eye(3)]))
    singular = torch.ones(2, 3, 3)
    with pytest.raises(ValueError, match="numerically singular"):
        metric.check_point(singular)
    with pytest.raises(ValueError, match="not symmetric"):
        metric.check_point(torch.eye(3) + torch.ones(3, 3).tril(-1) * 0.1)
    with pytest.raises(ValueError, match=r"LieBatchNorm input.*sample 0 has a diagonal"):
        LieBatchNorm(metric, check_input=True)(3 * torch.eye(3).expand(4, 3, 3))
    with pytest.raises(ValueError, match="at least 2"):
        mn.CorrelationLogScaling(1)
    with pytest.raises(ValueError, match=r"no inner product for n=4.*must be positive"):
        mn.CorrelationOffLog(4, 1.0, -1.5)
    with pytest.raises(ValueError, match=r"alpha=1.0, delta=-3.0"):
        mn.CorrelationLogScaling(4, 1.0, -3.0)
    covariance = 3 * correlations(3, 4)
    torch.testing.assert_close(metric.project(covariance), covariance / 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ALL)
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    metric: Any = ALL[name](4)
    layer = GyroBatchNorm(metric, dtype=F64)
    twin = copy.deepcopy(layer)
    run = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x, weight = correlations(4, 6), torch.randn(6, 4, 4, dtype=F64)
    gradients = []
    for module in (layer, run):
        leaf = x.clone().requires_grad_()
        (module(leaf) * weight).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(twin.running_mean, layer.running_mean)
