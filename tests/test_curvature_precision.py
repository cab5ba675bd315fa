"""Accuracy of constant-curvature geometry against 40 digits: near the origin, far out and at the cut locus."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn

F32, F64 = torch.float32, torch.float64
EPS = {F32: torch.finfo(F32).eps, F64: torch.finfo(F64).eps}
both = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
mp.mp.dps = 40
MODELS: list[Any] = [mn.PoincareBall(3), mn.Lorentz(3), mn.Klein(3), mn.Sphere(3), mn.ProjectedSphere(3)]


def vectors(x: Tensor) -> list[list[Any]]:
    return [[mp.mpf(v) for v in row] for row in x.double().tolist()]


def square(x: list[Any]) -> Any:
    return mp.fsum(v * v for v in x)


def minus(x: list[Any], y: list[Any]) -> list[Any]:
    return [a - b for a, b in zip(x, y, strict=True)]


def exact_ball(x: list[Any], y: list[Any]) -> Any:
    return 2 * mp.asinh(mp.sqrt(square(minus(x, y)) / ((1 - square(x)) * (1 - square(y)))))


def exact_klein(x: list[Any], y: list[Any]) -> Any:
    inner = mp.fsum(a * b for a, b in zip(x, y, strict=True))
    return mp.acosh((1 - inner) / mp.sqrt((1 - square(x)) * (1 - square(y))))


def exact_lorentz(x: list[Any], y: list[Any]) -> Any:
    """The time coordinate is what the spatial ones make it."""
    x, y = x[1:], y[1:]
    inner = mp.fsum(a * b for a, b in zip(x, y, strict=True))
    return mp.acosh(mp.sqrt(1 + square(x)) * mp.sqrt(1 + square(y)) - inner)


def exact_sphere(x: list[Any], y: list[Any]) -> Any:
    x, y = [v / mp.sqrt(square(x)) for v in x], [v / mp.sqrt(square(y)) for v in y]
    return 2 * mp.atan2(mp.sqrt(square(minus(x, y))), mp.sqrt(square([a + b for a, b in zip(x, y, strict=True)])))


def exact_projected(x: list[Any], y: list[Any]) -> Any:
    lifted = [[1 - square(p), *(2 * v for v in p)] for p in (x, y)]
    return exact_sphere(*lifted)


EXACT = dict(zip(MODELS, (exact_ball, exact_lorentz, exact_klein, exact_sphere, exact_projected), strict=True))


def relative(got: Tensor, truth: list[Any]) -> float:
    return max(abs(float(mp.mpf(float(g)) / t - 1)) for g, t in zip(got.double().flatten(), truth, strict=True))


def pairs(m: Any, separation: float, dtype: torch.dtype, count: int = 200) -> tuple[Tensor, Tensor]:
    """Points all over the working range, and others about ``separation`` away, as stored."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, dtype=F64), dim=-1)
    radius = torch.rand(count, 1, dtype=F64)
    if isinstance(m, mn.PoincareBall):
        x = 0.95 * radius * direction
    elif isinstance(m, mn.Klein):
        x = 0.9 * radius * direction
    elif isinstance(m, mn.Lorentz):
        x = m.lift(torch.sinh(radius) * direction)
    elif isinstance(m, mn.Sphere):
        x = m.project(torch.randn(count, 4, dtype=F64))
    else:
        x = 2 * radius * direction
    v = m.random_tangent(x)
    y = m.exp(x, separation * v / m.norm(x, v)[:, None])
    return x.to(dtype), y.to(dtype)


