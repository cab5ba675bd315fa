"""Hyperbolic space on the hyperboloid and in the Beltrami-Klein ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.manifolds._conformal import ConformalManifold, check_space
from manifoldnorm.manifolds._curvature import Disk, Space, dot, square, widen
from manifoldnorm.manifolds.stereographic import PoincareBall, convert, keep_inside


class Hyperbolic(ConformalManifold):
    """A model of hyperbolic space other than the Poincare ball."""

    learnable: ClassVar[dict[str, str]] = {"curvature": "negative"}

    @property
    def _sign(self) -> int:
        return -1

    def to_poincare(self, x: Tensor) -> Tensor:
        """Return points in the `PoincareBall` of the same curvature."""
        return convert(self, PoincareBall(self.d, self.curvature), x)

    def to_lorentz(self, x: Tensor) -> Tensor:
        """Return points on the hyperboloid `Lorentz` of the same curvature."""
        return convert(self, Lorentz(self.d, self.curvature), x)

    def to_klein(self, x: Tensor) -> Tensor:
        """Return points in the `Klein` ball of the same curvature."""
        return convert(self, Klein(self.d, self.curvature), x)


def _radial_difference(factor: float | Tensor, half_x: Tensor, half_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``half_y y - half_x x`` for ``half = 1 / (1 + sqrt(1 + factor |x|^2))``, to the digits of ``y - x``."""
    difference = y - x
    rise = factor * dot(difference, x + y) / (1 / half_x + 1 / half_y - 2)
    # the half of the point farther out: the other one times that point would cancel
    farther = half_x < half_y
    far, near = torch.where(farther, half_x, half_y), torch.where(farther, y, x)
    return far * difference - (half_x * half_y * rise) * near


class Lorentz(Hyperbolic):
    r"""The hyperboloid ``-x_0^2 + |x_s|^2 = 1 / curvature``, ``x_0 > 0``: points (..., d + 1), time coordinate first.

    The metric is the Minkowski form on tangent vectors; the origin is ``(1 / sqrt(-K), 0, ..., 0)``. The time
    coordinate of an argument is not read but computed from the spatial ones, which determine it (of a tangent vector
    likewise), so points cannot drift off the manifold. Single precision is computed in double and rounded once.
    Rounding of the stored coordinates is an error of about ``eps cosh(r)`` in distances at radius r: 2e-4 in single
    precision at r = 8. Where that is of order one, at r = 16.6 (36.7 in double precision, times ``1 / sqrt(-K)``),
    points saturate. `project_tangent` is orthogonal in the ambient Euclidean space, which does not amplify rounding far
    out as the Minkowski one does.

    Parameters
    ----------
    d : int
        Dimension; points have ``d + 1`` coordinates.
    curvature : float or Tensor
        Negative.

    References
    ----------
    Nickel and Kiela 2018, "Learning continuous hierarchies in the Lorentz model of hyperbolic geometry".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lorentz = mn.Lorentz(2)
    >>> point = lorentz.exp(lorentz.origin(), torch.tensor([0.0, 1.0, 0.0]))
    >>> point, lorentz.dist(lorentz.origin(), point)
    (tensor([1.5431, 1.1752, 0.0000]), tensor(1.))
    """

    def __init__(self, d: int, curvature: float | Tensor = -1.0) -> None:
        check_space("Lorentz", d, curvature, -1)
        super().__init__((d + 1,), d, {"d": d, "curvature": curvature})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return ``(1 / sqrt(-K), 0, ..., 0)``."""
        return self.lift(torch.zeros(*batch, self.d, dtype=dtype, device=device))

    def lift(self, x: Tensor) -> Tensor:
        """Return the points (..., d + 1) with spatial coordinates ``x`` (..., d)."""
        space, wide = self._open(x)
        return self._with_time(space, wide).to(x.dtype)

    def _with_time(self, space: Space, x: Tensor) -> Tensor:
        return torch.cat([(square(x) - 1 / space.curvature).sqrt(), x], -1)

    def _enter(self, space: Space, x: Tensor) -> Disk:
        self._check_last(x)
        x = x[..., 1:]
        norm2 = square(x)
        half = 1 / (1 + (1 - space.curvature * norm2).sqrt())
        return Disk(half * x, half.square() * norm2, 2 * half)

    def _leave(self, space: Space, x: Disk, dtype: torch.dtype) -> Tensor:
        return self._with_time(space, 2 / x.gap.clamp_min(torch.finfo(dtype).eps) * x.point).to(dtype)

    def _difference(self, space: Space, x: Disk, y: Disk, of_x: Callable[[], Tensor], of_y: Tensor) -> Tensor:
        return _radial_difference(-space.curvature, x.gap / 2, y.gap / 2, of_x()[..., 1:], of_y[..., 1:])

    def _frame(self, space: Space, p: Disk, v: Tensor) -> Tensor:
        return space.shrink(p, v[..., 1:])

    def _unframe(self, space: Space, p: Disk, frame: Tensor) -> Tensor:
        time = (-space.curvature) ** 0.5 * 2 / p.gap * dot(p.point, frame)
        return torch.cat([time, space.stretch(p, frame)], -1)

    def _coordinates(self, frame: Tensor) -> Tensor:
        return torch.nn.functional.pad(frame, (1, 0))

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return the point with the spatial coordinates negated."""
        return torch.cat([x[..., :1], -x[..., 1:]], -1)

    def project(self, x: Tensor) -> Tensor:
        """Return the point with the same spatial coordinates."""
        self._check_last(x)
        return self.lift(x[..., 1:])

    def _normal(self, space: Space, p: Tensor) -> Tensor:
        """Return the Euclidean unit normal ``(-x_0, x_s)`` of the tangent space."""
        self._check_last(p)
        lifted = self._with_time(space, p[..., 1:])
        normal = torch.cat([-lifted[..., :1], lifted[..., 1:]], -1)
        return normal / square(normal).sqrt()

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the tangent vector nearest to ``v`` in the ambient Euclidean space."""
        space, base, wide = self._open(p, v)
        normal = self._normal(space, base)
        return (wide - dot(normal, wide) * normal).to(v.dtype)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the Riemannian gradient; that part of ``g`` is immaterial which is normal to the hyperboloid."""
        space, base, wide = self._open(p, g)
        disk = self._enter(space, base)
        # the derivative along the unit vectors of the frame, which are an orthonormal basis of the tangent space
        time = (-space.curvature) ** 0.5 * 2 / disk.gap * wide[..., :1]
        gradient = space.stretch(disk, wide[..., 1:]) + time * disk.point
        return self._unframe(space, disk, gradient).to(g.dtype)

    def violation(self, x: Tensor) -> Tensor:
        """Return the relative error of the time coordinate."""
        space, wide = self._open(x)
        time = self._with_time(space, wide[..., 1:])[..., 0]
        return ((wide[..., 0] - time) / time).abs().to(x.dtype)

    def check_shape(self, x: Tensor, name: str = "x") -> None:
        """Raise as `Manifold.check_shape` does, with the fix where the time coordinate is missing."""
        if x.ndim and x.shape[-1] == self.d:
            raise ValueError(
                f"{self}: {name}: expected (..., {self.d + 1}), time coordinate first, got {tuple(x.shape)}. "
                f"Lift spatial coordinates with manifold.lift(x), or points of the ball with "
                f"PoincareBall({self.d}, K).to_lorentz(x)."
            )
        super().check_shape(x, name)


