"""The GPU kernels compiled for an NVIDIA H100 or H200, without one: run by test_linalg_triton.py in its own process."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from manifoldnorm.linalg.gpu import _launch
from manifoldnorm.linalg.gpu.differences import adjoint_kernel
from manifoldnorm.linalg.gpu.jacobi import eigen_kernel, eigen_kernel_2

POINTERS = ("matrices", "values", "vectors", "rows", "weights", "gradients", "out", "inner")
HOPPER = GPUTarget("cuda", 90, 32)


def resources(kernel: Any, double: bool, warps: int, constants: dict[str, Any], folder: Path) -> dict[str, int]:
    """Compile and return the registers of a thread, its stack (where spills go) and the shared memory of a program."""
    number = "fp64" if double else "fp32"
    kinds = {**dict.fromkeys(POINTERS, f"*{number}"), "batch": "i64", "n": "i32"}
    signature = {name: "constexpr" if name in constants else kinds[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps, **_launch._OPTIONS})
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    printed = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", printed.stdout + printed.stderr))
    return {key: int(value) for key, value in found.items()}


@pytest.mark.parametrize(
    ("size", "double", "most"), [(4, False, 128), (16, False, 160), (32, True, 255), (64, False, 255)]
)
def test_the_decomposition_stays_in_registers(size: int, double: bool, most: int, tmp_path: Path) -> None:
    several, warps = _launch.geometry(size, double)
    constants = {"VECTORS": True, "DOUBLE": double, "LIMIT": 30, "T": several, "N": size}
    used = resources(eigen_kernel, double, warps, constants, tmp_path)
    assert used["STACK"] == 0 and 16 < used["REG"] <= most and used["SHARED"] < 48 * 1024


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_the_closed_form_stays_in_registers(double: bool, tmp_path: Path) -> None:
    used = resources(eigen_kernel_2, double, 4, {"VECTORS": True, "DOUBLE": double, "BLOCK": 128}, tmp_path)
    assert used["STACK"] == 0 and 8 < used["REG"] <= 64


@pytest.mark.parametrize(("size", "double"), [(16, False), (32, True)])
def test_the_adjoint_stays_in_registers(size: int, double: bool, tmp_path: Path) -> None:
    used = resources(adjoint_kernel, double, 1 if size == 16 else 4, {"N": size}, tmp_path)
    assert used["STACK"] == 0 and 16 < used["REG"] <= 255 and used["SHARED"] < 48 * 1024
