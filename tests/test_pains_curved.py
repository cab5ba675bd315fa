"""Where other packages fail on spheres, subspaces, rotations and hyperbolic spaces: one test for each row of the table.

The rows are those of the project's survey of failures (section 5.4), in its order.
"""

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
both = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
BALL, LORENTZ, SPHERE = mn.PoincareBall(2), mn.Lorentz(2), mn.Sphere(2)


def circle(angle: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=dtype)


def far(radius: float, angle: float, dtype: torch.dtype) -> Tensor:
    """A point of the hyperboloid at a distance from its vertex."""
    direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
    return LORENTZ.lift((math.sinh(radius) * direction).to(dtype))


def exact(x: Tensor, y: Tensor) -> float:
    """Distance on the hyperboloid of the points with the stored spatial coordinates."""
    with mp.workdps(60):
        a, b = ([mp.mpf(v) for v in t[1:].double().tolist()] for t in (x, y))
        times = [mp.sqrt(1 + mp.fsum(v * v for v in t)) for t in (a, b)]
        return float(mp.acosh(times[0] * times[1] - mp.fsum(u * v for u, v in zip(a, b, strict=True))))


def gradient(f: Any, at: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(f, at)


# ---- sphere


@both
def test_sphere_logarithm_of_the_antipode(dtype: torch.dtype) -> None:
    x = circle(0.3, dtype)
    v = SPHERE.log(x, -x)
    assert float(SPHERE.norm(x, v)) == pytest.approx(math.pi, rel=2 * EPS[dtype])
    torch.testing.assert_close(SPHERE.exp(x, v), -x)


@both
def test_sphere_distances_have_no_floor(dtype: torch.dtype) -> None:
    x = circle(0.3, dtype)
    assert float(SPHERE.dist(x, x)) == 0
    pole = circle(0.0, dtype)
    for angle in (1e-3, 1e-6, 1e-12):
        near = torch.tensor([1.0, angle, 0.0], dtype=dtype)
        assert float(SPHERE.dist(pole, near)) == pytest.approx(math.atan(angle), rel=4 * EPS[dtype])


def test_sphere_angle_of_a_millionth() -> None:
    x, y = circle(0.0), circle(1e-6)
    assert float(SPHERE.dist(x, y)) == pytest.approx(1e-6, rel=1e-10)
    assert float(SPHERE.norm(x, SPHERE.log(x, y))) == pytest.approx(1e-6, rel=1e-10)


@both
def test_sphere_logarithm_near_the_antipode(dtype: torch.dtype) -> None:
    x, y = circle(0.0, dtype), circle(math.pi - 1e-4, dtype)
    assert float(SPHERE.norm(x, SPHERE.log(x, y))) == pytest.approx(math.pi - 1e-4, rel=1e-7)


@both
def test_sphere_derivatives_at_the_point_itself(dtype: torch.dtype) -> None:
    """Of exp at a vanishing vector, of log at equal points: the tangent projection; of the distance: 0."""
    x = circle(0.3, dtype)
    projection = torch.eye(3, dtype=dtype) - x[:, None] * x
    for f, at in ((lambda v: SPHERE.exp(x, v), torch.zeros_like(x)), (lambda y: SPHERE.log(x, y), x)):
        torch.testing.assert_close(gradient(f, at), projection, atol=4 * EPS[dtype], rtol=0)
    assert torch.equal(gradient(lambda y: SPHERE.dist(x, y), x), torch.zeros_like(x))


# ---- subspaces and rotations


@both
def test_grassmann_at_a_right_angle(dtype: torch.dtype) -> None:
    m = mn.Grassmann(5, 2)
    x = m.origin(dtype=dtype)
    y = torch.zeros(5, 2, dtype=dtype)
    y[0, 0], y[2, 0] = math.cos(0.7), math.sin(0.7)
    y[3, 1] = 1  # orthogonal to x
    truth = math.hypot(0.7, math.pi / 2)
    assert float(m.dist(x, y)) == pytest.approx(truth, rel=8 * EPS[dtype])
    v = m.log(x, y)
    assert float(m.norm(x, v)) == pytest.approx(truth, rel=8 * EPS[dtype])
    torch.testing.assert_close(m.to_projector(m.exp(x, v)), m.to_projector(y), atol=16 * EPS[dtype], rtol=0)
    with pytest.raises(ValueError, match="orthogonal"):
        m.check_apart(x, y[None])


@both
def test_grassmann_distance_of_equal_points_has_gradient_zero(dtype: torch.dtype) -> None:
    m = mn.Grassmann(5, 2)
    x = m.random_point(4, dtype=dtype)
    for y in (x, x.flip(-1)):  # the same frame, another frame of the same space
        leaf = y.clone().requires_grad_()
        m.dist(x, leaf).sum().backward()
        assert leaf.grad is not None and torch.equal(leaf.grad, torch.zeros_like(leaf))


@both
@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-6, 1e-3])
def test_rotations_at_a_half_turn(gap: float, dtype: torch.dtype) -> None:
    m, angle = mn.Rotations(3), math.pi - gap
    e = m.origin(dtype=dtype)
    turn = torch.eye(3, dtype=dtype)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[1, 0] = math.sin(angle)
    turn[0, 1] = -turn[1, 0]
    leaf = turn.clone().requires_grad_()
    v = m.log(e, leaf)
    assert v.dtype == dtype
    assert float(m.norm(e, v).detach()) == pytest.approx(math.sqrt(2) * angle, rel=4 * EPS[dtype])
    torch.testing.assert_close(m.exp(e, v).detach(), turn, atol=8 * EPS[dtype], rtol=0)
    v.square().sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


