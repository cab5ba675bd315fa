"""Settings and matrix makers for every test: one thread, fixed seeds."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)
# these run in processes of their own, which test_linalg_triton.py starts
collect_ignore = [] if "MANIFOLDNORM_CHECK_TRITON" in os.environ else ["interpreted_triton.py", "compiled_triton.py"]
os.environ["MANIFOLDNORM_TUNE"] = "off"  # no test depends on what its machine was tuned to


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20260729)


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Return an importer of the modules under examples."""
    for name in ("matplotlib", "tqdm"):
        pytest.importorskip(name, reason="needs the extra demo")
    examples = str(Path(__file__).resolve().parents[1] / "examples")
    sys.path.insert(0, examples)
    yield importlib.import_module
    sys.path.remove(examples)


def _unitary(n: int, batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.linalg.qr(torch.randn(*batch, n, n, dtype=wide))[0]


@pytest.fixture
def with_spectrum() -> Callable[..., Tensor]:
    """Return a maker of randomly rotated Hermitian matrices (*batch, n, n) with given eigenvalues."""

    def make(values: Sequence[float] | Tensor, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        w = torch.as_tensor(values, dtype=torch.float64)
        u = _unitary(w.shape[-1], batch, dtype)
        a = (u * w) @ u.mH
        return ((a + a.mH) / 2).to(dtype)

    return make


@pytest.fixture
def spd() -> Callable[..., Tensor]:
    """Return a maker of well-conditioned random positive-definite matrices (*batch, n, n)."""

    def make(n: int, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        x = torch.randn(*batch, n, 2 * n, dtype=dtype)
        return x @ x.mH / (2 * n) + 0.1 * torch.eye(n, dtype=dtype)

    return make
