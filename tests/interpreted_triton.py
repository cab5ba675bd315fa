"""The GPU kernels in Triton's interpreter, on CPU tensors: run by test_linalg_triton.py in a process of its own."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.bench import matrices as bench
from manifoldnorm.linalg import _basis, _ops, gpu
from manifoldnorm.linalg.gpu import _launch
from manifoldnorm.linalg.gpu._triton import interpreted, jit, missing, tl
from manifoldnorm.linalg.gpu.jacobi import orthogonalise

assert interpreted and missing is None, "this file needs TRITON_INTERPRET=1 and Triton"
# the interpreter computes the branch that tl.where drops
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
DTYPES = [torch.float32, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


@pytest.fixture
def one_matrix_per_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "geometry", lambda size, double: (1, 1))


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat CPU tensors as the operators treat those of a GPU."""
    monkeypatch.setattr(_ops, "eigh_cpu", _ops._eigh_device)
    monkeypatch.setattr(_basis._fused, "fusing", lambda a: None)
    monkeypatch.setattr(_basis, "plain", lambda a, device="cpu": device == "cuda")


def solve(a: Tensor) -> tuple[Tensor, Tensor]:
    values, rows = gpu.eigen(a, vectors=True)
    assert rows is not None
    return values, rows


def check(a: Tensor) -> None:
    """Hold residual, orthogonality, eigenvalues and their order to a few n eps of the norm."""
    n, eps = a.shape[-1], torch.finfo(a.dtype).eps
    values, rows = solve(a)
    only = gpu.eigen(a, vectors=False)[0] if n <= 7 else values
    least = 4 * torch.finfo(a.dtype).smallest_normal * eps
    norm = torch.linalg.matrix_norm(a.double()).unsqueeze(-1)
    reference = torch.linalg.eigvalsh(a.double())
    tolerance = ((2 * n + 12) * eps * norm).clamp_min(least)
    assert bool((values.diff(dim=-1) >= 0).all()) and torch.equal(only, values)
    assert bool(((values.double() - reference).abs() <= tolerance).all())
    identity = torch.eye(n, dtype=torch.float64)
    excess = torch.linalg.matrix_norm(rows.double() @ rows.double().mT - identity, 2)
    assert float(excess.max()) <= max(n, 8) * eps
    ordinary = norm[:, 0] > 2.0**40 * torch.finfo(a.dtype).smallest_normal  # a denormal eigenvalue has few digits
    if bool(ordinary.any()):
        assert bench.errors(a[ordinary], values[ordinary], rows[ordinary]).residual <= 2 * n + 12


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12])
def test_every_family_of_matrices_is_decomposed(n: int, dtype: torch.dtype) -> None:
    check(torch.cat([bench.family(name, 2 if n < 8 else 1, n, dtype) for name in bench.FAMILIES]))


@each_dtype
def test_larger_matrices(dtype: torch.dtype) -> None:
    for n, names in ((20, ["Wishart", "Gaussian", "condition 1e15"]), (33, ["clustered"])):
        check(torch.cat([bench.family(name, 1, n, dtype) for name in names]))


def test_the_largest_matrices() -> None:
    check(bench.family("Gaussian", 1, 64, torch.float32))


@each_dtype
@pytest.mark.parametrize(("n", "decades"), [(2, 6), (3, 6), (6, 6), (16, 6), (2, 13), (5, 13)])
def test_small_eigenvalues_of_graded_matrices_are_relatively_accurate(n: int, decades: int, dtype: torch.dtype) -> None:
    """D H D with a well conditioned H: each eigenvalue to a few n eps of itself, however small it is."""
    scale = torch.logspace(0, -decades if dtype == torch.float32 else -10 * decades, n, dtype=torch.float64)
    inner = bench.family("Wishart", 3, n, torch.float64) + torch.eye(n, dtype=torch.float64)
    a = (scale[:, None] * inner * scale).to(dtype)
    a = torch.cat([a + a.mT, (a + a.mT).flip(-1, -2)]) / 2
    values = solve(a)[0].double()
    with mpmath.workdps(50 + 20 * decades):  # the eigenvalues are up to 20 decades times that apart
        exact = torch.tensor(
            [sorted(map(float, mpmath.eigsy(mpmath.matrix(m.tolist()), eigvals_only=True))) for m in a.double()],
            dtype=torch.float64,
        )
    assert float(((values - exact) / exact).abs().max()) <= 16 * n * torch.finfo(dtype).eps


