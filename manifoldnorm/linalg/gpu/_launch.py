"""The Triton kernels on tensors, checked once for each kind before they are trusted."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg.gpu._triton import interpreted, missing
from manifoldnorm.linalg.gpu.differences import adjoint_kernel
from manifoldnorm.linalg.gpu.jacobi import eigen_kernel, eigen_kernel_2

LARGEST = 64  # of the decomposition
LARGEST_ADJOINT = 32  # four products of larger tiles spill
_SWEEPS = 30  # twice what any matrix has needed
_PAIRS = 128  # 2 x 2 matrices of a program
# Fused multiply-add is asked for by name: Triton 3.10 turns it off otherwise.
_OPTIONS: dict[str, Any] = {} if interpreted else {"enable_fp_fusion": True}


def tile(n: int) -> int:
    """Return the size to which matrices are padded in registers."""
    return max(4, 1 << (n - 1).bit_length())


def geometry(size: int, double: bool) -> tuple[int, int]:
    """Return the matrices of a program and its warps, the fewest whose registers hold the tile without spills."""
    if interpreted:
        return max(1, 128 // size), 1  # the interpreter's time goes with the operations, whatever their size
    warps = {32: 2, 64: 8 if double else 4}
    return max(1, 32 // size), warps.get(size, 1)


def _on(a: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext()


def eigen(a: Tensor, *, vectors: bool) -> tuple[Tensor, Tensor | None]:
    """Decompose the symmetric parts of real matrices (..., n, n), n <= 64, without a host synchronisation.

    Returns ascending eigenvalues (..., n) and eigenvectors as rows (..., n, n) or None. A matrix that is not finite
    gives NaN eigenvalues, and the identity's eigenvectors.
    """
    a = a.contiguous()
    n, batch, double = a.shape[-1], a.shape[:-2].numel(), a.dtype == torch.float64
    values = torch.empty(a.shape[:-1], dtype=a.dtype, device=a.device)
    rows = torch.empty_like(a) if vectors else None
    target = values if rows is None else rows  # a pointer that the kernel does not use
    if batch == 0:
        return values, rows
    if n == 1:
        values.copy_(torch.where(a.isfinite(), a, float("nan"))[..., 0])
        return values, None if rows is None else rows.fill_(1.0)
    with _on(a):
        if n == 2:
            eigen_kernel_2[(-(-batch // _PAIRS),)](
                a, values, target, batch, VECTORS=vectors, DOUBLE=double, BLOCK=_PAIRS, **_OPTIONS
            )
        else:
            size = tile(n)
            several, warps = geometry(size, double)
            eigen_kernel[(-(-batch // several),)](
                a,
                values,
                target,
                batch,
                n,
                VECTORS=vectors,
                DOUBLE=double,
                LIMIT=_SWEEPS,
                T=several,
                N=size,
                num_warps=warps,
                **_OPTIONS,
            )
    return values, rows


def adjoint(rows: Tensor, weights: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``U (K o U^T sym(G) U) U^T`` (..., n, n) and the diagonals of ``U^T sym(G) U`` for rows U^T, n <= 32."""
    rows, weights, g = rows.contiguous(), weights.contiguous(), g.contiguous()
    out, inner = torch.empty_like(rows), torch.empty(rows.shape[:-1], dtype=rows.dtype, device=rows.device)
    n, batch = rows.shape[-1], rows.shape[:-2].numel()
    if batch:
        size = max(16, tile(n))  # the least that a product of tiles takes
        with _on(rows):
            adjoint_kernel[(batch,)](
                rows, weights, g, out, inner, n, N=size, num_warps=1 if size == 16 else 4, **_OPTIONS
            )
    return out, inner


def _probe(n: int, dtype: torch.dtype, device: torch.device) -> None:
    """Compile and run both kernels on a matrix whose decomposition is known, and compare outside of graph captures."""
    i = torch.arange(n, dtype=dtype, device=device)
    a = torch.minimum(i[:, None], i) + 1  # its inverse is tridiagonal, its largest eigenvalue known in closed form
    values, rows = eigen(a.expand(3, n, n), vectors=True)
    assert rows is not None
    ones = torch.ones_like(rows)
    rebuilt = (
        adjoint(rows, ones, a.expand(3, n, n))[0] if n <= LARGEST_ADJOINT else rows.mT @ (values.unsqueeze(-1) * rows)
    )
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    largest = 0.25 / torch.sin(torch.tensor(torch.pi / (4 * n + 2), dtype=torch.float64)) ** 2
    error = max(float((rebuilt - a).abs().max()), float((values[..., -1] - largest.item()).abs().max()))
    if not error <= 32 * n * torch.finfo(dtype).eps * largest.item():
        raise RuntimeError(f"its kernels compute wrongly on this device (n = {n}, {dtype}, error {error:.1g})")


@functools.cache
def _trouble(size: int, dtype: torch.dtype, device: torch.device) -> str | None:
    try:
        _probe(size if size <= 4 else size - 1, dtype, device)
    except Exception as error:  # noqa: BLE001 - of a compiler; linalg.backends() shows the reason
        return (
            f"triton fails ({type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''})"
        )
    return None


def trouble(n: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why real matrices of size n are not decomposed by these kernels on a device, or None if they are."""
    return missing if missing is not None else _trouble(2 if n == 2 else tile(n), dtype, device)
