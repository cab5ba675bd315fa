"""First and second derivatives by finite differences at repeated, nearly repeated and badly scaled spectra."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn

REAL, COMPLEX = torch.float64, torch.complex128
FUNCTIONS: dict[str, Callable[[Tensor], Tensor | tuple[Tensor, ...]]] = {
    "logm": linalg.logm,
    "expm": linalg.expm,
    "sqrtm": linalg.sqrtm,
    "inv_sqrtm": linalg.inv_sqrtm,
    "sqrtm_inv_sqrtm": linalg.sqrtm_inv_sqrtm,
    "powm": lambda a: linalg.powm(a, -0.7),
    "clamp_eig": lambda a: linalg.clamp_eig(a, 1.5),
    "log clamp": lambda a: linalg.apply(linalg.decompose(a), fn.LOG_CLAMP_MIN, 1.5),
    "hyperbola": lambda a: linalg.apply(linalg.decompose(a), fn.HYPERBOLA),
    "log hyperbola": lambda a: linalg.apply(linalg.decompose(a), fn.LOG_HYPERBOLA),
    "sum_log": lambda a: linalg.sum_log(linalg.decompose(a)),
    "sum_log_squared": lambda a: linalg.sum_log_squared(linalg.decompose(a)),
}
SPECTRA = {
    "identity": (1.0, 1.0, 1.0),
    "repeated": (1.0, 2.0, 2.0),
    "gap 1e-14": (1.0, 2.0, 2.0 + 2e-14),
    "gap 1e-10": (1.0, 2.0, 2.0 + 2e-10),
    "gap 1e-8": (1.0, 2.0, 2.0 + 2e-8),
    "gap 1e-6": (1.0, 2.0, 2.0 + 2e-6),
    "spread": (0.3, 2.0, 5.0),
}


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_orders(name: str, spectrum: str, dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum(SPECTRA[spectrum], dtype=dtype).requires_grad_()
    assert gradcheck(FUNCTIONS[name], a)
    assert gradgradcheck(FUNCTIONS[name], a)


@pytest.mark.parametrize("name", ["logm", "sqrtm", "inv_sqrtm", "powm", "sum_log", "sum_log_squared"])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_scaled(name: str, scale: float, with_spectrum: Callable[..., Tensor]) -> None:
    """Both orders of x -> f(s x), divided by a constant that makes values of order one."""
    a = with_spectrum((1.0, 1.0, 3.0)).requires_grad_()
    size = float(torch.as_tensor(FUNCTIONS[name](scale * a.detach())).norm())
    assert gradcheck(lambda x: FUNCTIONS[name](scale * x) / size, a)
    assert gradgradcheck(lambda x: FUNCTIONS[name](scale * x) / size, a)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_condition_1e4(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((1e-2, 1.0, 1.0, 1e2 if "exp" not in name else 5.0)).requires_grad_()
    assert gradcheck(FUNCTIONS[name], a, eps=1e-7)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("function", [linalg.powm, linalg.clamp_eig])
def test_learnable_parameter_broadcasts(
    function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    """A parameter (2, 1) against matrices (2, n, n): outputs (2, 2, n, n), both gradients reduced to their inputs."""
    a = with_spectrum((0.5, 2.0, 2.0), 2, dtype=dtype).requires_grad_()
    p = torch.tensor([[0.8], [1.3]], dtype=REAL, requires_grad=True)
    assert function(a, p).shape == (2, 2, 3, 3)
    assert gradcheck(function, (a, p))
    assert gradgradcheck(function, (a, p))


def test_parameters_of_composed_functions(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 2.0, 3.0), 2).requires_grad_()
    p = torch.tensor([0.8, 1.3], dtype=REAL, requires_grad=True)

    def clamped_log(a: Tensor, p: Tensor) -> Tensor:
        return linalg.apply(linalg.decompose(a), fn.LOG_CLAMP_MIN, p)

    assert gradcheck(clamped_log, (a, p))
    assert gradgradcheck(clamped_log, (a, p))


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_frechet_derivative(dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    """It is the derivative of the function, with a gradient in the matrix, the direction and the parameter."""
    a = with_spectrum((0.5, 2.0, 2.0), dtype=dtype).requires_grad_()
    v = with_spectrum((-1.0, 0.3, 2.0), 2, dtype=dtype).requires_grad_()
    step = 1e-6
    expected = (linalg.logm(a + step * v) - linalg.logm(a - step * v)) / (2 * step)
    torch.testing.assert_close(
        linalg.frechet_derivative(linalg.decompose(a), fn.LOG, v), expected, rtol=1e-8, atol=1e-8
    )
    assert gradcheck(lambda a, v: linalg.frechet_derivative(linalg.decompose(a), fn.LOG, v), (a, v))
    p = torch.tensor([0.8, 1.3], dtype=REAL, requires_grad=True)
    assert gradcheck(lambda a, v, p: linalg.frechet_derivative(linalg.decompose(a), fn.POWER, v, p), (a, v, p))


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("f", [fn.LOG, fn.SQRT])
def test_weighted_apply(f: fn.SpectralFunction, dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 2.0), 4, dtype=dtype).requires_grad_()
    weights = torch.rand(4, dtype=REAL).requires_grad_()
    loop = sum(w * linalg.apply(linalg.decompose(x), f) for w, x in zip(weights, a, strict=True))
    torch.testing.assert_close(linalg.weighted_apply(linalg.decompose(a), f, weights), loop)
    uniform = linalg.apply(linalg.decompose(a), f).mean(0)
    torch.testing.assert_close(linalg.weighted_apply(linalg.decompose(a), f, None), uniform)
    assert gradcheck(lambda a, w: linalg.weighted_apply(linalg.decompose(a), f, w), (a, weights))
    assert gradgradcheck(lambda a, w: linalg.weighted_apply(linalg.decompose(a), f, w), (a, weights))


def test_weighted_apply_over_groups(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 2.0), 4, 3).requires_grad_()
    weights = torch.rand(4, 3, dtype=REAL).requires_grad_()
    expected = (weights[..., None, None] * linalg.logm(a)).sum(0)
    torch.testing.assert_close(linalg.weighted_apply(linalg.decompose(a), fn.LOG, weights), expected)
    assert gradcheck(lambda a, w: linalg.weighted_apply(linalg.decompose(a), fn.LOG, w), (a, weights))


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_eigenvalues(dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 3.0), 2, dtype=dtype).requires_grad_()
    values, vectors = linalg.eigh(a)
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mH, a)
    assert gradcheck(lambda a: linalg.eigh(a)[0], a)
    torch.testing.assert_close(linalg.eigvalsh(a), values.detach())
    assert not linalg.eigvalsh(a).requires_grad


def test_eigenvectors_have_no_gradient(with_spectrum: Callable[..., Tensor]) -> None:
    _, vectors = linalg.eigh(with_spectrum((0.5, 2.0, 3.0)).requires_grad_())
    with pytest.raises(NotImplementedError, match=r"eigenvectors have no gradient.*logm, expm, powm"):
        vectors.sum().backward()


FIRST_ORDER = {
    "eigh": lambda a: linalg.eigh(a)[0],
    "frechet_derivative": lambda a: linalg.frechet_derivative(linalg.decompose(a), fn.LOG, torch.eye(3, dtype=REAL)),
    "frechet_derivative of a power": lambda a: linalg.frechet_derivative(linalg.decompose(a), fn.POWER, a, 0.4),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_second_derivative_raises(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 3.0)).requires_grad_()
    (first,) = torch.autograd.grad(FIRST_ORDER[name](a).square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="higher order"):
        torch.autograd.grad(first.square().sum(), a)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "sum_log"])
def test_third_derivative_raises(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 3.0)).requires_grad_()
    value = FUNCTIONS[name](a)
    scalar = sum(v.square().sum() for v in value) if isinstance(value, tuple) else value.square().sum()
    (first,) = torch.autograd.grad(scalar, a, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"higher order|third derivatives"):
        torch.autograd.grad(second.square().sum(), a)


def test_third_derivative_of_log_determinant(with_spectrum: Callable[..., Tensor]) -> None:
    """Its gradient is the inverse, which is differentiable twice."""
    a = with_spectrum((0.5, 2.0, 2.0)).requires_grad_()

    def slope(a: Tensor) -> Tensor:
        return torch.autograd.grad(linalg.sum_log(linalg.decompose(a)), a, create_graph=True)[0]

    torch.testing.assert_close(slope(a), torch.linalg.inv(a))
    assert gradgradcheck(slope, a)


def test_third_derivative_in_the_exponent_raises(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 2.0, 3.0))
    p = torch.tensor(0.4, dtype=REAL, requires_grad=True)
    (first,) = torch.autograd.grad(linalg.powm(a, p).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first, p, create_graph=True)
    with pytest.raises(NotImplementedError, match="higher order"):
        torch.autograd.grad(second, p)


@pytest.mark.parametrize("name", ["sqrtm", "logm", "clamp_eig", "powm", "inv_sqrtm"])
def test_singular_matrices_have_finite_derivatives(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.0, 0.0, 2.0)).requires_grad_()
    for matrix in (a, torch.diag(torch.tensor([0.0, 0.0, 2.0], dtype=REAL)).requires_grad_()):
        value = FUNCTIONS[name](matrix)
        (first,) = torch.autograd.grad(value.sum(), matrix, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), matrix)
        assert all(bool(t.isfinite().all()) for t in (value, first, second))
