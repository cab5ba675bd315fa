"""torch.func, forward mode, torch.compile, torch.export and the operators' own contracts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg.kernels import BURES_FROM_IDENTITY, BURES_TO_IDENTITY

# torch's own tracing code raises both
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning"),
]
Unary = Callable[[Tensor], Tensor]
# differentiable twice
TWICE: dict[str, Unary] = {
    "logm": linalg.logm,
    "expm": linalg.expm,
    "sqrtm": linalg.sqrtm,
    "inv_sqrtm": linalg.inv_sqrtm,
    "sqrtm_inv_sqrtm": lambda a: torch.cat(linalg.sqrtm_inv_sqrtm(a), -1),
    "powm": lambda a: linalg.powm(a, 0.7),
    "clamp_eig": lambda a: linalg.clamp_eig(a, 0.5),
    "log clamp": lambda a: linalg.apply(linalg.decompose(a), fn.LOG_CLAMP_MIN, 0.5),
    "log hyperbola": lambda a: linalg.apply(linalg.decompose(a), fn.LOG_HYPERBOLA),
    "sum_log": lambda a: linalg.sum_log(linalg.decompose(a)),
    "sum_log_squared": lambda a: linalg.sum_log_squared(linalg.decompose(a)),
    "weighted_apply": lambda a: linalg.weighted_apply(linalg.decompose(a.unsqueeze(0)), fn.LOG, None),
    "cholesky": linalg.cholesky,
    "log_cholesky": linalg.log_cholesky,
    "exp_cholesky": linalg.exp_cholesky,
    "inverse_cholesky": lambda a: torch.cat(linalg.inverse_cholesky(a), -1),
    "lyapunov": lambda a: linalg.lyapunov(a, a @ a + a),
}
# differentiable once
ONCE: dict[str, Unary] = {
    "eigh": lambda a: linalg.eigh(a)[0],
    "frechet_derivative": lambda a: linalg.frechet_derivative(linalg.decompose(a), fn.LOG, a @ a),
    "bures to identity": lambda a: linalg.apply_kernel(linalg.decompose(a), a @ a, BURES_TO_IDENTITY),
    "bures from identity": lambda a: linalg.apply_kernel(linalg.decompose(a), a @ a, BURES_FROM_IDENTITY),
}
ALL = TWICE | ONCE


def weighted_sum(function: Unary) -> Unary:
    """Return the scalar sum of a function's entries, each with its own weight."""

    def scalar(a: Tensor) -> Tensor:
        value = function(a)
        return (value * torch.arange(1, value.numel() + 1, dtype=torch.float64).reshape(value.shape).cos()).sum()

    return scalar


def gradient(function: Unary, a: Tensor) -> Tensor:
    a = a.detach().requires_grad_()
    return torch.autograd.grad(weighted_sum(function)(a), a)[0]


@pytest.mark.parametrize("name", ALL)
def test_vmap(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(3, 4)
    function = ALL[name]
    expected = torch.stack([function(x) for x in a])
    torch.testing.assert_close(torch.func.vmap(function)(a), expected)
    torch.testing.assert_close(torch.func.vmap(function, in_dims=2, out_dims=0)(a.movedim(0, 2)), expected)


@pytest.mark.parametrize("name", ALL)
def test_per_sample_gradients(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(3, 4)
    expected = torch.stack([gradient(ALL[name], x) for x in a])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(weighted_sum(ALL[name])))(a), expected)


@pytest.mark.parametrize("name", ALL)
def test_jacrev(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(3)
    expected = torch.autograd.functional.jacobian(ALL[name], a)
    torch.testing.assert_close(torch.func.jacrev(ALL[name])(a), expected)


@pytest.mark.parametrize("name", TWICE)
def test_hessian(name: str, spd: Callable[..., Tensor]) -> None:
    a = spd(3)
    expected = torch.autograd.functional.hessian(weighted_sum(TWICE[name]), a)
    hessian = torch.func.jacrev(torch.func.jacrev(weighted_sum(TWICE[name])))(a)
    torch.testing.assert_close(hessian, expected)
    assert torch.func.jacrev(torch.func.jacrev(TWICE[name]))(a).isfinite().all()


@pytest.mark.parametrize("name", ONCE)
def test_hessian_raises_where_it_is_not_implemented(name: str, spd: Callable[..., Tensor]) -> None:
    with pytest.raises(NotImplementedError, match="higher order"):
        torch.func.jacrev(torch.func.jacrev(weighted_sum(ONCE[name])))(spd(3))


def test_third_derivative_raises_under_func(spd: Callable[..., Tensor]) -> None:
    scalar = weighted_sum(linalg.logm)
    with pytest.raises(NotImplementedError, match="higher order"):
        torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(scalar)))(spd(3))


