"""The compiled kernels: as accurate as torch's solver, independent of batch mates, harmless where they are missing."""

from __future__ import annotations

import _ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm
from manifoldnorm import linalg
from manifoldnorm.bench import matrices as bench
from manifoldnorm.linalg import _ops
from manifoldnorm.linalg.native import INSTRUCTION_SETS, Kernels, _choice, _library, backend, backends, chosen, kernels

ROOT = Path(__file__).parent.parent


LIBRARY = kernels()
AVAILABLE = range(LIBRARY.best + 1) if isinstance(LIBRARY, Kernels) else range(0)
compiled = pytest.mark.skipif(isinstance(LIBRARY, str), reason=f"no compiled kernels: {LIBRARY}")
each_instruction_set = pytest.mark.parametrize("isa", AVAILABLE, ids=lambda isa: INSTRUCTION_SETS[isa])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])


@pytest.fixture
def library() -> Kernels:
    assert isinstance(LIBRARY, Kernels)
    return LIBRARY


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def solve(library: Kernels, a: Tensor, isa: int | None = None) -> tuple[Tensor, Tensor]:
    values, rows, failed = library.eigen(a, a.dtype, vectors=True, instruction_set=isa)
    assert rows is not None and failed is None
    return values, rows


@compiled
@each_instruction_set
@each_dtype
@pytest.mark.parametrize("name", bench.FAMILIES)
def test_as_accurate_as_torch(name: str, dtype: torch.dtype, isa: int, library: Kernels) -> None:
    """Residual within 2x and orthogonality within 3x of torch's; eigenvalues within both residuals."""
    ours, theirs = bench.Errors(0.0, 0.0), bench.Errors(0.0, 0.0)
    for n, batch in ((1, 3), (2, 17), (3, 9), (5, 33), (8, 16), (13, 21), (20, 37), (33, 18), (64, 7), (96, 5)):
        a = bench.family(name, batch, n, dtype)
        first, second = bench.compare(library, a, isa)
        ours, theirs = ours.worst(first), theirs.worst(second)
        values, _ = solve(library, a, isa)
        only, _, failed = library.eigen(a, dtype, vectors=False, instruction_set=isa)
        assert failed is None
        wide = a.to(torch.complex128 if dtype.is_complex else torch.float64)
        norm = torch.linalg.matrix_norm(wide).unsqueeze(-1)
        least = 4 * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        tolerance = ((2 * n + 12) * torch.finfo(dtype).eps * norm).clamp_min(least)
        reference = torch.linalg.eigvalsh(wide)
        assert bool((values.diff(dim=-1) >= 0).all()) and bool((only.diff(dim=-1) >= 0).all())
        assert bool(((values - reference).abs() <= tolerance).all())
        assert bool(((only - reference).abs() <= tolerance).all())
    assert ours.residual <= 2 * theirs.residual + 1
    assert ours.orthogonality <= 3 * theirs.orthogonality + 1


@compiled
@each_instruction_set
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("n", range(1, 97, 5))
def test_eigenvectors_are_orthonormal_in_the_2_norm(n: int, dtype: torch.dtype, isa: int, library: Kernels) -> None:
    a = bench.family("Gaussian", 11, n, dtype)
    _, rows = solve(library, a, isa)
    excess = torch.linalg.matrix_norm(rows @ rows.mH - torch.eye(n, dtype=rows.dtype), 2)
    assert float(excess.max()) <= max(n, 8) * torch.finfo(rows.dtype).eps


@compiled
@each_instruction_set
@each_dtype
@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 33])
def test_a_result_does_not_depend_on_place_or_batch_mates(
    n: int, vectors: bool, dtype: torch.dtype, isa: int, library: Kernels
) -> None:
    """Bit for bit, among matrices of every family, that need few sweeps or many, and alone."""
    a = torch.cat([bench.family(name, 5, n, dtype) for name in bench.FAMILIES])
    a[7] = float("nan")

    def solve(a: Tensor) -> tuple[Tensor, Tensor | None]:
        values, rows, failed = library.eigen(a, dtype, vectors=vectors, instruction_set=isa)
        assert failed is None
        return values.nan_to_num(), None if rows is None else torch.view_as_real(rows + 0j).nan_to_num()

    values, rows = solve(a)
    for order in (torch.randperm(len(a)), torch.randperm(len(a))[:21], torch.randperm(len(a))[:1]):
        moved, moved_rows = solve(a[order])
        assert torch.equal(moved, values[order])
        assert rows is None or torch.equal(moved_rows, rows[order])