class Klein(Hyperbolic):
    r"""The Beltrami-Klein ball: hyperbolic space in coordinates in which geodesics are straight lines.

    Points are (..., d) with ``|x| < 1 / sqrt(-K)``. At x, with ``G = 1 + K |x|^2``, the metric is
    ``<u, v> / G - K <x, u> <x, v> / G^2``. Single precision is computed in double and rounded once. The coordinates
    crowd at the boundary: distances from the origin reach 7.9 in single and 18 in double precision (times
    ``1 / sqrt(-K)``) and saturate beyond. `gyroadd` is Einstein's addition of velocities.

    Parameters
    ----------
    d : int
        Dimension.
    curvature : float or Tensor
        Negative.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> klein = mn.Klein(2)
    >>> klein.gyroadd(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]))
    tensor([0.8000, 0.0000])
    """

    origin_kind = "zero"

    def __init__(self, d: int, curvature: float | Tensor = -1.0) -> None:
        check_space("Klein", d, curvature, -1)
        super().__init__((d,), d, {"d": d, "curvature": curvature})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return zeros."""
        return torch.zeros(*batch, self.d, dtype=dtype, device=device)

    def _enter(self, space: Space, x: Tensor) -> Disk:
        self._check_last(x)
        inner = space.disk(x)
        root = inner.gap.sqrt()
        half = 1 / (1 + root)
        return Disk(half * x, half.square() * inner.square, 2 * root * half)

    def _leave(self, space: Space, x: Disk, dtype: torch.dtype) -> Tensor:
        return keep_inside(2 / (2 - x.gap) * x.point, space.curvature, dtype).to(dtype)

    def _difference(self, space: Space, x: Disk, y: Disk, of_x: Callable[[], Tensor], of_y: Tensor) -> Tensor:
        return _radial_difference(space.curvature, 1 - x.gap / 2, 1 - y.gap / 2, of_x(), of_y)

    def _frame(self, space: Space, p: Disk, v: Tensor) -> Tensor:
        return (2 - p.gap) / p.gap * space.stretch(p, v)

    def _unframe(self, space: Space, p: Disk, frame: Tensor) -> Tensor:
        return p.gap / (2 - p.gap) * space.shrink(p, frame)

    def project(self, x: Tensor) -> Tensor:
        """Return ``x``, pulled back into the ball."""
        space, wide = self._open(x)
        return keep_inside(wide, space.curvature, x.dtype).to(x.dtype)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``: every vector is tangent."""
        return v

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``G (g + K <p, g> p)`` with ``G = 1 + K |p|^2``."""
        space, base = self._open(p)
        wide = widen(g)
        gap = space.disk(base).gap
        return (gap * (wide + space.curvature * dot(base, wide) * base)).to(g.dtype)

    def violation(self, x: Tensor) -> Tensor:
        """Return by how much ``x`` is outside of the ball, relative to its radius; at least 1 on the boundary."""
        space, wide = self._open(x)
        excess = -space.curvature * square(wide).squeeze(-1) - 1
        return torch.where(excess >= 0, 1 + excess, 0.0).to(x.dtype)
