"""Kernels of the native library for batches of frames: the steps of a batch norm on Grassmann manifolds.

Frames are (..., n, p), contiguous and in double precision. `_frames` and `principal` have the formulas in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Groups:
    """The groups of samples that have statistics of their own.

    Attributes
    ----------
    share : Tensor
        The share (D) of a sample in the statistics of its group.
    index, order : Tensor or None
        The group (N) of each sample when they are sorted by group, and where each of these stands in the batch; None
        for a single group. What the kernels keep for themselves is sorted; frames and their gradients are the batch's.
    """

    share: Tensor
    index: Tensor | None = None
    order: Tensor | None = None

    @property
    def count(self) -> int:
        """The number of groups D."""
        return self.share.shape[0]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of numbers (N) over each group."""
        if self.index is None:
            return values.sum(0, keepdim=True)
        return torch.zeros_like(self.share).index_add_(0, self.index, values)

    def first(self, x: Tensor) -> Tensor:
        """Return the first sample of each group; any for an empty one."""
        if self.index is None or self.order is None:
            return x[:1]
        places = torch.searchsorted(self.index, torch.arange(self.count)).clamp_max(len(x) - 1)
        return x.index_select(0, self.order[places])

    def mean(self, sums: Tensor) -> Tensor:
        """Return sums over each group (D, ...) times a sample's share."""
        return sums * self.share.view(-1, *(1,) * (sums.ndim - 1))


def _run(
    operation: int,
    x: Tensor,
    batch: int,
    inputs: tuple[Tensor | None, ...],
    *outputs: Tensor | None,
    groups: Groups | None = None,
) -> None:
    """Call the library on frames like ``x``; the operands are contiguous and outlive the call."""
    n, p = x.shape[-2:]
    call = GrassmannCall(operation, p, n - p, batch, index=None, order=None, groups=1)
    if groups is not None and groups.index is not None and groups.order is not None:
        call.index, call.order, call.groups = groups.index.data_ptr(), groups.order.data_ptr(), groups.count
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


