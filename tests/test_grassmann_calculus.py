"""Grassmann manifolds: subspaces whatever frames stand for them, close, equal, orthogonal, in both precisions."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import manifoldnorm as mn

F64 = torch.float64
SIZES = [(6, 2), (5, 3), (3, 1), (4, 3)]


def points(m: mn.Grassmann, *batch: int, size: float = 0.5) -> Tensor:
    e = m.origin(*batch, dtype=F64)
    return m.exp(e, 2 * size * m.random_tangent(e) / math.sqrt(m.dim))


def turned(x: Tensor) -> Tensor:
    """Other frames of the same spaces."""
    p = x.shape[-1]
    return x @ torch.linalg.qr(torch.randn(*x.shape[:-2], p, p, dtype=F64))[0].to(x.dtype)


def same(m: mn.Grassmann, x: Tensor, y: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(m.to_projector(x), m.to_projector(y), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_exp_and_log_are_inverse_as_points(n: int, p: int) -> None:
    m = mn.Grassmann(n, p)
    x, y = points(m, 20), turned(points(m, 20))
    same(m, m.exp(x, m.log(x, y)), y)
    for t in (0.0, 0.3, 1.0, 1.2):
        same(m, m.geodesic(x, y, t), m.exp(x, t * m.log(x, y)))
    torch.testing.assert_close(m.dist(x, y), torch.linalg.svdvals(x.mT @ y).clamp_max(1).acos().norm(dim=-1))


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_transport_is_that_of_the_symmetric_space(n: int, p: int) -> None:
    """Transport along a geodesic is the transvection exp(omega) at its start, here by a matrix exponential."""
    m = mn.Grassmann(n, p)
    x, y = points(m, 8), turned(points(m, 8))
    u, v = m.log(x, y), m.random_tangent(x)
    omega = u @ x.mT - x @ u.mT
    carried = torch.linalg.matrix_exp(omega) @ v  # in the frame exp(omega) x
    frame = torch.linalg.matrix_exp(omega) @ x
    torch.testing.assert_close(m.transport(x, y, v) @ y.mT, carried @ frame.mT, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_gyro_operations_equal_their_definitions(n: int, p: int) -> None:
    m = mn.Grassmann(n, p)
    e = m.origin(dtype=F64)
    x, y, z = points(m, 10), turned(points(m, 10)), points(m, 10)

    def add(a: Tensor, b: Tensor) -> Tensor:
        return m.exp(a, m.from_origin(a, m.log(e, b)))

    same(m, m.gyroadd(x, y), add(x, y))
    same(m, m.gyroneg(x), m.exp(e, -m.log(e, x)))
    same(m, m.gyrosub(x, y), add(m.gyroneg(x), y))
    same(m, m.gyroscale(0.3, y), m.exp(e, 0.3 * m.log(e, y)))
    same(m, m.gyration(x, y, z), m.gyrosub(m.gyroadd(x, y), m.gyroadd(x, m.gyroadd(y, z))))
    omega = m.log(e, x) @ e.mT - e @ m.log(e, x).mT
    same(m, m.gyroadd(x, y), torch.linalg.matrix_exp(omega) @ y)


@pytest.mark.parametrize("n_p", SIZES)
def test_left_loop_holds_for_small_angles(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x, y, z = (points(m, 10, size=0.1) for _ in range(3))
    same(m, m.gyration(x, y, z), m.gyration(m.gyroadd(x, y), y, z))
    same(m, m.gyroadd(x, y), m.gyration(x, y, m.gyroadd(y, x)))


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "gyroadd": lambda m, x, y: m.to_projector(m.gyroadd(x, y)),
    "gyrosub": lambda m, x, y: m.to_projector(m.gyrosub(x, y)),
    "gyroscale": lambda m, x, y: m.gyroscale(0.4, x),
    "gyration": lambda m, x, y: m.to_projector(m.gyration(x, y, x)),
    "geodesic": lambda m, x, y: m.to_projector(m.geodesic(x, y, 0.3)),
    "dist": lambda m, x, y: m.dist(x, y),
    "log": lambda m, x, y: m.log(x, y) @ x.mT,
    "to_origin": lambda m, x, y: m.to_origin(x, m.log(x, y)),
    "mean": lambda m, x, y: m.frechet_mean(torch.cat([x, y])),
    "default mean": lambda m, x, y: m.default_mean(m, torch.cat([x, y])),
    "layer": lambda m, x, y: mn.nn.GyroBatchNorm(m, dtype=F64)(x),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("n_p", [(6, 2), (5, 3)])
def test_nothing_depends_on_the_frames(name: str, n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x, y = points(m, 8), points(m, 8)
    f = OPERATIONS[name]
    torch.testing.assert_close(f(m, turned(x), turned(y)), f(m, x, y), atol=1e-12, rtol=0)


def test_projectors() -> None:
    m = mn.Grassmann(5, 2)
    x = points(m, 6)
    projector = m.to_projector(x)
    torch.testing.assert_close(projector @ projector, projector)
    same(m, m.from_projector(projector), x)


# ---- close and equal


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
def test_distance_in_single_precision(size: float) -> None:
    """The truth is that of the spans of the stored numbers, which are orthonormal to 1e-7 only."""
    m = mn.Grassmann(7, 3)
    x = points(m, 20)
    y = turned(m.exp(x, size * m.random_tangent(x) / math.sqrt(m.dim)))
    x, y = x.float(), y.float()
    got = m.dist(x, y)
    for i in range(len(x)):
        with mpmath.workdps(40):
            qx, qy = (mpmath.qr(mpmath.matrix(t[i].double().tolist()), mode="skinny")[0] for t in (x, y))
            off = qy - qx * (qx.T * qy)
            sines = mpmath.svd_r(off, compute_uv=False)
            truth = mpmath.sqrt(sum(mpmath.asin(s) ** 2 for s in sines))
            assert abs(float(got[i]) / float(truth) - 1) < 1e-6


@pytest.mark.parametrize("size", [1e-4, 1e-8, 1e-12])
def test_log_of_close_points_keeps_its_digits(size: float) -> None:
    m = mn.Grassmann(6, 2)
    x = points(m, 10)
    v = size * m.random_tangent(x)
    moved = m.exp(x, v)
    exact = moved - x
    exact = exact - x @ (x.mT @ exact)  # what the stored difference says, to second order in its size
    error = torch.linalg.matrix_norm(m.log(x, moved) - exact)
    length = torch.linalg.matrix_norm(v)
    assert bool((error < torch.maximum(length**2, torch.tensor(1e-10)) * length).all())


def test_equal_points_have_distance_and_gradient_zero() -> None:
    m = mn.Grassmann(6, 2)
    for dtype in (F64, torch.float32):
        x = points(m, 16).to(dtype)
        for y in (x.clone(), turned(x) if dtype == F64 else x.clone()):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            d = m.dist(a, b)
            d.sum().backward()
            d = d.detach()
            assert a.grad is not None and b.grad is not None
            assert float(d.max()) == 0
            assert float(a.grad.abs().max()) == 0 and float(b.grad.abs().max()) == 0


# ---- gradients


def smooth(m: mn.Grassmann, f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``f`` of the frames nearest to unconstrained arguments, which gradcheck can vary freely."""
    return lambda *x: f(*(m.project(t) for t in x))