@jit
def _sweeps(matrix, ended, n, N: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, N)[None, :, None] * N + tl.arange(0, N)[None, None, :]
    x, done = orthogonalise(tl.load(matrix + place), n, False, 30, 1, N)
    tl.store(matrix + place, x)
    tl.store(ended + tl.arange(0, 1), done.to(tl.int32))


def test_columns_of_very_different_length_become_orthogonal() -> None:
    """The cotangent of their angle is about 1e20: its square is no float32."""
    x = torch.eye(4)
    x[0, 1], x[1, 1] = 1e-20, 1e-14
    ended = torch.zeros(1, dtype=torch.int32)
    _sweeps[(1,)](x, ended, 4, N=4)
    cosine = (x[:, 0].double() @ x[:, 1].double()) / (x[:, 0].double().norm() * x[:, 1].double().norm())
    assert ended.item() == 1 and abs(float(cosine)) <= 2 * torch.finfo(torch.float32).eps


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 10])
def test_a_result_depends_on_neither_scale_nor_place_nor_mates(n: int, dtype: torch.dtype) -> None:
    a = torch.cat([bench.family(name, 1, n, dtype) for name in ("Wishart", "Gaussian", "rank one", "repeated", "zero")])
    values, rows = solve(a)
    for exponent in (-40, 37):
        scaled, same = solve(a * 2.0**exponent)
        assert torch.equal(scaled, values * 2.0**exponent) and torch.equal(same, rows)
    order = torch.tensor([4, 2, 0, 1, 3])
    moved = solve(a[order])
    assert torch.equal(moved[0], values[order]) and torch.equal(moved[1], rows[order])
    alone = solve(a[1])
    assert torch.equal(alone[0], values[1]) and torch.equal(alone[1], rows[1])


@pytest.mark.usefixtures("one_matrix_per_program")
def test_a_result_does_not_depend_on_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    a = bench.family("Gaussian", 3, 5, torch.float64)
    one = solve(a)
    monkeypatch.setattr(_launch, "geometry", lambda size, double: (4, 1))
    four = solve(a)
    assert torch.equal(one[0], four[0]) and torch.equal(one[1], four[1])


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_matrix_that_is_not_finite_is_nan_and_the_others_are_right(n: int, dtype: torch.dtype) -> None:
    a = bench.family("Wishart", 6, n, dtype)
    good = solve(a)
    broken = a.clone()
    broken[1, 0, n - 1], broken[3, n - 1, 0], broken[4, 0, 0] = float("nan"), float("inf"), -float("inf")
    values, rows = solve(broken)
    bad = torch.tensor([False, True, False, True, True, False])
    assert bool(values[bad].isnan().all()) and torch.equal(values[~bad], good[0][~bad])
    assert torch.equal(rows[~bad], good[1][~bad]) and bool(rows.isfinite().all())


@each_dtype
def test_layouts_and_empty_batches(dtype: torch.dtype) -> None:
    a = bench.family("Wishart", 6, 4, dtype)
    expected = solve(a)
    for view in (a.clone().mT, a.reshape(2, 3, 4, 4), a[:1].expand(6, 4, 4), a.clone().requires_grad_()):
        values, rows = solve(view.detach())
        reference = expected[0][:1].expand(6, 4) if view.stride(0) == 0 else expected[0]
        assert torch.equal(values, reference.reshape(values.shape)) and rows.shape == view.shape
    asymmetric = torch.triu(a) * 2 - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(solve(asymmetric)[0], expected[0])
    for n in (1, 2, 4):
        values, rows = solve(torch.empty(0, 3, n, n, dtype=dtype))
        assert values.shape == (0, 3, n) and rows.shape == (0, 3, n, n)