def test_vmap_over_the_exponent(spd: Callable[..., Tensor]) -> None:
    """One of the two arguments batched, in both directions and in the backward."""
    a, p = spd(3), torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(lambda q: linalg.powm(a, q))(p), linalg.powm(a, p))
    slopes = torch.func.vmap(torch.func.grad(lambda q: linalg.powm(a, q).square().sum()))(p)
    q = p.clone().requires_grad_()
    linalg.powm(a, q).square().sum().backward()
    torch.testing.assert_close(slopes, q.grad)
    jacobians = torch.func.vmap(lambda q: torch.func.jacrev(lambda x: linalg.powm(x, q))(a))(p)
    expected = torch.stack([torch.func.jacrev(lambda x, q=q: linalg.powm(x, q))(a) for q in p])
    torch.testing.assert_close(jacobians, expected)
    exponent_hessian = torch.func.jacrev(torch.func.jacrev(lambda q: linalg.powm(a, q)))(p[1])
    log = linalg.logm(a)
    torch.testing.assert_close(exponent_hessian, log @ log @ linalg.powm(a, 0.3))


@pytest.mark.parametrize("name", ALL)
def test_forward_mode_raises(name: str, spd: Callable[..., Tensor]) -> None:
    """An operator without a forward derivative would return zeros in silence."""
    a = spd(3)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(ALL[name], (a,), (torch.ones_like(a),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        ALL[name](torch.autograd.forward_ad.make_dual(a, torch.ones_like(a)))
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jacfwd(torch.func.jacrev(ALL[name]))(a)


def test_forward_mode_in_other_arguments_raises(spd: Callable[..., Tensor]) -> None:
    a = spd(3)
    spectrum = linalg.decompose(a)
    one, eye = torch.tensor(0.5, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for function, point in (
        (lambda p: linalg.powm(a, p), one),
        (lambda p: linalg.clamp_eig(a, p), one),
        (lambda v: linalg.lyapunov(a, v), eye),
        (lambda v: linalg.frechet_derivative(spectrum, fn.EXP, v), eye),
        (lambda w: linalg.weighted_apply(linalg.decompose(a.unsqueeze(0)), fn.LOG, w.reshape(1)), one),
    ):
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.func.jvp(function, (point,), (torch.ones_like(point),))


@pytest.mark.parametrize(
    "function",
    [
        linalg.symmetrize,
        linalg.half_lower,
        linalg.inverse_lower,
        lambda a: linalg.congruence(a, torch.eye(3, dtype=torch.float64).expand(2, 3, 3)),
    ],
)
def test_forward_mode_is_right_where_it_exists(function: Unary) -> None:
    a = torch.randn(3, 3, dtype=torch.float64).tril() + 3 * torch.eye(3, dtype=torch.float64)
    v = torch.randn(3, 3, dtype=torch.float64).tril()
    _, tangent = torch.func.jvp(function, (a,), (v,))
    torch.testing.assert_close(tangent, torch.tensordot(torch.func.jacrev(function)(a), v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_compiles_in_one_graph(name: str, dtype: torch.dtype, spd: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    a = spd(3, 2, dtype=dtype)
    compiled = torch.compile(ALL[name], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(a), ALL[name](a))
    torch.testing.assert_close(gradient(compiled, a), gradient(ALL[name], a))


@pytest.mark.slow
def test_compiles_with_inductor(spd: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    p = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def chain(a: Tensor, p: Tensor) -> Tensor:
        return linalg.logm(linalg.powm(linalg.clamp_eig(linalg.congruence(linalg.inv_sqrtm(a[0]), a), 0.2), p))

    a = spd(4, 5).requires_grad_()
    compiled = torch.compile(chain, fullgraph=True)
    torch.testing.assert_close(compiled(a, p), chain(a, p))
    gradients = (torch.autograd.grad(f(a, p).square().sum(), (a, p)) for f in (compiled, chain))
    torch.testing.assert_close(*gradients)


def test_compiled_errors_are_the_same() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(linalg.logm, backend="aot_eager", fullgraph=True)
    with pytest.raises(torch.linalg.LinAlgError, match="sample 1 is not positive definite"):
        compiled(torch.stack([torch.eye(3), -torch.eye(3)]))


def test_compiles_with_dynamic_batch(spd: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(linalg.logm, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 5, 9):
        a = spd(3, batch)
        torch.testing.assert_close(gradient(compiled, a), gradient(linalg.logm, a))


class _Module(torch.nn.Module):
    def __init__(self, function: Unary) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor) -> Tensor:
        return self.function(a)


@pytest.mark.parametrize("name", ALL)
def test_export(name: str, spd: Callable[..., Tensor]) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(_Module(ALL[name]), (spd(3, 4),), dynamic_shapes=({0: batch},), strict=False)
    a = spd(3, 7)
    torch.testing.assert_close(program.module()(a), ALL[name](a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("wide", [True, False])
def test_operators(dtype: torch.dtype, wide: bool, spd: Callable[..., Tensor]) -> None:
    """Schema, fake implementation and tracing agree with what the operators do, on contiguous and other input."""
    op = torch.ops.manifoldnorm
    for a in (spd(3, dtype=dtype), spd(3, 2, 4, dtype=dtype), spd(3, 4, dtype=dtype).movedim(0, -1).movedim(-1, 0)):
        torch.library.opcheck(op.eigh.default, (a, wide, True, "test"))
        torch.library.opcheck(op.eigvalsh.default, (a, wide))
        torch.library.opcheck(op.cholesky.default, (a, wide, "test"))
    values, vectors_h = op.eigh(spd(3, 4, dtype=dtype), wide, False, "test")
    assert values.is_contiguous() and vectors_h.is_contiguous()