GRADIENTS: dict[str, Callable[..., Tensor]] = {
    "log": lambda m, x, y: m.log(x, y),
    "squared_dist": lambda m, x, y: m.squared_dist(x, y),
    "geodesic": lambda m, x, y: m.geodesic(x, y, 0.4),
    "gyroadd": lambda m, x, y: m.gyroadd(x, y),
    "gyroscale": lambda m, x, y: m.gyroscale(0.4, x),
    "transport": lambda m, x, y: m.transport(x, y, m.project_tangent(x, torch.ones_like(x))),
}
PAIRS = {
    "generic": lambda m: (points(m), points(m)),
    "equal": lambda m: (m.origin(dtype=F64).clone(),) * 2,
    "equal, other frame": lambda m: (x := points(m), turned(x)),
    "equal angles": lambda m: (m.origin(dtype=F64).clone(), m.exp(m.origin(dtype=F64), 0.4 * _isoclinic(m))),
}


def _isoclinic(m: mn.Grassmann) -> Tensor:
    v = m.origin(dtype=F64).roll(m.point_shape[1], -2).clone()
    return m.project_tangent(m.origin(dtype=F64), v)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("n_p", [(4, 2), (3, 2)])
def test_first_and_second_derivatives(name: str, pair: str, n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    x, y = (t.detach().clone().requires_grad_() for t in PAIRS[pair](m))
    f = smooth(m, lambda x, y: GRADIENTS[name](m, x, y))
    assert gradcheck(f, (x, y))
    assert gradgradcheck(f, (x, y), atol=1e-4)


@pytest.mark.parametrize("n_p", SIZES)
def test_single_precision_is_finite_everywhere(n_p: tuple[int, int]) -> None:
    m = mn.Grassmann(*n_p)
    e = m.origin(dtype=torch.float32)
    x = torch.stack([e, *points(m, 3).float(), e, points(m, 1, size=1e-6)[0].float()]).requires_grad_()
    parts = [m.log(e, x), m.dist(x, e), m.geodesic(e, x, 0.5), m.gyroadd(x, x), m.gyroscale(0.5, x), m.polar(x)[0]]
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in parts), x)
    assert bool(gradient.isfinite().all())


# ---- the cut locus


def test_right_angles() -> None:
    """Angles 0.424, pi/2 and pi/2: the distance is right, and log returns one of the shortest geodesics."""
    m = mn.Grassmann(8, 3)
    v = torch.zeros(8, 3, dtype=F64)
    v[3, 0], v[4, 1], v[5, 2] = 0.424, math.pi / 2, math.pi / 2
    e = m.origin(dtype=F64).clone()
    q = turned(m.exp(e, v))
    expected = math.sqrt(0.424**2 + math.pi**2 / 2)
    assert abs(float(m.dist(e, q)) - expected) < 1e-12
    same(m, m.exp(e, m.log(e, q)), q)
    leaf = q.clone().requires_grad_()
    (m.dist(e, leaf) + m.log(e, leaf).sum() + m.gyroscale(0.5, leaf).sum()).backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
    with pytest.raises(ValueError, match=r"sample 1 has a direction orthogonal to its base point"):
        m.check_apart(e, torch.stack([e, q]))
    m.check_apart(e, points(m, 5))


def test_exactly_orthogonal_spaces() -> None:
    m = mn.Grassmann(4, 2)
    e, q = torch.eye(4, dtype=F64)[:, :2], torch.eye(4, dtype=F64)[:, 2:]
    assert abs(float(m.dist(e, q)) - math.pi / math.sqrt(2)) < 1e-15
    same(m, m.exp(e, m.log(e, q)), q)
    same(m, m.geodesic(e, q, 1.0), q)


def test_bad_sizes() -> None:
    for n, p in ((3, 3), (3, 0), (2, 4)):
        with pytest.raises(ValueError, match="0 < p < n"):
            mn.Grassmann(n, p)
