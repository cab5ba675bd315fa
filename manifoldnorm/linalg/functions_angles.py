"""Functions of cosines and of squared angles, for Grassmann manifolds and rotations.

Divided differences are products of ``sin``, ``cos`` and ``x cot x`` of half sums and half differences of angles. Where
one of two angles is much larger than the other these forms cancel and the plain quotient does not; there it is taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifoldnorm.linalg._spectral_function import SpectralFunction


def sinc(x: Tensor) -> Tensor:
    """Return ``sin(x) / x``."""
    return torch.sinc(x / 3.141592653589793)  # a literal: torch.compile(dynamic=True) loses the attribute torch.pi


def x_cot_x(x: Tensor) -> Tensor:
    """Return ``x / tan(x)``, 1 at 0."""
    return x.cos() / sinc(x)


def _sums(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the sums and half the absolute differences of all pairs of angles."""
    row, column = angles.unsqueeze(-1), angles.unsqueeze(-2)
    return (row + column) / 2, (row - column).abs() / 2


def _combine(w: Tensor, value: Tensor, plus: Tensor, minus: Tensor, product: Tensor) -> Tensor:
    """Return the quotient of differences where one angle exceeds three times the other, else the product form."""
    far = minus > plus / 2
    gap = torch.where(far, w.unsqueeze(-1) - w.unsqueeze(-2), 1.0)
    return torch.where(far, (value.unsqueeze(-1) - value.unsqueeze(-2)) / gap, product)


def _series(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Return a power series by Horner's rule."""
    total = torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def _arc_terms(order: int, count: int = 64) -> tuple[float, ...]:
    """Return the series of the derivative of `ArcOverSine`, over the factorial of its order, in ``(1 - c) / 2``.

    The function is 2F1(1, 1; 3/2; (1 - c) / 2): positive terms, which for c >= 0 fall like powers of two.
    """
    terms = [1.0]
    for k in range(1, count):
        terms.append(terms[-1] * k / (k + 0.5))
    return tuple(terms[k] * math.comb(k, order) * (-0.5) ** order for k in range(order, count))


_ARC_SECOND, _ARC_FOURTH = _arc_terms(2), _arc_terms(4)


class ArcOverSine(SpectralFunction):
    """``acos(c) / sin(acos(c))``: from the cosine of a rotation to its logarithm; analytic up to ``c = 1``.

    With the half sum s and half difference d of two angles a, b the divided difference is
    ``(s cot s - d cot d) / (sin a sin b)``. It has a pole at ``c = -1``: cosines are kept ``4 eps`` away.
    """

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        return w.clamp(4 * eps - 1, 1.0)

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        tiny = torch.finfo(w.dtype).tiny
        return (w.acos() + tiny) / (((1 - w) * (1 + w)).sqrt() + tiny)

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        value, (plus, minus) = self.value(w, p), _sums(w.acos())
        s, d = plus.square(), minus.square()
        # of small angles the numerator is the series of x cot x over s^2 - d^2 = a b, the only factor that vanishes
        series = 1 / 3 + (s + d) / 45 + 2 * (s * s + s * d + d * d) / 945 + (s + d) * (s * s + d * d) / 4725
        near = -series * value.unsqueeze(-1) * value.unsqueeze(-2)
        small = plus < 0.05
        sine = ((1 - w) * (1 + w)).sqrt()
        denominator = torch.where(small, 1.0, sine.unsqueeze(-1) * sine.unsqueeze(-2))
        product = (x_cot_x(plus) - x_cot_x(minus)) / denominator
        return torch.where(small, near, _combine(w, value, plus, minus, product))

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        negative = m < 0
        u = (1 - torch.where(negative, 0.0, m)) / 2
        # for negative c the recurrence of the derivatives adds numbers of one sign
        c = torch.where(negative, m, -0.5)
        down, g = 1 - c * c, self.value(c, p)
        derivatives = [g, (c * g - 1) / down]
        for n in range(1, 4):
            low, high = derivatives[n - 1], derivatives[n]
            derivatives.append(((2 * n + 1) * c * high + n * n * low) / down)
        second = torch.where(negative, derivatives[2] / 2, _series(_ARC_SECOND, u))
        return second, torch.where(negative, derivatives[4] / 24, _series(_ARC_FOURTH, u))

    def scale(self, m: Tensor) -> Tensor:
        return 1 + m


def _bessel_terms(order: int, count: int = 20) -> tuple[float, ...]:
    """Return the series of ``(-2)^k`` times the k-th derivative of ``cos(sqrt x)``."""
    return tuple(
        (-1) ** n * 2**order * math.factorial(n + order) / (math.factorial(n) * math.factorial(2 * (n + order)))
        for n in range(count)
    )


def _bessel(order: int, x: Tensor) -> Tensor:
    """Return ``(-2)^k`` times the k-th derivative of ``cos(sqrt x)``, k >= 1."""
    small = x < 9.0
    near = _series(_bessel_terms(order), torch.where(small, x, 0.0))
    x = torch.where(small, 9.0, x)
    low, high = x.sqrt().cos(), sinc(x.sqrt())
    for k in range(1, order):
        low, high = high, ((2 * k - 1) * high - low) / x
    return torch.where(small, near, high)


class _Root(SpectralFunction):
    """A function of the square root of the eigenvalues of a Gram matrix."""

    derivatives: int

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        return w.clamp_min(0.0)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return _bessel(self.derivatives + 2, m) / 8, _bessel(self.derivatives + 4, m) / 384

    def scale(self, m: Tensor) -> Tensor:
        return 1 + m.sqrt()


class CosRoot(_Root):
    """``cos(sqrt w)``; ``-sinc(s) sinc(d) / 2`` with the half sum s and half difference d of the roots."""

    derivatives = 0

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.sqrt().cos()

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        plus, minus = _sums(w.sqrt())
        return sinc(plus) * sinc(minus) / -2


class SincRoot(_Root):
    """``sin(sqrt w) / sqrt w``; ``(cos(s) sinc(d) - sinc(s) cos(d)) / (2 a b)`` for the roots a, b."""

    derivatives = 1

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return sinc(w.sqrt())

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        eps = torch.finfo(w.dtype).eps
        root = w.sqrt()
        plus, minus = _sums(root)
        denominator = root.unsqueeze(-1) * root.unsqueeze(-2) + eps
        product = (plus.cos() * sinc(minus) - sinc(plus) * minus.cos() - eps / 3) / (2 * denominator)
        return _combine(w, self.value(w, p), plus, minus, product)


ARC_OVER_SINE, COS_ROOT, SINC_ROOT = ArcOverSine(), CosRoot(), SincRoot()
