"""The numerics under Grassmann manifolds and rotations: functions of angles, polar factors, principal angles."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from manifoldnorm import linalg
from manifoldnorm.linalg import Spectrum
from manifoldnorm.linalg.functions_angles import ARC_OVER_SINE, COS_ROOT, SINC_ROOT
from manifoldnorm.linalg.polar import nearest_rotation, polar
from manifoldnorm.linalg.principal import dilate, principal, squared_length, velocity

F64 = torch.float64
ANGLES = [0.0, 1e-12, 1e-9, 3e-8, 1e-6, 2e-6, 1e-3, 1e-3 + 1e-9, 0.01, 0.3, 0.3 + 1e-8, 1.0, 1.5, math.pi / 2 - 1e-6]


def frame(p: int, m: int, angles: list[float]) -> Tensor:
    """A frame (p + m, p) with these principal angles to the first p axes."""
    theta = torch.tensor(angles, dtype=F64)
    left, right, out = (torch.linalg.qr(torch.randn(k, k, dtype=F64))[0] for k in (p, p, m))
    sine = torch.zeros(m, p, dtype=F64)
    sine[: len(angles), : len(angles)] = torch.diag(theta.sin())
    cosine = torch.ones(p, dtype=F64)
    cosine[: len(angles)] = theta.cos()
    return torch.cat([left @ torch.diag(cosine) @ right, out @ sine @ right])


# ---- scalar functions


def _arc(c: mpmath.mpf) -> mpmath.mpf:
    return mpmath.mpf(1) if c == 1 else mpmath.acos(c) / mpmath.sin(mpmath.acos(c))


def _sinc(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.mpf(1) if x == 0 else mpmath.sin(mpmath.sqrt(x)) / mpmath.sqrt(x)


def _cos(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.cos(mpmath.sqrt(x))


CASES = {
    "arc": (ARC_OVER_SINE, _arc, [math.cos(a) for a in [*ANGLES, 2.0, 2.9]]),
    "cos": (COS_ROOT, _cos, [a * a for a in [*ANGLES, 3.0, 9.0]]),
    "sinc": (SINC_ROOT, _sinc, [a * a for a in [*ANGLES, 3.0, 9.0]]),
}


@pytest.mark.parametrize("name", CASES)
def test_functions_against_many_digits(name: str) -> None:
    """Divided differences enter multiplied by two angles: their error is measured that way."""
    f, truth, points = CASES[name]
    w = torch.tensor(points, dtype=F64)
    value, divided = f.value(w, None), f.divided(w, None)
    with mpmath.workdps(60):
        exact = [mpmath.mpf(x) for x in points]
        size = [float(mpmath.acos(x) if name == "arc" else mpmath.sqrt(x)) for x in exact]
        for i, a in enumerate(exact):
            assert abs(float(value[i] - float(truth(a)))) < 1e-14 * max(1, float(truth(a)))
            for j, b in enumerate(exact[:i]):
                if a != b:
                    expected = float((truth(a) - truth(b)) / (a - b))
                    error = abs(float(divided[i, j]) - expected) * min(1.0, max(size[i], size[j]) ** 2)
                    assert error < 1e-12 * max(1, abs(expected)), (size[i], size[j])


@pytest.mark.parametrize("name", CASES)
def test_taylor_coefficients(name: str) -> None:
    f, truth, points = CASES[name]
    points = [x for x in points if abs(x - 1) > 1e-3 or name != "arc"] + ([-0.5, 0.2] if name == "arc" else [])
    second, fourth = f.taylor(torch.tensor(points, dtype=F64), None)
    for i, x in enumerate(points):
        with mpmath.workdps(40):
            at = mpmath.mpf(x) + (mpmath.mpf("1e-9") if x == 0 else 0)
            expected = [float(mpmath.diff(truth, at, k) / mpmath.factorial(k)) for k in (2, 4)]
        assert abs(float(second[i]) - expected[0]) < 1e-9 * max(1, abs(expected[0]))
        assert abs(float(fourth[i]) - expected[1]) < 1e-7 * max(1, abs(expected[1]))


@pytest.mark.parametrize("angles", [[0.2, 0.9, 1.4], [0.5, 0.5, 1.0], [0.0, 0.0, 0.7], [1.9, 2.5, 2.5]])
def test_spectral_gradients(angles: list[float]) -> None:
    u = torch.linalg.qr(torch.randn(3, 3, dtype=F64))[0]
    for f, values in ((ARC_OVER_SINE, [math.cos(a) for a in angles]), (COS_ROOT, angles), (SINC_ROOT, angles)):
        a = (u * torch.tensor(values, dtype=F64)) @ u.mT
        a = (0.999 * a if f is ARC_OVER_SINE else a + 1e-3 * torch.eye(3, dtype=F64)).requires_grad_()

        def apply(x: Tensor, f: object = f) -> Tensor:
            return linalg.apply(linalg.decompose((x + x.mT) / 2), f)  # type: ignore[arg-type]

        assert gradcheck(apply, a)
        assert gradgradcheck(apply, a)


# ---- polar decomposition


def test_polar_is_a_polar_decomposition() -> None:
    x = torch.stack([frame(3, 5, a) for a in ([0.3, 0.8, 1.2], [0.0, 0.0, 0.1], [1e-9, 2e-9, 0.5])])
    cosine, factor = polar(x[:, :3], x[:, 3:])
    torch.testing.assert_close(cosine.matrix @ factor, x[:, :3], atol=1e-14, rtol=0)
    torch.testing.assert_close(factor @ factor.mT, torch.eye(3, dtype=F64).expand(3, 3, 3), atol=1e-14, rtol=0)
    assert bool((torch.linalg.eigvalsh(cosine.matrix) > 0).all())


@pytest.mark.parametrize("angles", [[0.3, 0.8], [0.5, 0.5], [0.0, 0.0], [0.2, 1.4]])
def test_polar_gradients(angles: list[float]) -> None:
    x = frame(2, 3, angles).requires_grad_()

    def factor(x: Tensor) -> Tensor:
        y = x @ linalg.inv_sqrtm(x.mT @ x)
        return polar(y[:2], y[2:])[1]

    assert gradcheck(factor, x)
    assert gradgradcheck(factor, x)


def test_polar_completes_right_angles() -> None:
    x = frame(3, 4, [0.4, math.pi / 2, math.pi / 2])
    x[:3] = x[:3].where(x[:3].abs() > 1e-15, 0)
    x.requires_grad_()
    cosine, factor = polar(x[:3], x[3:])
    torch.testing.assert_close(factor @ factor.mT, torch.eye(3, dtype=F64), atol=1e-14, rtol=0)
    (gradient,) = torch.autograd.grad((factor * torch.randn(3, 3, dtype=F64)).sum() + cosine.matrix.sum(), x)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) < 1e10


def test_nearest_rotation() -> None:
    x = torch.randn(20, 4, 4, dtype=F64)
    r = nearest_rotation(x)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(20, dtype=F64))
    others = torch.linalg.matrix_exp(0.1 * (lambda s: s - s.mT)(torch.randn(50, 1, 4, 4, dtype=F64))) @ r
    assert bool((torch.linalg.matrix_norm(others - x) > torch.linalg.matrix_norm(r - x)).all())
    torch.testing.assert_close(torch.linalg.det(nearest_rotation(torch.zeros(3, 3))), torch.tensor(1.0))


# ---- principal angles, fused

FUSED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_length": lambda a, b: squared_length(principal(a.mT, b.mT)),
    "velocity": lambda a, b: velocity(principal(a.mT, b.mT)).mT,
    "dilate": lambda a, b: dilate(principal(a.mT, b.mT), 0.7).mT,
    "dilate backwards": lambda a, b: dilate(principal(a.mT, b.mT), -1.0).mT,
}
SPECTRA = [
    (2, 4, [0.5, 1.1]),
    (2, 4, [0.5, 0.5]),
    (2, 4, [0.5, 0.5 + 1e-9]),
    (2, 4, [0.0, 0.0]),
    (2, 4, [0.0, 0.7]),
    (3, 5, [1e-9, 0.7, 1.3]),
    (3, 2, [0.3, 0.8]),  # more columns than rows off the base
    (3, 2, [0.0, 0.0]),
    (1, 1, [1.0]),
    (2, 4, [0.3, 1.57]),
]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("p", "m", "angles"), SPECTRA)
def test_fused_derivatives_along_the_manifold(name: str, p: int, m: int, angles: list[float]) -> None:
    x = frame(p, m, angles)
    turn = torch.randn(p + m, p + m, dtype=F64)
    turn = turn - turn.mT
    f = FUSED[name]
    weight = torch.randn_like(f(x[:p], x[p:]))

    def along(t: float) -> Tensor:
        y = torch.linalg.matrix_exp(t * turn.expand(2, -1, -1))[0] @ x
        return (f(y[:p], y[p:]) * weight).sum()

    h = 1e-3 if max(angles) < 1.5 else 1e-5
    expected = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
    leaf = x.clone().requires_grad_()
    (f(leaf[:p], leaf[p:]) * weight).sum().backward()
    assert leaf.grad is not None
    assert abs(float((leaf.grad * (turn @ x)).sum() - expected)) < 1e-8


def test_dilate_in_time_and_no_further() -> None:
    x = frame(2, 4, [0.5, 1.1]).requires_grad_()
    t = torch.tensor(0.7, dtype=F64, requires_grad=True)
    assert gradcheck(lambda t: dilate(principal(x[:2].mT, x[2:].mT), t), t)
    (first,) = torch.autograd.grad(velocity(principal(x[:2].mT, x[2:].mT)).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="higher order"):
        first.sum().backward()


@pytest.mark.parametrize("angles", [[1e-9, 2e-9], [1e-12, 0.0], [1e-9, 0.5], [0.5, math.pi / 2 - 1e-9], [0.7, 0.2]])
def test_values_at_both_ends(angles: list[float]) -> None:
    x = frame(2, 4, angles)
    p = principal(x[:2].mT, x[2:].mT)
    exact = sum(a * a for a in angles)
    assert abs(float(squared_length(p)) - exact) < 1e-15
    v = velocity(p).mT
    assert float(v.norm()) == pytest.approx(math.sqrt(exact), rel=1e-7, abs=1e-15)
    half = dilate(p, 0.5).mT
    turned = v / 2
    gram = turned.mT @ turned
    root = linalg.apply(linalg.decompose(gram), COS_ROOT)
    torch.testing.assert_close(half[:2], root, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        half[2:], turned @ linalg.apply(linalg.decompose(gram), SINC_ROOT), atol=1e-14, rtol=1e-7
    )


def test_a_spectrum_is_a_tuple() -> None:
    assert isinstance(polar(torch.ones(1, 1), torch.zeros(1, 1))[0], Spectrum)
