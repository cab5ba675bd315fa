"""Positive-definite matrices with the Bures-Wasserstein metric and its generalisation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg import kernels
from manifoldnorm.linalg._call import plain
from manifoldnorm.manifolds.base import spread
from manifoldnorm.manifolds.charts import Congruence, real_diagonal
from manifoldnorm.manifolds.cone import PositiveDefiniteCone
from manifoldnorm.manifolds.pullback import Pullback
from manifoldnorm.manifolds.spd import ConeManifold, check_field, check_size, spd_dim, trace_product
from manifoldnorm.manifolds.structures import Spread, same
from manifoldnorm.stats import EigenHessian, Frame, MeanSystem

# how far inside its domain a step is shrunk: the smallest eigenvalue of I + L stays above this
DOMAIN_MARGIN = 1e-2


class BuresWasserstein(ConeManifold):
    r"""Positive-definite matrices with the Bures-Wasserstein (2-Wasserstein between centred Gaussians) metric.

    ``<u, v>_p = tr(S_p[u] v) / 2`` where ``S_p[v]`` solves ``p S + S p = v``;
    ``d(p, q)^2 = tr p + tr q - 2 tr (p^1/2 q p^1/2)^1/2``. Distances scale with the root of the data's units.
    ``exp`` is defined while ``I + S_p[v]`` is positive definite, see `injective_fraction`. Parallel transport is known
    between commuting points only, so `to_origin` and `from_origin` exist and `transport` does not.

    Parameters
    ----------
    n : int
        Matrix size.
    field : {"real", "complex"}
        Symmetric or Hermitian matrices.

    References
    ----------
    Bhatia, Jain and Lim 2019, "On the Bures-Wasserstein distance between positive definite matrices"; transport:
    Thanwerdas and Pennec 2023, "O(n)-invariant Riemannian metrics on SPD matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.BuresWasserstein(2).dist(torch.eye(2), 4 * torch.eye(2))
    tensor(1.4142)
    """

    has_hessian = True
    has_fixed_point = True

    def __init__(self, n: int, *, field: str = "real") -> None:
        n = check_size("BuresWasserstein", n)
        check_field("BuresWasserstein", field)
        super().__init__((n, n), spd_dim(n, field), {"n": n, "field": field}, {"is_complex": field == "complex"})

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``(I + S) p (I + S)`` with ``S = S_p[v]``; defined while ``I + S`` is positive definite."""
        s = self._solve(p, v)
        step = s + torch.eye(p.shape[-1], dtype=s.dtype, device=s.device)
        return step @ p @ step

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``T p + p T - 2 p`` with the optimal map ``T = p^-1 # q``."""
        return self._log(p, *linalg.inverse_cholesky(p), q)

    def log_to_origin(self, p: Tensor, x: Tensor, spread: Spread = same) -> Tensor:
        """Return ``to_origin(p, log(p, x))`` with one decomposition of p, which ``spread`` hands to the samples."""
        factor, inverse = linalg.inverse_cholesky(p)
        v = self._log(spread(p), spread(factor), spread(inverse), x)
        return linalg.apply_kernel(self._spectrum(p), v, kernels.BURES_TO_IDENTITY, getattr(spread, "index", None))

    @staticmethod
    def _log(p: Tensor, factor: Tensor, inverse: Tensor, q: Tensor) -> Tensor:
        root = _root(p, factor, q)
        product = factor @ root @ inverse  # p T
        return product + product.mH - 2 * p

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``tr((T - I) p (T - I))``, which does not cancel for close points."""
        factor, inverse = linalg.inverse_cholesky(p)
        root = _root(p, factor, q)
        # (T - I) L = L^-H (C - L^H L)
        gap = inverse.mH @ (root - factor.mH @ factor)
        return (gap.conj() * gap).real.sum((-2, -1)) if gap.is_complex() else gap.square().sum((-2, -1))

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``tr(S_p[u] v) / 2``."""
        return trace_product(self._solve(p, u), v) / 2

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return, in the eigenbasis of p, ``sqrt(2 / (w_i + w_j)) v_ij``."""
        return linalg.apply_kernel(self._spectrum(p), v, kernels.BURES_TO_IDENTITY)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return, in the eigenbasis of p, ``sqrt((w_i + w_j) / 2) v_ij``."""
        return linalg.apply_kernel(self._spectrum(p), v, kernels.BURES_FROM_IDENTITY)

    def _solve(self, p: Tensor, v: Tensor) -> Tensor:
        return linalg.apply_kernel(self._spectrum(p), v, kernels.LYAPUNOV)

    @staticmethod
    def _spectrum(p: Tensor) -> linalg.Spectrum:
        return linalg.decompose(p, positive=True, name="BuresWasserstein")

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``2 (g p + p g)``."""
        product = linalg.symmetrize(g) @ p
        return 2 * (product + product.mH)

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return ``((1 - t) I + t T) p ((1 - t) I + t T)``, ``= B B^H`` with ``B = (1 - t) L + t L^-H C``."""
        factor, inverse = linalg.inverse_cholesky(p)
        t = spread(t, 2)
        half = (1 - t) * factor + t * (inverse.mH @ _root(p, factor, q))
        return half @ half.mH

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return the matrix exponential of ``v``: positive definite for every ``v``, unlike ``exp``."""
        return linalg.expm(v)

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return the matrix logarithm of ``p``."""
        return linalg.logm(p)

    def origin_inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Return ``tr(u v) / 4``."""
        return trace_product(u, v) / 4

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return ``(I + t S) p (I + t S)``, ``S = S_p[from_origin(p, v)]``, t <= 1 keeping ``I + t S`` positive."""
        eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        s = v / 2 if p is None else linalg.apply_kernel(self._spectrum(p), v, kernels.BURES_FROM_IDENTITY_SOLVED)
        step = _inside(s)[..., None, None] * s + eye
        return step @ step if p is None else step @ (p @ step)

    def injective_fraction(self, p: Tensor, v: Tensor) -> Tensor | None:
        """Return the largest t <= 1 for which ``I + t S_p[v]`` keeps its eigenvalues above a margin of 0.01."""
        return _inside(self._solve(p, v))

    # ---- means

    def arithmetic_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the arithmetic mean; raise if it is singular, which it is where all samples share a null vector."""
        start = super().arithmetic_start(x, weights)
        linalg.cholesky(start.detach(), name="BuresWasserstein mean")
        return start

    def mean_system(self, p: Tensor, x: Tensor, weights: Tensor | None) -> MeanSystem:
        """Return the system in the orthonormal coordinates ``Y_ij = sqrt((g_i + g_j) / 2) S_ij``, S as in `exp`.

        Indices are those of the eigenbasis V of p, with spectrum g. The residual is that of ``T - I``, T the mean
        optimal map. With ``L = V g^1/2`` and ``C_i = (L^H x_i L)^1/2`` (spectrum c) the Hessian has the kernel
        ``2 c_j c_k / (c_j + c_k)`` in the basis of C_i, between factors ``sqrt((g_i + g_j) / (2 g_i g_j))``, plus the
        curvature ``S g (I - T)``; it is the identity at ``p = x_i`` and for commuting samples. All is in units of p.
        """
        base = self._spectrum(p)
        unit = _unit(base.values)
        g = fn.LOG.clamp(base.values, torch.finfo(x.dtype).eps) / unit
        basis, root = base.vectors_h.mH, g.sqrt()
        factor = (basis * (root * unit.rsqrt()).unsqueeze(-2)).to(x.dtype).detach()
        index = weights.index if isinstance(weights, stats.Reduction) else None
        whitened = linalg.congruence(factor.mH, x, index)
        spectrum = linalg.decompose(whitened, positive=True, name="BuresWasserstein mean")
        values = fn.LOG.clamp(spectrum.values, torch.finfo(x.dtype).eps).sqrt()
        cost = real_diagonal(x).sum(-1).detach() - 2 * stats.spread(unit, weights).squeeze(-1) * values.sum(-1)
        own = stats.own_apply(spectrum, fn.SQRT, weights), stats.own_mean(cost, weights, 0)
        mean, cost = stats.joined(weights, *own)
        half = mean - torch.diag_embed(g).to(x.dtype)
        product = root.unsqueeze(-1) * root.unsqueeze(-2)
        sums = ((g.unsqueeze(-1) + g.unsqueeze(-2)) * 0.5).sqrt()

        def kernel() -> Tensor:
            row, column = values.unsqueeze(-1), values.unsqueeze(-2)
            return 2 * row * column / (row + column)

        def frame() -> Frame:
            curvature = -half.detach().to(basis.dtype) / product
            return Frame(basis, sums / product, 0.5 / sums, g.unsqueeze(-1) / sums, curvature)

        residual = basis @ ((sums / product) * half.to(basis.dtype)) @ basis.mH * unit.sqrt().unsqueeze(-1)
        size = unit.squeeze(-1) * g.sum(-1)
        hessian = EigenHessian(spectrum.vectors_h, kernel, weights, frame)
        return MeanSystem(residual.to(x.dtype), hessian, cost + size, size.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return ``(I + S) p (I + S)``; with the residual as direction this is the fixed-point iteration."""
        s = linalg.apply_kernel(self._spectrum(p), direction.to(p.dtype), kernels.BURES_TO_IDENTITY)
        step = s + torch.eye(p.shape[-1], dtype=s.dtype, device=s.device)
        return step @ p @ step


