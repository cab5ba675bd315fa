"""Stiefel manifolds: geodesics, the logarithm by shooting, and where it gives up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import manifoldnorm as mn

F64, C128 = torch.float64, torch.complex128
SIZES = [(4, 2), (8, 3), (5, 5), (3, 1), (6, 5)]


def tangents(m: mn.Stiefel, x: Tensor, length: float) -> Tensor:
    v = m.random_tangent(x)
    return v * (length / m.norm(x, v))[..., None, None]


@pytest.mark.parametrize("field", ["real", "complex"])
@pytest.mark.parametrize(("n", "p"), SIZES)
def test_geodesics_satisfy_their_equation(n: int, p: int, field: str) -> None:
    """``y'' + y (y'^H y') = 0``: the acceleration is normal."""
    m = mn.Stiefel(n, p, field=field)
    x = m.random_point(dtype=C128 if field == "complex" else F64)
    v = tangents(m, x, 1.0)

    def at(t: float) -> Tensor:
        return m.exp(x, t * v)

    h, t = 1e-3, 0.7
    speed = (8 * (at(t + h) - at(t - h)) - at(t + 2 * h) + at(t - 2 * h)) / (12 * h)
    bend = (16 * (at(t + h) + at(t - h)) - 30 * at(t) - at(t + 2 * h) - at(t - 2 * h)) / (12 * h * h)
    torch.testing.assert_close(bend, -at(t) @ (speed.mH @ speed), atol=1e-7, rtol=0)
    assert float(m.violation(at(t))) < 1e-13


@pytest.mark.parametrize("field", ["real", "complex"])
@pytest.mark.parametrize(("n", "p"), SIZES)
def test_log_finds_the_velocity_up_to_its_radius(n: int, p: int, field: str) -> None:
    m = mn.Stiefel(n, p, field=field)
    x = m.random_point(40, dtype=C128 if field == "complex" else F64)
    for length in (1e-6, 0.5, 1.0, 2.0):
        v = tangents(m, x, length)
        torch.testing.assert_close(m.log(x, m.exp(x, v)), v, atol=1e-12, rtol=1e-9)


def test_log_gives_nan_rather_than_a_wrong_velocity() -> None:
    m = mn.Stiefel(3, 1)
    x = m.random_point(20, dtype=F64)
    v = m.log(x, -x)
    assert bool(v.isnan().all())  # antipodes: no shortest geodesic is preferred
    w = m.log(x, y := m.random_point(20, dtype=F64))
    found = w.isfinite().all(-1).all(-1)
    assert int(found.sum()) > 15
    torch.testing.assert_close(m.exp(x, w)[found], y[found], atol=1e-10, rtol=0)


@pytest.mark.parametrize("field", ["real", "complex"])
def test_gradients_of_exp_and_log(field: str) -> None:
    m = mn.Stiefel(4, 2, field=field)
    x = m.random_point(dtype=C128 if field == "complex" else F64)
    y = m.exp(x, tangents(m, x, 1.0))
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    assert gradcheck(lambda a, b: torch.view_as_real(_log(m, a, b)) if field == "complex" else _log(m, a, b), leaves)
    v = tangents(m, x, 0.7).requires_grad_()
    assert gradcheck(lambda v: m.exp(x, m.project_tangent(x, v)).abs().square(), v)


def _log(m: mn.Stiefel, a: Tensor, b: Tensor) -> Tensor:
    return m.log(m.project(a), m.project(b))


def test_log_at_the_point_itself() -> None:
    m = mn.Stiefel(5, 2)
    x = m.random_point(3, dtype=F64).requires_grad_()
    v = m.log(x, x.detach().clone())
    v.sum().backward()
    assert float(v.detach().abs().max()) < 1e-15
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_one_matrix_is_as_exact_as_many() -> None:
    m = mn.Stiefel(4, 2)
    x = m.random_point(3, dtype=F64)
    v = tangents(m, x, 0.01)
    torch.testing.assert_close(m.exp(x[0], v[0]), m.exp(x, v)[0], atol=1e-15, rtol=0)


def test_square_frames_are_the_orthogonal_group() -> None:
    m = mn.Stiefel(3, 3)
    x = m.random_point(5, dtype=F64)
    s = torch.randn(5, 3, 3, dtype=F64)
    s = 0.3 * (s - s.mT)
    torch.testing.assert_close(m.exp(x, x @ s), x @ torch.linalg.matrix_exp(s))


def test_single_columns_are_the_sphere() -> None:
    m = mn.Stiefel(4, 1)
    x, y = m.random_point(2, 6, dtype=F64)
    y = torch.where((x * y).sum(-2, keepdim=True) < 0, -y, y)
    torch.testing.assert_close(m.dist(x, y), (x * y).sum((-2, -1)).clamp(-1, 1).acos())


def test_optimizers_still_have_what_they_need() -> None:
    m = mn.Stiefel(6, 3)
    x = m.random_point(dtype=F64)
    v = tangents(m, x, 0.1)
    assert float(m.violation(m.retract(x, v))) < 1e-13
    moved = m.vector_transport(x, m.retract(x, v), v)
    torch.testing.assert_close(m.project_tangent(m.retract(x, v), moved), moved)
    with pytest.raises(NotImplementedError, match="no Frechet means"):
        m.frechet_mean(m.random_point(3, dtype=F64))
    assert math.isclose(float(m.norm(x, v)), 0.1, rel_tol=1e-12)
