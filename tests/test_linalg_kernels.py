"""Lyapunov solves and the kernels of Bures-Wasserstein transports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from manifoldnorm import linalg
from manifoldnorm.linalg.kernels import (
    BURES_FROM_IDENTITY,
    BURES_FROM_IDENTITY_SOLVED,
    BURES_TO_IDENTITY,
    LYAPUNOV,
    SumKernel,
)

DTYPES = (torch.float64, torch.complex128)
KERNELS = {
    "lyapunov": LYAPUNOV,
    "to identity": BURES_TO_IDENTITY,
    "from identity": BURES_FROM_IDENTITY,
    "from identity, solved": BURES_FROM_IDENTITY_SOLVED,
}
SPECTRA = ((0.4, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0 + 1e-9))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", [(0.4, 1.0, 1.0, 3.0), (1e-4, 1.0, 1.0, 1e2), (1e-9, 2e-9, 2e-9, 3e-9)])
def test_lyapunov_against_scipy(
    spectrum: tuple[float, ...], dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    a = with_spectrum(spectrum, 3, dtype=dtype)
    q = linalg.symmetrize(torch.randn(3, 4, 4, dtype=dtype))
    x = linalg.lyapunov(a, q)
    for i in range(3):
        expected = torch.from_numpy(scipy.linalg.solve_continuous_lyapunov(a[i].numpy(), q[i].numpy()))
        assert (x[i] - expected).norm() / expected.norm() < 1e-15 * max(spectrum) / min(spectrum) * 10
        assert (a[i] @ x[i] + x[i] @ a[i] - q[i]).norm() / (a[i].norm() * x[i].norm()) < 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_lyapunov_derivatives(
    spectrum: tuple[float, ...], dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    a = with_spectrum(spectrum, dtype=dtype).requires_grad_()
    q = torch.randn(3, 3, dtype=dtype).requires_grad_()
    assert gradcheck(linalg.lyapunov, (a, q))
    assert gradgradcheck(linalg.lyapunov, (a, q))


def test_lyapunov_third_derivative(with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.5, 1.0)).requires_grad_()
    q = with_spectrum((-0.5, 1.0)).requires_grad_()
    g = torch.randn(2, 2, dtype=torch.float64)

    def slopes(a: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(linalg.lyapunov(a, q), (a, q), g, create_graph=True)

    assert gradgradcheck(slopes, (a, q))


@pytest.mark.parametrize(("left", "right"), [((3,), ()), ((), (3,)), ((2, 1), (3,)), ((3,), (2, 3)), ((1,), (3,))])
def test_lyapunov_broadcasts(
    left: tuple[int, ...], right: tuple[int, ...], with_spectrum: Callable[..., Tensor]
) -> None:
    a = with_spectrum((0.5, 1.0), *left).requires_grad_()
    q = with_spectrum((-0.5, 1.0), *right).requires_grad_()
    x = linalg.lyapunov(a, q)
    assert x.shape == torch.broadcast_shapes(a.shape, q.shape)
    torch.testing.assert_close(a @ x + x @ a, q.expand(x.shape))
    assert gradcheck(linalg.lyapunov, (a, q))
    assert gradgradcheck(linalg.lyapunov, (a, q))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_in_both_arguments(
    name: str, spectrum: tuple[float, ...], dtype: torch.dtype, with_spectrum: Callable[..., Tensor]
) -> None:
    """``v`` is not Hermitian here: its Hermitian part counts, and the gradient knows it."""
    a = with_spectrum(spectrum, 2, dtype=dtype).requires_grad_()
    v = torch.randn(2, 3, 3, dtype=dtype).requires_grad_()
    assert gradcheck(lambda a, v: linalg.apply_kernel(linalg.decompose(a), v, KERNELS[name]), (a, v))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_batch_against_a_single_matrix(name: str, dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.4, 1.0, 1.0), dtype=dtype).requires_grad_()
    v = torch.randn(2, 2, 3, 3, dtype=dtype).requires_grad_()

    def transport(a: Tensor, v: Tensor) -> Tensor:
        return linalg.apply_kernel(linalg.decompose(a), v, KERNELS[name])

    assert gradcheck(transport, (a, v))
    expected = torch.stack([torch.stack([transport(a, x) for x in row]) for row in v])
    torch.testing.assert_close(transport(a, v), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_channels(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    """One matrix per channel, a batch of tangent vectors in front."""
    a = with_spectrum((0.4, 1.0, 1.0), 2).requires_grad_()
    v = torch.randn(3, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda a, v: linalg.apply_kernel(linalg.decompose(a), v, KERNELS[name]), (a, v))


@pytest.mark.parametrize("channels", [(), (2,)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_one_matrix_for_several_samples(
    name: str, dtype: torch.dtype, channels: tuple[int, ...], with_spectrum: Callable[..., Tensor]
) -> None:
    """The third matrix has no sample."""
    a = with_spectrum((0.4, 1.0, 1.0), 4, *channels, dtype=dtype).requires_grad_()
    v = torch.randn(5, *channels, 3, 3, dtype=dtype).requires_grad_()
    index = torch.tensor([3, 0, 1, 0, 3])

    def shared(a: Tensor, v: Tensor) -> Tensor:
        return linalg.apply_kernel(linalg.decompose(a), v, KERNELS[name], index)

    def spread(a: Tensor, v: Tensor) -> Tensor:
        return linalg.apply_kernel(linalg.decompose(a[index]), v, KERNELS[name])

    assert gradcheck(shared, (a, v))
    torch.testing.assert_close(shared(a, v), spread(a, v))


def test_many_samples_of_one_matrix(with_spectrum: Callable[..., Tensor]) -> None:
    a, v = with_spectrum((0.4, 1.0, 1.0), 3).requires_grad_(), torch.randn(50, 3, 3, dtype=torch.float64)
    index, g = (torch.arange(50) > 40).long() * 2, torch.randn(50, 3, 3, dtype=torch.float64)
    shared = linalg.apply_kernel(linalg.decompose(a), v, BURES_TO_IDENTITY, index)
    spread = linalg.apply_kernel(linalg.decompose(a[index]), v, BURES_TO_IDENTITY)
    torch.testing.assert_close(torch.autograd.grad(shared, a, g), torch.autograd.grad(spread, a, g))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about how it traces autograd Functions
@pytest.mark.parametrize("k", [LYAPUNOV, BURES_TO_IDENTITY])
def test_one_matrix_for_several_samples_compiled(k: SumKernel, with_spectrum: Callable[..., Tensor]) -> None:
    a, v = with_spectrum((0.4, 1.0, 1.0), 2).requires_grad_(), torch.randn(4, 3, 3, dtype=torch.float64)
    index = torch.tensor([1, 0, 1, 1])

    def f(a: Tensor) -> Tensor:
        return linalg.apply_kernel(linalg.decompose(a), v, k, index).square().sum()

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(a), a), torch.autograd.grad(f(a), a))


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "lyapunov"])
def test_second_derivative_in_the_matrix_raises(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((0.4, 1.0, 1.0)).requires_grad_()
    value = linalg.apply_kernel(linalg.decompose(a), torch.eye(3, dtype=torch.float64), KERNELS[name])
    (first,) = torch.autograd.grad(value.square().sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="higher order"):
        torch.autograd.grad(first.square().sum(), a)


@pytest.mark.parametrize("k", KERNELS.values(), ids=KERNELS)
def test_value_by_kronecker_products(k: SumKernel, with_spectrum: Callable[..., Tensor]) -> None:
    """The map is c (A (x) I + I (x) A)^p on vectorised matrices."""
    a = with_spectrum((0.4, 1.0, 1.0))
    v = linalg.symmetrize(torch.randn(3, 3, dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    total = torch.kron(a, eye) + torch.kron(eye, a)
    expected = k.coefficient * (linalg.powm(total, k.power) @ v.flatten()).reshape(3, 3)
    torch.testing.assert_close(linalg.apply_kernel(linalg.decompose(a), v, k), expected)


def test_identity_transports() -> None:
    """At the identity the transports are the identity map, and a solve halves."""
    eye = torch.eye(3, dtype=torch.float64)
    v = linalg.symmetrize(torch.randn(3, 3, dtype=torch.float64))
    spectrum = linalg.decompose(eye)
    for k, factor in ((BURES_TO_IDENTITY, 1), (BURES_FROM_IDENTITY, 1), (BURES_FROM_IDENTITY_SOLVED, 0.5)):
        torch.testing.assert_close(linalg.apply_kernel(spectrum, v, k), factor * v)


@pytest.mark.parametrize("name", KERNELS)
def test_single_precision(name: str, with_spectrum: Callable[..., Tensor]) -> None:
    a = with_spectrum((1e-3, 0.5, 0.5, 2.0), 5)
    v = linalg.symmetrize(torch.randn(5, 4, 4, dtype=torch.float64))
    expected = linalg.apply_kernel(linalg.decompose(a.float()), v.float(), KERNELS[name])
    truth = linalg.apply_kernel(linalg.decompose(a.float().double()), v.float().double(), KERNELS[name])
    assert (expected - truth).norm() / truth.norm() < torch.finfo(torch.float32).eps
