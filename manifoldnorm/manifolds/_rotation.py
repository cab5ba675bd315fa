"""Logarithms, exponentials and powers of rotations: quaternions up to three dimensions, principal angles beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from manifoldnorm.manifolds import _frames
from manifoldnorm.manifolds.base import spread


class Decomposed(NamedTuple):
    """Rotations r (..., n, n): their skew-symmetric logarithm, its squared Frobenius norm, and ``t -> r^t``."""

    log: Tensor
    squared: Tensor
    power: Callable[[Tensor | float], Tensor]


def decompose(r: Tensor) -> Decomposed:
    """Return what there is to know about rotations, from one decomposition."""
    n = r.shape[-1]
    if n <= 3:
        vector = _axis_angle(_padded(r))
        squared = 2 * vector.square().sum(-1)
        return Decomposed(_hat(vector)[..., :n, :n], squared, lambda t: _rodrigues(spread(t, 1) * vector)[..., :n, :n])
    wide = _frames.widened(r)
    eye = torch.eye(n, dtype=wide.dtype, device=r.device)
    # the root of r turns (I + r) / 2 back to cos(theta / 2) and (r - I) / 2 to J sin(theta / 2): half the angles
    half = _frames.ray_to((eye + wide) / 2, (wide - eye) / 2)

    def power(t: Tensor | float) -> Tensor:
        along, off = half.at(2 * t)
        return (along + off).to(r.dtype)

    return Decomposed(_skew(2 * half.velocity).to(r.dtype), (4 * half.squared).to(r.dtype), power)


def exp(s: Tensor) -> Tensor:
    """Return the rotations ``exp(s)`` of skew-symmetric matrices."""
    n = s.shape[-1]
    if n <= 3:
        s = _padded(s)
        return _rodrigues(torch.stack([s[..., 2, 1], s[..., 0, 2], s[..., 1, 0]], -1))[..., :n, :n]
    along, off = _frames.ray(_skew(_frames.widened(s))).at(1.0)
    return (along + off).to(s.dtype)


def _skew(m: Tensor) -> Tensor:
    return (m - m.mT) / 2


def _padded(m: Tensor) -> Tensor:
    """Return plane rotations as rotations about the third axis."""
    if m.shape[-1] == 3:
        return m
    out = torch.nn.functional.pad(m, (0, 1, 0, 1))
    corner = torch.zeros(3, 3, dtype=m.dtype, device=m.device)
    corner[2, 2] = 1
    return out + corner


def _hat(v: Tensor) -> Tensor:
    """Return the matrix of the cross product with ``v`` (..., 3)."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _rodrigues(v: Tensor) -> Tensor:
    """Return the rotation about the axis ``v`` (..., 3) by its length."""
    squared = v.square().sum(-1)[..., None, None]
    angle = (squared + torch.finfo(v.dtype).tiny).sqrt()  # keeps the derivative at 0 finite; the kernels are flat there
    k = _hat(v)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    half = torch.sinc(angle / (2 * torch.pi))
    return eye + torch.sinc(angle / torch.pi) * k + 0.5 * half.square() * (k @ k)


def _axis_angle(r: Tensor) -> Tensor:
    """Return the rotation vector (..., 3), of length at most pi, through the unit quaternion.

    Of the four rows of ``4 q q^T`` the one with the largest diagonal is taken: it never vanishes, and the vector part
    keeps its digits at every angle. At an angle of pi both signs are right and one of them is returned.
    """
    d = r.diagonal(dim1=-2, dim2=-1)
    a, b, c = d.unbind(-1)
    skew, even = r.mT - r, r.mT + r
    x, y, z = skew[..., 1, 2], skew[..., 2, 0], skew[..., 0, 1]
    xy, xz, yz = even[..., 0, 1], even[..., 0, 2], even[..., 1, 2]
    rows = [
        [1 + a + b + c, x, y, z],
        [x, 1 + a - b - c, xy, xz],
        [y, xy, 1 - a + b - c, yz],
        [z, xz, yz, 1 - a - b + c],
    ]
    table = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = table.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    q = torch.where(q[..., :1] < 0, -q, q)
    cosine, vector = q[..., :1], q[..., 1:]
    squared = vector.square().sum(-1, keepdim=True)
    small = squared < torch.finfo(r.dtype).eps
    near = torch.where(small, cosine, 1.0)
    sine = torch.where(small, 1.0, squared).sqrt()
    ratio = torch.where(small, (1 - squared / (3 * near.square())) / near, torch.atan2(sine, cosine) / sine)
    return 2 * ratio * vector
