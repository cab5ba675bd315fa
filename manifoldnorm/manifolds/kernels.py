"""Kernels of O(n)-invariant metrics on positive-definite matrices: functions of a pair of eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manifoldnorm.linalg.pair_maps import exp_difference, sinhc
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.bures import BuresWasserstein
from manifoldnorm.manifolds.charts import Congruence, MatrixLog, MatrixPower
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.euclidean import SymmetricMatrices
from manifoldnorm.manifolds.spd import AffineInvariant

ClosedForm = tuple[Diffeo, Manifold, float]


class SpectralKernel:
    """A positive symmetric function phi of two eigenvalues: the metric is ``sum_ij V_ij^2 / phi(w_i, w_j)``."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return phi at positive eigenvalues."""
        a, b = x.log(), y.log()
        return self.in_logarithms(a, b) * exp_difference(a, b).square()

    def in_logarithms(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of the same metric on matrix logarithms: phi over the squared logarithmic mean."""
        return self(a.exp(), b.exp()) / exp_difference(a, b).square()

    def closed_form(self, n: int) -> ClosedForm | None:
        """Return (chart, base, scale) of a pullback with closed-form geodesics that is this metric, or None."""
        return None


@dataclass(frozen=True)
class CustomKernel(SpectralKernel):
    """A kernel given by an elementwise function of torch tensors, positive, symmetric and smooth.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds import CustomKernel
    >>> CustomKernel(torch.mul)(torch.tensor(2.0), torch.tensor(3.0))
    tensor(6.)
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the function's value."""
        return self.function(x, y)


@dataclass(frozen=True)
class BuresKernel(SpectralKernel):
    """``2 (x + y)``: the Bures-Wasserstein metric."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``2 (x + y)``."""
        return 2 * (x + y)

    def in_logarithms(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``4 exp(-(a + b) / 2) cosh(h) / sinhc(h)^2``, ``h = (a - b) / 2``."""
        h = (a - b) / 2
        return 4 * (-(a + b) / 2).exp() * h.cosh() / sinhc(h).square()

    def closed_form(self, n: int) -> ClosedForm:
        """Return the Bures-Wasserstein metric."""
        return Congruence(None), BuresWasserstein(n), 1.0


@dataclass(frozen=True)
class MixedPowerKernel(SpectralKernel):
    """``p q (x - y)^2 / ((x^p - y^p) (x^q - y^q))``, its limit where p or q is 0.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds import MixedPowerKernel
    >>> MixedPowerKernel(1.0, -1.0)(torch.tensor(2.0), torch.tensor(3.0))
    tensor(6.)
    """

    p: float
    q: float

    def in_logarithms(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``exp(-(p + q)(a + b) / 2) / (sinhc(p h) sinhc(q h))``, ``h = (a - b) / 2``."""
        h = (a - b) / 2
        return (-(self.p + self.q) / 2 * (a + b)).exp() / (sinhc(self.p * h) * sinhc(self.q * h))

    def closed_form(self, n: int) -> ClosedForm | None:
        """Return the log-Euclidean, a power-Euclidean or a power-affine metric."""
        if self.p == self.q == 0:
            return MatrixLog(), SymmetricMatrices(n), 1.0
        if self.p == self.q:
            return MinusIdentity() @ MatrixPower(self.p), SymmetricMatrices(n), self.p**-2
        if self.p == -self.q:
            return MatrixPower(self.p), AffineInvariant(n), self.p**-2
        return None


class MinusIdentity(Diffeo):
    """``p - I``: moves the identity matrix to 0."""

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return ``p - I``."""
        return p - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``y + I``."""
        return y + torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return ``w``."""
        return w

    def push_identity(self, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return ``g``."""
        return g
