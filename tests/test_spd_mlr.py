"""SPDMLR: the definition, SciPy and mpmath, distances, linear layers in charts, gradients, bad input."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import SPDMLR

GEOMETRIES = {
    "LogEuclidean": mn.LogEuclidean(3),
    "LogEuclidean, trace": mn.LogEuclidean(3, 2.0, 0.7),
    "LogCholesky": mn.LogCholesky(3),
    "LogCholesky, power": mn.PowerDeformed(mn.LogCholesky(3), 0.5),
    "AffineInvariant": mn.AffineInvariant(3),
    "AffineInvariant, trace": mn.AffineInvariant(3, 2.0, 0.7),
    "AffineInvariant, power": mn.PowerDeformed(mn.AffineInvariant(3, 1.0, 0.3), -0.7),
    "CholeskyRightInvariant": mn.CholeskyRightInvariant(3),
    "AdaptiveLogEuclidean": mn.AdaptiveLogEuclidean(3, 0.7, 1.6),
}
FLAT = [name for name in GEOMETRIES if not name.startswith(("Affine", "CholeskyR"))]
each_geometry = pytest.mark.parametrize("name", GEOMETRIES)
each_bias = pytest.mark.parametrize("bias", ["point", "hyperplane", False])


def made(manifold: mn.manifolds.Manifold, bias: str | bool = "point", classes: int = 4) -> SPDMLR:
    layer = SPDMLR(manifold, classes, bias=bias, dtype=torch.float64)
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias, std=0.5)
    return layer


def as_numpy(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


# ---- values


@each_geometry
@each_bias
def test_score_is_the_definition_on_the_manifold(name: str, bias: str | bool, spd: Callable[..., Tensor]) -> None:
    manifold, x = GEOMETRIES[name], spd(3, 2, 5)
    layer = made(manifold, bias)
    point, normal = layer.bias_point, (layer.weight + layer.weight.mT) / 2
    there, each = manifold.from_origin(point, normal), x.unsqueeze(-3).expand(2, 5, 4, 3, 3)
    expected = manifold.inner(point, manifold.log(point, each), there)
    assert layer(x).shape == (2, 5, 4)
    assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-11)


def test_affine_invariant_is_the_published_formula_in_scipy(spd: Callable[..., Tensor]) -> None:
    layer, x = made(mn.AffineInvariant(3, 2.0, 0.7)), spd(3, 5)
    for i, k in np.ndindex(5, 4):
        point, weight = as_numpy(layer.bias_point[k]), as_numpy(layer.weight[k])
        whiten = np.linalg.inv(scipy.linalg.sqrtm(point))
        log = scipy.linalg.logm(whiten @ as_numpy(x[i]) @ whiten)
        expected = 2.0 * np.trace(log @ (weight + weight.T) / 2) + 0.7 * np.trace(log) * np.trace(weight)
        assert math.isclose(layer(x)[i, k].item(), expected, rel_tol=1e-11, abs_tol=1e-12)


def test_flat_metrics_are_the_published_formulas_in_scipy(spd: Callable[..., Tensor]) -> None:
    euclidean, cholesky, x = made(mn.LogEuclidean(3, 2.0, 0.7)), made(mn.LogCholesky(3)), spd(3, 5)

    def chart(matrix: np.ndarray) -> np.ndarray:
        factor = np.linalg.cholesky(matrix)
        return np.tril(factor, -1) + np.diag(np.log(np.diag(factor)))

    for i, k in np.ndindex(5, 4):
        weight = as_numpy((euclidean.weight[k] + euclidean.weight[k].T) / 2)
        gap = scipy.linalg.logm(as_numpy(x[i])) - scipy.linalg.logm(as_numpy(euclidean.bias_point[k]))
        expected = 2.0 * np.sum(gap * weight) + 0.7 * np.trace(gap) * np.trace(weight)
        assert math.isclose(euclidean(x)[i, k].item(), expected, rel_tol=1e-11, abs_tol=1e-12)
        weight = as_numpy((cholesky.weight[k] + cholesky.weight[k].T) / 2)
        gap = chart(as_numpy(x[i])) - chart(as_numpy(cholesky.bias_point[k]))
        expected = np.sum(gap * (np.tril(weight, -1) + np.diag(np.diag(weight)) / 2))
        assert math.isclose(cholesky(x)[i, k].item(), expected, rel_tol=1e-11, abs_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accuracy_of_badly_conditioned_matrices_in_mpmath(
    dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    x = with_spectrum([1e-3, 1.0, 1e3], 6, dtype=dtype)
    layer = made(mn.AffineInvariant(3)).to(dtype)
    found = layer(x)
    assert found.dtype == dtype
    with mpmath.workdps(40):
        for i, k in np.ndindex(6, 4):
            tangent = layer.bias[k].detach().double()
            half = mpmath.expm(mpmath.matrix(((tangent + tangent.T) / -4).tolist()))
            values, vectors = mpmath.eigsy(half * mpmath.matrix(x[i].double().tolist()) * half)
            log = vectors * mpmath.diag([mpmath.log(v) for v in values]) * vectors.T
            weight = layer.weight[k].detach().double()
            product = log * mpmath.matrix(((weight + weight.T) / 2).tolist())
            expected = float(sum(product[j, j] for j in range(3)))
            # one rounding in double precision, magnified by the condition of 1e6, and that of the result
            error = 8e6 * torch.finfo(torch.float64).eps + 4 * torch.finfo(dtype).eps * max(1.0, abs(expected))
            assert abs(found[i, k].item() - expected) < error


@pytest.mark.parametrize("name", FLAT)
@each_bias
def test_flat_metrics_are_logistic_regression_in_the_chart(
    name: str, bias: str | bool, spd: Callable[..., Tensor]
) -> None:
    manifold, x = GEOMETRIES[name], spd(3, 40)
    layer = made(manifold, bias)
    chart = mn.manifolds.pullback.flatten(manifold)[0]
    features = torch.cat([chart(x).flatten(-2), torch.ones(40, 1, dtype=x.dtype)], 1)
    linear = torch.linalg.lstsq(features, layer(x).detach(), driver="gelsd").solution  # the features repeat
    assert torch.allclose(features @ linear, layer(x), atol=1e-10)
    if bias is False:
        assert linear[-1].abs().max() < 1e-10


@pytest.mark.parametrize("name", FLAT)
def test_flat_score_is_the_signed_distance_from_the_hyperplane(name: str, spd: Callable[..., Tensor]) -> None:
    manifold, x = GEOMETRIES[name], spd(3, 6)
    layer = made(manifold, "hyperplane")
    normal = (layer.weight + layer.weight.mT) / 2
    length = manifold.origin_inner(normal, normal).sqrt()
    assert torch.allclose(layer(manifold.origin(dtype=x.dtype)), layer.bias * length, atol=1e-12)
    for k in range(4):
        # the foot of the perpendicular lies on the hyperplane, the distance away that the score says
        far = layer(x)[:, k] / length[k]
        step = -far[:, None, None] * manifold.from_origin(x, normal[k].expand_as(x)) / length[k]
        foot = manifold.exp(x, step)
        assert layer(foot)[:, k].abs().max() < 1e-9
        assert torch.allclose(manifold.dist(x, foot), far.abs(), atol=1e-10)


def test_affine_invariant_scores_follow_rotations_and_inversion(spd: Callable[..., Tensor]) -> None:
    layer, x = made(mn.AffineInvariant(3)), spd(3, 5)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=x.dtype))
    turned = made(mn.AffineInvariant(3))
    with torch.no_grad():
        turned.weight.copy_(turn @ layer.weight @ turn.T)
        turned.bias.copy_(turn @ layer.bias @ turn.T)
    assert torch.allclose(turned(turn @ x @ turn.T), layer(x), atol=1e-11)
    with torch.no_grad():
        turned.weight.copy_(-layer.weight)
        turned.bias.copy_(-layer.bias)
    assert torch.allclose(turned(torch.linalg.inv(x)), layer(x), atol=1e-10)


@each_geometry
def test_points_can_be_assigned(name: str, spd: Callable[..., Tensor]) -> None:
    layer, points = made(GEOMETRIES[name]), spd(3, 4)
    layer.bias_point = points
    assert torch.allclose(layer.bias_point, points, atol=1e-10)
    assert layer(points).diagonal().abs().max() < 1e-10
    with pytest.raises(ValueError, match="bias_point"):
        layer.bias_point = -points
    with pytest.raises(ValueError, match="bias='point'"):
        made(GEOMETRIES[name], "hyperplane").bias_point = points


# ---- gradients


@each_geometry
@each_bias
def test_gradients(name: str, bias: str | bool, spd: Callable[..., Tensor]) -> None:
    layer, x = made(GEOMETRIES[name], bias, 2), spd(3, 2).requires_grad_()

    def scores(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(dict(layer.named_parameters()), values, strict=True))
        return torch.func.functional_call(layer, named, ((x + x.mT) / 2,))

    assert torch.autograd.gradcheck(scores, (x, *layer.parameters()))


@pytest.mark.parametrize("name", ["LogEuclidean", "LogCholesky", "AffineInvariant"])
def test_gradients_at_repeated_eigenvalues(name: str) -> None:
    layer = made(GEOMETRIES[name], classes=2)
    layer.bias_point = 2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)  # so that the whitened matrix has ties too
    x = torch.eye(3, dtype=torch.float64).expand(2, 3, 3).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer((x + x.mT) / 2), (x,))
    single = made(GEOMETRIES[name], classes=2).float()
    y = torch.eye(3).requires_grad_()
    assert torch.autograd.grad(single(y).sum(), y)[0].isfinite().all()


@pytest.mark.parametrize("name", ["LogEuclidean", "LogCholesky", "AffineInvariant"])
def test_second_derivatives(name: str, spd: Callable[..., Tensor]) -> None:
    layer, x = made(GEOMETRIES[name], classes=2), spd(3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer((x + x.mT) / 2), (x,))


def test_vanishing_weight_has_finite_gradients(spd: Callable[..., Tensor]) -> None:
    layer = made(mn.AffineInvariant(3), "hyperplane")
    torch.nn.init.zeros_(layer.weight)
    layer(spd(3, 5)).sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.bias.grad.isfinite().all()


def test_geometry_is_learned(spd: Callable[..., Tensor]) -> None:
    geometry = mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(3), 0.5), "power", dtype=torch.float64)
    layer = made(geometry)
    layer(spd(3, 5)).square().sum().backward()
    assert geometry.raw_power.grad.abs() > 0


def test_logistic_regression_separates_two_classes() -> None:
    manifold = mn.AffineInvariant(3)
    centers = manifold.random_point(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(60) % 2
    noise = manifold.random_tangent(centers[y], generator=torch.Generator().manual_seed(1))
    x = manifold.exp(centers[y], 0.1 * noise)
    layer = SPDMLR(manifold, 2, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
    assert (layer(x).argmax(1) == y).all()


# ---- contract


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
@pytest.mark.parametrize("name", ["LogEuclidean", "LogCholesky", "AffineInvariant"])
def test_compiles_in_one_graph(name: str, spd: Callable[..., Tensor]) -> None:
    layer, x = made(GEOMETRIES[name]), spd(3, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), layer(x), atol=1e-12)


def test_bad_input_says_what_is_wrong(spd: Callable[..., Tensor]) -> None:
    layer, x = made(mn.AffineInvariant(3)), spd(3, 5)
    with pytest.raises(ValueError, match="SPDMLR input: expected shape"):
        layer(x[:, :2, :2])
    with pytest.raises(TypeError, match=r"torch\.float32"):
        layer(x.float())
    with pytest.raises(torch.linalg.LinAlgError, match="sample"):
        layer(-x)
    with pytest.raises(TypeError, match="LogEuclidean"):
        SPDMLR(mn.BuresWasserstein(3), 2)
    with pytest.raises(TypeError, match="real"):
        SPDMLR(mn.LogEuclidean(3, field="complex"), 2)
    with pytest.raises(TypeError, match="flat or affine"):
        SPDMLR(mn.PoincareBall(3), 2)
    with pytest.raises(ValueError, match="n_outputs"):
        SPDMLR(mn.LogEuclidean(3), 0)
    with pytest.raises(ValueError, match="bias must be"):
        SPDMLR(mn.LogEuclidean(3), 2, bias="gyro")
    assert layer(x[:0]).shape == (0, 4)
    assert "AffineInvariant" in repr(layer) and "bias='point'" in repr(layer)
