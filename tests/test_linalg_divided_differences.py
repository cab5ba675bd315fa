"""First divided differences against 60-digit arithmetic, over scales 1e-12 to 1e3 and relative gaps 0 to 1e8."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg.kernels import (
    BURES_FROM_IDENTITY,
    BURES_FROM_IDENTITY_SOLVED,
    BURES_TO_IDENTITY,
    LYAPUNOV,
    SumKernel,
)

SCALES = (1e-12, 1e-9, 1e-6, 1e-3, 0.37, 1.0, 7.3, 1e3)
GAPS = (0, 1e-16, 3e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.3, 1, 3, 6, 7, 10, 60, 1e3, 1e6, 1e8)
EXPONENTS = (-3.0, -2.0, -1.0, -0.5, -0.3, 1e-3, 0.25, 0.5, 1.0, 1.7, 2.0, 3.0)
BOUND = 10  # in units of eps of the dtype
DTYPES = (torch.float32, torch.float64)
Scalar = Callable[[mp.mpf], mp.mpf]


def pairs(dtype: torch.dtype) -> Tensor:
    grid = [[s, s * (1 + r)] for s, r in itertools.product(SCALES, GAPS)]
    return torch.tensor(grid, dtype=torch.float64).to(dtype).unique(dim=0)


def truth(f: Scalar, slope: Scalar, a: float, b: float) -> mp.mpf:
    x, y = mp.mpf(a), mp.mpf(b)
    return slope(x) if a == b else (f(x) - f(y)) / (x - y)


def worst(kernel: Tensor, w: Tensor, f: Scalar, slope: Scalar) -> float:
    """Return the largest relative error over all pairs, in eps, where the truth is a normal number."""
    info = torch.finfo(w.dtype)
    error = mp.mpf(0)
    compared = 0
    with mp.workdps(60):
        for row, matrix in zip(w.tolist(), kernel.tolist(), strict=True):
            for i, j in itertools.product(range(len(row)), repeat=2):
                exact = truth(f, slope, row[i], row[j])
                if info.tiny <= abs(exact) <= info.max:
                    compared += 1
                    error = max(error, abs(mp.mpf(matrix[i][j]) / exact - 1) if abs(matrix[i][j]) < mp.inf else mp.inf)
                elif exact == 0:
                    assert matrix[i][j] == 0
    assert compared >= 4 * len(kernel) // 5
    return float(error / mp.mpf(info.eps))


@pytest.mark.parametrize("dtype", DTYPES)
def test_log(dtype: torch.dtype) -> None:
    w = pairs(dtype)
    assert worst(fn.LOG.divided(w, None), w, mp.log, lambda x: 1 / x) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_inv_sqrt(dtype: torch.dtype) -> None:
    w = pairs(dtype)
    kernel = fn.INV_SQRT.divided(w, None)
    assert worst(kernel, w, lambda x: 1 / mp.sqrt(x), lambda x: -1 / (2 * x * mp.sqrt(x))) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_sqrt(dtype: torch.dtype) -> None:
    w = pairs(dtype)
    w = w[w[:, 0] > w[:, 1] * torch.finfo(dtype).eps]  # below lies the floor that test_sqrt_floor checks
    assert worst(fn.SQRT.divided(w, None), w, mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x))) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_sqrt_floor(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    kernel = fn.SQRT.divided(torch.tensor([0.0, 4.0], dtype=dtype), None)
    floor = torch.tensor([4 * eps, 4.0], dtype=dtype)
    torch.testing.assert_close(kernel, fn.SQRT.divided(floor, None), rtol=0, atol=0)
    torch.testing.assert_close(kernel[0, 0].item(), 0.25 * eps**-0.5, rtol=2 * eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp(dtype: torch.dtype) -> None:
    tops = (-80.0, -40.0, -12.0, -3.0, -1e-6, 0.0, 1e-12, 1e-3, 1.0, 20.0, 80.0)
    w = torch.tensor([[top - gap, top] for top, gap in itertools.product(tops, (*GAPS, 30.0, 90.0))], dtype=dtype)
    assert worst(fn.EXP.divided(w, None), w, mp.exp, mp.exp) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_power(dtype: torch.dtype, exponent: float) -> None:
    w = pairs(dtype)
    p = torch.full((len(w),), exponent, dtype=dtype)
    q = mp.mpf(p[0].item())
    assert worst(fn.POWER.divided(w, p), w, lambda x: x**q, lambda x: q * x ** (q - 1)) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_zero_is_flat(dtype: torch.dtype) -> None:
    w = pairs(dtype)
    assert fn.POWER.divided(w, torch.zeros(len(w), dtype=dtype)).abs().max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [1e-13, 1e-9, 1e-3, 0.37, 1.0, 50.0, 1e12])
def test_clamp(dtype: torch.dtype, threshold: float) -> None:
    w = pairs(dtype)
    p = torch.full((len(w),), threshold, dtype=dtype)
    t = mp.mpf(p[0].item())
    kernel = fn.CLAMP_MIN.divided(w, p)
    error = mp.mpf(0)
    with mp.workdps(60):
        for row, matrix in zip(w.tolist(), kernel.tolist(), strict=True):
            for i, j in itertools.product(range(2), repeat=2):
                exact = truth(lambda x: max(x, t), lambda x: mp.mpf(int(x > t)), row[i], row[j])
                error = max(error, abs(mp.mpf(matrix[i][j]) - exact) / (exact if exact else 1))
    assert error < BOUND * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_hyperbola(dtype: torch.dtype) -> None:
    w = torch.cat([pairs(dtype), -pairs(dtype), pairs(dtype) * torch.tensor([-1, 1], dtype=dtype)])
    w = w[w[:, 0] != -w[:, 1]]  # there the difference vanishes
    f: Scalar = lambda x: x * x / (1 + mp.sqrt(x * x + 1))  # noqa: E731
    assert worst(fn.HYPERBOLA.divided(w, None), w, f, lambda x: x / mp.sqrt(x * x + 1)) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [LYAPUNOV, BURES_TO_IDENTITY, BURES_FROM_IDENTITY, BURES_FROM_IDENTITY_SOLVED])
def test_sum_kernels(dtype: torch.dtype, k: SumKernel) -> None:
    w = pairs(dtype)
    x, y = w.unsqueeze(-1).expand(-1, 2, 2), w.unsqueeze(-2).expand(-1, 2, 2)
    c, q = mp.mpf(k.coefficient), mp.mpf(k.power)
    assert worst(k.divided(x, y), w, lambda t: c * t**q, lambda t: c * q * t ** (q - 1)) < BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-2.0, -0.5, 0.5, 2.0])
def test_power_log_normwise(dtype: torch.dtype, exponent: float) -> None:
    """The derivative ``w^(p-1) (1 + p log w)`` has a zero, so the error is measured against the size of its terms."""
    w = pairs(dtype)
    w = w[(w[:, 1] < 1e4 * w[:, 0]) & (w[:, 0] > 1e-7)]
    kernel = fn.POWER_LOG.divided(w, torch.full((len(w),), exponent, dtype=dtype))
    q = mp.mpf(exponent)
    error = 0.0
    with mp.workdps(60):
        for row, matrix in zip(w.tolist(), kernel.tolist(), strict=True):
            exact = [
                [truth(lambda x: x**q * mp.log(x), lambda x: x ** (q - 1) * (q * mp.log(x) + 1), a, b) for b in row]
                for a in row
            ]
            size = max(mp.mpf(a) ** (q - 1) * (1 + abs(q * mp.log(a))) for a in row)
            gap = max(abs(mp.mpf(matrix[i][j]) - exact[i][j]) for i in range(2) for j in range(2))
            error = max(error, float(gap / size))
    assert error < BOUND * torch.finfo(dtype).eps


def test_ties_are_symmetric_and_monotone() -> None:
    """A gap that grows from 0 never makes the kernel jump: no threshold separates ties from gaps."""
    gaps = torch.logspace(-18, 0, 400, dtype=torch.float64)
    w = torch.stack([torch.ones_like(gaps), 1 + gaps], -1)
    p = torch.full((len(w),), 0.4, dtype=torch.float64)
    for f in (fn.LOG, fn.EXP, fn.SQRT, fn.INV_SQRT, fn.POWER):
        kernel = f.divided(w, p)
        assert torch.equal(kernel, kernel.mT)
        step = kernel[1:, 0, 1] / kernel[:-1, 0, 1] - 1
        assert step.abs().max() < 0.1  # the grid's own step at gap 1
        assert step[gaps[1:] < 1e-10].abs().max() < 1e-10
