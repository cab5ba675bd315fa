"""Odd, ill-conditioned and invalid input: every failure measured in other libraries that concerns linalg."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logm": linalg.logm,
    "expm": linalg.expm,
    "sqrtm": linalg.sqrtm,
    "inv_sqrtm": linalg.inv_sqrtm,
    "powm": lambda a: linalg.powm(a, 0.5),
    "clamp_eig": lambda a: linalg.clamp_eig(a, 0.5),
    "cholesky": linalg.cholesky,
    "log_cholesky": linalg.log_cholesky,
    "lyapunov": lambda a: linalg.lyapunov(a, torch.ones_like(a)),
}
POSITIVE = [name for name in FUNCTIONS if name not in ("expm", "clamp_eig")]
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def gradient(function: Callable[[Tensor], Tensor], a: Tensor, g: Tensor | None = None) -> Tensor:
    a = a.detach().requires_grad_()
    value = function(a)
    (grad,) = torch.autograd.grad(value, a, torch.ones_like(value) if g is None else g)
    return grad


@pytest.mark.parametrize("name", FUNCTIONS)
def test_samples_of_a_batch_are_independent(name: str, spd: Callable[..., Tensor]) -> None:
    """A small sample batched with one a million times larger keeps its value and gradient to the last bit."""
    a = spd(5, 2, dtype=torch.float32)
    mixed = torch.stack([a[0], 1e6 * a[1]])
    assert torch.equal(FUNCTIONS[name](mixed)[0], FUNCTIONS[name](a[:1])[0])
    assert torch.equal(gradient(FUNCTIONS[name], mixed)[0], gradient(FUNCTIONS[name], a[:1])[0])


@pytest.mark.parametrize(("condition", "limit"), [(1e6, 5e-7), (1e8, None), (1e10, None)])
def test_single_precision_log(condition: float, limit: float | None, with_spectrum: Callable[..., Tensor]) -> None:
    """2000 random matrices: no NaN at any condition, and at 1e6 only the rounding of the result is left."""
    w = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), 8, dtype=torch.float64)
    a = with_spectrum(w, 2000, dtype=torch.float32)
    result, grad = linalg.logm(a), gradient(linalg.logm, a)
    assert bool(result.isfinite().all()) and bool(grad.isfinite().all())
    if limit is not None:
        expected = linalg.logm(a.double())
        error = (result - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert error.median() < torch.finfo(torch.float32).eps
        assert error.max() < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_units(dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    """EEG in volts has covariances of 1e-12: distances and the gradient of the log-determinant do not change."""
    p, q = spd(6, dtype=dtype), spd(6, dtype=dtype)

    def distance(p: Tensor, q: Tensor) -> Tensor:
        return linalg.logm(linalg.congruence(linalg.inv_sqrtm(p), q)).norm()

    def log_det(a: Tensor) -> Tensor:
        return linalg.sum_log(linalg.decompose(a))

    rtol = 2e3 * torch.finfo(dtype).eps
    torch.testing.assert_close(distance(1e-12 * p, 1e-12 * q), distance(p, q), rtol=rtol, atol=0)
    small = gradient(log_det, 1e-12 * p)
    torch.testing.assert_close(small * 1e-12, gradient(log_det, p), rtol=rtol, atol=rtol)
    torch.testing.assert_close(small, torch.linalg.inv(1e-12 * p.double()).to(dtype), rtol=rtol, atol=rtol * 1e12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_asymmetric_input_is_symmetrised(name: str, dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    a = spd(4, 3, dtype=dtype)
    skew = torch.randn(3, 4, 4, dtype=dtype)
    skew = skew - skew.mH
    tolerance = {"rtol": 1e4 * torch.finfo(dtype).eps, "atol": 1e4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(FUNCTIONS[name](a + skew), FUNCTIONS[name](a), **tolerance)
    grad = gradient(FUNCTIONS[name], a + skew)
    torch.testing.assert_close(grad, grad.mH)


def test_positive_functions_refuse_indefinite_input() -> None:
    a = torch.eye(4, dtype=torch.float64).repeat(3, 2, 1, 1)
    a[1, 1, 3, 3] = -0.5
    for name in POSITIVE:
        message = rf"{name}: sample \(1, 1\) is not positive definite \(smallest eigenvalue -0.5, largest 1\)\. Shrink"
        with pytest.raises(torch.linalg.LinAlgError, match=message):
            FUNCTIONS[name](a)
    with pytest.raises(torch.linalg.LinAlgError, match=r"sample 1 is .*-0.5, largest 1\).*more samples than channels"):
        linalg.logm(a[1])
    with pytest.raises(torch.linalg.LinAlgError, match="logm: the matrix is not positive definite"):
        linalg.logm(a[1, 1])
    with pytest.raises(torch.linalg.LinAlgError, match=r"my layer: sample \(1, 1\)"):
        linalg.decompose(a, positive=True, name="my layer")
    with pytest.raises(torch.linalg.LinAlgError, match=r"largest -1\)"):
        linalg.logm(-torch.eye(2))
    assert bool(linalg.clamp_eig(a, 0.1).isfinite().all())
    assert bool(linalg.expm(a).isfinite().all())


def test_rounding_below_zero_is_no_error(with_spectrum: Callable[..., Tensor]) -> None:
    """Average-referenced EEG is singular: its zero eigenvalue may come out as -1e-17."""
    for dtype in (torch.float32, torch.float64):
        a = with_spectrum((0.0, 0.5, 1.0, 1.0), 50, dtype=dtype)
        assert float(linalg.eigh(a)[0].min()) < 0
        for name in ("logm", "sqrtm", "inv_sqrtm", "powm"):
            assert bool(FUNCTIONS[name](a).isfinite().all())
            assert bool(gradient(FUNCTIONS[name], a).isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_sample(name: str, dtype: torch.dtype, bad: float, spd: Callable[..., Tensor]) -> None:
    a = spd(4, 4, dtype=dtype)
    expected, slope = FUNCTIONS[name](a), gradient(FUNCTIONS[name], a)
    a[2, 1, 3] = bad
    result, grad = FUNCTIONS[name](a), gradient(FUNCTIONS[name], a)
    good = [0, 1, 3]
    tolerance = {"rtol": 500 * torch.finfo(dtype).eps, "atol": 500 * torch.finfo(dtype).eps}
    torch.testing.assert_close(result[good], expected[good], **tolerance)
    torch.testing.assert_close(grad[good], slope[good], **tolerance)
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    assert bool(result[2][lower].isnan().all()) and bool(grad[2].isnan().all())


def test_all_samples_bad() -> None:
    a = torch.full((3, 4, 4), float("nan"))
    for name, function in FUNCTIONS.items():
        assert bool(function(a).isnan().any(-1).any(-1).all()), name
    values, vectors = linalg.eigh(a)
    assert bool(values.isnan().all()) and bool(vectors.isnan().all())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3, 3), (1, 1), (5, 1, 1), (0, 1, 1)])
def test_empty_batch_and_one_by_one(name: str, shape: tuple[int, ...]) -> None:
    a = torch.full(shape, 4.0, dtype=torch.float64) if shape[-1] == 1 else torch.empty(shape, dtype=torch.float64)
    assert FUNCTIONS[name](a).shape == shape
    assert gradient(FUNCTIONS[name], a).shape == shape


def test_one_by_one_values() -> None:
    a = torch.tensor([[[4.0]], [[9.0]]], dtype=torch.float64)
    assert linalg.sqrtm(a).flatten().tolist() == [2.0, 3.0]
    assert gradient(linalg.sqrtm, a).flatten().tolist() == pytest.approx([1 / 4, 1 / 6], abs=1e-15)
    assert gradient(linalg.logm, a).flatten().tolist() == pytest.approx([1 / 4, 1 / 9], abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unsupported_dtype(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"{name}: expected a float32, .*, got {dtype}.*\.float\(\)"):
        FUNCTIONS[name](torch.eye(3).to(dtype))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (3,), ()])
def test_wrong_shape(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected square matrices of shape \(\.\.\., n, n\), got \("):
        FUNCTIONS[name](torch.ones(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtype_is_preserved(name: str, dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    a = spd(3, 2, dtype=dtype)
    assert FUNCTIONS[name](a).dtype == dtype
    assert gradient(FUNCTIONS[name], a).dtype == dtype
    assert linalg.eigh(a)[0].dtype == linalg.eigvalsh(a).dtype == linalg.sum_log(linalg.decompose(a)).dtype
    assert linalg.eigh(a)[0].dtype == (dtype.to_real() if dtype.is_complex else dtype)
    assert linalg.eigh(a)[1].dtype == dtype


def test_mixed_dtypes(spd: Callable[..., Tensor]) -> None:
    """A parameter of another precision is converted, and its gradient comes back in its own dtype."""
    a = spd(3, 2, dtype=torch.float64).requires_grad_()
    p = torch.tensor(0.4, dtype=torch.float32, requires_grad=True)
    linalg.powm(a, p).sum().backward()
    assert a.grad is not None and a.grad.dtype == torch.float64
    assert p.grad is not None and p.grad.dtype == torch.float32
    assert linalg.powm(a.float(), p.double()).dtype == torch.float32
    v = torch.eye(3, dtype=torch.float32)
    assert linalg.lyapunov(a, v).dtype == torch.float32
    assert linalg.frechet_derivative(linalg.decompose(a.float()), fn.LOG, v.double()).dtype == torch.float32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_memory_layout_does_not_matter(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(3, 4, 2, dtype=torch.float64)
    views = {
        "transposed": a.mT,
        "permuted": a.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "strided": torch.stack([a, a], -1)[..., 1],
    }
    for layout, view in views.items():
        assert not view.is_contiguous(), layout
        torch.testing.assert_close(FUNCTIONS[name](view), FUNCTIONS[name](a), rtol=1e-12, atol=1e-12)
    expanded = a[0, 0].expand(5, 3, 3)
    single = FUNCTIONS[name](a[0, 0])
    torch.testing.assert_close(FUNCTIONS[name](expanded), single.expand(5, *single.shape))
    leaf = a[0, 0].clone().requires_grad_()
    FUNCTIONS[name](leaf.expand(5, 3, 3)).sum().backward()
    torch.testing.assert_close(leaf.grad, 5 * gradient(FUNCTIONS[name], a[0, 0]))


def test_complex_matrices(with_spectrum: Callable[..., Tensor]) -> None:
    """``U diag U^T`` without the conjugate would pass for real input only."""
    a = with_spectrum((0.2, 1.0, 1.0, 4.0), 3, dtype=torch.complex128)
    torch.testing.assert_close(linalg.expm(linalg.logm(a)), a)
    torch.testing.assert_close(linalg.sqrtm(a) @ linalg.sqrtm(a), a)
    torch.testing.assert_close(linalg.inv_sqrtm(a) @ linalg.sqrtm(a), torch.eye(4, dtype=a.dtype).expand(3, 4, 4))
    torch.testing.assert_close(torch.linalg.matrix_exp(linalg.logm(a)), a)
    real = with_spectrum((0.2, 1.0, 1.0, 4.0), 3)
    torch.testing.assert_close(linalg.logm(real.to(torch.complex128)), linalg.logm(real).to(torch.complex128))


def test_inputs_are_not_modified(spd: Callable[..., Tensor]) -> None:
    a = spd(3, 2)
    before = a.clone()
    spectrum = linalg.decompose(a)
    values = spectrum.values.clone()
    for f in (fn.LOG, fn.SQRT, fn.EXP, fn.INV_SQRT):
        gradient(lambda a, f=f: linalg.apply(linalg.Spectrum(a, *spectrum[1:]), f), a)
    gradient(lambda a: linalg.apply(linalg.Spectrum(a, *spectrum[1:]), fn.POWER, 0.3), a)
    assert torch.equal(a, before)
    assert torch.equal(spectrum.values, values)