@compiled
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("batch", [1, 15, 16, 17, 31, 300])
def test_a_result_does_not_depend_on_threads(batch: int, dtype: torch.dtype, library: Kernels) -> None:
    a = bench.family("Wishart", batch, 20, dtype)
    two = solve(library, a)
    torch.set_num_threads(1)
    one = solve(library, a)
    assert torch.equal(two[0], one[0]) and torch.equal(two[1], one[1])


@compiled
@each_instruction_set
@pytest.mark.parametrize(("source", "dtype"), [*_library._KINDS])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_matrix_that_is_not_finite_is_nan_and_the_others_are_right(
    source: torch.dtype, dtype: torch.dtype, bad: float, vectors: bool, isa: int, library: Kernels
) -> None:
    a = bench.family("Wishart", 21, 6, source)
    good = library.eigen(a, dtype, vectors=vectors, instruction_set=isa)
    broken = a.clone()
    broken[2, 0, 5] = broken[20, 3, 3] = bad
    values, rows, failed = library.eigen(broken, dtype, vectors=vectors, instruction_set=isa)
    assert failed is None
    kept = [k for k in range(21) if k not in (2, 20)]
    assert bool(values[[2, 20]].isnan().all()) and torch.equal(values[kept], good[0][kept])
    if vectors:
        assert rows is not None and good[1] is not None
        assert bool(rows[[2, 20]].isnan().all()) and torch.equal(rows[kept], good[1][kept])


@compiled
@each_instruction_set
@pytest.mark.parametrize(
    ("single", "dtype"), [(torch.float32, torch.float64), (torch.complex64, torch.complex128)], ids=["real", "complex"]
)
def test_single_precision_input_in_double_precision(
    single: torch.dtype, dtype: torch.dtype, isa: int, library: Kernels
) -> None:
    a = bench.family("Wishart", 19, 11, single)
    wide = library.eigen(a, dtype, vectors=True, instruction_set=isa)
    double = library.eigen(a.to(dtype), dtype, vectors=True, instruction_set=isa)
    assert wide[1] is not None and double[1] is not None
    assert torch.equal(wide[0], double[0]) and torch.equal(wide[1], double[1])


@compiled
def test_the_symmetric_part_is_decomposed(library: Kernels) -> None:
    a = torch.randn(9, 7, 7, dtype=torch.float64)
    values, rows = solve(library, a)
    torch.testing.assert_close(rows.mT @ (values.unsqueeze(-1) * rows), (a + a.mT) / 2)
    largest = torch.finfo(torch.float64).max * torch.eye(3, dtype=torch.float64)
    assert torch.equal(solve(library, largest)[0], largest.diagonal())  # a + a^T would overflow


@compiled
@each_instruction_set
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_hermitian_part_is_decomposed_into_conjugated_rows(n: int, isa: int, library: Kernels) -> None:
    a = torch.randn(9, n, n, dtype=torch.complex128)
    values, rows = solve(library, a, isa)
    torch.testing.assert_close(rows.mH @ (values.unsqueeze(-1) * rows), (a + a.mH) / 2)
    torch.testing.assert_close(rows @ (a + a.mH) / 2, values.unsqueeze(-1) * rows)


@compiled
def test_complex_matrices_with_real_entries_or_zero_columns(library: Kernels) -> None:
    """The phases of entries that vanish, and of those that are as small as can be, are free."""
    real = bench.family("Wishart", 6, 7, torch.float64)
    torch.testing.assert_close(solve(library, real.to(torch.complex128))[0], solve(library, real)[0])
    a = real.to(torch.complex128)
    a[:, 2] = a[:, :, 2] = 0
    a[:, 5, 1], a[:, 1, 5] = 1e-170j, -1e-170j
    a[:, 6, :6], a[:, :6, 6] = 1e-151j, -1e-151j
    assert bench.errors(a, *solve(library, a)).orthogonality < 30
    assert bench.errors(a, *solve(library, a)).residual < 30


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 4, 4), (2, 0, 0), (0, 0), (1, 1), (5, 1, 1), (2, 3, 4, 4), (4, 4)])
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype, library: Kernels) -> None:
    a = torch.randn(shape, dtype=dtype)
    values, rows = solve(library, a)
    assert values.shape == shape[:-1] and rows.shape == shape and rows.dtype == dtype and not values.is_complex()
    reference = torch.linalg.eigvalsh((a + a.mH) / 2)
    torch.testing.assert_close(values, reference)


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_memory_layouts(dtype: torch.dtype, library: Kernels) -> None:
    base = bench.family("Wishart", 12, 6, dtype)
    values, rows = solve(library, base)
    views = {
        "transposed": base.mH,
        "strided": torch.stack([base, base], -1)[..., 0],
        "batch last": base.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    }
    for name, view in views.items():
        assert not view.is_contiguous(), name
        assert torch.equal(solve(library, view)[0], values), name
    conjugated = base.conj()  # lazily: its memory is that of `base`
    assert torch.equal(solve(library, conjugated)[1], solve(library, conjugated.resolve_conj().clone())[1])
    expanded = base[0].expand(30, 6, 6)
    assert torch.equal(solve(library, expanded)[1], rows[0].expand(30, 6, 6))
    assert torch.equal(solve(library, base.requires_grad_())[1], rows)


