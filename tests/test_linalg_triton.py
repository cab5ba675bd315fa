"""The GPU kernels without a GPU: right in Triton's interpreter, in registers when compiled, harmless without Triton."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manifoldnorm import linalg

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'manifoldnorm[gpu-test]' (Linux on x86-64, 1 GB)",
)


def _python(*arguments: str, path: Path | None = None, **environment: str) -> str:
    """Run Python in a process of its own: Triton reads its environment when it is imported."""
    search = [str(path)] * (path is not None) + [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(search), **environment}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def _pytest(name: str, folder: Path, **environment: str) -> str:
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / name))
    return _python(*options, TRITON_CACHE_DIR=str(folder), MANIFOLDNORM_CHECK_TRITON="1", **environment)


@needs_triton
def test_the_kernels_are_right_in_the_interpreter(tmp_path: Path) -> None:
    assert " passed" in _pytest("interpreted_triton.py", tmp_path, TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton's tools for NVIDIA are those of x86-64 here")
def test_the_kernels_stay_in_registers(tmp_path: Path) -> None:
    assert " passed" in _pytest("compiled_triton.py", tmp_path, TRITON_INTERPRET="0")


DECOMPOSE = """
import sys, torch, manifoldnorm as mn
assert "triton" not in sys.modules and "manifoldnorm.linalg.gpu" not in sys.modules
mn.linalg.logm(torch.eye(3, requires_grad=True)).sum().backward()
assert "triton" not in sys.modules and "manifoldnorm.linalg.gpu" not in sys.modules
"""
FALL_BACK = """
import torch
from manifoldnorm.linalg import _ops, backend, gpu
cpu = torch.device("cpu")
reason = gpu.trouble(3, torch.float32, cpu)
assert reason == gpu.trouble(2, torch.float64, cpu) and reason, reason
values, rows = _ops._eigh_device(torch.diag(torch.tensor([2.0, 1.0])), False, False, "test")
assert values.tolist() == [1.0, 2.0]
try:
    with backend("native"):
        _ops._eigh_device(torch.eye(2), False, False, "test")
except RuntimeError as error:
    assert reason in str(error)
else:
    raise AssertionError("'native' fell back in silence")
print(reason)
"""


def test_no_cpu_tensor_imports_triton() -> None:
    _python("-c", DECOMPOSE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('no such file: libtriton.so')", "triton is not installed (no such file: libtriton.so)"),
        ("raise OSError('wrong ELF class')", "triton does not load (OSError: wrong ELF class)"),
        ("version = 1", "triton"),  # something else of that name
    ],
)
def test_without_a_working_triton_torch_decomposes_and_the_reason_is_given(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "triton.py").write_text(text)
    assert reason in _python("-c", FALL_BACK, path=tmp_path)


def test_backends_says_what_a_gpu_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    said = linalg.backends()["cuda"]
    if not torch.cuda.is_available():
        assert said == "no CUDA device"
        from manifoldnorm.linalg import gpu

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(gpu, "trouble", lambda n, dtype, device: None)
        assert linalg.backends()["cuda"].startswith("torch, until `python -m manifoldnorm bench eigh --tune`")
        with linalg.backend("native"):
            assert linalg.backends()["cuda"] == "Triton kernels: real, n <= 64; else torch"
            monkeypatch.setattr(gpu, "trouble", lambda n, dtype, device: "triton is not installed")
            assert linalg.backends()["cuda"] == "torch: triton is not installed"
    with linalg.backend("torch"):
        assert linalg.backends()["cuda"].startswith("torch: chosen by")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n", [1, 2, 3, 8, 20, 33, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_agrees_with_torch_and_is_captured(n: int, dtype: torch.dtype) -> None:
    x = torch.randn(37, n, n, dtype=dtype, device="cuda")
    x = x + x.mT
    with linalg.backend("native"):
        values, vectors = linalg.eigh(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            again = linalg.eigh(x)
        graph.replay()
    norm = torch.linalg.matrix_norm(x.double()).max()
    tolerance = (2 * n + 12) * torch.finfo(dtype).eps
    assert float((values.double() - torch.linalg.eigvalsh(x.double())).abs().max() / norm) <= tolerance
    rebuilt = (vectors.double() * values.double().unsqueeze(-2)) @ vectors.double().mT
    assert float(torch.linalg.matrix_norm(rebuilt - x.double()).max() / norm) <= tolerance
    assert torch.equal(again[0], values) and torch.equal(again[1], vectors)
