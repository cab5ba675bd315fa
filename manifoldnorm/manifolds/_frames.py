"""Orthonormal frames in principal angles: what Grassmann manifolds compute with, all through p x p matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.linalg import Spectrum
from manifoldnorm.linalg import functions_angles as fn
from manifoldnorm.linalg._precision import widens
from manifoldnorm.linalg.functions import INV_SQRT
from manifoldnorm.linalg.polar import polar
from manifoldnorm.linalg.principal import Principal, dilate, principal


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in double precision where single precision is computed in double (on CPU)."""
    return x.double() if widens(x) else x


def orthonormal(x: Tensor) -> Tensor:
    """Return a frame of the same space in working precision, orthonormal to its rounding.

    The rounding of a frame stored in single precision would count as an angle of 1e-7.
    """
    if not widens(x):
        return x
    x = x.double()
    return 1.5 * x - 0.5 * x @ (x.mT @ x)


def blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first p rows and the others."""
    n, p = x.shape[-2:]
    top, bottom = x.split([p, n - p], -2)
    return top, bottom


class Ray(NamedTuple):
    """A geodesic's velocity D (..., m, p) in the frame of its start, and ``D^T D`` with eigenvalues ``theta^2``."""

    velocity: Tensor
    gram: Spectrum

    def at(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the parts at time ``t``: ``cos(t theta)`` along the frame, ``t D sinc(t theta)`` off it."""
        matrix, values, vectors_h = self.gram
        if not isinstance(t, Tensor) and t == 1.0:
            return linalg.apply(self.gram, fn.COS_ROOT), self.velocity @ linalg.apply(self.gram, fn.SINC_ROOT)
        t = torch.as_tensor(t, dtype=values.dtype, device=values.device)[..., None, None]
        matrix, values = t.square() * matrix, t.detach().squeeze(-1).square() * values
        gram = Spectrum(matrix, values, vectors_h.expand(matrix.shape))
        return linalg.apply(gram, fn.COS_ROOT), self.velocity @ (t * linalg.apply(gram, fn.SINC_ROOT))

    @property
    def squared(self) -> Tensor:
        """The squared length."""
        return self.velocity.square().sum((-2, -1))


def ray(v: Tensor) -> Ray:
    """Return the geodesic with velocity ``v``."""
    return Ray(v, linalg.decompose(v.mT @ v, name="Grassmann"))


def ray_to(along: Tensor, off: Tensor) -> Ray:
    """Return the geodesic to the frame with parts ``along`` (p x p) in the span of its start and ``off`` beyond it."""
    cosine, factor = polar(along, off)
    velocity = off @ (factor.mT @ linalg.apply(cosine, fn.ARC_OVER_SINE))
    squares = cosine.values.acos().square()
    return Ray(velocity, Spectrum(velocity.mT @ velocity, squares, cosine.vectors_h))


def ray_between(p: Tensor, q: Tensor) -> Ray:
    """Return the geodesic from ``p`` to ``q`` in the frame ``p``."""
    p, q = orthonormal(p), orthonormal(q)
    gap = q - p  # its part off p is that of q, without the cancellation of q - p (p^T q)
    return ray_to(p.mT @ q, gap - p @ (p.mT @ gap))


class Turn(NamedTuple):
    """The isometry exp(omega) that carries the origin to a point along their geodesic: two reflections.

    The first reflects in the origin, which changes the ``signs`` (n) of all coordinates after the first p, the second
    in the middle of the geodesic, of which ``half`` is a frame.
    """

    half: Tensor
    signs: Tensor

    def apply(self, y: Tensor) -> Tensor:
        """Return ``exp(omega) y``."""
        return self.apply_rows(y.mT).mT

    def undo(self, y: Tensor) -> Tensor:
        """Return ``exp(-omega) y``."""
        return self.undo_rows(y.mT).mT

    def apply_rows(self, y: Tensor) -> Tensor:
        """Return the rows ``y exp(omega)^T`` of frames in rows."""
        across = y @ (self.signs.unsqueeze(-1) * self.half)
        return torch.addcmul(across @ (2 * self.half.mT), self.signs, y, value=-1)

    def undo_rows(self, y: Tensor) -> Tensor:
        """Return the rows ``y exp(omega)`` of frames in rows."""
        return torch.addcmul((y @ self.half) @ (2 * self.signs * self.half.mT), self.signs, y, value=-1)


def signs(x: Tensor) -> Tensor:
    """Return the signs (n) of the reflection in the origin: 1 for the first p coordinates, -1 for the others."""
    n, p = x.shape[-2:]
    return torch.cat([x.new_ones(p), x.new_full((n - p,), -1.0)])


def rows(x: Tensor) -> Tensor:
    """Return frames in rows, in memory too: products with shared matrices are then single large ones."""
    return x.mT.contiguous()


def principal_rows(y: Tensor) -> Principal:
    """Return the principal angles between frames in rows (..., p, n) and the origin."""
    p, n = y.shape[-2:]
    return principal(*y.split([p, n - p], -1))


def turn_to(x: Tensor) -> tuple[Turn, Tensor]:
    """Return the isometry that carries the origin to ``x``, and the factor O of the top block ``C O`` of ``x``."""
    cosine, factor = polar(*blocks(x))
    eye = torch.eye(*x.shape[-2:], dtype=x.dtype, device=x.device)
    doubled = Spectrum(2 * (cosine.matrix + eye[: x.shape[-1]]), 2 * (cosine.values + 1), cosine.vectors_h)
    return Turn((x @ factor.mT + eye) @ linalg.apply(doubled, INV_SQRT), signs(x)), factor


def turn_once(x: Tensor) -> Turn:
    """Return the isometry of `turn_to`, differentiable once and cheaper."""
    return Turn(dilate(principal_rows(rows(x)), 0.5).mT, signs(x))


def aligned(x: Tensor) -> Tensor:
    """Return the frame of the same space whose top block is symmetric and positive: the nearest to the origin."""
    return x @ polar(*blocks(x))[1].mT


def widest(frames: Tensor, weights: stats.Weights) -> Tensor:
    """Return the dominant p-space of the mean projector of frames (N, *groups, n, p): the chordal mean."""
    if isinstance(weights, stats.Reduction):
        mean = weights.mean(frames @ frames.mT, 2)
    else:
        weighted = frames if weights is None else weights.to(frames.dtype).sqrt()[..., None, None] * frames
        columns = weighted.movedim(0, -2).flatten(-2)  # (*groups, n, N p)
        mean = columns @ columns.mT
    return linalg.decompose(mean, name="Grassmann mean").vectors_h[..., -frames.shape[-1] :, :].mT.to(frames.dtype)
