"""The precision context, autocast and devices: what decides in which arithmetic a matrix is decomposed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg.kernels import BURES_FROM_IDENTITY

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logm": linalg.logm,
    "expm": linalg.expm,
    "powm": lambda a: linalg.powm(a, 0.5),
    "cholesky": linalg.cholesky,
    "log_cholesky": linalg.log_cholesky,
    "exp_cholesky": linalg.exp_cholesky,
    "inverse_cholesky": lambda a: torch.stack(linalg.inverse_cholesky(a)),
    "lyapunov": lambda a: linalg.lyapunov(a, torch.ones_like(a)),
    "bures": lambda a: linalg.apply_kernel(linalg.decompose(a), torch.ones_like(a), BURES_FROM_IDENTITY),
    "frechet_derivative": lambda a: linalg.frechet_derivative(linalg.decompose(a), fn.LOG, torch.ones_like(a)),
    "sum_log": lambda a: linalg.sum_log(linalg.decompose(a)),
    "weighted_apply": lambda a: linalg.weighted_apply(linalg.decompose(a), fn.LOG, None),
    "eigh": lambda a: linalg.eigh(a)[0],
    "eigvalsh": linalg.eigvalsh,
    "congruence": lambda a: linalg.congruence(a[0], a),
}
DECOMPOSING = [name for name in FUNCTIONS if name not in ("exp_cholesky", "congruence")]


def gradient(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """Return the gradient of a weighted sum of the entries."""
    a = a.detach().requires_grad_()
    value = function(a)
    return torch.autograd.grad(value, a, weights(value))[0]


def weights(value: Tensor) -> Tensor:
    return torch.arange(1, value.numel() + 1, device=value.device).reshape(value.shape).cos().to(value.dtype)


def double_is_used(function: Callable[[Tensor], Tensor], a: Tensor) -> bool:
    """Return whether the single-precision result is the rounded double-precision result."""
    return torch.equal(function(a), function(a.double()).float())


@pytest.fixture
def ill(with_spectrum: Callable[..., Tensor]) -> Tensor:
    """Return matrices whose native and double decompositions differ visibly in single precision."""
    return with_spectrum([1e-3, 0.1, 0.3, 0.7, 1.0, 1.0, 2.0, 10.0], 20, dtype=torch.float32)


@pytest.mark.parametrize("name", DECOMPOSING)
def test_accurate_is_the_default(name: str, ill: Tensor) -> None:
    assert double_is_used(FUNCTIONS[name], ill)
    with linalg.precision("native"):
        assert not double_is_used(FUNCTIONS[name], ill)
        torch.testing.assert_close(FUNCTIONS[name](ill), FUNCTIONS[name](ill.double()).float(), rtol=1e-2, atol=1e-2)
    assert double_is_used(FUNCTIONS[name], ill)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_native_gradients(dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    """Single-precision arithmetic throughout, as on other devices: ties exact, nothing overflows at small scale."""
    for scale in (1.0, 1e-12):
        a = scale * with_spectrum((1.0, 1.0, 1.0, 2.0), 3, dtype=dtype)
        for name in ("logm", "powm", "cholesky", "log_cholesky"):
            expected = gradient(FUNCTIONS[name], a.to(torch.complex128 if dtype.is_complex else torch.float64))
            with linalg.precision("native"):
                grad = gradient(FUNCTIONS[name], a)
            torch.testing.assert_close(grad, expected.to(dtype), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_nesting_and_errors(ill: Tensor) -> None:
    with linalg.precision("native"):
        with linalg.precision("accurate"):
            assert double_is_used(linalg.logm, ill)
            with linalg.precision("native"):
                assert not double_is_used(linalg.logm, ill)
            assert double_is_used(linalg.logm, ill)
        assert not double_is_used(linalg.logm, ill)
        with pytest.raises(RuntimeError, match="inside"), linalg.precision("accurate"):
            raise RuntimeError("inside")
        assert not double_is_used(linalg.logm, ill)
    assert double_is_used(linalg.logm, ill)
    with pytest.raises(ValueError, match="expected 'accurate' or 'native', got 'fast'"), linalg.precision("fast"):
        pass
    assert double_is_used(linalg.logm, ill)


def test_threads_do_not_see_each_other(ill: Tensor) -> None:
    inside, leave = threading.Event(), threading.Event()
    seen: list[bool] = []

    def native() -> None:
        with linalg.precision("native"):
            inside.set()
            leave.wait(timeout=30)
            seen.append(double_is_used(linalg.logm, ill))

    thread = threading.Thread(target=native)
    thread.start()
    assert inside.wait(timeout=30)
    assert double_is_used(linalg.logm, ill)
    leave.set()
    thread.join()
    assert seen == [False]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_functions_follow_the_context(ill: Tensor) -> None:
    """One compiled graph serves both modes: the operator reads the mode at each call."""
    torch._dynamo.reset()
    for function in (linalg.logm, linalg.cholesky):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        assert double_is_used(compiled, ill)
        with linalg.precision("native"):
            assert not double_is_used(compiled, ill)
        assert double_is_used(compiled, ill)


def test_backward_keeps_the_precision_of_the_forward(ill: Tensor) -> None:
    a = ill.clone().requires_grad_()
    value = linalg.logm(a)
    with linalg.precision("native"):
        (inside,) = torch.autograd.grad(value.sum(), a)
    (outside,) = torch.autograd.grad(linalg.logm(a).sum(), a)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("mode", ["accurate", "native"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_nothing(name: str, mode: str, spd: Callable[..., Tensor]) -> None:
    a = spd(6, 4, dtype=torch.float32).requires_grad_()
    with linalg.precision(mode):
        expected = FUNCTIONS[name](a)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = FUNCTIONS[name](a)
            assert result.dtype == torch.float32
            assert torch.equal(result, expected)
        if name != "eigvalsh":
            (slope,) = torch.autograd.grad(result, a, weights(result))
            assert torch.equal(slope, gradient(FUNCTIONS[name], a))


@pytest.mark.parametrize("name", [name for name in DECOMPOSING if name not in ("eigvalsh", "inverse_cholesky")])
def test_autocast_around_the_backward_changes_nothing(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(6, 4, dtype=torch.float32)
    for mode in ("accurate", "native"):
        with linalg.precision(mode):
            expected = gradient(FUNCTIONS[name], a)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(gradient(FUNCTIONS[name], a), expected)


def test_autocast_in_the_second_derivative(spd: Callable[..., Tensor]) -> None:
    a = spd(6, 4, dtype=torch.float32).requires_grad_()

    def second() -> Tensor:
        (first,) = torch.autograd.grad(linalg.logm(a).square().sum(), a, create_graph=True)
        return torch.autograd.grad(first.square().sum(), a)[0]

    for mode in ("accurate", "native"):
        with linalg.precision(mode):
            expected = second()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(second(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_device_is_preserved(name: str, spd: Callable[..., Tensor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    a = spd(6, 4)
    result = FUNCTIONS[name](a.cuda())
    assert result.device.type == "cuda"
    torch.testing.assert_close(result.cpu(), FUNCTIONS[name](a))
    if name != "eigvalsh":
        torch.testing.assert_close(gradient(FUNCTIONS[name], a.cuda()).cpu(), gradient(FUNCTIONS[name], a))


@pytest.mark.gpu
def test_device_marks_bad_samples() -> None:
    """Without a host synchronisation nothing can be raised: a failed sample is NaN and the others are right."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    a = torch.eye(3, device="cuda").repeat(3, 1, 1)
    a[1, 0, 0], a[2, 0, 1] = -1, float("nan")
    for function in (linalg.logm, linalg.sqrtm, linalg.cholesky):
        result = function(a)
        assert bool(result[0].isfinite().all())
        assert bool(result[1:].isnan().flatten(1).any(1).all())


def test_meta_device() -> None:
    """Shapes and dtypes can be computed without data."""
    a = torch.empty(5, 3, 3, device="meta", dtype=torch.float32)
    for function in (linalg.logm, linalg.cholesky, linalg.expm):
        result = function(a)
        assert result.shape == a.shape
        assert result.dtype == a.dtype
        assert result.device.type == "meta"