# ---- Poincare ball


def pair(radius: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """Opposite points and their distance, as stored."""
    x = torch.tensor([radius, 0.0], dtype=dtype)
    with mp.workdps(40):
        return x, -x, float(4 * mp.atanh(mp.mpf(float(x[0]))))


@pytest.mark.parametrize(("radius", "dtype"), [(0.9999, F32), (1 - 1e-7, F64)], ids=["float32", "float64"])
def test_ball_near_the_boundary(radius: float, dtype: torch.dtype) -> None:
    x, y, truth = pair(radius, dtype)
    # 1 - r^2 is computed in double: what it loses there is an absolute error of the distance
    error = EPS[F64] / (1 - radius) / truth
    assert float(BALL.dist(x, y)) == pytest.approx(truth, rel=4 * max(error, EPS[dtype]))
    assert float(BALL.norm(x, BALL.log(x, y))) == pytest.approx(truth, rel=4 * max(error, EPS[dtype]))
    assert torch.equal(BALL.project(x), x)


@pytest.mark.parametrize(("size", "dtype"), [(5.0, F32), (10.0, F64)], ids=["float32", "float64"])
def test_ball_round_trip_does_not_saturate(size: float, dtype: torch.dtype) -> None:
    e, v = BALL.origin(dtype=dtype), torch.tensor([0.6 * size, 0.8 * size], dtype=dtype)
    # the coordinates crowd at the boundary: one rounding error is worth eps cosh(size)^2
    assert float((BALL.log(e, BALL.exp(e, v)) - v).abs().max()) < 2 * EPS[dtype] * math.cosh(size) ** 2


@both
def test_ball_derivatives_at_the_point_itself(dtype: torch.dtype) -> None:
    x, eye = torch.tensor([0.3, -0.4], dtype=dtype), torch.eye(2, dtype=dtype)
    for f, at in ((lambda v: BALL.exp(x, v), torch.zeros_like(x)), (lambda y: BALL.log(x, y), x)):
        torch.testing.assert_close(gradient(f, at), eye, atol=4 * EPS[dtype], rtol=0)
    assert torch.equal(gradient(lambda y: BALL.dist(x, y), x), torch.zeros_like(x))


@both
def test_ball_distance_to_a_plane(dtype: torch.dtype) -> None:
    """The plane through the origin orthogonal to x: the nearest point is the origin, on either side."""
    x, _, twice = pair(0.9999, dtype)
    mirrored = x * torch.tensor([-1.0, 1.0], dtype=dtype)
    for side in (x, -x):
        assert float(BALL.dist(side, mirrored if side is x else x)) / 2 == pytest.approx(twice / 2, rel=4 * EPS[dtype])
        signed = BALL.log(BALL.origin(dtype=dtype), side)[0] * 2
        assert float(signed) == pytest.approx(math.copysign(twice / 2, float(side[0])), rel=4 * EPS[dtype])


# ---- hyperboloid


@pytest.mark.parametrize(("radius", "dtype"), [(15.0, F32), (20.0, F64), (60.0, F32), (60.0, F64)])
def test_hyperboloid_distance_of_a_far_point_from_itself(radius: float, dtype: torch.dtype) -> None:
    x = far(radius, 0.4, dtype)
    assert float(LORENTZ.dist(x, x)) == 0
    assert bool(LORENTZ.log(x, x).isfinite().all())


@pytest.mark.parametrize(("radius", "dtype"), [(8.0, F32), (10.0, F32), (10.0, F64), (15.0, F64)])
def test_hyperboloid_logarithm_far_out(radius: float, dtype: torch.dtype) -> None:
    """At radius 10 and an angle of 0.1 the distance is 14.008."""
    x, y = far(radius, 0.4, dtype), far(radius, 0.5, dtype)
    truth = exact(x, y)
    assert float(LORENTZ.dist(x, y)) == pytest.approx(truth, rel=4 * EPS[dtype])
    # a vector's rounding is worth its length there, times the stretch of the coordinates
    error = EPS[dtype] * math.cosh(radius)
    assert float(LORENTZ.norm(x, LORENTZ.log(x, y))) == pytest.approx(truth, rel=4 * error)


@pytest.mark.parametrize(("radius", "dtype"), [(8.0, F32), (10.0, F64)], ids=["float32", "float64"])
def test_hyperboloid_round_trip_far_out(radius: float, dtype: torch.dtype) -> None:
    """In single precision the points are stored, not the vector: its rounding alone would be worth 2 units here."""
    x, y = far(radius, 0.4, dtype).double(), far(radius, 0.5, dtype).double()
    error = EPS[F64] * math.cosh(radius) * math.sinh(exact(x, y))  # of the vector's direction, at the other end
    assert float(LORENTZ.dist(LORENTZ.exp(x, LORENTZ.log(x, y)), y)) < 4 * error < 1e-5


@pytest.mark.parametrize(("radius", "dtype"), [(8.0, F32), (10.0, F32), (15.0, F32), (20.0, F64)])
def test_hyperboloid_points_satisfy_their_constraint(radius: float, dtype: torch.dtype) -> None:
    """The time coordinate is the nearest number to what the others make it, so they alone count."""
    x = far(radius, 0.4, dtype)
    with mp.workdps(60):
        time = mp.sqrt(1 + mp.fsum(mp.mpf(v) ** 2 for v in x[1:].double().tolist()))
        assert abs(float(mp.mpf(float(x[0])) / time - 1)) < 2 * EPS[dtype]
    moved = x.clone()
    moved[0] *= 1.5
    assert torch.equal(LORENTZ.dist(moved, far(1.0, 0.0, dtype)), LORENTZ.dist(x, far(1.0, 0.0, dtype)))


def test_hyperboloid_far_out_in_single_precision() -> None:
    x, y = far(15.0, 0.0, F32), far(15.0, 0.2, F32)
    assert float(LORENTZ.dist(x, y)) == pytest.approx(exact(x, y), rel=1e-6)
    for radius in (20.0, 60.0):  # beyond the documented limit: finite
        x, y = far(radius, 0.0, F32), far(radius, 0.2, F32)
        assert bool(LORENTZ.dist(x, y).isfinite()) and bool(LORENTZ.log(x, y).isfinite().all())


@both
@pytest.mark.parametrize("m", [BALL, LORENTZ, mn.Klein(2), SPHERE], ids=repr)
def test_two_thousand_steps_of_the_exponential(m: Any, dtype: torch.dtype) -> None:
    """A random walk by `exp` alone, without a projection in between."""
    x = m.origin(20, dtype=dtype)
    for _ in range(2000):
        v = m.random_tangent(x)
        x = m.exp(x, 0.05 * v / m.norm(x, v)[:, None])
    assert bool(x.isfinite().all())
    assert float(m.violation(x).max()) <= 4 * EPS[dtype]


@both
def test_hyperboloid_gradient_of_the_logarithm_at_the_point_itself(dtype: torch.dtype) -> None:
    x = far(0.8, 0.4, dtype)
    jacobian = gradient(lambda y: LORENTZ.log(x, y), x)
    v = LORENTZ.random_tangent(x)
    torch.testing.assert_close(jacobian @ v, v, atol=8 * EPS[dtype], rtol=8 * EPS[dtype])
    assert torch.equal(gradient(lambda y: LORENTZ.dist(x, y), x), torch.zeros_like(x))
