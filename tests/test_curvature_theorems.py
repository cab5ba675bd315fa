"""The theorems behind GyroBN (spec/gyro.md, section 1) on every model of constant curvature, both signs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.stats import Exact

F64 = torch.float64
D, N = 4, 24
MANIFOLDS: list[Any] = [
    *(kind(D, k) for k in (-2.0, -1.0, -0.7) for kind in (mn.PoincareBall, mn.Lorentz, mn.Klein)),
    *(kind(D, k) for k in (0.7, 1.0, 2.0) for kind in (mn.ProjectedSphere, mn.Sphere)),
]
every = pytest.mark.parametrize("m", MANIFOLDS, ids=repr)


def points(m: Any, count: int, size: float = 0.8) -> Tensor:
    """Points about ``size`` of the curvature radius away from the origin."""
    frame = torch.randn(count, D, dtype=F64)
    frame = size * frame / frame.norm(dim=-1, keepdim=True) * (0.3 + 0.7 * torch.rand(count, 1, dtype=F64))
    frame = frame * abs(m.curvature) ** -0.5
    return m.exp(m.origin(dtype=F64), tangent(m, frame))


def tangent(m: Any, frame: Tensor) -> Tensor:
    """The tangent vectors at the origin with orthonormal coordinates ``frame``."""
    if m.point_shape[0] > D:
        return torch.nn.functional.pad(frame, (1, 0))
    return frame if isinstance(m, mn.Klein) else frame / 2


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def layer_of(m: Any, bias: Tensor, scale: float, kind: Any = mn.nn.GyroBatchNorm, **options: Any) -> Any:
    layer = kind(m, mean=Exact(), dtype=F64, **options)
    layer.bias_point = bias
    layer.scale = scale * abs(m.curvature) ** -0.5
    return layer


@every
def test_axioms_of_a_gyrocommutative_gyrogroup(m: Any) -> None:
    a, b, c, d = points(m, 4 * N).chunk(4)
    e = m.origin(N, dtype=F64)
    add, neg, gyr = m.gyroadd, m.gyroneg, m.gyration
    assert off(add(e, a), a) < 1e-14
    assert off(add(neg(a), a), e) < 1e-12
    assert off(add(a, add(b, c)), add(add(a, b), gyr(a, b, c))) < 1e-12
    assert off(gyr(a, b, add(c, d)), add(gyr(a, b, c), gyr(a, b, d))) < 1e-12
    assert off(gyr(a, b, c), gyr(add(a, b), b, c)) < 1e-12  # left loop
    assert off(add(a, b), gyr(a, b, add(b, a))) < 1e-12
    assert off(gyr(neg(a), a, c), c) < 1e-12  # pseudo-reduction
    assert off(m.dist(e, gyr(a, b, c)), m.dist(e, c)) < 1e-12


@every
def test_t1_to_t3_translations(m: Any) -> None:
    a, b, c = points(m, 3 * N).chunk(3)
    add, neg = m.gyroadd, m.gyroneg
    assert off(add(neg(a), add(a, b)), b) < 1e-12
    assert off(m.gyrosub(add(a, b), add(a, c)), m.gyration(a, b, m.gyrosub(b, c))) < 1e-12
    assert off(m.dist(add(a, b), add(a, c)), m.dist(b, c)) < 1e-12
    assert off(m.dist(neg(b), neg(c)), m.dist(b, c)) < 1e-12
    assert off(m.dist(m.gyration(a, b, c), m.gyration(a, b, b)), m.dist(c, b)) < 1e-12


@every
def test_t4_and_t5_homogeneity(m: Any) -> None:
    a, x = points(m, 1)[0], points(m, N, 0.6)
    e = m.origin(dtype=F64)
    assert off(m.frechet_mean(m.gyroadd(a, x)), m.gyroadd(a, m.frechet_mean(x))) < 1e-12
    for t in (0.3, 1.4):
        assert off(m.dist(e, m.gyroscale(t, x)), t * m.dist(e, x)) < 1e-12


@every
def test_t6_mean_and_variance_of_the_output(m: Any) -> None:
    x = m.gyroadd(points(m, 1)[0], points(m, N, 0.9))
    bias = points(m, 1)[0]
    layer = layer_of(m, bias, 0.4)
    y = layer(x).detach()
    v = mn.stats.frechet_variance(m, x)
    assert off(m.frechet_mean(y), bias) < 1e-12
    expected = layer.scale.detach() ** 2 * v / (v + layer.eps)
    assert off(m.squared_dist(bias, y).mean() / expected, torch.ones((), dtype=F64)) < 1e-12


@every
def test_t7_gyrobn_and_rbn(m: Any) -> None:
    x, e = m.gyroadd(points(m, 1)[0], points(m, N, 0.9)), m.origin(dtype=F64)
    neutral = [
        layer_of(m, e, 0.4, kind, **options)(x)
        for kind, options in ((mn.nn.GyroBatchNorm, {}), (mn.nn.RiemannianBatchNorm, {"route": "direct"}))
    ]
    assert off(*neutral) < 1e-12
    bias = points(m, 1)[0]
    gyro = layer_of(m, bias, 0.4)(x)
    origin = layer_of(m, bias, 0.4, mn.nn.RiemannianBatchNorm)(x)
    direct = layer_of(m, bias, 0.4, mn.nn.RiemannianBatchNorm, route="direct")(x)
    assert off(gyro, origin) < 1e-13
    assert off(gyro, direct) > 1e-4  # a gyration apart
    assert off(m.dist(bias, gyro), m.dist(bias, direct)) < 1e-12


@pytest.mark.parametrize("k", [-2.0, -1.0, -0.7, 0.7, 1.0, 2.0])
def test_t8_isometric_models_agree(k: float) -> None:
    models: list[tuple[Any, Any]]
    if k < 0:
        ball: Any = mn.PoincareBall(D, k)
        lorentz, klein = mn.Lorentz(D, k), mn.Klein(D, k)
        models = [(lorentz, (ball.to_lorentz, lorentz.to_poincare)), (klein, (ball.to_klein, klein.to_poincare))]
    else:
        ball = mn.ProjectedSphere(D, k)
        models = [(mn.Sphere(D, k), (ball.to_sphere, mn.Sphere(D, k).to_projected))]
    x, bias, a, b = points(ball, N), points(ball, 1)[0], points(ball, N), points(ball, N)
    y = layer_of(ball, bias, 0.4)(x)
    for other, (there, back) in models:
        assert off(back(there(x)), x) < 1e-13
        assert off(other.dist(there(a), there(b)), ball.dist(a, b)) < 1e-13
        assert off(back(other.gyroadd(there(a), there(b))), ball.gyroadd(a, b)) < 1e-13
        assert off(back(other.gyration(there(a), there(b), there(x))), ball.gyration(a, b, x)) < 1e-13
        assert off(back(other.midpoint(there(x))), ball.midpoint(x)) < 1e-13
        assert off(back(layer_of(other, there(bias), 0.4)(there(x))), y) < 1e-13
    if k < 0:
        assert off(klein.to_lorentz(lorentz.to_klein(ball.to_lorentz(x))), ball.to_lorentz(x)) < 1e-13


def test_t9_flat_space_is_euclidean_batch_norm_with_one_variance() -> None:
    flat, x = mn.Stereographic(D, 0.0), torch.randn(N, D, dtype=F64)
    layer = mn.nn.GyroBatchNorm(flat, dtype=F64)
    layer.bias_point = torch.tensor([0.3, -0.1, 0.2, 0.5], dtype=F64)
    layer.scale = 1.4
    centred = x - x.mean(0)
    variance = 4 * centred.square().sum(-1).mean()  # the metric is four times the Euclidean one
    assert off(layer(x), layer.bias_point + 1.4 * centred * (variance + layer.eps).rsqrt()) < 1e-14


@every
def test_equivariance_and_order(m: Any) -> None:
    x, bias = points(m, N), points(m, 1)[0]
    layer, order = layer_of(m, bias, 0.4), torch.randperm(N)
    y = layer(x)
    assert off(layer(x[order]), y[order]) < 1e-12
    translated = layer(m.gyroadd(points(m, 1)[0], x))  # a rotation about the bias apart
    assert off(m.dist(bias, translated), m.dist(bias, y)) < 1e-12
    assert off(m.dist(translated[1:], translated[:-1]), m.dist(y[1:], y[:-1])) < 1e-12
