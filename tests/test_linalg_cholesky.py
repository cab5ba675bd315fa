"""Cholesky factor, log-Cholesky chart and their triangular differentials."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from manifoldnorm import linalg

DTYPES = (torch.float64, torch.complex128)


@pytest.mark.parametrize("dtype", DTYPES)
def test_factor(dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    a = spd(5, 3, 2, dtype=dtype)
    factor = linalg.cholesky(a)
    torch.testing.assert_close(factor @ factor.mH, a)
    assert torch.equal(factor, factor.tril())
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    assert bool((torch.view_as_real(diagonal)[..., 1] == 0).all()) if dtype.is_complex else True
    assert bool((diagonal.abs() == (diagonal.real if dtype.is_complex else diagonal)).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse(dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    a = spd(5, 3, dtype=dtype)
    factor, inverse = linalg.inverse_cholesky(a)
    assert torch.equal(factor, linalg.cholesky(a))
    torch.testing.assert_close(inverse, linalg.inverse_lower(factor))
    torch.testing.assert_close(inverse @ factor, torch.eye(5, dtype=dtype).expand(3, 5, 5))
    torch.testing.assert_close(inverse.mH @ inverse, torch.linalg.inv(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_chart_round_trips(dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    a = spd(5, 3, dtype=dtype)
    chart = linalg.log_cholesky(a)
    assert torch.equal(chart, chart.tril())
    torch.testing.assert_close(linalg.exp_cholesky(chart), a)
    y = torch.randn(3, 5, 5, dtype=dtype).tril()
    if dtype.is_complex:
        y.diagonal(dim1=-2, dim2=-1).imag.zero_()
    torch.testing.assert_close(linalg.log_cholesky(linalg.exp_cholesky(y)), y)
    eye = torch.eye(5, dtype=dtype)
    assert torch.equal(linalg.exp_cholesky(torch.zeros_like(eye)), eye)
    assert torch.equal(linalg.log_cholesky(eye), torch.zeros_like(eye))


def test_chart_ignores_the_upper_triangle() -> None:
    y = torch.randn(4, 4, dtype=torch.float64)
    assert torch.equal(linalg.exp_cholesky(y), linalg.exp_cholesky(y.tril()))


def test_half_lower() -> None:
    a = linalg.symmetrize(torch.randn(2, 4, 4, dtype=torch.complex128))
    half = linalg.half_lower(a)
    assert torch.equal(half, half.tril())
    torch.testing.assert_close(half + half.mH, a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "function", [linalg.cholesky, linalg.inverse_cholesky, linalg.log_cholesky, linalg.exp_cholesky]
)
def test_both_orders(
    function: Callable[[Tensor], Tensor | tuple[Tensor, ...]], dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    a = with_spectrum((0.3, 1.0, 1.0), dtype=dtype).requires_grad_()
    assert gradcheck(function, a)
    assert gradgradcheck(function, a)


@pytest.mark.parametrize("function", [linalg.cholesky, linalg.log_cholesky, linalg.exp_cholesky])
def test_third_derivative(function: Callable[[Tensor], Tensor], with_spectrum: Callable[..., Tensor]) -> None:
    """The differentials are written in differentiable operations: any order is right."""
    a = with_spectrum((0.3, 1.0, 1.0)).requires_grad_()
    g = torch.randn(3, 3, dtype=torch.float64)
    assert gradgradcheck(lambda a: torch.autograd.grad(function(a), a, g, create_graph=True)[0], a)


def test_differential_is_triangular(spd: Callable[..., Tensor]) -> None:
    """dL = L half(L^-1 dA L^-T), the differential of Murray 2016 (arXiv:1602.07527), eq. (8)."""
    a = spd(4)
    v = linalg.symmetrize(torch.randn(4, 4, dtype=torch.float64))
    factor, inverse = linalg.inverse_cholesky(a)
    expected = factor @ linalg.half_lower(inverse @ v @ inverse.mT)
    jacobian = torch.func.jacrev(linalg.cholesky)(a)
    torch.testing.assert_close(torch.tensordot(jacobian, v), expected)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_gradient_scales(scale: float, spd: Callable[..., Tensor]) -> None:
    """chol(s A) = sqrt(s) chol(A), so the gradient scales by 1 / sqrt(s)."""
    a = spd(4)
    base, scaled = torch.func.jacrev(linalg.cholesky)(a), torch.func.jacrev(linalg.cholesky)(scale * a)
    torch.testing.assert_close(scaled * scale**0.5, base)
    log_base, log_scaled = torch.func.jacrev(linalg.log_cholesky)(a), torch.func.jacrev(linalg.log_cholesky)(scale * a)
    index = torch.arange(4)
    torch.testing.assert_close(log_scaled[index, index] * scale, log_base[index, index])


def test_singular_input_is_an_error(with_spectrum: Callable[..., Tensor]) -> None:
    a = torch.stack([torch.eye(3), torch.ones(3, 3), -torch.eye(3)])
    with pytest.raises(torch.linalg.LinAlgError, match=r"log_cholesky: sample 2 is not positive definite"):
        linalg.log_cholesky(a[[0, 0, 2]])
    with pytest.raises(torch.linalg.LinAlgError, match=r"cholesky: sample 1 is .* \(smallest eigenvalue .*largest 3\)"):
        linalg.cholesky(a[:2] - 1e-5 * torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_congruence(dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 6, 2, dtype=dtype)
    for k in (torch.randn(4, 4, dtype=dtype), torch.randn(2, 4, 4, dtype=dtype), torch.randn(6, 1, 4, 4, dtype=dtype)):
        torch.testing.assert_close(linalg.congruence(k, x), k @ x @ k.mH, rtol=1e-5, atol=1e-5)
    if dtype != torch.float32:
        k = torch.randn(3, 4, dtype=dtype).requires_grad_()
        x = x[:2, 0].detach().requires_grad_()
        assert gradcheck(lambda k, x: linalg.congruence(k, linalg.symmetrize(x)), (k, x))
