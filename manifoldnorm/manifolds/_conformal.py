"""What the models of constant curvature share: every operation, in terms of the gyrovector space of the disk."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.manifolds._curvature import Disk, Space, sine_cosine, widen
from manifoldnorm.manifolds._radial import RadialHessian
from manifoldnorm.manifolds.base import Manifold, spread
from manifoldnorm.manifolds.structures import Finish, Gyrogroup, Spread, same
from manifoldnorm.stats import MeanPolicy, MeanSystem, Weights


def sign_of(curvature: float | Tensor) -> int | None:
    """Return the sign of a curvature, None for one that is learned."""
    if isinstance(curvature, Tensor):
        return None
    return -1 if curvature < 0 else 1


def check_space(name: str, d: int, curvature: float | Tensor, sign: int | None = None) -> None:
    """Raise unless ``d`` is a positive integer and the curvature one finite number of the sign of the model."""
    if not isinstance(d, int) or d < 1:
        raise ValueError(f"{name}: d must be a positive integer (the dimension), got {d!r}.")
    if isinstance(curvature, Tensor):  # learned values are in range by construction
        if curvature.ndim:
            raise ValueError(f"{name}: curvature must be one number, got a tensor of shape {tuple(curvature.shape)}.")
        return
    if not -math.inf < curvature < math.inf:
        raise ValueError(f"{name}: curvature must be finite, got {curvature}.")
    if sign is not None and curvature * sign <= 0:
        wanted, other = ("negative", "Sphere or ProjectedSphere") if sign < 0 else ("positive", "PoincareBall")
        fix = f"pass curvature={-curvature}" if curvature else "use Stereographic or Euclidean for flat space"
        raise ValueError(f"{name}: curvature must be {wanted}, got {curvature}; {fix} (or use {other}).")


class ConformalManifold(Manifold, Gyrogroup):
    """A model of constant curvature whose points are mapped to the conformal disk and back.

    A model says how it enters the disk and leaves it, and what its tangent vectors are in an orthonormal frame carried
    from the origin. The exponential is then ``p (+) exp_e(frame)``, and transport through the origin the identity.
    """

    has_hessian = True
    d: int
    curvature: float | Tensor

    @property
    def _sign(self) -> int | None:
        """The sign of the curvature where it is known; None for one that is learned."""
        return sign_of(self.curvature)

    def _open(self, *tensors: Tensor) -> tuple[Any, ...]:
        """Return the space and the tensors in working precision."""
        wide = [widen(t) for t in tensors]
        k = self.curvature
        return Space(k.to(wide[0]) if isinstance(k, Tensor) else k, self._sign), *wide

    def _check_last(self, x: Tensor) -> None:
        if x.shape[-1:] != self.point_shape:
            self.check_shape(x)

    # ---- the model

    @abc.abstractmethod
    def _enter(self, space: Space, x: Tensor) -> Disk:
        """Return points of the model as points of the disk."""

    @abc.abstractmethod
    def _leave(self, space: Space, x: Disk, dtype: torch.dtype) -> Tensor:
        """Return points of the disk in the model, rounded and kept inside it."""

    @abc.abstractmethod
    def _frame(self, space: Space, p: Disk, v: Tensor) -> Tensor:
        """Return tangent vectors at ``p`` in the orthonormal frame (..., d)."""

    @abc.abstractmethod
    def _unframe(self, space: Space, p: Disk, frame: Tensor) -> Tensor:
        """Return the tangent vectors at ``p`` with these coordinates."""

    def _difference(self, space: Space, x: Disk, y: Disk, of_x: Callable[[], Tensor], of_y: Tensor) -> Tensor | None:
        """Return ``y.point - x.point`` with the digits of ``of_y - of_x()`` where plain subtraction would lose them."""
        return None

    def _coordinates(self, frame: Tensor) -> Tensor:
        """Return vectors of the frame in the shape of points: coordinates of `mean_system`."""
        return frame

    def _moved(self, space: Space, p: Tensor, q: Tensor, spread: Spread = same) -> tuple[Disk, Disk]:
        """Return ``p`` and ``-p (+) q`` in the disk, to which ``p`` is spread once it is there."""
        base, target = self._enter(space, p), self._enter(space, q)
        if spread is not same:
            base = Disk(*(spread(part) for part in base))
        return base, space.add(-base, target, self._difference(space, base, target, lambda: spread(p), q))

    # ---- Riemannian

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p (+) exp_e(v)``, v carried to the origin."""
        space, base, v = self._open(p, v)
        base = self._enter(space, base)
        return self._leave(space, space.add(base, space.exp(self._frame(space, base, v))), p.dtype)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``log_e(-p (+) q)`` carried to ``p``."""
        space, base, target = self._open(p, q)
        base, moved = self._moved(space, base, target)
        return self._unframe(space, base, space.log(moved)).to(p.dtype)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of products in the frame."""
        space, base, first, second = self._open(p, u, v)
        base = self._enter(space, base)
        framed = self._frame(space, base, first)
        other = framed if v is u else self._frame(space, base, second)
        return (framed * other).sum(-1).to(p.dtype)

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the vector at the origin with the same coordinates in the frame."""
        space, base, wide = self._open(p, v)
        frame = self._frame(space, self._enter(space, base), wide)
        return self._unframe(space, space.origin(frame), frame).to(v.dtype)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the vector at ``p`` with the same coordinates in the frame."""
        space, base, wide = self._open(p, v)
        frame = self._frame(space, space.origin(wide), wide)
        return self._unframe(space, self._enter(space, base), frame).to(v.dtype)

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the vector whose coordinates are turned by ``gyr[q, -p]``."""
        space, base, target, wide = self._open(p, q, v)
        base, target = self._enter(space, base), self._enter(space, target)
        turned = space.gyrate(target, -base, self._frame(space, base, wide))
        return self._unframe(space, target, turned).to(v.dtype)

    def step(self, p: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``exp(p, v)`` and ``w`` transported there: what an optimizer does, from one entry to the disk."""
        space, base, v, w = self._open(p, v, w)
        base = self._enter(space, base)
        change = space.exp(self._frame(space, base, v))
        end = space.add(base, change)
        turned = space.gyrate(base, change, self._frame(space, base, w))
        return self._leave(space, end, p.dtype), self._unframe(space, end, turned).to(p.dtype)

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the squared distance of ``-p (+) q`` from the origin."""
        space, first, second = self._open(p, q)
        _, moved = self._moved(space, first, second)
        return (4 * moved.square * space.arc(moved).square()).squeeze(-1).to(p.dtype)

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance from the origin and the dilation about it."""
        space, wide = self._open(x)
        squared, finish = self._dilation(space, self._enter(space, wide), x.dtype)
        return squared, lambda t: finish(t, None)

    def _dilation(self, space: Space, x: Disk, dtype: torch.dtype) -> tuple[Tensor, Finish]:
        arc = space.arc(x)
        squared = 4 * x.square * arc.square()

        def finish(t: Tensor | float, bias: Tensor | None) -> Tensor:
            time = widen(spread(t, 1)) if isinstance(t, Tensor) else t  # type: ignore[arg-type]
            scaled = space.scale(x, arc, time)
            if bias is not None:
                scaled = space.add(self._enter(space, widen(bias)), scaled)
            return self._leave(space, scaled, dtype)

        return squared.squeeze(-1).to(dtype), finish

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return ``p (+) exp_e(v)``."""
        space, wide = self._open(v)
        end = space.exp(self._frame(space, space.origin(wide), wide))
        if p is not None:
            end = space.add(self._enter(space, widen(p)), end)
        return self._leave(space, end, v.dtype)

    def random_tangent(self, p: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a tangent vector at each ``p`` with standard normal coordinates in the frame."""
        noise = torch.randn(*p.shape[:-1], self.d, generator=generator, dtype=p.dtype, device=p.device)
        space, base, noise = self._open(p, noise)
        return self._unframe(space, self._enter(space, base), noise).to(p.dtype)

    # ---- gyrogroup

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the gyrosum, which is the Mobius sum in the disk."""
        space, first, second = self._open(x, y)
        return self._leave(space, space.add(self._enter(space, first), self._enter(space, second)), x.dtype)

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``gyroneg(x) (+) y``."""
        space, first, second = self._open(x, y)
        return self._leave(space, self._moved(space, first, second)[1], x.dtype)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return ``-x``."""
        return -x

    def gyration(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return ``gyr[x, y] z``: a rotation about the origin, in closed form."""
        space, first, second, third = self._open(x, y, z)
        disk = self._enter(space, third)
        turned = space.gyrate(self._enter(space, first), self._enter(space, second), disk.point)
        return self._leave(space, Disk(turned, disk.square, disk.gap), z.dtype)

    def gyro_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Enter the disk once, move, scale and move back there, and leave once."""
        space, middle, wide = self._open(center, x)
        return self._dilation(space, self._moved(space, middle, wide, spread)[1], x.dtype)

    # ---- means

    @property
    def default_mean(self) -> MeanPolicy:
        """Two Newton steps from the midpoint: cheap, and nearly exact."""
        return stats.Newton(2)

    def midpoint(self, x: Tensor, weights: Weights = None) -> Tensor:
        """Return the gyromidpoint of (N, *groups, *point_shape) over dimension 0, weights (N, *groups) sum to one.

        It is the Lorentz centroid and the Einstein midpoint: close to the Frechet mean, carried along by
        gyrotranslations as that is, but not kept in place by dilations.
        """
        space, wide = self._open(x)
        weights = None if weights is None else weights.to(wide.dtype)
        return self._leave(space, space.disk(space.midpoint(self._enter(space, wide), weights)), x.dtype)

    def mean_start(self, x: Tensor, weights: Weights) -> Tensor:
        """Return the gyromidpoint."""
        return self.midpoint(x, weights)

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Return the system in the frame: the Hessian is 1 along a sample and ``a / tan(a)`` across, a the angle."""
        space, base, samples = self._open(p, x)
        to_samples = weights.spread if isinstance(weights, stats.Reduction) else same
        _, moved = self._moved(space, base, samples, to_samples)
        arc = space.arc(moved)
        vectors = self._coordinates((2 * arc) * moved.point)
        square = (4 * moved.square * arc.square()).detach().squeeze(-1)
        weights = None if weights is None else weights.to(vectors.dtype)
        with torch.no_grad():
            sine, cosine = sine_cosine(space.curvature * square, self._sign)
            hessian = RadialHessian(vectors, square, cosine / sine, weights)
        residual, cost = stats.weighted_means(weights, (vectors, 1), (square, 0))
        return MeanSystem(residual, hessian, cost, 1 + cost.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return ``p (+) exp_e(direction)``."""
        space, base, direction = self._open(p, direction)
        step = space.exp(direction[..., direction.shape[-1] - self.d :])
        return self._leave(space, space.add(self._enter(space, base), step), p.dtype)
