"""Stereographic coordinates of constant curvature: the Poincare ball, flat space and the projected sphere."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.linalg._call import plain
from manifoldnorm.manifolds._ball_distance import ball_distance
from manifoldnorm.manifolds._conformal import ConformalManifold, check_space, sign_of
from manifoldnorm.manifolds._curvature import Disk, Space, square, widen
from manifoldnorm.stats import Weights


def keep_inside(x: Tensor, curvature: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Return points of the ball ``|x| < 1 / sqrt(-curvature)`` pulled back onto ``1 - 2 eps`` of its radius."""
    norm2 = -curvature * square(x)
    limit = 1 - 2 * torch.finfo(dtype).eps
    beyond = norm2 > limit * limit
    if plain(x) and not bool(beyond.any()):  # a look at values that costs nothing
        return x
    return torch.where(beyond, limit * torch.where(beyond, norm2, 1.0).rsqrt(), 1.0) * x


class Stereographic(ConformalManifold):
    r"""The space of constant curvature of any sign, in stereographic coordinates.

    Points are (..., d) with ``1 + K |x|^2 > 0``; the metric is ``4 <u, v> / (1 + K |x|^2)^2`` at x, four times the
    Euclidean one at the origin 0. Every operation is smooth in the curvature K, through zero. Single precision is
    computed in double and rounded once; points are kept ``2 eps`` (relative) inside the ball, so that distances from
    the origin reach 15.9 in single and 36 in double precision (times ``1 / sqrt(-K)``) and saturate beyond.

    Parameters
    ----------
    d : int
        Dimension.
    curvature : float or Tensor
        Signed. Negative: the Poincare ball; 0: flat space; positive: the sphere without the antipode of the origin.

    References
    ----------
    Ungar 2008, "A gyrovector space approach to hyperbolic geometry"; Bachmann, Becigneul and Ganea 2020, "Constant
    curvature graph convolutional networks".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x, y = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 0.0])
    >>> [round(float(mn.Stereographic(2, k).dist(x, y)), 4) for k in (-1.0, 0.0, 1.0)]
    [1.0986, 1.0, 0.9273]
    """

    origin_kind = "zero"
    learnable: ClassVar[dict[str, str]] = {"curvature": "real"}
    fixed_sign: ClassVar[int | None] = None

    def __init__(self, d: int, curvature: float | Tensor) -> None:
        check_space(type(self).__name__, d, curvature, self.fixed_sign)
        super().__init__((d,), d, {"d": d, "curvature": curvature})

    @property
    def _sign(self) -> int | None:
        return self.fixed_sign or sign_of(self.curvature)  # torch.compile does not resolve a property of super()

    @property
    def injectivity_radius(self) -> float | Tensor:
        """The distance of antipodes, infinite where there are none."""
        k = self.curvature
        if isinstance(k, Tensor):
            positive = k > 0
            return torch.where(positive, math.pi * torch.where(positive, k, 1.0).rsqrt(), math.inf)
        return math.pi / k**0.5 if k > 0 else math.inf

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return zeros."""
        return torch.zeros(*batch, self.d, dtype=dtype, device=device)

    def _enter(self, space: Space, x: Tensor) -> Disk:
        self._check_last(x)
        return space.disk(x)

    def _leave(self, space: Space, x: Disk, dtype: torch.dtype) -> Tensor:
        return self._inside(space, x.point, dtype).to(dtype)

    def _inside(self, space: Space, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x if space.sign == 1 else keep_inside(x, space.curvature, dtype)

    def _frame(self, space: Space, p: Disk, v: Tensor) -> Tensor:
        return (2 / p.gap) * v

    def _unframe(self, space: Space, p: Disk, frame: Tensor) -> Tensor:
        return (0.5 * p.gap) * frame

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distance; of a ball whose curvature is a number with its gradient in closed form."""
        k = self.curvature
        if isinstance(k, Tensor) or k >= 0 or p.dtype != q.dtype or not (plain(p.detach()) and plain(q.detach())):
            return super().dist(p, q)
        self._check_last(p)
        self._check_last(q)
        return ball_distance(widen(p), widen(q), k, super().dist).to(p.dtype)

    def closed_form_mean(self, x: Tensor, weights: Weights) -> Tensor | None:
        """Return the arithmetic mean where the space is known to be flat."""
        flat = not isinstance(self.curvature, Tensor) and self.curvature == 0
        return stats.weighted_mean(x, weights, 1) if flat else None

    def project(self, x: Tensor) -> Tensor:
        """Return ``x``, pulled back into the ball if the curvature is negative."""
        space, wide = self._open(x)
        return self._inside(space, wide, x.dtype).to(x.dtype)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``: every vector is tangent."""
        return v

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``(1 + K |p|^2)^2 g / 4``."""
        space, base = self._open(p)
        return (self._enter(space, base).gap.square() / 4 * widen(g)).to(g.dtype)

    def violation(self, x: Tensor) -> Tensor:
        """Return by how much ``x`` is outside of the ball, relative to its radius; at least 1 on the boundary."""
        space, wide = self._open(x)
        excess = -space.curvature * square(wide).squeeze(-1) - 1
        return torch.where(excess >= 0, 1 + excess, 0.0).to(x.dtype)


