"""O(n)-invariant metrics: the known ones are special cases of the kernel form, solved or in closed form."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm import linalg
from manifoldnorm.linalg.pair_differences import first_differences, mixed_differences, second_differences
from manifoldnorm.manifolds import (
    BuresKernel,
    Manifold,
    MatrixPower,
    MixedPowerKernel,
    PowerDeformed,
    Pullback,
    SpectralKernel,
    SymmetricMatrices,
)
from manifoldnorm.testing import ManifoldCase
from manifoldnorm.testing.checks import MANIFOLD_LAWS
from manifoldnorm.testing.tolerances import tolerance_of

F64 = torch.float64
N = 3
KNOWN: dict[str, tuple[SpectralKernel, Manifold]] = {
    "affine-invariant": (MixedPowerKernel(1.0, -1.0), mn.AffineInvariant(N)),
    "power-affine": (MixedPowerKernel(-0.5, 0.5), PowerDeformed(mn.AffineInvariant(N), 0.5)),
    "log-Euclidean": (MixedPowerKernel(0.0, 0.0), mn.LogEuclidean(N)),
    "power-Euclidean": (MixedPowerKernel(0.5, 0.5), Pullback(MatrixPower(0.5), SymmetricMatrices(N), 4.0)),
    "Euclidean": (MixedPowerKernel(1.0, 1.0), Pullback(MatrixPower(1.0), SymmetricMatrices(N))),
    "Bures-Wasserstein": (BuresKernel(), mn.BuresWasserstein(N)),
}
# kernels as their papers write them, of eigenvalues x and y
FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "affine-invariant": lambda x, y: x * y,
    "power-affine": lambda x, y: 0.25 * (x - y) ** 2 / ((x**0.5 - y**0.5) * (y**-0.5 - x**-0.5)),
    "log-Euclidean": lambda x, y: ((x - y) / (x.log() - y.log())) ** 2,
    "power-Euclidean": lambda x, y: (0.5 * (x - y) / (x**0.5 - y**0.5)) ** 2,
    "Euclidean": lambda x, y: torch.ones_like(x * y),
    "Bures-Wasserstein": lambda x, y: 2 * (x + y),
}


def solver(name: str) -> mn.KernelMetric:
    return mn.KernelMetric(N, KNOWN[name][0], closed_form=False)


def points(count: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, count, N, 4 * N, dtype=F64)
    p, q = x @ x.mT / (4 * N) + 0.2 * torch.eye(N, dtype=F64)
    return p, q


def tangent(p: Tensor) -> Tensor:
    v = torch.randn_like(p)
    return (v + v.mT) / 2


@pytest.mark.parametrize("name", KNOWN)
def test_kernels_are_those_of_the_papers(name: str) -> None:
    kernel, _ = KNOWN[name]
    x, y = torch.rand(2, 20, dtype=F64) * 4 + 0.1
    torch.testing.assert_close(kernel(x, y), FORMULAS[name](x, y), rtol=1e-11, atol=0)
    torch.testing.assert_close(kernel(x, x), kernel(x, x * (1 + 1e-9)), rtol=1e-8, atol=0)
    a, b = x.log(), y.log()
    torch.testing.assert_close(kernel.in_logarithms(a, b), SpectralKernel.in_logarithms(kernel, a, b))


@pytest.mark.parametrize("name", KNOWN)
def test_known_metrics_inner_and_cometric(name: str) -> None:
    kernel, known = KNOWN[name]
    p, _ = points()
    p[0] = 1.7 * torch.eye(N)  # tied eigenvalues
    u, v = tangent(p), tangent(p)
    w, basis = torch.linalg.eigh(p)
    plain = lambda a: basis.mT @ a @ basis  # noqa: E731
    phi = kernel(w[..., :, None], w[..., None, :])
    for metric in (solver(name), mn.KernelMetric(N, kernel)):
        torch.testing.assert_close(metric.inner(p, u, v), known.inner(p, u, v), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(metric.inner(p, u, v), (plain(u) * plain(v) / phi).sum((-2, -1)))
        torch.testing.assert_close(metric.cometric(p, u, v), (plain(u) * plain(v) * phi).sum((-2, -1)))
        torch.testing.assert_close(metric.egrad2rgrad(p, u), known.egrad2rgrad(p, u), rtol=1e-12, atol=1e-12)
        eye = torch.eye(N, dtype=F64)
        torch.testing.assert_close(metric.origin(dtype=F64), eye)
        if name not in ("power-Euclidean", "Euclidean"):  # there the plain pullback's origin is another point
            torch.testing.assert_close(metric.to_origin(p, v), known.to_origin(p, v), rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(metric.from_origin(p, v), known.from_origin(p, v), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_known_metrics_by_the_solver(name: str) -> None:
    known, metric = KNOWN[name][1], solver(name)
    p, q = points()
    v = known.log(p, q)
    torch.testing.assert_close(metric.exp(p, v), q, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(metric.exp(p, 0.4 * v), known.geodesic(p, q, 0.4), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(metric.log(p, q), v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(metric.dist(p, q), known.dist(p, q), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KNOWN)
def test_closed_forms_are_used_and_agree(name: str) -> None:
    kernel, known = KNOWN[name]
    metric = mn.KernelMetric(N, kernel)
    p, q = points()
    torch.testing.assert_close(metric.dist(p, q), known.dist(p, q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metric.geodesic(p, q, 0.3), known.geodesic(p, q, 0.3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metric.log(p, q), known.log(p, q), rtol=1e-11, atol=1e-12)
    if isinstance(kernel, MixedPowerKernel):
        family = mn.MixedPowerEuclidean(N, kernel.q, kernel.p)
        torch.testing.assert_close(family.dist(p, q), known.dist(p, q), rtol=1e-12, atol=1e-12)
        assert pickle.loads(pickle.dumps(family)) == family


WITHOUT_CLOSED_FORM = {
    "mixed(1, 0)": mn.MixedPowerEuclidean(N, 1.0, 0.0),
    "mixed(0.5, -1)": mn.MixedPowerEuclidean(N, 0.5, -1.0),
    "harmonic mean": mn.KernelMetric(N, lambda x, y: 2 * x * y / (x + y)),
}
SOLVED_LAWS = [
    "exp_log",
    "log_exp",
    "exp_velocity",
    "retract_velocity",
    "dist_is_norm_of_log",
    "dist_symmetry",
    "constant_speed",
    "inner_is_a_metric",
    "origin_transport_isometry",
    "origin_transport_round_trip",
    "origin_transport_velocity",
    "gradient_duality",
    "gradient_is_tangent",
    "projection",
    "tangent_projection",
    "tangent_dimension",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_CLOSED_FORM)
def test_laws_without_closed_form(name: str) -> None:
    laws = {f.__name__: f for f in MANIFOLD_LAWS}
    with torch.no_grad():
        residuals = {law: laws[law](ManifoldCase(WITHOUT_CLOSED_FORM[name])) for law in SOLVED_LAWS}
    # the solver's error on top of rounding
    bad = {law: r for law, r in residuals.items() if r > max(tolerance_of(law, F64), 1e-8)}
    assert bad == {}


@pytest.mark.parametrize("name", ["mixed(0.5, -1)", "harmonic mean"])
def test_gradients_through_the_solver(name: str) -> None:
    metric = WITHOUT_CLOSED_FORM[name]
    p, _ = points(1)
    v = 0.5 * tangent(p)

    def lifted(x: Tensor) -> Tensor:
        return (x + x.mT) / 2

    def exp(x: Tensor, u: Tensor) -> Tensor:
        return metric.exp(lifted(x), lifted(u))

    def inner(x: Tensor, u: Tensor) -> Tensor:
        return metric.inner(lifted(x), lifted(u), lifted(u))

    x, u = p.clone().requires_grad_(), v.clone().requires_grad_()
    assert torch.autograd.gradcheck(inner, (x, u), fast_mode=True)
    assert torch.autograd.gradcheck(exp, (x, u), fast_mode=True)


@pytest.mark.slow
def test_gradient_of_the_logarithm() -> None:
    """Against the closed form's, and the Riemannian gradient of the squared distance is minus twice the logarithm."""
    metric, known = solver("affine-invariant"), mn.AffineInvariant(N)
    p, q = points(1)
    weight = tangent(p)
    gradients = []
    for m in (metric, known):
        x, y = p.clone().requires_grad_(), q.clone().requires_grad_()
        gradients.append(torch.autograd.grad((m.log(x, y) * weight).sum(), (x, y)))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close((got + got.mT) / 2, (expected + expected.mT) / 2, rtol=1e-8, atol=1e-8)
    x = p.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(metric.squared_dist(x, q).sum(), x)
    torch.testing.assert_close(metric.egrad2rgrad(p, gradient), -2 * known.log(p, q), rtol=1e-8, atol=1e-8)


