"""Kernels of the native library for principal angles; `principal` has the formulas in torch where they do not run."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg._call import ordinary, plain
from manifoldnorm.linalg.native import AnglesCall, fusing

_BASES, _SHOOT, _DILATE_BACKWARD, _VELOCITY_BACKWARD, _SQUARE_BACKWARD = range(5)  # enumerated in angles_table.hpp


def usable(off: Tensor, *others: Tensor) -> bool:
    """Return whether the kernels take these: plain real CPU tensors in double precision, and a library is loaded."""
    if (
        off.dtype != torch.float64
        or off.numel() == 0
        or off.shape[-2] > 96
        or not plain(off)
        or not fusing(off[..., :1])
    ):
        return False
    return all(t.dtype == off.dtype and ordinary(t) for t in others)


def _run(operation: int, shape: torch.Size, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
    """Call the library on operands of ``shape`` (..., p, m)."""
    *batch, p, m = shape
    packed = [None if t is None else t.contiguous() for t in inputs]  # outlive the call
    call = AnglesCall(operation, p, m, torch.Size(batch).numel())
    for place, t in enumerate(packed):
        if t is not None:
            call.inputs[place] = t.data_ptr()
    for place, t in enumerate(outputs):
        call.outputs[place] = t.data_ptr()
    library = fusing(outputs[0])
    assert library is not None
    library.angles(call)


def _like(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device="cpu")


def bases(along: Tensor, squares: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return angles, sines, V and Z^T from A^T (..., p, p), squared sines and Z^T."""
    angles, sine, left = _like(squares), _like(squares), _like(right)
    _run(_BASES, along.shape, (along, squares, right), (angles, sine, left))
    return angles, sine, left, right


def shoot(off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor, t: Tensor | None) -> Tensor:
    """Return the frames in rows at ``t`` times the way, or without ``t`` the velocities."""
    *batch, p, m = off.shape
    out = torch.empty((*batch, p, m if t is None else p + m), dtype=off.dtype, device="cpu")
    _run(_SHOOT, off.shape, (off, angles, sine, left, right, t), (out,))
    return out


def dilate_backward(
    off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor, t: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of A^T, R^T and t for one of the frames."""
    out = _like(left), _like(off), _like(t)
    _run(_DILATE_BACKWARD, off.shape, (off, angles, sine, left, right, t, g), out)
    return out


def velocity_backward(
    off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of A^T and R^T for one of the velocities."""
    out = _like(left), _like(off)
    _run(_VELOCITY_BACKWARD, off.shape, (off, angles, sine, left, right, None, g), out)
    return out


def square_backward(
    off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of A^T and R^T for one of the squared lengths."""
    out = _like(left), _like(off)
    _run(_SQUARE_BACKWARD, off.shape, (off, angles, sine, left, right, None, g), out)
    return out