def _unit(values: Tensor) -> Tensor:
    """Return the power of two next to the largest of (..., n) positive numbers, (..., 1), without gradient.

    Products of two matrices of 1e-20, as in volts squared, are outside of the range of float32.
    """
    largest = values.detach().amax(-1, keepdim=True)
    return largest.clamp_min(torch.finfo(largest.dtype).tiny).log2().round().exp2()


def _root(p: Tensor, factor: Tensor, q: Tensor) -> Tensor:
    """Return ``(L^H q L)^1/2`` for ``p = L L^H``, computed in units of p."""
    unit = _unit(real_diagonal(p)).unsqueeze(-1)
    return linalg.sqrtm(linalg.congruence((factor / unit).mH, q)) * unit


def _inside(s: Tensor) -> Tensor:
    """Return the largest t <= 1 for which the eigenvalues of ``I + t S`` stay above the margin, differentiable."""
    limit = DOMAIN_MARGIN - 1
    lowest = linalg.smallest_below(s, limit)
    return torch.where(lowest < limit, limit / lowest, 1.0)  # exactly 1, which the quotient misses in float32


class GeneralizedBuresWasserstein(Pullback):
    """Bures-Wasserstein seen through the congruence ``p -> M^-1/2 p M^-1/2``; its origin is M.

    Parameters
    ----------
    n : int
        Matrix size.
    metric : Tensor, optional
        Positive-definite M (n, n), default the identity; learnable through `manifoldnorm.nn.LearnableManifold`.

    References
    ----------
    Han et al. 2023, "Learning with symmetric positive definite matrices via generalized Bures-Wasserstein geometry".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.GeneralizedBuresWasserstein(2, 4 * torch.eye(2)).dist(torch.eye(2), 4 * torch.eye(2))
    tensor(0.7071)
    """

    learnable: ClassVar[dict[str, str]] = {"metric": "spd"}
    metric: Tensor | None

    def __init__(self, n: int, metric: Tensor | None = None, *, field: str = "real") -> None:
        check_field("GeneralizedBuresWasserstein", field, complex_ok=False)
        if metric is not None and metric.shape != (n, n):
            raise ValueError(
                f"GeneralizedBuresWasserstein: metric must have shape ({n}, {n}), got {tuple(metric.shape)}."
            )
        if metric is not None and torch.is_grad_enabled() and plain(metric) and metric.is_leaf:
            # given, not learned: what a module builds from its parameters is positive definite by construction
            PositiveDefiniteCone.check_point(metric, "GeneralizedBuresWasserstein: metric")
        self._setup({"n": n, "metric": metric}, Congruence(metric), BuresWasserstein(n))

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return M, expanded to the batch."""
        if self.metric is None:
            return self.base.origin(*batch, dtype=dtype, device=device)
        point = self.metric.to(dtype=dtype, device=device) if dtype or device else self.metric
        return point.expand(*batch, *self.point_shape)
