"""The contract of a scalar function of eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor


def param(p: Tensor | None, axes: int) -> Tensor:
    """Return the parameter with ``axes`` trailing dimensions of size one."""
    assert p is not None
    return p.reshape(p.shape + (1,) * axes)


class SpectralFunction:
    """A scalar function of eigenvalues: its value, first and second divided differences.

    Subclasses are stateless; a parameter (exponent, threshold) arrives as ``p`` with one entry per matrix.
    """

    positive = False  # whether the matrix must be positive (semi-)definite
    parameter: SpectralFunction | None = None  # derivative with respect to the parameter
    native: int | None = None  # number of the function in the native library, where it is there

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        """Return the eigenvalues at which the function is evaluated (clamps are relative to the largest)."""
        return w

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        """Return f at the eigenvalues, (..., n)."""
        raise NotImplementedError

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        """Return the first divided differences f[a_i, a_j], (..., n, n)."""
        raise NotImplementedError

    def auxiliary(self, w: Tensor, p: Tensor | None) -> Tensor:
        """Return what the native divided differences need of each eigenvalue."""
        return self.value(w, p)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``f''(m) / 2`` and ``f''''(m) / 24``, used where three eigenvalues nearly coincide."""
        raise NotImplementedError

    def scale(self, m: Tensor) -> Tensor:
        """Return the distance over which f changes near m."""
        return m.abs()

    def divided2(self, w: Tensor, p: Tensor | None) -> Tensor:
        """Return the second divided differences f[a_i, a_j, a_k], (..., n, n, n)."""
        first = self.divided(w, p)
        a, b, c = w[..., :, None, None], w[..., None, :, None], w[..., None, None, :]
        ab, bc, ac = first[..., :, :, None], first[..., None, :, :], first[..., :, None, :]
        # divide by the largest of the three gaps: the quotient is symmetric, so any pair may lead
        gap_ac, gap_ab, gap_bc = (a - c).expand_as(ab + bc), (a - b), (b - c)
        lead_ab = (gap_ab.abs() >= gap_ac.abs()) & (gap_ab.abs() >= gap_bc.abs())
        lead_bc = ~lead_ab & (gap_bc.abs() > gap_ac.abs())
        gap = torch.where(lead_ab, gap_ab, torch.where(lead_bc, gap_bc, gap_ac))
        difference = torch.where(lead_ab, ac - bc, torch.where(lead_bc, ab - ac, ab - bc))
        m = (a + b + c) / 3
        half, twentyfourth = self.taylor(m, None if p is None else param(p, 2))
        spread = ((a - m) ** 2 + (b - m) ** 2 + (c - m) ** 2) / 2
        near = gap.abs() <= torch.finfo(w.dtype).eps ** 0.25 * self.scale(m)
        return torch.where(near, half + twentyfourth * spread, difference / torch.where(near, 1.0, gap))
