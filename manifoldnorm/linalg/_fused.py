"""Fused kernels of the native library on tensors; every caller has the same formula in torch where they do not run."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import torch
from torch import Tensor

from manifoldnorm.linalg._call import ordinary, plain
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.linalg._tally import record
from manifoldnorm.linalg.native import FusedCall, fusing


class Operation(enum.IntEnum):
    """The fused operations: the enumeration of kernels.hpp."""

    CONGRUENCE = 0
    REBUILD = 1
    ADJOINT = 2
    CHOLESKY = 3
    CHOLESKY_ADJOINT = 4
    FROM_CHART = 5
    FROM_CHART_ADJOINT = 6
    SANDWICH = 7
    HYPERBOLIC_WEIGHTS = 8
    SUM_OF_KERNELS = 9
    SUM_OF_FUNCTIONS = 10
    SUM_OF_INVERSES = 11
    BURES_MOVE = 12
    BURES_STEP = 13
    BURES_ADJOINT = 14
    BURES_MEAN_ADJOINT = 15
    PRODUCTS = 16


EACH_K, EACH_A = 16, 32  # in the kind of an adjoint: one operand for each matrix
_REAL, _COMPLEX = (torch.float64, torch.float32), (torch.complex128, torch.complex64)


def usable(first: Tensor, *others: Tensor | None, real: Iterable[Tensor | None] | None = None) -> bool:
    """Return whether the kernels take these matrices: plain CPU tensors of one dtype, and a library is loaded.

    Complex matrices are taken only where ``real`` names the operands that are real all the same, if only as ``()``:
    not every operation has a kernel for them.
    """
    if first.dtype not in _REAL and (real is None or first.dtype not in _COMPLEX):
        return False
    if first.numel() == 0 or not plain(first) or fusing(first) is None:
        return False
    if not all(t is None or (t.dtype == first.dtype and ordinary(t)) for t in others):
        return False
    return real is None or all(t is None or (t.dtype == first.dtype.to_real() and ordinary(t)) for t in real)


def _run(
    operation: int,
    like: Tensor,
    inputs: tuple[Tensor | None, ...],
    *outputs: Tensor | None,
    kind: int = 0,
    index: Tensor | None = None,
) -> None:
    """Call the library; the inputs are contiguous and outlive the call."""
    size = like.shape[-1]
    chosen = None if index is None else index.data_ptr()
    call = FusedCall(operation, kind, size, like.numel() // (size * size), index=chosen)
    for place, t in enumerate(inputs):
        if t is not None:
            call.inputs[place] = t.data_ptr()
    for place, t in enumerate(outputs):
        if t is not None:
            call.outputs[place] = t.data_ptr()
    library = fusing(like)
    assert library is not None
    library.fused(call, like.dtype)


def _dense(t: Tensor) -> Tensor:
    return t.resolve_conj().contiguous()


def _packed(t: Tensor | None) -> Tensor | None:
    return None if t is None else _dense(t)


def _operand(k: Tensor | None, like: Tensor, index: Tensor | None = None) -> tuple[Tensor | None, bool]:
    """Return one matrix as it is, and several (that broadcast against the batch) as one for each of the batch.

    Those from which an index (N,) chooses stay as they are.
    """
    if k is None or k.ndim == 2:
        return _packed(k), False
    return _dense(k if index is not None else k.expand(like.shape)), True


def _places(index: Tensor | None) -> Tensor | None:
    return None if index is None else index.long().contiguous()


def congruence(k: Tensor, x: Tensor, index: Tensor | None = None) -> Tensor:
    """Return ``K X K^H`` for the Hermitian part of X (..., n, n) if it is real, otherwise for Hermitian X.

    There are one or several K that broadcast against X; or, if real, K (D, n, n) of which an index (N,) chooses.
    """
    x, out = _dense(x), torch.empty(x.shape, dtype=x.dtype, device="cpu")
    index = _places(index)
    operand, each = _operand(k, x, index)
    _run(Operation.CONGRUENCE, x, (operand, x), out, kind=int(each), index=index)
    return out


def rebuild(values: Tensor, rows: Tensor, k: Tensor | None = None) -> Tensor:
    """Return ``K U diag(values) U^H K^H`` for rows U^H (..., n, n) and one or several K (None: the identity)."""
    rows, out = _dense(rows), torch.empty(rows.shape, dtype=rows.dtype, device="cpu")
    operand, each = _operand(k, rows)
    _run(Operation.REBUILD, rows, (values.expand(rows.shape[:-1]).contiguous(), rows, operand), out, kind=int(each))
    return out


def adjoint(
    f: SpectralFunction,
    w: Tensor,
    p: Tensor | None,
    rows: Tensor,
    g: Tensor,
    k: Tensor | None = None,
    a: Tensor | None = None,
    *,
    colour: bool = False,
    values: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the adjoint of the derivative of ``X -> K f(A X A^H) K^H`` applied to G, with A X A^H = U diag(w) U^H.

    K and A are one or several matrices, None the identity. Also the diagonals of ``U^H K^H G K U`` and, on demand, the
    gradient in a single K, ``2 sum sym(G) K U diag(f) U^H``. The
    ``values`` are f's auxiliary ones, where the caller has them.
    """
    assert f.native is not None
    rows, g = _dense(rows), _dense(g)
    out = torch.empty(rows.shape, dtype=rows.dtype, device="cpu")
    inner = torch.empty(rows.shape[:-1], dtype=rows.dtype.to_real(), device="cpu")
    grad_k = torch.empty(rows.shape[-2:], dtype=rows.dtype, device="cpu") if colour else None
    values = f.auxiliary(w, p) if values is None else values
    (left, each_k), (right, each_a) = _operand(k, rows), _operand(a, rows)
    inputs = (w.contiguous(), values.contiguous(), _packed(p), rows, g, left, right)
    _run(Operation.ADJOINT, rows, inputs, out, inner, grad_k, kind=f.native + EACH_K * each_k + EACH_A * each_a)
    return out, inner, grad_k