@both
@pytest.mark.parametrize("separation", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("m", MODELS, ids=repr)
def test_distances(m: Any, separation: float, dtype: torch.dtype) -> None:
    x, y = pairs(m, separation, dtype)
    truth = [EXACT[m](a, b) for a, b in zip(vectors(x), vectors(y), strict=True)]
    # the sphere normalises arguments first: then their rounding off the sphere is immaterial
    assert relative(m.dist(x, y), truth) < (2e-7 if dtype == F32 else 1e-11)


@both
def test_distances_in_native_precision(dtype: torch.dtype) -> None:
    """The formulas themselves are stable, without the double precision behind single precision."""
    with mn.linalg.precision("native"):
        for m in (MODELS[0], MODELS[3]):
            for separation in (1e-4, 1e-2, 1.0):
                x, y = pairs(m, separation, dtype)
                truth = [EXACT[m](a, b) for a, b in zip(vectors(x), vectors(y), strict=True)]
                assert relative(m.dist(x, y), truth) < 3e-6 * EPS[dtype] / EPS[F32]


@both
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("m", MODELS, ids=repr)
def test_round_trips_near_the_origin(m: Any, size: float, dtype: torch.dtype) -> None:
    e = m.origin(50, dtype=dtype)
    v = m.random_tangent(e)
    v = size * v / m.norm(e, v)[:, None]
    assert float((m.log(e, m.exp(e, v)) - v).abs().max()) < 4 * EPS[dtype] * size
    assert relative(m.dist(e, m.exp(e, v)), [size] * 50) < 4 * EPS[dtype]
    halved = m.log(e, m.gyroscale(0.5, m.exp(e, v)))
    assert float((halved - 0.5 * v).abs().max()) < 4 * EPS[dtype] * size


@pytest.mark.parametrize("m", MODELS, ids=repr)
def test_logarithms_of_very_near_points(m: Any) -> None:
    """The spec's row: relative error 1e-10 at separations of 1e-8, where published codes are off by factors."""
    x = m.random_point(20, dtype=F64)
    v = m.random_tangent(x)
    v = 1e-8 * v / m.norm(x, v)[:, None]
    y = m.exp(x, v)
    truth = [EXACT[m](a, b) for a, b in zip(vectors(x), vectors(y), strict=True)]
    assert relative(m.norm(x, m.log(x, y)), truth) < 1e-10


@both
def test_ball_reaches_distance_fifteen(dtype: torch.dtype) -> None:
    ball = mn.PoincareBall(64)
    distances = torch.arange(1.0, 15.5, 0.5, dtype=F64)
    direction = torch.nn.functional.normalize(torch.randn(64, dtype=F64), dim=0)
    x = ball.exp(ball.origin(dtype=dtype), (distances[:, None] / 2 * direction).to(dtype))
    got = ball.dist(ball.origin(dtype=dtype), x).double()
    # rounding of the stored coordinates is worth eps cosh^2(d / 2) in the distance
    allowed = 8 * EPS[dtype] * (distances + (distances / 2).cosh() ** 2)
    assert bool(((got - distances).abs() < allowed).all())
    assert bool((got.diff() > 0.2).all())  # no saturation
    far = ball.dist(x, -x).double()
    assert bool(((far - 2 * distances).abs() < 2 * allowed).all())
    assert bool(x.isfinite().all()) and float(ball.violation(x).max()) == 0


@both
def test_ball_saturates_where_documented(dtype: torch.dtype) -> None:
    ball, limit = mn.PoincareBall(2), {F32: 15.9, F64: 36.0}[dtype]
    v = torch.tensor([[1e3, 0.0], [1e30, 1e30]], dtype=dtype)
    x = ball.exp(ball.origin(dtype=dtype), v)
    d = ball.dist(ball.origin(dtype=dtype), x)
    assert bool(((d - limit).abs() < 0.8).all())
    assert bool(ball.gyroadd(x, x).isfinite().all()) and bool(ball.log(x, -x).isfinite().all())
    assert bool(ball.dist(x, x).eq(0).all())


@both
@pytest.mark.parametrize("radius", [4.0, 8.0])
def test_hyperboloid_far_out(radius: float, dtype: torch.dtype) -> None:
    m = mn.Lorentz(8)
    direction = torch.nn.functional.normalize(torch.randn(50, 8, dtype=F64), dim=-1)
    x = m.lift(math.sinh(radius) * direction).to(dtype)
    v = m.random_tangent(x)
    v = v / m.norm(x, v)[:, None]
    y = m.exp(x, v)
    truth = [exact_lorentz(a, b) for a, b in zip(vectors(x), vectors(y), strict=True)]
    assert relative(m.dist(x, y), truth) < max(4 * EPS[dtype], 1e-15 * math.cosh(radius) ** 2)
    assert float((m.dist(x, y) - 1).abs().max()) < 4 * EPS[dtype] * math.cosh(radius)  # rounding of y
    e = m.origin(dtype=dtype)
    assert relative(m.dist(x, e), [exact_lorentz(a, [1, *[0] * 8]) for a in vectors(x)]) < 4 * EPS[dtype]
    assert relative(m.dist(e, x), [exact_lorentz(a, [1, *[0] * 8]) for a in vectors(x)]) < 4 * EPS[dtype]
    opposite = m.lift(-x[:, 1:])
    assert relative(m.norm(x, m.log(x, opposite)), [2 * radius] * 50) < 4 * EPS[dtype] * math.cosh(radius)
    assert float(m.dist(m.exp(x, m.log(x, y)), y).max()) < 20 * EPS[dtype] * math.cosh(radius)
    assert bool(m.dist(x, x).eq(0).all())
    assert float(m.violation(x).max()) < 4 * EPS[dtype]


def test_hyperboloid_beyond_all_limits_is_finite() -> None:
    m = mn.Lorentz(2)
    for dtype in (F32, F64):
        e = m.origin(dtype=dtype)
        x = m.exp(e, torch.tensor([0.0, 1e4, 3.0], dtype=dtype))
        for value in (x, m.log(x, e), m.dist(x, e), m.gyroadd(x, x), m.gyroscale(0.1, x), m.dist(x, m.gyroneg(x))):
            assert bool(value.isfinite().all())


@both
def test_klein_reaches_what_its_coordinates_hold(dtype: torch.dtype) -> None:
    klein, limit = mn.Klein(2), {F32: 7.5, F64: 17.5}[dtype]
    distances = torch.arange(0.5, limit, 0.5, dtype=F64)
    x = klein.exp(klein.origin(dtype=dtype), torch.stack([distances, 0 * distances], -1).to(dtype))
    got = klein.dist(klein.origin(dtype=dtype), x).double()
    assert bool(((got - distances).abs() < 8 * EPS[dtype] * (distances + distances.cosh() ** 2)).all())
    beyond = klein.exp(klein.origin(dtype=dtype), torch.tensor([100.0, 0.0], dtype=dtype))
    assert abs(float(klein.dist(klein.origin(dtype=dtype), beyond)) - {F32: 7.97, F64: 18.0}[dtype]) < 0.4


@both
@pytest.mark.parametrize("k", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("angle", [math.pi, math.pi - 1e-6, math.pi - 1e-4, math.pi - 1e-2])
def test_sphere_up_to_the_antipode(k: float, angle: float, dtype: torch.dtype) -> None:
    m = mn.Sphere(3, k)
    x = m.random_point(20, dtype=F64)
    v = m.random_tangent(x)
    y = m.exp(x, angle / math.sqrt(k) * v / m.norm(x, v)[:, None]).to(dtype)
    y = -x.to(dtype) if angle == math.pi else y
    x = x.to(dtype).requires_grad_()
    truth = [exact_sphere(a, b) / mp.sqrt(k) for a, b in zip(vectors(x.detach()), vectors(y), strict=True)]
    assert relative(m.dist(x, y).detach(), truth) < 8 * EPS[dtype]
    log = m.log(x, y)
    assert relative(m.norm(x, log).detach(), truth) < 8 * EPS[dtype]
    assert float((m.exp(x, log) - y).detach().abs().max()) < 16 * EPS[dtype] / math.sqrt(k)
    log.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@both
def test_ball_points_that_lost_geoopt(dtype: torch.dtype) -> None:
    """Rows of spec/pains.md 5.4: pairs near the boundary, read as 16.64 or 11.74 elsewhere."""
    ball = mn.PoincareBall(2)
    radius = 0.9999 if dtype == F32 else 1 - 1e-7
    x = torch.tensor([radius, 0.0], dtype=dtype)
    y = torch.tensor([0.0, radius], dtype=dtype)
    for a, b in ((x, y), (x, -x)):
        truth = exact_ball(vectors(a[None])[0], vectors(b[None])[0])
        assert relative(ball.dist(a, b), [truth]) < 4 * EPS[dtype] + 1e-9
        assert relative(ball.norm(a, ball.log(a, b)), [truth]) < 4 * EPS[dtype] + 1e-9
    assert torch.equal(ball.project(x), x)


@pytest.mark.parametrize("m", [m for m in MODELS if m.curvature < 0], ids=repr)  # the others have no far out
def test_gyrations_far_out_stay_rotations(m: Any) -> None:
    """Nested additions lose all digits in single precision where the closed form is orthogonal to rounding."""
    x, y = (m.gyroscale(3.0, m.random_point(50)) for _ in range(2))
    z = m.random_point(50)
    e = m.origin(dtype=F32)
    error = (m.dist(e, m.gyration(x, y, z)) - m.dist(e, z)).abs().max()
    assert float(error) < 1e-5
