"""Charts of full-rank correlation matrices: onto strictly triangular, hollow and zero-row-sum matrices."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._diagonals import hollow, widened, with_unit_diagonal
from manifoldnorm.linalg.row_scaling import unit_row_scaling
from manifoldnorm.linalg.unipotent import (
    exp_nilpotent,
    exp_nilpotent_derivative,
    log_unipotent,
    log_unipotent_derivative,
)
from manifoldnorm.linalg.unit_diagonal import unit_diagonal_exp, unit_diagonal_exp_derivative
from manifoldnorm.manifolds.diffeo import Diffeo


def _column(d: Tensor) -> Tensor:
    return d.unsqueeze(-1)


def _row(d: Tensor) -> Tensor:
    return d.unsqueeze(-2)


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)


def correlation_from_factor(a: Tensor) -> Tensor:
    """Return the correlation matrix of ``A A^T``: its rows divided by their norms, the diagonal exactly 1."""
    rows = a / torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    return with_unit_diagonal(rows @ rows.mT)


def correlation_from_covariance(s: Tensor) -> Tensor:
    """Return ``S_ij / sqrt(S_ii S_jj)``, the diagonal exactly 1."""
    scale = _diagonal(s).rsqrt()
    return with_unit_diagonal(_column(scale) * s * _row(scale))


class CorrelationCholesky(Diffeo):
    """``strict_lower(D^-1 L)`` of the Cholesky factor L with diagonal D, onto strictly lower-triangular matrices."""

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the chart of ``p``."""
        factor = linalg.cholesky(p)
        return (factor / _column(_diagonal(factor))).tril(-1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the correlation matrix of ``(I + y)(I + y)^T``."""
        return correlation_from_factor(self._factor(y))

    @staticmethod
    def _factor(y: Tensor) -> Tensor:
        return y + torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``strict_lower(D^-1 (dL - dD D^-1 L))``, ``dL = L half(L^-1 v L^-T)``."""
        factor, inverse = linalg.inverse_cholesky(p)
        d = factor @ linalg.half_lower(inverse @ linalg.symmetrize(v) @ inverse.mT)
        diagonal = _diagonal(factor)
        unit = factor / _column(diagonal)
        return ((d - _column(_diagonal(d)) * unit) / _column(diagonal)).tril(-1)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return ``dR R^T + R dR^T`` for the rows R of I + y divided by their norms."""
        factor = self._factor(y)
        norm = torch.linalg.vector_norm(factor, dim=-1, keepdim=True)
        rows = factor / norm
        d = (w - rows * (rows * w).sum(-1, keepdim=True)) / norm
        product = d @ rows.mT
        return hollow(product + product.mT)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the strict lower part."""
        return v.tril(-1)


class UnipotentLog(Diffeo):
    """``log(I + y)``, from strictly lower-triangular matrices onto themselves."""

    image_of: ClassVar[dict[str, str]] = {"zero": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``log(I + p)``."""
        return log_unipotent(p)

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``exp(y) - I``."""
        return exp_nilpotent(y).tril(-1)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the derivative of the logarithm."""
        return log_unipotent_derivative(p, v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the derivative of the exponential."""
        return exp_nilpotent_derivative(y, w).tril(-1)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``v``, the differential at 0, the image of the identity matrix."""
        return v


class OffLog(Diffeo):
    """``log p`` without its diagonal, onto hollow symmetric matrices."""

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the off-diagonal part of the logarithm."""
        return hollow(linalg.logm(p))

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``exp(y + D)`` with the diagonal D that makes its diagonal 1."""
        return unit_diagonal_exp(y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the off-diagonal part of the logarithm's derivative."""
        return hollow(linalg.frechet_derivative(linalg.decompose(p, positive=True, name="logm"), fn.LOG, v))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the derivative of `inverse`, with D following by the implicit function theorem."""
        return unit_diagonal_exp_derivative(y, w)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the off-diagonal part."""
        return hollow(v)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return `pull`, which is self-adjoint."""
        return self.pull(y, g)


class RowScaling(Diffeo):
    """``diag(x) p diag(x)`` with the positive x that makes its row sums 1, onto positive-definite such matrices."""

    image_of: ClassVar[dict[str, str]] = {"identity": "identity"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the scaled matrix."""
        x = unit_row_scaling(p)
        return (_column(x) * widened(p) * _row(x)).to(p.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the correlation matrix of ``y``."""
        return correlation_from_covariance(y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the differential: ``(p + diag x^-2) dx = -v x``."""
        x, wide, v_wide = unit_row_scaling(p), widened(p), widened(v)
        factor = linalg.cholesky(wide + torch.diag_embed(x**-2), name="RowScaling")
        dx = -torch.cholesky_solve(v_wide @ _column(x), factor)
        moved = dx * wide * _row(x)
        return (_column(x) * v_wide * _row(x) + moved + moved.mT).to(v.dtype)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the differential of the normalisation by standard deviations."""
        scale = _diagonal(y).rsqrt()
        half = _diagonal(w) * scale.square() / 2
        point = _column(scale) * y * _row(scale)
        return hollow(_column(scale) * w * _row(scale) - (_column(half) + _row(half)) * point)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``v - diag(v 1)``."""
        return v - torch.diag_embed(v.sum(-1))


class HollowScaling(Diffeo):
    """The linear isometry from a permutation-invariant inner product on hollow symmetric matrices to the Frobenius one.

    The inner product has the quadratic form ``alpha tr Y^2 + beta |Y 1|^2 + gamma (1^T Y 1)^2``. It is a multiple of
    the Frobenius one on each of three spaces: multiples of ``1 1^T - I``, matrices ``u_i + u_j`` with ``sum u = 0``,
    and matrices with zero row sums.
    """

    image_of: ClassVar[dict[str, str]] = {"zero": "zero"}

    def __init__(self, alpha: float | Tensor, beta: float | Tensor, gamma: float | Tensor) -> None:
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def weights(self, n: int) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
        """Return the multiples on (zero row sums, ``u_i + u_j``, constant)."""
        constant = self.alpha + (n - 1) * (self.beta + n * self.gamma)
        return self.alpha, self.alpha + (n - 2) / 2 * self.beta, constant

    def _apply(self, v: Tensor, power: float) -> Tensor:
        n = v.shape[-1]
        rest, pairs, constant = (w**power for w in self.weights(n))
        sums = hollow(v).sum(-1)
        mean = sums.mean(-1, keepdim=True)
        u = (pairs - rest) / max(n - 2, 1) * (sums - mean) + (constant - rest) / (2 * (n - 1)) * mean
        return rest * v + hollow(_column(u) + _row(u))

    def __call__(self, p: Tensor) -> Tensor:
        """Return the image of a hollow symmetric matrix."""
        return self._apply(p, 0.5)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the preimage."""
        return self._apply(y, -0.5)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the image of ``v``: the map is linear."""
        return self(v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the preimage of ``w``."""
        return self.inverse(w)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the image of ``v``."""
        return self(v)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return the preimage of ``g``: the map is self-adjoint."""
        return self.inverse(g)


class ZeroRowSumScaling(HollowScaling):
    """The same for symmetric matrices with zero row sums: ``alpha tr Y^2 + delta sum_i Y_ii^2 + zeta (tr Y)^2``.

    With ``P = I - 1 1^T / n`` the three spaces are multiples of P, ``P diag(u) P`` with ``sum u = 0``, and matrices
    with zero diagonal.
    """

    def __init__(self, alpha: float | Tensor, delta: float | Tensor, zeta: float | Tensor) -> None:
        self.alpha, self.delta, self.zeta = alpha, delta, zeta

    def weights(self, n: int) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
        """Return the multiples on (zero diagonal, ``P diag(u) P``, multiples of P)."""
        constant = self.alpha + (n - 1) / n * (self.delta + n * self.zeta)
        return self.alpha, self.alpha + (n - 2) / n * self.delta, constant

    def _apply(self, v: Tensor, power: float) -> Tensor:
        n = v.shape[-1]
        rest, pairs, constant = (w**power for w in self.weights(n))
        diagonal = _diagonal(v)
        mean = diagonal.mean(-1, keepdim=True)
        # P diag(mean) P = mean P, whose diagonal is mean (n - 1) / n
        u = (pairs - rest) * n / max(n - 2, 1) * (diagonal - mean) + (constant - rest) * n / (n - 1) * mean
        half = u.unsqueeze(-1) / n
        centred = torch.diag_embed(u) - half - half.mT + u.mean(-1)[..., None, None] / n
        return rest * v + centred

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return the preimage of the projection of ``g``."""
        g = linalg.symmetrize(g)
        rows = g.mean(-1, keepdim=True)
        return self.inverse(g - rows - rows.mT + rows.mean(-2, keepdim=True))
