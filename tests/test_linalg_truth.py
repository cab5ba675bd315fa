"""Whole spectral functions, gradients and second derivatives against 50-digit arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg

N = 4
C = 4  # the constant of the bound C n eps cond
P = mp.mpf(0.3)  # the double next to 3/10
# function, its scalar form and the scalar derivative
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "logm": (linalg.logm, mp.log, lambda x: 1 / x),
    "sqrtm": (linalg.sqrtm, mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x))),
    "inv_sqrtm": (linalg.inv_sqrtm, lambda x: 1 / mp.sqrt(x), lambda x: -1 / (2 * x * mp.sqrt(x))),
    "expm": (linalg.expm, mp.exp, mp.exp),
    "powm 0.3": (lambda a: linalg.powm(a, 0.3), lambda x: x**P, lambda x: P * x ** (P - 1)),
    "powm -1.5": (lambda a: linalg.powm(a, -1.5), lambda x: x ** mp.mpf(-1.5), lambda x: -1.5 * x ** mp.mpf(-2.5)),
}
SPECTRA = {
    "identity": (1.0, 1.0, 1.0, 1.0),
    "repeated": (1.0, 1.0, 2.0, 3.0),
    "gap 1e-14": (1.0, 1 + 1e-14, 2.0, 2 + 2e-14),
    "gap 1e-10": (1.0, 1 + 1e-10, 2.0, 2 + 2e-10),
    "gap 1e-8": (1.0, 1 + 1e-8, 2.0, 2 + 2e-8),
    "gap 1e-6": (1.0, 1 + 1e-6, 2.0, 2 + 2e-6),
    "gap 1e-4": (1.0, 1 + 1e-4, 2.0, 2 + 2e-4),
    "gap 3e-4": (1.0, 1 + 3e-4, 2.0, 2 + 6e-4),
    "gap 1e-3": (1.0, 1 + 1e-3, 2.0, 2 + 2e-3),
    "three near": (1.0, 1 + 1e-4, 1 - 1e-4, 2.0),
    "condition 1e6": (1e-3, 2e-2, 1.0, 1e3),
    "scale 1e-7": (1e-7, 2e-7, 2e-7, 9e-7),
    "scale 1e-12": (1e-12, 3e-12, 3e-12, 7e-12),
    "scale 1e3": (1.1e3, 1.2e3, 2e3, 2e3),
}


def exact(a: Tensor) -> mp.matrix:
    rows = a.tolist()
    return mp.matrix([[mp.mpc(x) if isinstance(x, complex) else mp.mpf(x) for x in row] for row in rows])


def back(m: mp.matrix) -> Tensor:
    return torch.tensor([[complex(m[i, j]) for j in range(m.cols)] for i in range(m.rows)], dtype=torch.complex128)


def hermitian(m: mp.matrix) -> mp.matrix:
    return (m + m.H) / 2


def vjp_exact(f: Callable[[Any], Any], slope: Callable[[Any], Any], a: mp.matrix, g: mp.matrix) -> mp.matrix:
    """Return U (K o U^H G U) U^H with the divided differences of the exact spectrum."""
    w, u = mp.eighe(hermitian(a))
    inner = u.H * hermitian(g) * u
    value = [f(x) for x in w]
    near = mp.mpf(10) ** -(mp.mp.dps // 2)
    for i in range(len(w)):
        for j in range(len(w)):
            gap = w[i] - w[j]
            tied = abs(gap) <= near * abs(w[i])
            inner[i, j] *= slope((w[i] + w[j]) / 2) if tied else (value[i] - value[j]) / gap
    return u * inner * u.H


def value_exact(f: Callable[[Any], Any], a: mp.matrix) -> mp.matrix:
    w, u = mp.eighe(hermitian(a))
    return u * mp.diag([f(x) for x in w]) * u.H


def relative(result: Tensor, truth: mp.matrix, floor: float = 0.0) -> float:
    """Return the error over the size of the truth, or over ``floor`` for a truth that may vanish."""
    expected = back(truth)
    return float((result.to(torch.complex128) - expected).norm() / expected.norm().clamp_min(floor))


def bound(values: tuple[float, ...], dtype: torch.dtype, name: str) -> float:
    spread = max(values) / min(values)
    if name == "expm":
        spread = max(1.0, max(values))  # exp amplifies absolute errors
    # single precision is decomposed in double: only the rounding of the result remains
    wide = C * N * torch.finfo(torch.float64).eps * spread
    return wide if dtype in (torch.float64, torch.complex128) else wide + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradient(name: str, spectrum: str, dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    values = SPECTRA[spectrum]
    if name == "expm" and max(values) > 80:
        values = tuple(x / 100 for x in values)  # beyond lies overflow of single precision
    function, f, slope = FUNCTIONS[name]
    a = with_spectrum(values, dtype=dtype).requires_grad_()
    g = torch.randn(N, N, dtype=dtype)
    result = function(a)
    (grad,) = torch.autograd.grad(result, a, g)
    with mp.workdps(50):
        ea, eg = exact(a.detach()), exact(g)
        value_error = relative(result.detach(), value_exact(f, ea), floor=1.0 if name == "logm" else 0.0)
        errors = value_error, relative(grad, vjp_exact(f, slope, ea, eg))
    assert max(errors) < bound(values, dtype, name)


@pytest.mark.parametrize("spectrum", [name for name in SPECTRA if name not in ("condition 1e6", "scale 1e3")])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivative(name: str, spectrum: str, with_spectrum: Callable[..., Tensor]) -> None:
    """The derivative of the gradient along C, by differences in 100 digits (error below 1e-30)."""
    values = SPECTRA[spectrum]
    function, f, slope = FUNCTIONS[name]
    a = with_spectrum(values).requires_grad_()
    g = torch.randn(N, N, dtype=torch.float64)
    c = torch.randn(N, N, dtype=torch.float64)
    (grad,) = torch.autograd.grad(function(a), a, g, create_graph=True)
    (second,) = torch.autograd.grad(grad, a, c)
    with mp.workdps(100):
        ea, eg, ec = exact(a.detach()), exact(g), hermitian(exact(c))
        step = mp.mpf(10) ** -20 * max(values)
        up, down = (vjp_exact(f, slope, ea + s * step * ec, eg) for s in (1, -1))
        error = relative(second, (up - down) / (2 * step))
    # just outside of the series, at gaps of x eps^(1/4), rounding costs 4 eps^(3/4) |f' / (x f'')|; that is 2 for sqrt
    assert error < 8 * torch.finfo(torch.float64).eps ** 0.75


@pytest.mark.parametrize("exponent", [0.3, -2.0])
@pytest.mark.parametrize("spectrum", ["repeated", "condition 1e6"])
def test_exponent_gradient(exponent: float, spectrum: str, with_spectrum: Callable[..., Tensor]) -> None:
    """d<G, A^p>/dp = <G, A^p log A>."""
    values = SPECTRA[spectrum]
    a = with_spectrum(values)
    g = torch.randn(N, N, dtype=torch.float64)
    p = torch.tensor(exponent, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(linalg.powm(a, p), p, g)
    q = mp.mpf(exponent)
    with mp.workdps(50):
        of_log = back(value_exact(lambda x: x**q * mp.log(x), exact(a))).real
    truth, size = (g * of_log).sum(), g.norm() * of_log.norm()  # the sum may cancel
    assert abs(slope - truth) / size < C * N * torch.finfo(torch.float64).eps * max(values) / min(values)


def test_scalar_exponents_are_not_rounded_to_single(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((1.0, 5.0, 10.0, 40.0))
    expected = linalg.powm(a, torch.tensor(0.1, dtype=torch.float64))
    assert torch.equal(linalg.powm(a, 0.1), expected)
    assert torch.equal(linalg.clamp_eig(a, 5.1), linalg.clamp_eig(a, torch.tensor(5.1, dtype=torch.float64)))


def test_clamped_log_is_log_of_clamped(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((1e-3, 2e-2, 1.0, 1e3)).requires_grad_()
    g = torch.randn(N, N, dtype=torch.float64)
    spectrum = linalg.decompose(a)
    fused = linalg.apply(spectrum, linalg.functions.LOG_CLAMP_MIN, 0.5)
    plain = linalg.logm(linalg.clamp_eig(a, 0.5))
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(fused, a, g)
    (expected,) = torch.autograd.grad(plain, a, g)
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_log_hyperbola_is_a_sum_of_powers(with_spectrum: Callable[..., Tensor]) -> None:
    """``sqrt(log^2 + 1) - 1`` against its own matrix definition."""
    a = with_spectrum((0.1, 1.0, 1.0, 30.0)).requires_grad_()
    g = torch.randn(N, N, dtype=torch.float64)
    result = linalg.apply(linalg.decompose(a), linalg.functions.LOG_HYPERBOLA)
    log = linalg.logm(a)
    expected = linalg.sqrtm(log @ log + torch.eye(N, dtype=torch.float64)) - torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-13)
    gradients = (torch.autograd.grad(r, a, g)[0] for r in (result, expected))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)
