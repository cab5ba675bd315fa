"""Rotation matrices with the bi-invariant metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.linalg.functions_angles import x_cot_x
from manifoldnorm.linalg.polar import nearest_rotation
from manifoldnorm.manifolds import _rotation
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.structures import LieGroup
from manifoldnorm.stats import EigenHessian, MeanSystem, Weights


class Rotations(Manifold, LieGroup):
    r"""Rotation matrices SO(n) with the bi-invariant metric ``<u, v>_p = tr(u^T v)``.

    Tangent vectors at p are ambient, ``p`` times a skew-symmetric matrix. In three dimensions the distance is sqrt(2)
    times the angle of ``p^T q``. Both translations are isometries; `compose` is the matrix product, or with
    ``right=True`` that of the opposite group, so that `LieBatchNorm` moves points by right translations instead.

    The logarithm is the shortest up to an angle of pi, the cut locus. Up to three dimensions it goes through unit
    quaternions and is right for every angle, with one of the two signs at pi. Beyond, its digits and those of its
    gradient fall as eps over the cosine of half the largest angle; at pi, to rounding, it is finite but not a
    logarithm, while `dist` remains right. Means are unique within sqrt(2) pi / 2 of a point.

    Parameters
    ----------
    n : int
        Matrix size, at least 2.
    right : bool
        Whether the group translates on the right.

    References
    ----------
    Group and layer: Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN, SO(3)).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> mn.Rotations(2).log(torch.eye(2), quarter)
    tensor([[ 0.0000, -1.5708],
            [ 1.5708,  0.0000]])
    """

    has_hessian = True
    origin_kind = "identity"
    injectivity_radius = math.pi * math.sqrt(2)
    right: bool

    def __init__(self, n: int, right: bool = False) -> None:
        if not isinstance(n, int) or n < 2:
            raise ValueError(f"Rotations: n must be an integer of at least 2, got {n!r}.")
        super().__init__((n, n), n * (n - 1) // 2, {"n": n, "right": right})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the identity matrix, expanded to the batch."""
        return torch.eye(self.point_shape[0], dtype=dtype, device=device).expand(*batch, *self.point_shape)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p exp(p^T v)``."""
        return p @ _rotation.exp(p.mT @ v)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``exp``, and a Newton step towards the nearest rotation: thousands of steps must not drift away."""
        q = self.exp(p, v)
        return 1.5 * q - 0.5 * q @ (q.mT @ q)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``p log(p^T q)``."""
        return p @ _rotation.decompose(p.mT @ q).log

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return ``p (p^T q)^t``, from one decomposition."""
        return p @ _rotation.decompose(p.mT @ q).power(t)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``tr(u^T v)``."""
        return (u * v).sum((-2, -1))

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the sum of the squared angles, each counted once for either axis of its plane."""
        return _rotation.decompose(p.mT @ q).squared

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p^-1/2 v p^-1/2``."""
        half = _rotation.decompose(p).power(-0.5)
        return half @ v @ half

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p^1/2 v p^1/2``."""
        half = _rotation.decompose(p).power(0.5)
        return half @ v @ half

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``p h p^T v h`` with ``h = (p^T q)^1/2``."""
        half = _rotation.decompose(p.mT @ q).power(0.5)
        return p @ half @ (p.mT @ v) @ half

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest rotation; carries no gradient."""
        return nearest_rotation(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``(v - p v^T p) / 2``."""
        return (v - p @ (v.mT @ p)) / 2

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the projection of ``g``."""
        return self.project_tangent(p, g)

    def violation(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm of ``x^T x - I`` plus the distance of the determinant from 1."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.matrix_norm(x.mT @ x - eye) + (torch.linalg.det(x) - 1).abs()

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance from the identity and ``t -> x^t``, from one decomposition."""
        _, squared, power = _rotation.decompose(x)
        return squared, power

    def check_apart(self, p: Tensor, q: Tensor, name: str = "q") -> None:
        """Raise a ValueError that names the first of ``q`` at an angle of pi from ``p``, the cut locus.

        Looks at values, so it synchronises with the device.
        """
        relative = p.mT @ q
        smallest = linalg.eigvalsh(relative + relative.mT)[..., 0] / 2
        where = first_bad(smallest < 1e3 * torch.finfo(smallest.dtype).eps - 1)
        if where is not None:
            raise ValueError(
                f"{self}: {name}: {where[0]} is a turn by pi away from its base point, to rounding: the shortest "
                f"geodesic is not unique. Leave the sample out (weight 0) or use rotations that are closer together."
            )

    # ---- group

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x y``, or ``y x`` for translations on the right."""
        return y @ x if self.right else x @ y

    def inverse(self, x: Tensor) -> Tensor:
        """Return ``x^T``."""
        return x.mT

    # ---- means

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Return the system in tangent vectors at ``p``: Hessian kernel ``d cot d``, d half a difference of angles."""
        log, squared, _ = _rotation.decompose(stats.spread(p, weights).mT @ x)
        mean, cost = stats.weighted_means(weights, (log, 2), (squared.detach(), 0))
        return MeanSystem(p @ mean, _SkewHessian(p, log, weights), cost, 1 + cost.sqrt())


class _SkewHessian:
    """`EigenHessian` on ``p`` times skew-symmetric matrices, which times i are Hermitian."""

    def __init__(self, p: Tensor, log: Tensor, weights: Weights) -> None:
        self._base, self._log, self._weights = p, log.detach(), weights

    def _hermitian(self) -> EigenHessian:
        _, angles, vectors_h = linalg.decompose(1j * self._log, name="Rotations mean")
        halves = (angles.unsqueeze(-1) - angles.unsqueeze(-2)) / 2
        return EigenHessian(vectors_h, lambda: x_cot_x(halves), self._weights)

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual`` by conjugate gradients, with the implicit gradient."""
        return self._base @ self._hermitian().solve(1j * (self._base.mT @ residual), steps, backward_steps).imag

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the implicit gradient."""
        return self._base @ self._hermitian().correct(1j * (self._base.mT @ residual), backward_steps).imag