def chordal_mean(x: Tensor, groups: Groups | None = None) -> Tensor | None:
    """Return frames (D, n, p) of the dominant space of each group's mean projector, or None if iterating is too slow.

    Samples are (N, n, p); of an empty group it is any sample.
    """
    count, n, p = x.shape
    if n > LARGEST_CHORDAL:
        return None
    groups = groups or together(x)
    projector, base = _empty(groups.count, n, n), _empty(groups.count, n, p)
    _run(_CHORDAL, x, count, (x,), projector, groups=groups)
    start, memory = groups.first(x), _empty(groups.count, n, -(-n // 8) * 8)
    try:
        _run(_DOMINANT, x, groups.count, (projector, start, groups.share), base, memory)
    except NotConverged:
        return None
    return base


def together(x: Tensor) -> Groups:
    """Return one group of all samples."""
    return Groups(torch.full((1,), 1 / x.shape[0], dtype=torch.float64, device="cpu"))


def tangents(x: Tensor, base: Tensor, keep: bool, groups: Groups) -> tuple[Tensor, Angles | None]:
    """Return the sums of the logarithms at the bases, in rows (D, p, n), and on demand the angles of (N, n, p)."""
    count, n, p = x.shape
    record("eigh", x)
    total, angles = _empty(groups.count, p, n), _angles(count, p, n) if keep else None
    _run(_TANGENTS, x, count, (x, base), total, *(angles or ()), groups=groups)
    return total, angles


def hessian(y: Tensor, angles: Angles, groups: Groups) -> Tensor:
    """Return the Hessians of half the mean squared distances at the bases of `tangents` on tangents (D, n, p)."""
    count, p, n = angles.off.shape
    both = _empty(groups.count, n * p + p * p)
    _run(_HESSIAN, y, count, (y.contiguous(), *angles), both, groups=groups)
    rows, right = both.split([n * p, p * p], 1)
    return groups.mean(torch.baddbmm(rows.view(-1, p, n).mT, y, right.view(-1, p, p)))


def tangents_gradient(g: Tensor, angles: Angles, base: Tensor, grad_x: Tensor, groups: Groups) -> None:
    """Add to the gradients in the frames what those of each group's logarithms, in rows (D, p, n), contribute."""
    _run(_TANGENTS_GRADIENT, grad_x, grad_x.shape[0], (g, *angles, base), grad_x, groups=groups)


def shot(direction: Tensor | None, base: Tensor | None, *, point: bool = False) -> Shot:
    """Return the ways to the exponentials at ``base`` (None: the origin) of directions (None: to the base itself).

    Both are (D, n, p). At the origin the lower block of a direction counts.
    """
    like = base if direction is None else direction
    assert like is not None
    count, n, p = like.shape
    angles = _angles(count, p, n - p, p + p * p)  # behind the angles: those of the direction, and their vectors
    half, end = _empty(count, n, p), _empty(count, n, p) if point else None
    _run(_SHOT, like, count, (direction, base), half, end, *angles)
    return Shot(half, end, angles, direction, base)


def shot_gradient(g: Tensor, shot: Shot) -> Tensor:
    """Return the gradients in directions, or without one in points, for those in the halves, in rows (D, p, n)."""
    out = _empty(g.shape[0], *g.shape[:0:-1])
    base = None if shot.direction is None else shot.base
    _run(_SHOT_GRADIENT, out, g.shape[0], (g, *shot.angles, shot.direction, base), out)
    return out


def centre(x: Tensor, half: Tensor, groups: Groups) -> tuple[Angles, Tensor]:
    """Return the angles of (N, n, p), moved to the origin by half the way of their mean, and their squared lengths."""
    count, n, p = x.shape
    record("eigh", x)
    angles, squared = _angles(count, p, n - p), _empty(count)
    _run(_CENTRE, x, count, (x, half), *angles, squared, groups=groups)
    return angles, squared


def finish(angles: Angles, t: Tensor, half: Tensor | None, out: Tensor, groups: Groups) -> None:
    """Write the frames at ``t`` (D) times the way, moved from the origin by half the way to the bias."""
    _run(_FINISH, out, out.shape[0], (*angles, half, t), out, groups=groups)


def gradient(
    g: Tensor, angles: Angles, t: Tensor, bias: Tensor | None, mean: Tensor | None, groups: Groups
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in half the bias (1, p, n), the samples and t (N), for those in the output of `finish`.

    Samples are those before they were centred by half the mean; without it the centred ones, in rows.
    """
    grad_bias, grad_x, grad_t = _empty(1, *g.shape[:0:-1]), torch.empty_like(g), _empty(g.shape[0])
    _run(_GRADIENT, g, g.shape[0], (g, *angles, bias, mean, t), grad_bias, grad_x, grad_t, groups=groups)
    return grad_bias, grad_x, grad_t


def pull(
    x: Tensor, angles: Angles, centred: Tensor, mean: Tensor, slope: Tensor, groups: Groups
) -> tuple[Tensor, Tensor]:
    """Return the gradients in half the means, in rows, and in samples, for those in centred ones and in squares."""
    grad_mean, grad_x = _empty(groups.count, *x.shape[:0:-1]), torch.empty_like(x)
    _run(_PULL, x, x.shape[0], (x, *angles, centred, mean, slope), grad_mean, grad_x, groups=groups)
    return grad_mean, grad_x


def move(x: Tensor, y: Tensor, t: float | Tensor) -> Tensor | None:
    """Return the frames at ``t`` times the way from ``x`` to ``y``, both (..., n, p), or None if iterating fails.

    There is one ``t`` for all, or one for each.
    """
    x, y, out = x.contiguous(), y.contiguous(), torch.empty(x.shape, dtype=x.dtype, device="cpu")
    n, p = x.shape[-2:]
    times = torch.as_tensor(t, dtype=x.dtype, device="cpu").expand(x.shape[:-2]).contiguous()
    record("eigh", x)
    try:
        _run(_MOVE, x, x.numel() // (n * p), (x, y, times), out)
    except NotConverged:
        return None
    return out
