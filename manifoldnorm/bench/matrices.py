"""Matrices on which solvers are compared, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldnorm.linalg.native import Kernels


def rotated(values: Tensor, batch: int) -> Tensor:
    """Return randomly rotated matrices with the given eigenvalues (n,) or (batch, n)."""
    n = values.shape[-1]
    basis = torch.linalg.qr(torch.randn(batch, n, n, dtype=torch.float64))[0]
    return (basis * values.unsqueeze(-2)) @ basis.mT


def _wishart(batch: int, n: int, columns: int) -> Tensor:
    x = torch.randn(batch, n, columns, dtype=torch.float64)
    return x @ x.mT / columns


def _graded(batch: int, n: int, decades: float) -> Tensor:
    scale = torch.logspace(0, -decades, n, dtype=torch.float64)
    return scale[:, None] * _wishart(batch, n, 2 * n) * scale


def _toeplitz(batch: int, n: int) -> Tensor:
    ratio = torch.rand(batch, 1, 1, dtype=torch.float64) * 0.98
    index = torch.arange(n, dtype=torch.float64)
    return ratio ** (index[:, None] - index).abs()


def _clustered(batch: int, n: int) -> Tensor:
    centres = torch.randint(1, 4, (batch, n)).double()
    return rotated(centres + 1e-12 * torch.randn(batch, n, dtype=torch.float64), batch)


# every family of matrices (batch, n, n) on which the kernels are held against torch's solver
FAMILIES: dict[str, Callable[[int, int], Tensor]] = {
    "Wishart": lambda b, n: _wishart(b, n, 2 * n),
    "Gaussian": lambda b, n: torch.randn(b, n, n, dtype=torch.float64),
    "condition 1e15": lambda b, n: rotated(torch.logspace(0, -15, n, dtype=torch.float64), b),
    "graded down": lambda b, n: _graded(b, n, 6.0),
    "graded up": lambda b, n: _graded(b, n, 6.0).flip(-1, -2),
    "clustered": _clustered,
    "repeated": lambda b, n: rotated(torch.randint(1, 4, (b, n)).double(), b),
    "rank one": lambda b, n: _wishart(b, n, 1),
    "rank half": lambda b, n: _wishart(b, n, max(1, n // 2)),
    "Toeplitz": _toeplitz,
    "diagonal": lambda b, n: torch.diag_embed(torch.randn(b, n, dtype=torch.float64)),
    "multiple of identity": lambda b, n: torch.randn(b, 1, 1, dtype=torch.float64) * torch.eye(n, dtype=torch.float64),
    "zero": lambda b, n: torch.zeros(b, n, n, dtype=torch.float64),
    "all ones": lambda b, n: torch.ones(b, n, n, dtype=torch.float64),
    "large": lambda b, n: _wishart(b, n, 2 * n) * 1e150,
    "small": lambda b, n: _wishart(b, n, 2 * n) * 1e-150,
    "denormal": lambda b, n: _wishart(b, n, 2 * n) * 2.0**-1060,
}
SINGLE_SCALES = {"large": 1e30 / 1e150, "small": 1e-30 / 1e-150, "denormal": 2.0**-140 / 2.0**-1060}


def family(name: str, batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Return symmetric matrices (batch, n, n) of a family; extreme scales are those of the dtype."""
    a = FAMILIES[name](batch, n)
    if dtype == torch.float32:
        a = a * SINGLE_SCALES.get(name, 1.0)
    return ((a + a.mT) / 2).to(dtype)


@dataclass(frozen=True)
class Errors:
    """Largest errors over matrices, in units of eps: residual and eigenvalues relative to the norm, orthogonality."""

    residual: float
    orthogonality: float

    def worst(self, other: Errors) -> Errors:
        """Return the larger of each."""
        return Errors(max(self.residual, other.residual), max(self.orthogonality, other.orthogonality))


def errors(a: Tensor, values: Tensor, rows: Tensor) -> Errors:
    """Return the largest ``|A - U W U^T| / |A|`` and ``|U^T U - I|`` (Frobenius) in units of eps of the dtype."""
    eps = torch.finfo(a.dtype).eps
    a, values, rows = a.double(), values.double(), rows.double()
    scale = a.abs().amax((-1, -2)).clamp_min(torch.finfo(torch.float64).tiny * torch.finfo(torch.float64).eps)
    half = torch.exp2(-torch.floor(torch.log2(scale) / 2))[:, None, None]  # twice: a single factor may overflow
    a, values = a * half * half, values * half[..., 0] * half[..., 0]
    norm = torch.linalg.matrix_norm(a).clamp_min(1e-300)
    residual = torch.linalg.matrix_norm(rows.mT @ (values.unsqueeze(-1) * rows) - a) / norm
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    return Errors(float(residual.max()) / eps, float(torch.linalg.matrix_norm(rows @ rows.mT - identity).max()) / eps)


def compare(library: Kernels, a: Tensor, instruction_set: int) -> tuple[Errors, Errors]:
    """Return the errors of the kernels and of torch's solver on the same matrices."""
    values, rows, failed = library.eigen(a, a.dtype, vectors=True, instruction_set=instruction_set)
    assert rows is not None and failed is None
    reference, vectors = torch.linalg.eigh(a)
    return errors(a, values, rows), errors(a, reference, vectors.mT)