class PoincareBall(Stereographic):
    """The Poincare ball: hyperbolic space in the coordinates ``|x| < 1 / sqrt(-curvature)``.

    `Stereographic` with negative curvature; distances reach 15.9 / sqrt(-K) in single precision, see there.

    Parameters
    ----------
    d : int
        Dimension.
    curvature : float or Tensor
        Negative.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(2)
    >>> ball.gyroadd(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]))
    tensor([0.8000, 0.0000])
    """

    learnable: ClassVar[dict[str, str]] = {"curvature": "negative"}
    fixed_sign = -1

    def __init__(self, d: int, curvature: float | Tensor = -1.0) -> None:
        super().__init__(d, curvature)

    def to_lorentz(self, x: Tensor) -> Tensor:
        """Return points of the ball on the hyperboloid `Lorentz` of the same curvature."""
        from manifoldnorm.manifolds.hyperbolic import Lorentz

        return convert(self, Lorentz(self.d, self.curvature), x)

    def to_klein(self, x: Tensor) -> Tensor:
        """Return points of the ball in the `Klein` ball of the same curvature."""
        from manifoldnorm.manifolds.hyperbolic import Klein

        return convert(self, Klein(self.d, self.curvature), x)


class ProjectedSphere(Stereographic):
    """The sphere without the antipode of its origin, projected stereographically onto (d,) coordinates.

    `Stereographic` with positive curvature. Points near the antipode are far out and lose digits: use `Sphere` there.

    Parameters
    ----------
    d : int
        Dimension.
    curvature : float or Tensor
        Positive; the radius of the sphere is ``1 / sqrt(curvature)``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.ProjectedSphere(2).dist(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(1.5708)
    """

    learnable: ClassVar[dict[str, str]] = {"curvature": "positive"}
    fixed_sign = 1

    def __init__(self, d: int, curvature: float | Tensor = 1.0) -> None:
        super().__init__(d, curvature)

    def to_sphere(self, x: Tensor) -> Tensor:
        """Return points on the `Sphere` of the same curvature."""
        space, wide = self._open(x)
        disk = self._enter(space, wide)
        time = (2 - disk.gap) / disk.gap / space.curvature**0.5
        return torch.cat([time, 2 / disk.gap * wide], -1).to(x.dtype)


def convert(source: ConformalManifold, target: ConformalManifold, x: Tensor) -> Tensor:
    """Return points of one model in another of the same curvature."""
    space, wide = source._open(x)
    return target._leave(space, source._enter(space, wide), x.dtype)
