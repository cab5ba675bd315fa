"""Matrices on which solvers are compared, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldnorm.linalg.native import Kernels


def rotated(values: Tensor, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return randomly rotated matrices with the given eigenvalues (n,) or (batch, n)."""
    n = values.shape[-1]
    basis = torch.linalg.qr(torch.randn(batch, n, n, dtype=dtype))[0]
    return (basis * values.unsqueeze(-2)) @ basis.mH


def _wishart(batch: int, n: int, columns: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(batch, n, columns, dtype=dtype)
    return x @ x.mH / columns


def _graded(batch: int, n: int, decades: float, dtype: torch.dtype) -> Tensor:
    scale = torch.logspace(0, -decades, n, dtype=torch.float64)
    return scale[:, None] * _wishart(batch, n, 2 * n, dtype) * scale


def _toeplitz(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    ratio = torch.rand(batch, 1, 1, dtype=torch.float64) * 0.98
    index = torch.arange(n, dtype=torch.float64)
    return ratio ** (index[:, None] - index).abs() * _phases(batch, n, dtype)


def _clustered(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    centres = torch.randint(1, 4, (batch, n)).double()
    return rotated(centres + 1e-12 * torch.randn(batch, n, dtype=torch.float64), batch, dtype)


def _phases(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Return matrices of ones, or of rank one with entries of modulus one."""
    if not dtype.is_complex:
        return torch.ones(batch, n, n, dtype=dtype)
    angle = torch.rand(batch, n, 1, dtype=torch.float64) * 6.28
    return torch.exp(1j * (angle - angle.mT))


def _diagonal(values: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.diag_embed(values).to(dtype)


# every family of matrices (batch, n, n), float64 or complex128, on which the kernels are held against torch's solver
FAMILIES: dict[str, Callable[[int, int, torch.dtype], Tensor]] = {
    "Wishart": lambda b, n, t: _wishart(b, n, 2 * n, t),
    "Gaussian": lambda b, n, t: torch.randn(b, n, n, dtype=t),
    "condition 1e15": lambda b, n, t: rotated(torch.logspace(0, -15, n, dtype=torch.float64), b, t),
    "graded down": lambda b, n, t: _graded(b, n, 6.0, t),
    "graded up": lambda b, n, t: _graded(b, n, 6.0, t).flip(-1, -2),
    "clustered": _clustered,
    "repeated": lambda b, n, t: rotated(torch.randint(1, 4, (b, n)).double(), b, t),
    "rank one": lambda b, n, t: _wishart(b, n, 1, t),
    "rank half": lambda b, n, t: _wishart(b, n, max(1, n // 2), t),
    "Toeplitz": _toeplitz,
    "diagonal": lambda b, n, t: _diagonal(torch.randn(b, n, dtype=torch.float64), t),
    "multiple of identity": lambda b, n, t: _diagonal(torch.randn(b, 1, dtype=torch.float64).expand(b, n), t),
    "zero": lambda b, n, t: torch.zeros(b, n, n, dtype=t),
    "all ones": _phases,
    "large": lambda b, n, t: _wishart(b, n, 2 * n, t) * 1e150,
    "small": lambda b, n, t: _wishart(b, n, 2 * n, t) * 1e-150,
    "denormal": lambda b, n, t: _wishart(b, n, 2 * n, t) * 2.0**-1060,
}
SINGLE_SCALES = {"large": 1e30 / 1e150, "small": 1e-30 / 1e-150, "denormal": 2.0**-140 / 2.0**-1060}


def family(name: str, batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Return symmetric or Hermitian matrices (batch, n, n) of a family; extreme scales are those of the dtype."""
    a = FAMILIES[name](batch, n, torch.complex128 if dtype.is_complex else torch.float64)
    if dtype.to_real() == torch.float32:
        a = a * SINGLE_SCALES.get(name, 1.0)
    return ((a + a.mH) / 2).to(dtype)


@dataclass(frozen=True)
class Errors:
    """Largest errors over matrices, in units of eps: residual and eigenvalues relative to the norm, orthogonality."""

    residual: float
    orthogonality: float

    def worst(self, other: Errors) -> Errors:
        """Return the larger of each."""
        return Errors(max(self.residual, other.residual), max(self.orthogonality, other.orthogonality))


def errors(a: Tensor, values: Tensor, rows: Tensor) -> Errors:
    """Return the largest ``|A - U W U^H| / |A|`` and ``|U^H U - I|`` (Frobenius) in units of eps of the dtype."""
    eps = torch.finfo(a.dtype).eps
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, values, rows = a.to(wide), values.double(), rows.to(wide)
    scale = a.abs().amax((-1, -2)).clamp_min(torch.finfo(torch.float64).tiny * torch.finfo(torch.float64).eps)
    half = torch.exp2(-torch.floor(torch.log2(scale) / 2))[:, None, None]  # twice: a single factor may overflow
    a, values = a * half * half, values * half[..., 0] * half[..., 0]
    norm = torch.linalg.matrix_norm(a).clamp_min(1e-300)
    residual = torch.linalg.matrix_norm(rows.mH @ (values.unsqueeze(-1) * rows) - a) / norm
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    return Errors(float(residual.max()) / eps, float(torch.linalg.matrix_norm(rows @ rows.mH - identity).max()) / eps)


def compare(library: Kernels, a: Tensor, instruction_set: int) -> tuple[Errors, Errors]:
    """Return the errors of the kernels and of torch's solver on the same matrices."""
    values, rows, failed = library.eigen(a, a.dtype, vectors=True, instruction_set=instruction_set)
    assert rows is not None and failed is None
    reference, vectors = torch.linalg.eigh(a)
    return errors(a, values, rows), errors(a, reference, vectors.mH)
