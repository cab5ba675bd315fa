"""Rotations: laws, closed forms against series, angles near 0 and pi, translations on either side."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import manifoldnorm as mn
from manifoldnorm.nn import GyroBatchNorm, LieBatchNorm, RiemannianBatchNorm, published
from manifoldnorm.stats import Exact
from manifoldnorm.testing import check_norm

F64 = torch.float64


def skew(m: Tensor) -> Tensor:
    return (m - m.mT) / 2


def matrix_exp(s: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(torch.stack([s, s]))[0]


def rotation_about(axis: Tensor, angle: float) -> Tensor:
    axis = axis / axis.norm()
    k = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=F64)).mT
    return torch.eye(3, dtype=F64) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_hessian_is_the_derivative_of_the_mean_tangent(n: int) -> None:
    m = mn.Rotations(n)
    x = m.random_point(8, dtype=F64)
    mean = m.frechet_mean(x)
    step = m.random_tangent(mean)

    def residual(t: float) -> Tensor:
        return m.to_origin(moved := m.exp(mean, t * step), m.log(moved, x).mean(0))

    h = 1e-3
    change = m.from_origin(mean, (8 * (residual(h) - residual(-h)) - residual(2 * h) + residual(-2 * h)) / (12 * h))
    system = m.mean_system(mean, x, None)
    assert system.hessian is not None
    torch.testing.assert_close(system.hessian.solve(-change, 2 * m.dim + 4, 0), step, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_against_the_matrix_exponential(n: int) -> None:
    m = mn.Rotations(n)
    e = m.origin(dtype=F64)
    s = skew(torch.randn(20, n, n, dtype=F64))
    s = s / torch.linalg.matrix_norm(s, ord=2)[:, None, None]
    for size in (1e-9, 1e-3, 1.0, 3.0):
        r = matrix_exp(size * s)
        torch.testing.assert_close(m.exp(e, size * s), r, atol=1e-13, rtol=0)
        torch.testing.assert_close(m.log(e, r), size * s, atol=1e-13, rtol=1e-8)


@pytest.mark.parametrize("angle", [1e-8, 1e-4, 1.0, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi])
def test_three_dimensions_at_every_angle(angle: float) -> None:
    m, e = mn.Rotations(3), torch.eye(3, dtype=F64)
    for axis in [torch.randn(3, dtype=F64), *torch.eye(3, dtype=F64)]:
        r = rotation_about(axis, angle)
        log = m.log(e, r)
        assert float(m.dist(e, r)) == pytest.approx(math.sqrt(2) * angle, rel=1e-12)
        torch.testing.assert_close(m.exp(e, log), r, atol=1e-14, rtol=0)
        torch.testing.assert_close(log, -log.mT)
    single = rotation_about(axis, angle).float()
    assert float(m.dist(e.float(), single)) == pytest.approx(math.sqrt(2) * angle, rel=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-10, 1e-5, 1.0, math.pi - 1e-3])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_derivatives_near_zero_and_near_pi(n: int, angle: float) -> None:
    """One angle near pi, the others generic: the logarithm is smooth there."""
    m = mn.Rotations(n)
    e = m.origin(dtype=F64)
    s = torch.zeros(n, n, dtype=F64)
    s[0, 1] = angle
    if n >= 4:
        s[2, 3] = 0.6 * min(angle, 1.0)
    q = torch.linalg.qr(torch.randn(n, n, dtype=F64))[0]
    r = matrix_exp(q @ (s - s.mT) @ q.mT)
    turn, weight = skew(torch.randn(n, n, dtype=F64)), torch.randn(n, n, dtype=F64)

    def value(t: float) -> Tensor:
        moved = matrix_exp(t * turn) @ r
        return (m.log(e, moved) * weight).sum() + m.geodesic(e, moved, 0.3).mul(weight).sum()

    h = 1e-3 if angle < 3 else 1e-5
    expected = (8 * (value(h) - value(-h)) - value(2 * h) + value(-2 * h)) / (12 * h)
    leaf = r.clone().requires_grad_()
    ((m.log(e, leaf) * weight).sum() + m.geodesic(e, leaf, 0.3).mul(weight).sum()).backward()
    assert leaf.grad is not None
    assert abs(float((leaf.grad * (turn @ r)).sum() - expected)) < 1e-7 * max(1.0, abs(float(expected)))


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_derivatives_very_near_pi(n: int, gap: float) -> None:
    """In directions where they are known: along the rotation's own plane, and by conjugation."""
    m = mn.Rotations(n)
    e = m.origin(dtype=F64)
    q = torch.linalg.qr(torch.randn(n, n, dtype=F64))[0]
    s = torch.zeros(n, n, dtype=F64)
    s[0, 1], s[1, 0] = math.pi - gap, gap - math.pi
    s = q @ s @ q.mT
    k = skew(torch.randn(n, n, dtype=F64))
    r, weight = m.exp(e, s), torch.randn(n, n, dtype=F64)
    leaf = r.clone().requires_grad_()
    (m.log(e, leaf) * weight).sum().backward()
    assert leaf.grad is not None
    tolerance = 1e3 * torch.finfo(F64).eps / (gap if n > 3 else 1.0)
    assert abs(float((leaf.grad * (s @ r)).sum() - (weight * s).sum())) < tolerance
    conjugated = float((weight * (k @ s - s @ k)).sum())  # log(g r g^-1) = g log(r) g^-1
    assert abs(float((leaf.grad * (k @ r - r @ k)).sum()) - conjugated) < tolerance