def test_rotations_and_units() -> None:
    metric = WITHOUT_CLOSED_FORM["mixed(0.5, -1)"]
    p, q = points(1)
    r, _ = torch.linalg.qr(torch.randn(N, N, dtype=F64))
    with torch.no_grad():
        d, rotated, scaled = metric.dist(torch.cat([p, r @ p @ r.mT, 16 * p]), torch.cat([q, r @ q @ r.mT, 16 * q]))
    torch.testing.assert_close(rotated, d, rtol=1e-9, atol=0)
    # homogeneous: distances scale with the power (p + q) / 2 of the units
    torch.testing.assert_close(scaled, 16**-0.25 * d, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_batch_norm_controls_its_variance(dtype: torch.dtype) -> None:
    """Through the origin, where transport is closed: the variance about the bias is the scale's square."""
    metric = mn.MixedPowerEuclidean(2, 1.0, 0.0)
    x = metric.random_point(4, dtype=F64).to(dtype)
    layer = mn.nn.RiemannianBatchNorm(metric, mean=mn.stats.Karcher(1), momentum=1.0, dtype=dtype)
    layer.scale = 0.3
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([[0.3, 0.1], [0.1, -0.2]]))
        y = layer(x)
        got = metric.squared_dist(layer.bias_point, y).mean()
    expected = 0.09 * layer.running_var / (layer.running_var + layer.eps)
    assert y.dtype == dtype
    assert abs(float(got / expected) - 1) < (1e-9 if dtype == F64 else 1e-4)