@each_dtype
@pytest.mark.parametrize("n", [1, 2, 5, 16, 20])
def test_the_adjoint_equals_the_formula(n: int, dtype: torch.dtype) -> None:
    rows = torch.linalg.qr(torch.randn(2, 3, n, n, dtype=dtype))[0]
    weights = torch.rand(2, 3, n, n, dtype=dtype)
    weights = weights + weights.mT
    g = torch.randn(2, 3, n, n, dtype=dtype)
    out, inner = gpu.adjoint(rows, weights, g)
    turned = rows.double() @ linalg.symmetrize(g.double()) @ rows.double().mT
    expected = rows.double().mT @ (weights * turned) @ rows.double()
    tolerance = 4 * n * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(inner.double(), turned.diagonal(dim1=-2, dim2=-1), atol=tolerance, rtol=tolerance)
    assert gpu.adjoint(rows[:0], weights[:0], g[:0])[0].shape == (0, 3, n, n)


@pytest.mark.usefixtures("as_on_a_device")
def test_matrix_functions_and_gradients_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators as a GPU runs them, values and gradients, against torch's solver."""
    x = bench.family("Wishart", 3, 4, torch.float64)
    g = torch.randn_like(x)
    calls = []
    for name in ("eigen", "adjoint"):
        kernel = getattr(gpu, name)
        monkeypatch.setattr(
            gpu, name, lambda *args, kernel=kernel, name=name, **kw: calls.append(name) or kernel(*args, **kw)
        )

    def run(mode: str) -> list[Tensor]:
        a, p = x.clone().requires_grad_(), torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
        with linalg.backend(mode):
            out = linalg.logm(a) + linalg.powm(a, p)
            return [out.detach(), *torch.autograd.grad(out, (a, p), g)]

    ours = run("auto")
    assert sorted(set(calls)) == ["adjoint", "eigen"]
    calls.clear()
    theirs = run("torch")
    assert not calls
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-12)
    calls.clear()
    run("torch-eigh")
    assert set(calls) == {"adjoint"}


@pytest.mark.usefixtures("as_on_a_device")
def test_operators_flag_indefinite_and_broken_matrices() -> None:
    a = torch.diag_embed(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 2.0, 3.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    a[3, 0, 1] = float("nan")
    logs = linalg.logm(a)
    assert logs.isnan().flatten(1).any(1).tolist() == [False, True, False, True]
    assert _ops._eigvalsh_device(a, False).isnan().any(1).tolist() == [False, False, False, True]
    low = _ops._smallest_below_device(a[:3], -0.5)
    torch.testing.assert_close(low, torch.tensor([-0.5, -1.0, -0.5]))


def test_a_kernel_that_computes_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _launch._trouble.cache_clear()
    right = _launch.eigen
    monkeypatch.setattr(_launch, "eigen", lambda a, vectors: (right(a, vectors=vectors)[0] * 1.001, a.clone()))
    cpu = torch.device("cpu")
    assert "compute wrongly" in str(gpu.trouble(3, torch.float64, cpu))
    with linalg.backend("native"), pytest.raises(RuntimeError, match="compute wrongly"):
        _ops._eigh_device(torch.eye(3, dtype=torch.float64), False, False, "test")
    values, _ = _ops._eigh_device(torch.eye(3, dtype=torch.float64), False, False, "test")
    torch.testing.assert_close(values, torch.ones(3, dtype=torch.float64))
    monkeypatch.setattr(_launch, "eigen", right)
    _launch._trouble.cache_clear()
    assert gpu.trouble(3, torch.float64, cpu) is None
    _launch._trouble.cache_clear()


def test_the_kernels_are_the_choice_for_what_they_can_do() -> None:
    from manifoldnorm.linalg.native import chosen_on_device as chosen

    assert chosen(torch.eye(7)) is gpu and chosen(torch.eye(65)) is None
    assert chosen(torch.eye(7, dtype=torch.complex64)) is None and chosen(torch.empty(2, 0, 0)) is None
    with linalg.backend("torch-eigh"):
        assert chosen(torch.eye(7)) is None
        assert chosen(torch.eye(7), decompose=False) is gpu and chosen(torch.eye(33), decompose=False) is None
