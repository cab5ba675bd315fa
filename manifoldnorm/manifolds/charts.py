"""Charts of positive-definite matrices."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.manifolds.diffeo import Diffeo


def real_diagonal(m: Tensor) -> Tensor:
    """Return the real diagonal of (..., n, n)."""
    d = m.diagonal(dim1=-2, dim2=-1)
    return d.real if d.is_complex() else d


class MatrixLog(Diffeo):
    """The matrix logarithm, from positive-definite to symmetric matrices."""

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``log p``."""
        return linalg.logm(p)

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``exp y``."""
        return linalg.expm(y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the Frechet derivative of the logarithm."""
        return linalg.frechet_derivative(linalg.decompose(p, positive=True, name="logm"), fn.LOG, v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the Frechet derivative of the exponential."""
        return linalg.frechet_derivative(linalg.decompose(y), fn.EXP, w)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return `pull`, which is self-adjoint."""
        return self.pull(y, g)


class MatrixPower(Diffeo):
    """A power of positive-definite matrices, onto themselves.

    Parameters
    ----------
    power : float or Tensor
        Nonzero; a tensor may carry a gradient.
    """

    image_of: ClassVar[dict[str, str]] = {"identity": "identity"}

    def __init__(self, power: float | Tensor) -> None:
        if not isinstance(power, Tensor) and (power == 0 or not -math.inf < power < math.inf):
            raise ValueError(
                f"MatrixPower: power must not be 0, infinite or NaN, got {power}; the limit at 0 is the log-Euclidean "
                f"chart, MatrixLog()."
            )
        self.power = power

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``p^power``."""
        if not isinstance(self.power, Tensor) and abs(self.power) < 1e3 * torch.finfo(p.dtype).eps:
            raise ValueError(
                f"MatrixPower: powers of {self.power} are the identity to within the rounding of {p.dtype}. Use a "
                f"larger power, float64, or LogEuclidean, the limit."
            )
        return linalg.powm(p, self.power)

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``y^(1 / power)``; squares and cubes of matrices without a decomposition."""
        if not isinstance(self.power, Tensor) and self.power == 0.5:
            return linalg.symmetrize(y @ y)
        return linalg.powm(y, 1 / self.power)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the Frechet derivative of the power."""
        spectrum = linalg.decompose(p, positive=True, name="powm")
        return linalg.frechet_derivative(spectrum, fn.POWER, v, self.power)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the Frechet derivative of the inverse power."""
        spectrum = linalg.decompose(y, positive=True, name="powm")
        return linalg.frechet_derivative(spectrum, fn.POWER, w, 1 / self.power)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``power * v``."""
        return self.power * v

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return `pull`, which is self-adjoint."""
        return self.pull(y, g)


class LogCholeskyChart(Diffeo):
    """``strict_lower(L) + log diag(L)`` of the Cholesky factor, onto lower-triangular matrices."""

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the chart of ``p``."""
        return linalg.log_cholesky(p)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the matrix with chart ``y``."""
        return linalg.exp_cholesky(y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the differential: ``dL = L half(L^-1 V L^-H)``, its diagonal divided by that of L."""
        factor, inverse = linalg.inverse_cholesky(p)
        d = factor @ linalg.half_lower(inverse @ linalg.symmetrize(v) @ inverse.mH)
        return d.tril(-1) + torch.diag_embed(real_diagonal(d) / real_diagonal(factor)).to(d.dtype)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return ``dL L^H + L dL^H`` with the diagonal of dL multiplied by that of L."""
        scale = real_diagonal(y).exp()
        factor = y.tril(-1) + torch.diag_embed(scale).to(y.dtype)
        d = w.tril(-1) + torch.diag_embed(real_diagonal(w) * scale).to(w.dtype)
        product = d @ factor.mH
        return product + product.mH

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the strict lower part plus half of the diagonal."""
        return linalg.half_lower(v)


class CholeskyInverse(Diffeo):
    """``L L^H -> L^-1 L^-H``: the inverse of the Cholesky group, its own inverse map."""

    image_of: ClassVar[dict[str, str]] = {"identity": "identity"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the group inverse of ``p``."""
        _, inverse = linalg.inverse_cholesky(p)
        return inverse @ inverse.mH

    def inverse(self, y: Tensor) -> Tensor:
        """Return the group inverse of ``y``: the map is its own inverse."""
        return self(y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``-(Z + Z^H)``, ``Z = half(L^-1 V L^-H) L^-1 L^-H``."""
        _, inverse = linalg.inverse_cholesky(p)
        z = linalg.half_lower(inverse @ linalg.symmetrize(v) @ inverse.mH) @ inverse @ inverse.mH
        return -(z + z.mH)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return `push`: the map is its own inverse."""
        return self.push(y, w)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``-v``."""
        return -v


class Congruence(Diffeo):
    """``p -> M^-1/2 p M^-1/2`` for a positive-definite ``metric`` M (n, n); None is the identity.

    Parameters
    ----------
    metric : Tensor or None
        M; a tensor may carry a gradient.
    """

    def __init__(self, metric: Tensor | None) -> None:
        self.metric = metric

    def image(self, kind: str | None) -> str | None:
        """Return ``kind`` where the metric is the identity."""
        return kind if self.metric is None else None

    def _roots(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.metric is None:
            return None
        root, inverse = linalg.sqrtm_inv_sqrtm(self.metric)
        return root.to(like.dtype), inverse.to(like.dtype)

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``M^-1/2 p M^-1/2``."""
        roots = self._roots(p)
        return p if roots is None else linalg.congruence(roots[1], p)

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``M^1/2 y M^1/2``."""
        roots = self._roots(y)
        return y if roots is None else linalg.congruence(roots[0], y)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``M^-1/2 v M^-1/2``."""
        return self(v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return ``M^1/2 w M^1/2``."""
        return self.inverse(w)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``M^-1/2 v M^-1/2``: the map is linear."""
        return self(v)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return ``M^1/2 g M^1/2``."""
        return self.inverse(g)


class TraceScaling(Diffeo):
    """The linear isometry from the inner product ``alpha tr(VU) + beta tr(V) tr(U)`` to the Frobenius one.

    ``V -> sqrt(alpha) V + (sqrt(alpha + n beta) - sqrt(alpha)) / n tr(V) I``.
    """

    image_of: ClassVar[dict[str, str]] = {"zero": "zero"}

    def __init__(self, alpha: float | Tensor, beta: float | Tensor) -> None:
        self.alpha, self.beta = alpha, beta

    def _apply(self, v: Tensor, root: float | Tensor, trace_root: float | Tensor) -> Tensor:
        n = v.shape[-1]
        shift = (trace_root - root) / n * real_diagonal(v).sum(-1)
        return root * v + shift[..., None, None] * torch.eye(n, dtype=v.dtype, device=v.device)

    def __call__(self, p: Tensor) -> Tensor:
        """Return the image of a symmetric matrix."""
        return self._apply(p, self.alpha**0.5, (self.alpha + p.shape[-1] * self.beta) ** 0.5)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the preimage."""
        return self._apply(y, self.alpha**-0.5, (self.alpha + y.shape[-1] * self.beta) ** -0.5)

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


class AdaptiveLog(Diffeo):
    """A matrix logarithm whose slope in ``x = log w`` goes smoothly from ``low`` (x << 0) to ``high`` (x >> 0).

    ``f(x) = m x + h (sqrt(x^2 + 1) - 1)`` with ``m = (high + low) / 2``, ``h = (high - low) / 2``: monotone, zero at
    the identity, inverted in closed form, one function for all eigenvalues, so continuous at ties.
    """

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __init__(self, low: float | Tensor, high: float | Tensor) -> None:
        self.low, self.high = low, high

    def _coefficients(self) -> tuple[float | Tensor, float | Tensor]:
        return (self.high + self.low) / 2, (self.high - self.low) / 2

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``f(log p)``."""
        m, h = self._coefficients()
        spectrum = linalg.decompose(p, positive=True, name="logm")
        return m * linalg.apply(spectrum, fn.LOG) + h * linalg.apply(spectrum, fn.LOG_HYPERBOLA)

    def _inner(self, y: Tensor) -> tuple[linalg.Spectrum, Tensor]:
        """Return ``z / sqrt(c)`` decomposed and ``f^-1(y) = (m z - h sqrt(z^2 + c)) / c``; z = y + h, c = low high."""
        m, h = self._coefficients()
        c = self.low * self.high
        root = c**0.5
        eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        z = y + h * eye
        spectrum = linalg.decompose(z / root)
        bent = linalg.apply(spectrum, fn.HYPERBOLA) + eye
        return spectrum, (m * z - h * root * bent) / c

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``exp f^-1(y)``."""
        return linalg.expm(self._inner(y)[1])

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the Frechet derivative of the chart."""
        m, h = self._coefficients()
        spectrum = linalg.decompose(p, positive=True, name="logm")
        along_log = linalg.frechet_derivative(spectrum, fn.LOG, v)
        return m * along_log + h * linalg.frechet_derivative(spectrum, fn.LOG_HYPERBOLA, v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the Frechet derivative of the inverse: that of ``f^-1``, then that of the exponential."""
        spectrum, inner = self._inner(y)
        m, h = self._coefficients()
        slope = (m * w - h * linalg.frechet_derivative(spectrum, fn.HYPERBOLA, w)) / (self.low * self.high)
        return linalg.frechet_derivative(linalg.decompose(inner), fn.EXP, slope)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return `pull`, which is self-adjoint."""
        return self.pull(y, g)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``m v``."""
        return self._coefficients()[0] * v