def test_divided_differences() -> None:
    """Against the exact values of polynomials, and of exponentials at ties and across the thresholds."""
    for a in (torch.tensor([0.0, 0.0, 1e-7, 0.3, 0.6, 5.0], dtype=F64), torch.tensor([-2.0, 0.49, 0.5], dtype=F64)):
        x, z, u = a[:, None, None, None], a[None, :, None, None], a[None, None, :, None]
        y = a[None, None, None, :]
        cube: Callable[[Tensor, Tensor], Tensor] = lambda s, t: s**3 * t**3  # noqa: E731
        first = (x * x + x * z + z * z)[..., 0, :] * (a**3)
        torch.testing.assert_close(first_differences(cube, a), first.squeeze(2) if first.ndim > 3 else first)
        torch.testing.assert_close(second_differences(cube, a), (x + z + u) * y**3, rtol=1e-12, atol=1e-12)
        mixed = (x * x + x * z + z * z) * (u * u + u * y + y * y)
        torch.testing.assert_close(mixed_differences(cube, a), mixed, rtol=1e-12, atol=1e-12)
    a = torch.tensor([0.0, 0.0, 0.2], dtype=F64)
    got = second_differences(lambda s, t: (s + t).exp(), a)[0, 1]
    e = torch.tensor(0.2, dtype=F64).exp()
    expected = torch.stack([torch.tensor(0.5, dtype=F64), torch.tensor(0.5, dtype=F64), (e - 1 - 0.2) / 0.04])
    torch.testing.assert_close(got, expected[:, None] * a.exp(), rtol=1e-12, atol=0)


def test_bad_arguments() -> None:
    metric: Any = mn.MixedPowerEuclidean(N, 1.0, 0.0)
    with pytest.raises(ValueError, match="positive integer"):
        mn.KernelMetric(0, BuresKernel())
    with pytest.raises(ValueError, match="not positive definite"):
        metric.check_point(-torch.eye(N))
    with pytest.raises(NotImplementedError, match="no closed form for parallel transport"):
        metric.transport(*points(1), torch.eye(N, dtype=F64))
    with pytest.raises(ValueError, match="not a gyrogroup"):
        mn.nn.GyroBatchNorm(metric)
    assert linalg.eigvalsh(metric.random_point(50, dtype=F64)).min() > 0
