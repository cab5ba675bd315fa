"""Kernels of the native library for batches of frames: the steps of a batch norm on Grassmann manifolds.

Frames are (..., n, p), contiguous and in double precision. `_frames` and `principal` have the formulas in torch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import widens
from manifoldnorm.linalg._tally import record
from manifoldnorm.linalg.native import GrassmannCall, fusing

(
    _CHORDAL,
    _DOMINANT,
    _TANGENTS,
    _HESSIAN,
    _SHOT,
    _CENTRE,
    _FINISH,
    _GRADIENT,
    _PULL,
    _TANGENTS_GRADIENT,
    _SHOT_GRADIENT,
    _MOVE,
) = range(12)  # the enumeration of grassmann_table.hpp
LARGEST_CHORDAL = 128  # beyond it, torch's product for the mean projector is faster


class NotConverged(Exception):
    """An iteration of the kernels did not end."""


class Angles(NamedTuple):
    """Principal angles and vectors of frames, as in `Principal` but for ``along``."""

    off: Tensor
    angles: Tensor
    sine: Tensor
    left: Tensor
    right: Tensor


class Shot(NamedTuple):
    """A geodesic from the origin to ``point``, in the frame nearest to the origin, and the middle of the geodesic.

    The point may be the exponential at ``base`` of a ``direction``.
    """

    half: Tensor
    point: Tensor | None
    angles: Angles
    direction: Tensor | None
    base: Tensor | None


def usable(x: Tensor) -> bool:
    """Return whether the kernels take these frames: plain real CPU tensors that are computed in double precision."""
    if x.numel() == 0 or not (x.dtype == torch.float64 or (x.dtype == torch.float32 and widens(x))):
        return False
    return plain(x) and fusing(x, decompose=True) is not None


def _run(
    operation: int, x: Tensor, batch: int, inputs: tuple[Tensor | None, ...], *outputs: Tensor | None, number: float = 0
) -> None:
    """Call the library on frames like ``x``; the operands are contiguous and outlive the call."""
    n, p = x.shape[-2:]
    call = GrassmannCall(operation, p, n - p, batch, number)
    for place, t in enumerate(inputs):
        if t is not None:
            call.inputs[place] = t.data_ptr()
    for place, t in enumerate(outputs):
        if t is not None:
            call.outputs[place] = t.data_ptr()
    library = fusing(x, decompose=True)
    assert library is not None
    if not library.grassmann(call):
        raise NotConverged


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _angles(batch: int, p: int, m: int, more: int = 0) -> Angles:
    return Angles(
        _empty(batch, p, m), _empty(batch, p + more), _empty(batch, p), _empty(batch, p, p), _empty(batch, p, p)
    )


def chordal_mean(x: Tensor) -> Tensor | None:
    """Return a frame of the dominant space of the mean projector of (N, n, p), or None if iterating is too slow."""
    count, n, p = x.shape
    if n > LARGEST_CHORDAL:
        return None
    projector, base = _empty(n, n), _empty(n, p)
    _run(_CHORDAL, x, count, (x,), projector)
    try:
        _run(_DOMINANT, x, 1, (projector, x), base, _empty(n, -(-n // 8) * 8), number=1 / count)
    except NotConverged:
        return None
    return base


def tangents(x: Tensor, base: Tensor, keep: bool) -> tuple[Tensor, Angles | None]:
    """Return the sum of the logarithms at the base, in rows (p, n), and on demand the angles of (N, n, p) with it."""
    count, n, p = x.shape
    record("eigh", x)
    total, angles = _empty(p, n), _angles(count, p, n) if keep else None
    _run(_TANGENTS, x, count, (x, base), total, *(angles or ()))
    return total, angles


def hessian(y: Tensor, angles: Angles) -> Tensor:
    """Return the Hessian of half the mean squared distance at the base of `tangents` on a tangent vector (n, p)."""
    count, p, n = angles.off.shape
    both = _empty(n * p + p * p)
    _run(_HESSIAN, y, count, (y, *angles), both)
    rows, right = both.split([n * p, p * p])
    return torch.addmm(rows.view(p, n).mT, y, right.view(p, p)) / count


def tangents_gradient(g: Tensor, angles: Angles, base: Tensor, grad_x: Tensor) -> None:
    """Add to the gradients in the frames what the one of each logarithm, in rows (p, n), contributes."""
    _run(_TANGENTS_GRADIENT, grad_x, grad_x.shape[0], (g, *angles, base), grad_x)


def shot(direction: Tensor | None, base: Tensor | None, *, point: bool = False) -> Shot:
    """Return the way to the exponential at ``base`` (None: the origin) of ``direction`` (None: to the base itself).

    At the origin the lower block of the direction counts.
    """
    like = base if direction is None else direction
    assert like is not None
    n, p = like.shape
    angles = _angles(1, p, n - p, p + p * p)  # behind the angles: those of the direction, and their vectors
    half, end = _empty(n, p), _empty(n, p) if point else None
    _run(_SHOT, like, 1, (direction, base), half, end, *angles)
    return Shot(half, end, angles, direction, base)


def shot_gradient(g: Tensor, shot: Shot) -> Tensor:
    """Return the gradient in the direction, or without one in the point, for one in the half, in rows (p, n)."""
    out = _empty(*g.shape[::-1])
    base = None if shot.direction is None else shot.base
    _run(_SHOT_GRADIENT, out, 1, (g, *shot.angles, shot.direction, base), out)
    return out


def centre(x: Tensor, half: Tensor) -> tuple[Angles, Tensor]:
    """Return the angles of (N, n, p), moved to the origin by half the way of their mean, and their squared lengths."""
    count, n, p = x.shape
    record("eigh", x)
    angles, squared = _angles(count, p, n - p), _empty(count)
    _run(_CENTRE, x, count, (x, half), *angles, squared)
    return angles, squared


def finish(angles: Angles, t: float, half: Tensor | None, out: Tensor) -> None:
    """Write the frames at ``t`` times the way, moved from the origin by half the way to the bias."""
    _run(_FINISH, out, out.shape[0], (*angles, half), out, number=t)


def gradient(
    g: Tensor, angles: Angles, t: float, bias: Tensor | None, mean: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in half the bias (in rows), the samples and t (N), for those in the output of `finish`.

    Samples are those before they were centred by half the mean; without it the centred ones, in rows.
    """
    grad_bias, grad_x, grad_t = _empty(*g.shape[:0:-1]), torch.empty_like(g), _empty(g.shape[0])
    _run(_GRADIENT, g, g.shape[0], (g, *angles, bias, mean), grad_bias, grad_x, grad_t, number=t)
    return grad_bias, grad_x, grad_t


def pull(x: Tensor, angles: Angles, centred: Tensor, mean: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Return the gradients in half the mean, in rows, and in samples, for those in centred ones and squared lengths."""
    grad_mean, grad_x = _empty(*x.shape[:0:-1]), torch.empty_like(x)
    _run(_PULL, x, x.shape[0], (x, *angles, centred, mean), grad_mean, grad_x, number=slope)
    return grad_mean, grad_x


def move(x: Tensor, y: Tensor, t: float) -> Tensor | None:
    """Return the frames at ``t`` times the way from ``x`` to ``y``, both (..., n, p), or None if iterating fails."""
    x, y, out = x.contiguous(), y.contiguous(), torch.empty(x.shape, dtype=x.dtype, device="cpu")
    n, p = x.shape[-2:]
    record("eigh", x)
    try:
        _run(_MOVE, x, x.numel() // (n * p), (x, y), out, number=t)
    except NotConverged:
        return None
    return out
