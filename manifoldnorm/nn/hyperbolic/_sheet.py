"""Hyperplanes and horospheres of hyperbolic space, in coordinates that every model shares."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldnorm.manifolds._conformal import ConformalManifold
from manifoldnorm.manifolds._curvature import Disk, Space, square, widen
from manifoldnorm.manifolds.base import safe_sqrt


class Sheet(NamedTuple):
    """Points on the hyperboloid of curvature -1 (of unit radius), with ``root = sqrt(-K)`` of the space they are from.

    ``spatial`` (..., d) are the spatial coordinates and ``rise`` (..., 1) the time coordinate minus one.
    """

    root: Any
    spatial: Tensor
    rise: Tensor


def enter(manifold: ConformalManifold, x: Tensor) -> Sheet:
    """Return points of any model of hyperbolic space on the unit sheet, in working precision."""
    space, wide = manifold._open(x)
    disk = manifold._enter(space, wide)
    root = root_of(space)
    return Sheet(root, (2 * root / disk.gap) * disk.point, (2 * root * root / disk.gap) * disk.square)


def root_of(space: Space) -> Any:
    """Return ``sqrt(-K)``."""
    return (-space.curvature) ** 0.5


def disk_from_distances(space: Space, distances: Tensor) -> Disk:
    """Return the points with these signed distances (..., d) from the coordinate hyperplanes.

    Distances are clamped where the square of a hyperbolic sine would overflow, far beyond where points saturate.
    """
    root, limit = root_of(space), 0.4 * math.log(torch.finfo(distances.dtype).max)
    spatial = (root * distances).clamp(-limit, limit).sinh() / root
    norm2 = square(spatial)
    half = 1 / (1 + (1 + root * root * norm2).sqrt())
    return Disk(half * spatial, half.square() * norm2, 2 * half)


def directions(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norms (k,) and unit rows (k, d) of weights in working precision; a zero row has gradient zero."""
    wide = widen(weight)
    gain = safe_sqrt(square(wide))
    return gain.squeeze(-1), wide / torch.where(gain > 0, gain, 1.0)


def hyperplane_scores(x: Sheet, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``|w_k|`` times the signed distance of each point from the k-th hyperplane, (..., k).

    The hyperplane is normal to ``w_k`` and meets the geodesic through the origin along it at ``-bias_k``.
    """
    gain, unit = directions(weight)
    return gain * (shifted(x.spatial @ unit.mT, 1 + x.rise, x.root, bias).asinh() / x.root)


def shifted(along: Tensor, time: Tensor, root: Any, bias: Tensor | None) -> Tensor:
    """Return the coordinate along the normals after a boost by ``bias`` along each of them."""
    if bias is None:
        return along
    angle = root * widen(bias)
    return along * angle.cosh() + time * angle.sinh()


def busemann_scores(x: Sheet, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``bias_k - |w_k| B_k(x)`` (..., k), B_k the Busemann function of the ideal point in direction ``w_k``.

    ``exp(B)`` is at least ``1 / (2 t)``, t the time coordinate: rounding is kept from pushing it below.
    """
    gain, unit = directions(weight)
    excess = x.rise - x.spatial @ unit.mT
    small = excess.abs() < 0.5
    lowest = 0.5 / (1 + x.rise)
    near = torch.where(small, excess, 0.0).log1p()
    far = torch.maximum(torch.where(small, 1.0, 1 + excess), lowest).log()
    scores = -gain * (torch.where(small, near, far) / x.root)
    return scores if bias is None else scores + widen(bias)
