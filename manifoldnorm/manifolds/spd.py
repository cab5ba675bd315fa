"""Positive-definite matrices with the affine-invariant metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg import kernels
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.linalg.relative import log_det_ratio, sum_squared_logs
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.charts import real_diagonal
from manifoldnorm.manifolds.cone import PositiveDefiniteCone, identity
from manifoldnorm.manifolds.structures import Finish, Gyrogroup, LieGroup, Spread, same
from manifoldnorm.stats import EigenHessian, MeanSystem


def check_size(name: str, n: Any) -> int:
    """Return ``n`` as an ordinary integer, or raise unless it is a positive one."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"{name}: n must be a positive integer (the number of channels), got {n!r}.")
    return int(n)


def check_field(name: str, field: str, *, complex_ok: bool = True) -> None:
    """Raise unless ``field`` is one the geometry is defined over."""
    if field not in ("real", "complex"):
        raise ValueError(f"{name}: field must be 'real' or 'complex', got {field!r}.")
    if field == "complex" and not complex_ok:
        raise ValueError(
            f"{name} is real only. Complex matrices: AffineInvariant, LogEuclidean, LogCholesky, BuresWasserstein."
        )


def check_alpha_beta(name: str, n: int, alpha: float | Tensor, beta: float | Tensor) -> None:
    """Raise unless ``alpha tr(VU) + beta tr(V) tr(U)`` is positive definite (learned values are by construction)."""
    if isinstance(alpha, Tensor) or isinstance(beta, Tensor):
        return
    if not (0 < alpha < math.inf and 0 < alpha + n * beta < math.inf):
        raise ValueError(
            f"{name}: alpha={alpha}, beta={beta} is no inner product: it needs alpha > 0 and "
            f"beta > -alpha / n = {-alpha / n:.4g}."
        )


def alpha_bound(n: int, beta: float | Tensor) -> float:
    """Return what a learned alpha must exceed for a given beta; by more than rounding where that is not 0."""
    return max(0.0, -n * float(beta)) * (1 + 1e-6)


def spd_dim(n: int, field: str) -> int:
    """Return the dimension of the cone of positive-definite matrices."""
    return n * n if field == "complex" else n * (n + 1) // 2