@compiled
@pytest.mark.usefixtures("two_threads")
def test_calls_at_the_same_time(library: Kernels) -> None:
    """The threads serve one call; a second one at the same moment works alone."""
    batches = [bench.family("Wishart", 200, 8 + k, torch.float64) for k in range(4)]
    expected = [solve(library, a) for a in batches]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(20):
            values, rows = solve(library, batches[k])
            if not (torch.equal(values, expected[k][0]) and torch.equal(rows, expected[k][1])):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def run(code: str, **environment: str) -> str:
    """Return what a fresh interpreter prints."""
    path = os.pathsep.join([str(Path(manifoldnorm.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_decomposes() -> None:
    """Data loaders fork; the parent's threads do not exist in the child."""
    code = """
import os, torch
from manifoldnorm.linalg.native import kernels
torch.set_num_threads(2)
a = 2 * torch.eye(8, dtype=torch.float64).expand(200, 8, 8).contiguous()  # too small for torch to use threads itself
kernels().eigen(a, a.dtype, vectors=True)
child = os.fork()
if child == 0:
    values, _, _ = kernels().eigen(a, a.dtype, vectors=True)
    os._exit(0 if values.tolist() == [[2.0] * 8] * 200 else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(code, OMP_NUM_THREADS="2") == "0"


class _Failing:
    """Kernels whose iteration never ends for the second matrix."""

    def eigen(self, a: Tensor, dtype: torch.dtype, *, vectors: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        values, rows = torch.linalg.eigh(a.to(dtype))
        status = torch.zeros(a.shape[:-2], dtype=torch.uint8)
        values[1], rows[1], status[1] = 7.0, 7.0, _library.NOT_CONVERGED
        return values, rows.mH.resolve_conj().contiguous() if vectors else None, status


def test_torch_takes_over_where_the_iteration_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ops, "chosen", lambda a, dtype: _Failing())
    a = bench.family("Wishart", 4, 5, torch.float64)
    values, vectors = linalg.eigh(a)
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mT, a)
    torch.testing.assert_close(linalg.eigvalsh(a), torch.linalg.eigvalsh(a))


def test_torch_takes_over_complex_matrices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ops, "chosen", lambda a, dtype: _Failing())
    a = bench.family("Wishart", 4, 5, torch.complex64)
    values, vectors = linalg.eigh(a)
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mH, a)
    torch.testing.assert_close(linalg.eigvalsh(a), torch.linalg.eigvalsh(a))


@pytest.fixture
def auto() -> Iterator[None]:
    """Forget what the environment says."""
    with backend("auto"):
        yield


@compiled
@pytest.mark.usefixtures("auto")
def test_who_is_chosen() -> None:
    small, large, alone = torch.eye(20).expand(64, 20, 20), torch.eye(97).expand(64, 97, 97), torch.eye(64)[None]
    assert chosen(small, torch.float64) is LIBRARY
    assert chosen(large, torch.float64) is None and chosen(small.to(torch.complex64), torch.complex128) is LIBRARY
    assert chosen(alone, torch.float64) is None  # one large matrix would leave most lanes empty
    with backend("native"):
        assert chosen(alone, torch.float64) is LIBRARY
        assert chosen(large, torch.float64) is None
        with backend("torch"):
            assert chosen(small, torch.float64) is None
    with (
        pytest.raises(ValueError, match="expected one of 'auto', 'native', 'torch-eigh', 'torch', got 'fast'"),
        backend("fast"),
    ):
        pass


@compiled
@each_dtype
def test_backends_agree(dtype: torch.dtype) -> None:
    a = bench.family("Wishart", 40, 12, dtype)
    with backend("torch"):
        slow = linalg.eigh(a)
        slow_values = linalg.eigvalsh(a)
    with backend("native"):
        fast = linalg.eigh(a)
        fast_values = linalg.eigvalsh(a)
    eps = torch.finfo(a.dtype).eps * float(slow[0].max())
    torch.testing.assert_close(fast[0], slow[0], rtol=0, atol=20 * eps)
    torch.testing.assert_close(fast_values, slow_values, rtol=0, atol=20 * eps)
    for values, vectors in (slow, fast):
        assert vectors.dtype == dtype and values.dtype == dtype.to_real()
        assert float(((vectors * values.unsqueeze(-2)) @ vectors.mH - a).abs().max()) < 40 * eps


@pytest.mark.usefixtures("auto")
def test_backends_says_who_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend("torch"):
        assert backends()["cpu real"].startswith("torch: chosen by backend('torch') or MANIFOLDNORM_EIGH")
    if isinstance(LIBRARY, Kernels):
        assert backends()["cpu real"].startswith(f"native kernels ({INSTRUCTION_SETS[LIBRARY.best]}, 1 thread")
        assert backends()["cpu complex"] == backends()["cpu real"]
    monkeypatch.setattr("manifoldnorm.linalg.native._choice.kernels", lambda: "not compiled: because")
    assert backends()["cpu real"] == "torch: not compiled: because"
    assert chosen(torch.eye(3), torch.float64) is None
    with backend("native"), pytest.raises(RuntimeError, match="'native' was asked for, but not compiled: because"):
        chosen(torch.eye(3), torch.float64)


def test_the_environment_chooses() -> None:
    code = "from manifoldnorm.linalg.native import backends; print(backends()['cpu real'])"
    assert run(code, MANIFOLDNORM_EIGH="torch").startswith("torch: chosen")


def test_a_wrong_choice_of_the_environment_is_named() -> None:
    token = _choice._mode.set("fast")  # as at import
    try:
        with pytest.raises(ValueError, match=r"MANIFOLDNORM_EIGH: expected one of 'auto', .*, got 'fast'"):
            linalg.eigh(torch.eye(2))
    finally:
        _choice._mode.reset(token)


@pytest.mark.parametrize("content", ["nothing", "no library", "another library", "wrong"])
def test_what_does_not_load_is_not_used(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "_kernels.so"
    expected = {
        "nothing": "not compiled",
        "no library": "does not load",
        "another library": "does not load: .*undefined symbol|does not load: .*not found",
        "wrong": "does not load: its .* kernels compute wrongly",
    }[content]
    if content == "no library":
        path.write_bytes(b"not a library")
    elif content == "another library":
        shutil.copy(_ctypes.__file__, path)
    elif content == "wrong":
        if isinstance(LIBRARY, str):
            pytest.skip("no compiled kernels")
        path = _library.PATH
        eigen = Kernels.eigen

        def off(self: Kernels, *arguments: object, **options: object) -> tuple[Tensor, Tensor | None, Tensor | None]:
            values, rows, failed = eigen(self, *arguments, **options)  # type: ignore[arg-type]
            return values * 1.001, rows, failed

        monkeypatch.setattr(Kernels, "eigen", off)
    monkeypatch.setattr(_library, "PATH", path)
    monkeypatch.setattr(Kernels.__init__, "__defaults__", (path,))
    reason = kernels.__wrapped__()
    assert isinstance(reason, str) and re.search(expected, reason), reason


@pytest.mark.slow
def test_building_without_a_compiler_succeeds(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "manifoldnorm", tmp_path / "manifoldnorm", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    variables = {**os.environ, "CC": "/nowhere/cc", "CXX": "/nowhere/c++"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_default_devices_do_not_reach_the_kernels() -> None:
    script = """
import torch, manifoldnorm as mn
x = torch.eye(3)[None] * 2
with torch.device("meta"):  # also the first call, which checks the kernels
    y, z = mn.linalg.logm(x), mn.linalg.cholesky(x)
assert torch.allclose(y, x.log().nan_to_num(neginf=0.0)) and torch.allclose(z, x / 2**0.5)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@compiled
@pytest.mark.parametrize("decompose", [linalg.eigh, linalg.eigvalsh])
def test_the_solver_is_an_argument_too(decompose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    solve = Kernels.eigen
    monkeypatch.setattr(Kernels, "eigen", lambda self, a, *rest, **k: calls.append(1) or solve(self, a, *rest, **k))
    a = torch.eye(6, dtype=torch.float64).expand(16, 6, 6)
    decompose(a, backend="torch")
    assert not calls
    decompose(a, backend="native")
    assert calls
    with pytest.raises(ValueError, match="expected one of"):
        decompose(a, backend="fast")
