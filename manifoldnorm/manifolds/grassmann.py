"""Subspaces of a Euclidean space, as orthonormal frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.linalg import _grassmann, principal
from manifoldnorm.linalg.polar import polar
from manifoldnorm.manifolds import _frames
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds._frames import Ray, Turn, widened
from manifoldnorm.manifolds._jacobi import JacobiHessian
from manifoldnorm.manifolds.base import Manifold, safe_sqrt
from manifoldnorm.manifolds.stiefel import polar_factor
from manifoldnorm.manifolds.structures import Finish, Gyrogroup, Spread, same
from manifoldnorm.stats import MeanSystem, Weights


class Grassmann(Manifold, Gyrogroup):
    r"""Subspaces of dimension p of R^n, as orthonormal frames (n, p) that count as equal if they span the same space.

    The distance is the norm of the principal angles, ``d(p, q)^2 = sum theta_i^2`` with ``cos theta_i`` the singular
    values of ``p^T q``. Tangent vectors at p are horizontal, ``p^T v = 0``, with ``<u, v> = tr(u^T v)``. The origin is
    the span of the first p axes. Every operation works with p x p matrices, its result does not depend on the frames
    that stand for its arguments (tangent vectors turn along with the frame of their base point), and the frame it
    returns varies smoothly with them. Gyroaddition is the turn that carries the origin to ``x``, applied to ``y``.

    A geodesic is the shortest up to a principal angle of pi/2, the cut locus: there `log` returns one of the shortest
    ones, `check_apart` raises, and gradients lose digits as eps over the cosine of the largest angle. Means and
    moments are unique within pi/4 of a point (in the distance).

    Parameters
    ----------
    n : int
        Dimension of the space.
    p : int
        Dimension of the subspaces, ``0 < p < n``.

    References
    ----------
    Edelman, Arias and Smith 1998, "The geometry of algorithms with orthogonality constraints"; Bendokat, Zimmermann
    and Absil 2024, "A Grassmann manifold handbook"; gyrogroup: Nguyen and Yang 2023, "Building neural networks on
    matrix manifolds: a gyrovector space approach".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lines = mn.Grassmann(2, 1)
    >>> lines.dist(torch.tensor([[1.0], [0.0]]), torch.tensor([[-0.6], [0.8]]))
    tensor(0.9273)
    """

    has_hessian = True
    injectivity_radius = math.pi / 2

    def __init__(self, n: int, p: int) -> None:
        if not (isinstance(n, int) and isinstance(p, int) and 0 < p < n):
            raise ValueError(f"Grassmann: needs integers 0 < p < n, got n={n!r}, p={p!r}. Points are frames (n, p).")
        super().__init__((n, p), p * (n - p), {"n": n, "p": p})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the span of the first p axes."""
        return torch.eye(*self.point_shape, dtype=dtype, device=device).expand(*batch, *self.point_shape)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p cos T + v sinc T`` with ``T^2 = v^T v``."""
        return _point(p, _frames.ray(widened(v)), 1.0)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``(I - p p^T) q O^T g(C)`` with ``p^T q = C O`` (polar) and ``g(c) = acos(c) / sin(acos(c))``."""
        return _frames.ray_between(p, q).velocity.to(q.dtype)

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return ``exp(p, t log(p, q))``, from one decomposition."""
        if torch.is_grad_enabled() or p.shape != q.shape:
            return _point(p, _frames.ray_between(p, q), t)
        base, target = _frames.orthonormal(p), _frames.orthonormal(q)
        simple = isinstance(t, float) or t.shape == p.shape[:-2]
        if simple and _grassmann.usable(base) and _grassmann.usable(target):
            moved = _grassmann.move(base, target, t)
            if moved is not None:
                return moved.to(p.dtype)
        gap = target - base
        along = base.mT @ gap
        eye = torch.eye(p.shape[-1], dtype=base.dtype, device=p.device)
        y = principal.dilate(principal.principal((eye + along).mT, (gap - base @ along).mT), t)
        top, off = y.mT.split([p.shape[-1], p.shape[-2]], -2)
        return (base @ top + off).to(p.dtype)

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the sum of the squared principal angles."""
        return _frames.ray_between(p, q).squared.to(q.dtype)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distance; frames of one space have distance 0 up to their rounding, with gradient 0."""
        squared = _frames.ray_between(p, q).squared
        floor = 16 * torch.finfo(squared.dtype).eps * self.point_shape[-1]
        return safe_sqrt(torch.where(squared > floor**2, squared, 0.0)).to(q.dtype)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``tr(u^T v)``."""
        return (u * v).sum((-2, -1))

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``exp(-omega) v O^T`` where ``p = exp(omega) e O``."""
        turn, factor = _frames.turn_to(widened(p))
        return turn.undo(widened(v) @ factor.mT).to(v.dtype)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``exp(omega) v O`` where ``p = exp(omega) e O``."""
        turn, factor = _frames.turn_to(widened(p))
        return turn.apply(widened(v) @ factor).to(v.dtype)

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``(v - (p + S (I + C)^-1) S^T v) O`` where ``q = (p C + S) O``."""
        base, target, x = widened(p), widened(q), widened(v)
        along = base.mT @ target
        off = target - base @ along
        cosine, factor = polar(along, off)
        sine = off @ factor.mT
        eye = torch.eye(self.point_shape[-1], dtype=x.dtype, device=x.device)
        across = sine.mT @ x
        moved = x - base @ across - sine @ (torch.linalg.inv_ex(eye + cosine.matrix)[0] @ across)
        return (moved @ factor).to(v.dtype)

    def project(self, x: Tensor) -> Tensor:
        """Return the polar factor of ``x``, which spans the same space."""
        return polar_factor(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v - p p^T v``."""
        return v - p @ (p.mT @ v)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``g - p p^T g``."""
        return self.project_tangent(p, g)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the polar factor of ``p + v``."""
        return polar_factor(p + v)

    def violation(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm of ``x^T x - I``."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.matrix_norm(x.mT @ x - eye)

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance from the origin and the dilation about it, from one decomposition."""
        ray = _frames.ray_to(*_frames.blocks(widened(x)))
        return ray.squared.to(x.dtype), lambda t: torch.cat(ray.at(t), -2).to(x.dtype)

    def random_point(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Return the exponential at the origin of random tangent vectors of norm about 1/2, away from the cut locus."""
        origin = self.origin(*batch, dtype=dtype, device=device)
        return self.exp(origin, self.random_tangent(origin, generator) / (2 * math.sqrt(self.dim)))

    def check_apart(self, p: Tensor, q: Tensor, name: str = "q") -> None:
        """Raise a ValueError that names the first of ``q`` at the cut locus of ``p``: a principal angle of pi / 2.

        Looks at values, so it synchronises with the device.
        """
        p, q = _frames.orthonormal(p), _frames.orthonormal(q)
        along = p.mT @ q
        largest = principal.principal(along.mT, (q - p @ along).mT).angles.amax(-1)
        where = first_bad(largest > math.pi / 2 - 1e3 * torch.finfo(largest.dtype).eps)
        if where is not None:
            raise ValueError(
                f"{self}: {name}: {where[0]} has a direction orthogonal to its base point (principal angle "
                f"{float(largest.flatten()[where[1]]):.6g}, pi / 2 to rounding): the shortest geodesic is not unique. "
                f"Leave the sample out (weight 0) or use subspaces that are closer together."
            )

    # ---- projectors

    def to_projector(self, x: Tensor) -> Tensor:
        """Return the orthogonal projector (n, n) onto the span of ``x``, the same for every frame of it."""
        return x @ x.mT

    def from_projector(self, projector: Tensor) -> Tensor:
        """Return a frame of the range of a projector, or the span of the p largest eigenvalues of a symmetric matrix.

        Carries no gradient: a frame is not a function of its projector.
        """
        vectors_h = linalg.decompose(projector.detach(), name="Grassmann.from_projector").vectors_h
        return vectors_h[..., -self.point_shape[-1] :, :].mT.to(projector.dtype)

    def canonical(self, x: Tensor) -> Tensor:
        """Return the projector: equal for frames that are equal as points."""
        return self.to_projector(x)

    # ---- gyrogroup

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``exp(omega) y`` where ``x = exp(omega) e``."""
        return _frames.turn_to(widened(x))[0].apply(widened(y)).to(y.dtype)

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``exp(-omega) y`` where ``x = exp(omega) e``."""
        return _frames.turn_to(widened(x))[0].undo(widened(y)).to(y.dtype)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return ``x`` reflected in the origin."""
        return _frames.signs(x).unsqueeze(-1) * x

    def gyro_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Turn, dilate and turn again, with one decomposition of the batch and the derivatives in closed form."""
        turn = _frames.turn_once(widened(center))
        centred = Turn(spread(turn.half), turn.signs).undo_rows(_frames.rows(widened(x)))
        decomposed = _frames.principal_rows(centred)

        def finish(t: Tensor, bias: Tensor | None) -> Tensor:
            y = principal.dilate(decomposed, t)
            return (y if bias is None else _frames.turn_once(widened(bias)).apply_rows(y)).mT.to(x.dtype)

        return principal.squared_length(decomposed).to(x.dtype), finish

    # ---- means

    @property
    def default_mean(self) -> stats.MeanPolicy:
        """One Karcher step from the chordal mean, within 1e-3 of a standard deviation in the convexity ball."""
        return stats.Karcher(1, backward_steps=2)

    def arithmetic_start(self, x: Tensor, weights: Weights) -> Tensor:
        """Return the chordal mean: the dominant eigenspace of the mean projector, in any frames and any order."""
        return _frames.widest(widened(x), weights).to(x.dtype)

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Return the system in horizontal tangent vectors at the frame ``p``."""
        base, points = stats.spread(widened(p), weights), _frames.rows(widened(x))
        along = points @ base
        decomposed = principal.principal(along, points - along @ base.mT)
        square = decomposed.angles.square().sum(-1)
        velocity, cost = stats.weighted_means(weights, (principal.velocity(decomposed), 2), (square, 0))
        return MeanSystem(velocity.mT.to(x.dtype), JacobiHessian(decomposed, weights), cost, 1 + cost.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return the exponential of ``direction`` in the frame nearest to the origin, whatever the frame ``p``."""
        base = widened(p)
        v = self.project_tangent(base, widened(direction))  # for the gradient: its other part would mislead the Hessian
        along, off = _frames.ray(v).at(1.0)
        return _frames.aligned(base @ along + off).to(p.dtype)


def _point(p: Tensor, ray: Ray, t: Tensor | float) -> Tensor:
    """Return the point of a ray from ``p`` at time ``t``."""
    along, off = ray.at(t)
    return (p.to(off.dtype) @ along + off).to(p.dtype)
