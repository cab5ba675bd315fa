"""The sphere as unit vectors of an ambient space, scaled by its radius."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.manifolds._conformal import check_space
from manifoldnorm.manifolds._curvature import arctan_ratio, dot, sine_cosine, widen
from manifoldnorm.manifolds._radial import RadialHessian
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.structures import Gyrogroup, Spread, same
from manifoldnorm.stats import MeanPolicy, MeanSystem, Weights


def _reflect(p: Tensor, v: Tensor, spread: Spread = same) -> Tensor:
    """Return ``v`` reflected so that the unit vector ``p`` meets plus or minus the first axis: always an isometry."""
    sign = torch.where(p[..., :1] < 0, -1.0, 1.0).to(p.dtype)
    axis = torch.cat([p[..., :1] + sign, p[..., 1:]], -1)
    square, axis = spread(dot(axis, axis)), spread(axis)
    return v - (2 * dot(axis, v) / square) * axis


def _any_tangent(p: Tensor) -> Tensor:
    """Return a unit vector orthogonal to the unit vector ``p``."""
    steep = p[..., :1].abs() > 0.8
    zero = torch.zeros_like(p[..., 2:])
    axis = torch.cat([(~steep).to(p.dtype), steep.to(p.dtype), zero], -1)
    tangent = axis - dot(axis, p) * p
    return tangent / dot(tangent, tangent).sqrt()


class Sphere(Manifold, Gyrogroup):
    r"""The sphere of radius ``1 / sqrt(curvature)`` in d + 1 dimensions, with arc length as distance.

    The origin is the first axis, ``(1 / sqrt(K), 0, ..., 0)``. Arguments are normalised to the radius first, so points
    cannot drift off the manifold; single precision is computed in double and rounded once. Distances use
    ``2 atan2(|x - y|, |x + y|)``, exact from 0 to the antipode. Within ``8 eps`` of the antipode `log` returns one of
    the many shortest geodesics, constant in the arguments, so that gradients stay finite. Gyroaddition with the
    antipode of the origin on the left is not defined; the result is finite and without meaning there.

    Parameters
    ----------
    d : int
        Dimension; points have ``d + 1`` coordinates.
    curvature : float or Tensor
        Positive.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> sphere = mn.Sphere(2)
    >>> sphere.dist(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0]))
    tensor(3.1416)
    """

    has_hessian = True
    learnable: ClassVar[dict[str, str]] = {"curvature": "positive"}
    d: int
    curvature: float | Tensor

    def __init__(self, d: int, curvature: float | Tensor = 1.0) -> None:
        check_space("Sphere", d, curvature, 1)
        super().__init__((d + 1,), d, {"d": d, "curvature": curvature})

    @property
    def injectivity_radius(self) -> float | Tensor:
        """The distance of antipodes."""
        return math.pi / self.curvature**0.5

    def _radius(self, like: Tensor) -> float | Tensor:
        k = self.curvature
        return (k.to(like) if isinstance(k, Tensor) else k) ** -0.5

    def _unit(self, x: Tensor) -> Tensor:
        """Return unit vectors in working precision; the origin in place of zero."""
        if x.shape[-1:] != self.point_shape:
            self.check_shape(x)
        x = widen(x)
        square = dot(x, x)
        zero = square < torch.finfo(x.dtype).tiny
        axis = torch.zeros_like(x[..., :1]) + 1
        unit = x * torch.where(zero, 1.0, square).rsqrt()
        return torch.where(zero, torch.nn.functional.pad(axis, (0, self.d)), unit)

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return ``(1 / sqrt(K), 0, ..., 0)``."""
        axis = torch.eye(1, self.d + 1, dtype=dtype, device=device)[0]
        return (self._radius(axis) * axis).expand(*batch, self.d + 1)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the end of the great-circle arc, normalised."""
        return self._arc(self._unit(p), widen(v)).to(p.dtype)

    def _arc(self, unit: Tensor, v: Tensor) -> Tensor:
        radius = self._radius(unit)
        angle = v / radius
        sine, cosine = sine_cosine(dot(angle, angle), 1)
        return radius * self._unit(cosine * unit + sine * angle)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the initial velocity of the shortest arc."""
        vector = self._angle_vector(p, q)
        return (self._radius(vector) * vector).to(p.dtype)

    def _chords(self, p: Tensor, q: Tensor, spread: Spread = same) -> tuple[Tensor, Tensor, Tensor]:
        """Return the unit vector a of ``p``, and ``b - a``, ``b + a`` for that of ``q``, the short one to all digits.

        They are differences of the arguments themselves: unit vectors, being rounded, would lose those.
        """
        unit, p, q = self._unit(p), widen(p), widen(q)
        a, length, p = spread(unit), spread(dot(p, p).sqrt()), spread(p)
        apart, together, other = q - p, q + p, dot(q, q).sqrt()
        # what the arguments' lengths differ by: rounding, unless they are off the sphere
        excess = dot(apart, together) / (length + other) * a
        return a, (apart - excess) / other, (together + excess) / other

    def _angle_vector(self, p: Tensor, q: Tensor, spread: Spread = same) -> Tensor:
        a, apart, together = self._chords(p, q, spread)
        square, other = dot(apart, apart), dot(together, together)
        # whichever of the two is short has the digits of the direction
        short = torch.where(square <= other, apart, together)
        across = short - dot(a, short) * a
        limit = (8 * torch.finfo(a.dtype).eps) ** 2
        antipodal = other < limit
        other = torch.where(antipodal, 4.0, other)
        ratio = torch.where(antipodal, 0.0, square / other)
        vector = (4 / other * arctan_ratio(ratio, 1 + ratio, 1)) * across
        return torch.where(antipodal, math.pi * _any_tangent(a.detach()), vector)

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the square of ``2 atan(|a - b| / |a + b|)`` times the radius, a and b the unit vectors."""
        a, apart, together = self._chords(p, q)
        ratio = dot(apart, apart) / dot(together, together).clamp_min(torch.finfo(a.dtype).eps ** 2)
        angle2 = 4 * ratio * arctan_ratio(ratio, 1 + ratio, 1).square()
        return (self._radius(a) ** 2 * angle2).squeeze(-1).to(p.dtype)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of products."""
        return (u * v).sum(-1) + 0 * p[..., 0]

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``v - 2 <b, v> / |a + b|^2 (a + b)``, a and b the unit vectors."""
        a, b, wide = self._unit(p), self._unit(q), widen(v)
        total = a + b
        square = dot(total, total).clamp_min(torch.finfo(a.dtype).eps ** 2)
        return (wide - 2 * dot(b, wide) / square * total).to(v.dtype)

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return `transport` to the origin."""
        return self.transport(p, self.origin(dtype=p.dtype, device=p.device), v)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return `transport` from the origin."""
        return self.transport(self.origin(dtype=p.dtype, device=p.device), p, v)

    def project(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled to the radius; the origin for 0."""
        unit = self._unit(x)
        return (self._radius(unit) * unit).to(x.dtype)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the part of ``v`` that is orthogonal to ``p``."""
        unit, wide = self._unit(p), widen(v)
        return (wide - dot(unit, wide) * unit).to(v.dtype)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the tangent part of ``g``."""
        return self.project_tangent(p, g)

    def violation(self, x: Tensor) -> Tensor:
        """Return the relative error of the norm."""
        wide = widen(x)
        return ((dot(wide, wide).sqrt() / self._radius(wide)).squeeze(-1) - 1).abs().to(x.dtype)

    def check_shape(self, x: Tensor, name: str = "x") -> None:
        """Raise as `Manifold.check_shape` does, with the fix where a coordinate is missing."""
        if x.ndim and x.shape[-1] == self.d:
            raise ValueError(
                f"{self}: {name}: expected (..., {self.d + 1}), got {tuple(x.shape)}: points of Sphere(d) have d + 1 "
                f"coordinates. Use Sphere({self.d - 1}), or ProjectedSphere({self.d}, K).to_sphere(x)."
            )
        super().check_shape(x, name)

    def to_projected(self, x: Tensor) -> Tensor:
        """Return points in the `ProjectedSphere` of the same curvature; very far out for the origin's antipode."""
        unit = self._unit(x)
        return (self._radius(unit) * unit[..., 1:] / self._height(unit)).to(x.dtype)

    @staticmethod
    def _height(unit: Tensor) -> Tensor:
        """Return ``1 + first coordinate`` without cancellation, above zero."""
        first, rest = unit[..., :1], unit[..., 1:]
        below = first < 0
        height = torch.where(below, dot(rest, rest) / torch.where(below, 1 - first, 1.0), 1 + first)
        return height.clamp_min(torch.finfo(unit.dtype).eps ** 2)

    # ---- gyrogroup

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y`` turned by the rotation that takes the origin to ``x`` along the shortest arc."""
        a, b = self._unit(x), self._unit(y)
        inner = dot(a[..., 1:], b[..., 1:])
        first = a[..., :1] * b[..., :1] - inner
        rest = b[..., 1:] + a[..., 1:] * (b[..., :1] - inner / self._height(a))
        return (self._radius(a) * torch.cat([first, rest], -1)).to(x.dtype)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return the point with all coordinates but the first negated."""
        return torch.cat([x[..., :1], -x[..., 1:]], -1)

    # ---- means

    @property
    def default_mean(self) -> MeanPolicy:
        """Two Newton steps from the midpoint: cheap, and nearly exact."""
        return stats.Newton(2)

    def midpoint(self, x: Tensor, weights: Weights = None) -> Tensor:
        """Return the projected centroid of (N, *groups, d + 1) over dimension 0; the origin if the centroid is 0."""
        unit = self._unit(x)
        centroid = stats.weighted_mean(unit, None if weights is None else weights.to(unit.dtype), 1)
        return self.project(centroid).to(x.dtype)

    def mean_start(self, x: Tensor, weights: Weights) -> Tensor:
        """Return the projected centroid."""
        return self.midpoint(x, weights)

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Return the system in reflected coordinates: the Hessian is 1 along a sample and ``a / tan(a)`` across."""
        to_samples = weights.spread if isinstance(weights, stats.Reduction) else same
        base = self._unit(p)
        radius = self._radius(base)
        vectors = radius * _reflect(base, self._angle_vector(p, x, to_samples), to_samples)
        weights = None if weights is None else weights.to(vectors.dtype)
        square = vectors.detach().square().sum(-1)
        with torch.no_grad():
            sine, cosine = sine_cosine(square / radius**2, 1)
            hessian = RadialHessian(vectors, square, cosine / sine, weights)
        residual, cost = stats.weighted_means(weights, (vectors, 1), (square, 0))
        return MeanSystem(residual, hessian, cost, 1 + cost.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return the exponential of the direction, reflected back."""
        unit = self._unit(p)
        return self._arc(unit, _reflect(unit, widen(direction))).to(p.dtype)