@pytest.mark.parametrize("n", [2, 3, 4])
def test_second_derivatives(n: int) -> None:
    m = mn.Rotations(n)
    e = m.origin(dtype=F64)
    for s in (skew(torch.randn(n, n, dtype=F64)), torch.zeros(n, n, dtype=F64)):
        s = s.clone().requires_grad_()
        assert gradcheck(lambda s: m.exp(e, skew(s)), s)
        assert gradgradcheck(lambda s: m.exp(e, skew(s)), s)
        assert gradcheck(lambda s: m.log(e, m.exp(e, skew(s))), s)
        assert gradgradcheck(lambda s: m.geodesic(e, m.exp(e, skew(s)), 0.3), s, atol=1e-4)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_finite_at_the_cut_locus(n: int, dtype: torch.dtype) -> None:
    """At an angle of exactly pi the distance is right, everything is finite, and a check names the sample."""
    m = mn.Rotations(n)
    e = m.origin(dtype=dtype)
    half = e.clone()
    half[0, 0] = half[1, 1] = -1
    assert float(m.dist(e, half)) == pytest.approx(math.sqrt(2) * math.pi, rel=1e-6)
    leaf = half.clone().requires_grad_()
    (m.log(e, leaf).sum() + m.dist(e, leaf) + m.geodesic(e, leaf, 0.5).sum()).backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
    if n <= 3:
        torch.testing.assert_close(m.exp(e, m.log(e, half)), half, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="sample 1 is a turn by pi away"):
        m.check_apart(e, torch.stack([e, half]))
    m.check_apart(e, e[None])


def test_small_angles_keep_their_digits() -> None:
    for n in (3, 5):
        m, e = mn.Rotations(n), torch.eye(n, dtype=F64)
        s = skew(torch.randn(n, n, dtype=F64))
        for size in (1e-6, 1e-12):
            r = e + size * s + 0.5 * (size * s) @ (size * s)
            torch.testing.assert_close(m.log(e, r) / size, s, rtol=1e-9, atol=1e-9)


def test_distance_against_many_digits() -> None:
    m = mn.Rotations(4)
    r = m.random_point(dtype=F64)
    with mpmath.workdps(40):
        log = mpmath.logm(mpmath.matrix(r.tolist()))
        truth = float(mpmath.sqrt(sum(abs(log[i, j]) ** 2 for i in range(4) for j in range(4))))
    assert float(m.dist(torch.eye(4, dtype=F64), r)) == pytest.approx(truth, rel=1e-13)


def test_projection_keeps_the_determinant() -> None:
    m = mn.Rotations(3)
    x = torch.randn(50, 3, 3, dtype=F64)
    assert float(m.violation(m.project(x)).max()) < 1e-13
    reflected = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=F64))
    assert float(m.violation(reflected)) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="not on the manifold"):
        m.check_point(reflected)
    with pytest.raises(ValueError, match="at least 2"):
        mn.Rotations(1)


# ---- norms


def test_norm_laws_of_the_direct_route() -> None:
    check_norm(RiemannianBatchNorm(mn.Rotations(4), route="direct", dtype=F64)).assert_ok()


@pytest.mark.slow
def test_compiled() -> None:
    layer = LieBatchNorm(mn.Rotations(3), dtype=F64)
    report = check_norm(layer, slow=True)
    report.assert_ok()
    assert "compiled" in {o.law for o in report}


def test_translations_on_either_side() -> None:
    left, right = mn.Rotations(3), mn.Rotations(3, right=True)
    x = left.random_point(10, dtype=F64)
    bias = left.random_point(dtype=F64)
    outputs = []
    for m in (left, right):
        layer = LieBatchNorm(m, mean=Exact(), dtype=F64)
        layer.bias_point, layer.scale = bias, 0.5
        outputs.append(layer(x).detach())
    mean = left.frechet_mean(x)
    e = left.origin(dtype=F64)
    factor = 0.5 / (left.squared_dist(mean, x).mean() + 1e-5).sqrt()
    torch.testing.assert_close(outputs[0], bias @ left.exp(e, factor * left.log(e, mean.mT @ x)))
    torch.testing.assert_close(outputs[1], left.exp(e, factor * left.log(e, x @ mean.mT)) @ bias)


def test_rotations_have_no_gyro_layer() -> None:
    with pytest.raises(ValueError, match="not a gyrogroup"):
        GyroBatchNorm(mn.Rotations(3))


def test_published_layer_depends_on_the_order() -> None:
    x = mn.Rotations(3).random_point(8, dtype=F64)
    code = published.LieBNRot(3, dtype=F64)
    assert float((code(x.flip(0)).flip(0) - code(x)).detach().abs().max()) > 1e-4
    assert published.LieBNRot(3, left=False).manifold == mn.Rotations(3, right=True)


def test_thousands_of_optimizer_steps_stay_on_the_manifold() -> None:
    manifold, generator = mn.Rotations(4), torch.Generator().manual_seed(0)
    target = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    point = mn.optim.ManifoldParameter(manifold.origin(dtype=torch.float64), manifold)
    optimizer = mn.optim.RiemannianAdam([point], lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        (point * target).sum().backward()
        optimizer.step()
    assert manifold.violation(point.detach()) < 1e-14