class ConeManifold(Manifold):
    """A metric on positive-definite matrices whose origin is the identity matrix."""

    origin_kind = "identity"

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the identity matrix, expanded to the batch."""
        return identity(self.point_shape[-1], self.is_complex, batch, dtype, device)

    def arithmetic_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the arithmetic mean: the cone is convex."""
        return stats.weighted_mean(x, weights, 2)

    def project(self, x: Tensor) -> Tensor:
        """Return the Hermitian part with eigenvalues raised to ``8 n eps`` times the largest absolute one."""
        return PositiveDefiniteCone.project(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the Hermitian part of ``v``."""
        return PositiveDefiniteCone.project_tangent(p, v)

    def violation(self, x: Tensor) -> Tensor:
        """Return the relative asymmetry plus how far the smallest eigenvalue lies below 0, relative to the largest."""
        return PositiveDefiniteCone.violation(x)

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise a ValueError for non-finite, asymmetric, indefinite or numerically singular matrices."""
        self.check_shape(x, name)
        PositiveDefiniteCone.check_point(x, f"{self}: {name}")


def _wide(m: Tensor) -> Tensor:
    """Return the matrices in the precision in which they are decomposed: a whitened one must not be rounded before."""
    return m.to(working_dtype(m.dtype, widens(m)))


def _trace(m: Tensor) -> Tensor:
    return real_diagonal(m).sum(-1)


def trace_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the real part of ``tr(A B)`` for (..., n, n)."""
    product = (a * b.mT).sum((-2, -1))
    return product.real if product.is_complex() else product


class AffineInvariant(ConeManifold, LieGroup, Gyrogroup):
    r"""Positive-definite matrices with the affine-invariant metric.

    ``<u, v>_p = alpha tr(p^-1 u p^-1 v) + beta tr(p^-1 u) tr(p^-1 v)``, so that
    ``d(p, q)^2 = alpha |log(p^-1/2 q p^-1/2)|^2 + beta (log det p^-1 q)^2``: invariant under every congruence, hence
    under the units of the data. Only distances see alpha and beta. `compose` is the Cholesky group ``L_x y L_x^H``
    (which depends on the order of channels), `gyroadd` the congruence by the symmetric root.

    Parameters
    ----------
    n : int
        Matrix size.
    alpha, beta : float
        Inner product; needs ``alpha > 0`` and ``alpha + n beta > 0``.
    field : {"real", "complex"}
        Symmetric or Hermitian matrices.

    References
    ----------
    Pennec, Fillard and Ayache 2006, "A Riemannian framework for tensor computing"; Thanwerdas and Pennec 2023,
    "O(n)-invariant Riemannian metrics on SPD matrices"; Cholesky group: Chen et al. 2024 (LieBN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.AffineInvariant(2).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(1.4142)
    """

    has_hessian = True
    learnable: ClassVar[dict[str, str]] = {"alpha": "positive"}
    alpha: float | Tensor
    beta: float | Tensor

    def __init__(self, n: int, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.0, *, field: str = "real") -> None:
        n = check_size("AffineInvariant", n)
        check_field("AffineInvariant", field)
        check_alpha_beta("AffineInvariant", n, alpha, beta)
        config = {"n": n, "alpha": alpha, "beta": beta, "field": field}
        super().__init__((n, n), spd_dim(n, field), config, {"is_complex": field == "complex"})

    def _square(self, log2: Tensor, log: Tensor | None) -> Tensor:
        """Return the squared distance from the sums of squared logarithms and of logarithms."""
        square = log2 if isinstance(self.alpha, float) and self.alpha == 1.0 else self.alpha * log2
        return square if log is None else square + self.beta * log.square()

    @property
    def _has_beta(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta != 0.0

    def _square_of(self, spectrum: linalg.Spectrum) -> Tensor:
        log = linalg.sum_log(spectrum) if self._has_beta else None
        return self._square(linalg.sum_log_squared(spectrum), log)

    def lower_bound(self, option: str) -> float:
        """Return, for alpha, ``-n beta`` where that is positive."""
        return alpha_bound(self.point_shape[-1], self.beta) if option == "alpha" else 0.0

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``L exp(L^-1 v L^-H) L^H`` for any factor ``p = L L^H``."""
        factor, inverse = linalg.inverse_cholesky(_wide(p))
        found = linalg.congruence(factor, linalg.expm(linalg.congruence(inverse, _wide(v))))
        return found.to(torch.promote_types(p.dtype, v.dtype))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``L log(L^-1 q L^-H) L^H``."""
        factor, inverse = linalg.inverse_cholesky(_wide(p))
        found = linalg.congruence(factor, linalg.logm(linalg.congruence(inverse, _wide(q))))
        return found.to(torch.promote_types(p.dtype, q.dtype))

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the squared distance from the singular values of ``L_p^-1 L_q``.

        Its relative error is about ``eps sqrt(cond p cond q)``, as if the matrices were rounded once more.
        """
        log = log_det_ratio(p, q, name="dist") if self._has_beta else None
        return self._square(sum_squared_logs(p, q, name="dist"), log)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``alpha tr(p^-1 u p^-1 v) + beta tr(p^-1 u) tr(p^-1 v)``."""
        _, inverse = linalg.inverse_cholesky(p)
        return self.origin_inner(linalg.congruence(inverse, u), linalg.congruence(inverse, v))

    def origin_inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Return ``alpha tr(u v) + beta tr(u) tr(v)``."""
        product = self.alpha * trace_product(u, v)
        return product + self.beta * _trace(u) * _trace(v) if self._has_beta else product

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p^-1/2 v p^-1/2``."""
        return linalg.congruence(linalg.inv_sqrtm(p), v)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p^1/2 v p^1/2``."""
        return linalg.congruence(linalg.sqrtm(p), v)

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``E v E^H`` with ``E = (q p^-1)^1/2 = L (L^-1 q L^-H)^1/2 L^-1``."""
        factor, inverse = linalg.inverse_cholesky(_wide(p))
        e = factor @ linalg.sqrtm(linalg.congruence(inverse, _wide(q))) @ inverse
        return (e @ _wide(v) @ e.mH).to(torch.promote_types(torch.promote_types(p.dtype, q.dtype), v.dtype))

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``(p g p - c tr(g p) p) / alpha`` with ``c = beta / (alpha + n beta)``."""
        g = linalg.symmetrize(g)
        gradient = p @ g @ p
        if self._has_beta:
            c = self.beta / (self.alpha + p.shape[-1] * self.beta)
            gradient = gradient - c * trace_product(g, p)[..., None, None] * p
        return linalg.symmetrize(gradient) / self.alpha

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return ``L (L^-1 q L^-H)^t L^H``."""
        factor, inverse = linalg.inverse_cholesky(_wide(p))
        grows = isinstance(t, Tensor) and t.ndim > max(p.ndim, q.ndim) - 2
        if grows or torch.is_grad_enabled():
            found = linalg.congruence(factor, linalg.powm(linalg.congruence(inverse, _wide(q)), t))
        else:
            found = linalg.whiten(inverse, _wide(q), "AffineInvariant")[1](t, factor)
        return found.to(torch.promote_types(p.dtype, q.dtype))

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance from the identity and ``t -> x^t``, from one decomposition."""
        spectrum = linalg.decompose(x, positive=True, name="AffineInvariant")
        return self._square_of(spectrum), lambda t: linalg.apply(spectrum, fn.POWER, t)

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return the matrix exponential of ``v``."""
        return linalg.expm(v)

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return the matrix logarithm of ``p``."""
        return linalg.logm(p)

    # ---- Cholesky group

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``L_x y L_x^H``."""
        return linalg.congruence(linalg.cholesky(x), y)

    def inverse(self, x: Tensor) -> Tensor:
        """Return ``L^-1 L^-H``."""
        _, inverse = linalg.inverse_cholesky(x)
        return inverse @ inverse.mH

    def quotient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``L_x^-1 y L_x^-H``."""
        return linalg.congruence(linalg.inverse_cholesky(x)[1], y)

    def group_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Whiten by the inverse Cholesky factor of the center, colour by that of the bias, with one decomposition."""
        spectrum, power = linalg.whiten(spread(linalg.inverse_cholesky(center)[1]), x, "AffineInvariant")
        return self._square_of(spectrum), lambda t, bias: power(t, None if bias is None else linalg.cholesky(bias))

    # ---- gyrogroup

    def gyro_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Whiten by the inverse root of the center, colour by the root of the bias, with one decomposition."""
        spectrum, power = linalg.whiten(spread(linalg.inv_sqrtm(center)), x, "AffineInvariant")
        return self._square_of(spectrum), lambda t, bias: power(t, None if bias is None else linalg.sqrtm(bias))

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x^1/2 y x^1/2``."""
        return linalg.congruence(linalg.sqrtm(x), y)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return ``x^-1``."""
        return linalg.powm(x, -1.0)

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x^-1/2 y x^-1/2``."""
        return linalg.congruence(linalg.inv_sqrtm(x), y)

    def gyroscale(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return ``x^t``."""
        return linalg.powm(x, t)

    # ---- means

    def mean_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the geometric mean of the arithmetic and the harmonic mean."""
        arithmetic = stats.weighted_mean(x, weights, 2)
        # A # P^-1 = L (L^H P L)^-1/2 L^H for the arithmetic mean A = L L^H and the mean P of the inverses
        factor = linalg.cholesky(arithmetic, name="AffineInvariant mean")
        return linalg.whiten(factor.mH, self._mean_inverse(x, weights), "AffineInvariant mean")[1](-0.5, factor)

    def _mean_inverse(self, x: Tensor, weights: Any) -> Tensor:
        # a ridge of rounding size keeps semi-definite samples harmless: this is only a starting point
        ridge = linalg.INDEFINITE_TOL * torch.finfo(x.dtype).eps * _trace(x)
        together = x.ndim == 3 and (weights is None or isinstance(weights, Tensor))
        share = (1 / x.shape[0] if weights is None else weights) if together else 1.0
        found = linalg.sum_of_inverses(x, ridge, share, each=not together)
        if found is not None:
            return (found if together else stats.weighted_mean(found, weights, 2)).to(x.dtype)
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        factor = linalg.cholesky(x + ridge[..., None, None] * eye, name="AffineInvariant mean")
        return stats.weighted_mean(torch.cholesky_inverse(factor), weights, 2)

    def mean_system(self, p: Tensor, x: Tensor, weights: Tensor | None) -> MeanSystem:
        """Return the system in coordinates ``L^-1 v L^-H``: Hessian kernel ``d / tanh d``, ``d = (l_i - l_j) / 2``."""
        index = weights.index if isinstance(weights, stats.Reduction) else None
        whitened = linalg.congruence(linalg.inverse_cholesky(p)[1].detach(), x, index)
        spectrum = linalg.decompose(whitened, positive=True, name="AffineInvariant mean")
        residual = stats.own_apply(spectrum, fn.LOG, weights)
        log = fn.LOG.clamp(spectrum.values, torch.finfo(x.dtype).eps).log()
        cost = self._square(log.square().sum(-1), log.sum(-1) if self._has_beta else None).detach()
        cost = stats.own_mean(cost, weights, 0).to(residual.real.dtype)
        residual, cost = stats.joined(weights, residual, cost)

        hessian = EigenHessian(spectrum.vectors_h, lambda: kernels.hyperbolic_weights(log), weights)
        return MeanSystem(residual, hessian, cost, 1 + cost.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return ``L exp(direction) L^H``."""
        return linalg.congruence(linalg.cholesky(p), linalg.expm(direction.to(p.dtype)))