def cholesky(x: Tensor, chart: bool) -> tuple[Tensor, Tensor | None, bool]:
    """Return the factors of the symmetric parts, their log-Cholesky charts on demand, and whether all exist."""
    record("cholesky", x)
    x, factor = x.contiguous(), torch.empty(x.shape, dtype=x.dtype, device="cpu")
    y = torch.empty(x.shape, dtype=x.dtype, device="cpu") if chart else None
    failed = torch.empty(x.shape[:-2], dtype=torch.uint8, device="cpu")
    _run(Operation.CHOLESKY, x, (x,), factor, y, failed)
    return factor, y, not bool(failed.any())


def cholesky_adjoint(factor: Tensor, g: Tensor, chart: bool) -> Tensor:
    """Return the symmetric gradient for one of the factor, or of its log-Cholesky chart."""
    out = torch.empty(factor.shape, dtype=factor.dtype, device="cpu")
    _run(Operation.CHOLESKY_ADJOINT, factor, (factor.contiguous(), g.contiguous()), out, kind=int(chart))
    return out


def from_chart(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``K K^T`` and K, strict_lower(Y) + exp diag(Y)."""
    y, factor = y.contiguous(), torch.empty(y.shape, dtype=y.dtype, device="cpu")
    out = torch.empty(y.shape, dtype=y.dtype, device="cpu")
    _run(Operation.FROM_CHART, y, (y, y.diagonal(dim1=-2, dim2=-1).exp().contiguous()), factor, out)
    return out, factor


def from_chart_adjoint(factor: Tensor, g: Tensor) -> Tensor:
    """Return the gradient in the chart Y for one of ``K K^T``."""
    out = torch.empty(factor.shape, dtype=factor.dtype, device="cpu")
    _run(Operation.FROM_CHART_ADJOINT, factor, (factor.contiguous(), g.contiguous()), out)
    return out


def sandwich(a: Tensor, weight: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return ``B (weight o (A sym(X) A^H)) B^H``, all but X (..., n, n) one matrix."""
    x, out = _dense(x), torch.empty(x.shape, dtype=x.dtype, device="cpu")
    _run(Operation.SANDWICH, x, (_dense(a), weight.contiguous(), _dense(b), x), out)
    return out


def hyperbolic_weights(log: Tensor) -> Tensor:
    """Return ``d coth d`` for half the differences d of the rows' entries (..., n), as (..., n, n)."""
    out = torch.empty((*log.shape, log.shape[-1]), dtype=log.dtype, device="cpu")
    _run(Operation.HYPERBOLIC_WEIGHTS, out, (log.contiguous(),), out)
    return out


def sum_of_kernels(s: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over the batch of ``U (weights o (U^H S U)) U^H`` for one Hermitian S and rows U^H (..., n, n)."""
    rows, out = _dense(rows), torch.empty(s.shape, dtype=s.dtype, device="cpu")
    _run(Operation.SUM_OF_KERNELS, rows, (_dense(s), rows, weights.contiguous()), None, None, out)
    return out


def each_kernel(s: Tensor, rows: Tensor, weights: Tensor, index: Tensor | None = None) -> Tensor:
    """Return the terms of `sum_of_kernels`; several S broadcast against the rows, or an index (N,) chooses."""
    rows, out = _dense(rows), torch.empty(rows.shape, dtype=rows.dtype, device="cpu")
    index = _places(index)
    s = _dense(s if index is not None else s.expand(rows.shape))
    _run(Operation.SUM_OF_KERNELS, rows, (s, rows, weights.contiguous()), out, kind=1, index=index)
    return out


def sum_of_inverses(x: Tensor, ridge: Tensor, weights: Tensor | float, each: bool = False) -> tuple[Tensor, bool]:
    """Return the sum of ``weights (X + ridge)^-1`` over the batch, and whether all were positive definite.

    With ``each`` the terms (..., n, n) instead of their sum.
    """
    record("cholesky", x)
    x, out = x.contiguous(), torch.empty(x.shape if each else x.shape[-2:], dtype=x.dtype, device="cpu")
    parts = torch.stack([ridge, torch.as_tensor(weights, dtype=x.dtype).expand_as(ridge)], -1)
    failed = torch.empty(x.shape[:-2], dtype=torch.uint8, device="cpu")
    _run(Operation.SUM_OF_INVERSES, x, (x, parts), failed, out if each else None, None if each else out)
    return out, not bool(failed.any())
