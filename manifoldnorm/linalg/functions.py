"""Scalar functions of eigenvalues with divided differences in closed form.

For a function ``f`` the matrix ``K_ij = f[a_i, a_j]`` (and ``f'`` on ties) is all that a spectral gradient needs
(Daleckii and Krein). Each form below has no threshold: a vanishing ``tiny`` added to the numerator and the denominator
makes 0/0 the derivative and changes nothing else. Arrays of pairs are updated in place: for large batches the allocator
returns a freed temporary to the system, and faulting it in again costs ten times the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg._spectral_function import SpectralFunction, param


def _tiny(w: Tensor) -> float:
    """Return a number far below eps, so that it vanishes beside any relative gap, and far above underflow.

    Literals: torch.compile(dynamic=True) makes an input of a number from a table, and loses it between Functions.
    """
    return 1e-40 if w.dtype == torch.float64 else 1e-20


def _pairs(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return (smaller, larger) of every pair of eigenvalues, each (..., n, n)."""
    row, column = w.unsqueeze(-1), w.unsqueeze(-2)
    return torch.minimum(row, column), torch.maximum(row, column)


class _Positive(SpectralFunction):
    positive = True

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        # a floor of eps times the largest eigenvalue: below it the input's own rounding error rules;
        # the zero matrix gets the smallest normal number
        return w.maximum((w[..., -1:] * eps).clamp_min(torch.finfo(w.dtype).tiny))


class Log(_Positive):
    """log; ``log1p(r) / r / b`` with ``r = (a - b) / b``."""

    native = 0

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.log()

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        low, high = _pairs(w)
        tiny = _tiny(w)
        ratio = high.sub_(low).div_(low)
        return ratio.log1p().add_(tiny).div_(ratio.add_(tiny)).div_(low)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return -0.5 / m**2, -0.25 / m**4


class Exp(SpectralFunction):
    """exp; ``e^max (1 - e^-t) / t`` with ``t = |a - b|``, which cannot overflow before the value does."""

    native = 1

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.exp()

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        tiny = _tiny(w)
        gap = (w.unsqueeze(-1) - w.unsqueeze(-2)).abs_()
        grown = w.exp()
        top = torch.maximum(grown.unsqueeze(-1), grown.unsqueeze(-2))
        return torch.neg(gap).expm1_().neg_().add_(tiny).div_(gap.add_(tiny)).mul_(top)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return m.exp() / 2, m.exp() / 24

    def scale(self, m: Tensor) -> Tensor:
        return torch.ones_like(m)


class Sqrt(SpectralFunction):
    """Square root of a positive semi-definite matrix; ``1 / (sqrt a + sqrt b)``."""

    positive = True
    native = 2

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        return w.clamp_min(0.0)

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.sqrt()

    def _floored(self, w: Tensor) -> Tensor:
        # bounds the derivatives at exactly singular matrices, where they are infinite
        info = torch.finfo(w.dtype)
        return w.maximum((w[..., -1:] * info.eps).clamp_min(info.tiny))

    def auxiliary(self, w: Tensor, p: Tensor | None) -> Tensor:
        return self._floored(w).sqrt()

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        root = self._floored(w).sqrt()
        return (root.unsqueeze(-1) + root.unsqueeze(-2)).reciprocal_()

    def divided2(self, w: Tensor, p: Tensor | None) -> Tensor:
        return super().divided2(self._floored(w), p)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return -0.125 * m**-1.5, -0.0390625 * m**-3.5


class InvSqrt(_Positive):
    """Inverse square root; ``-1 / (sqrt a sqrt b (sqrt a + sqrt b))``."""

    native = 3

    def auxiliary(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.sqrt()

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.rsqrt()

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        root = w.sqrt()
        row, column = root.unsqueeze(-1), root.unsqueeze(-2)
        return (-row * column).reciprocal_().div_(row + column)

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return 0.375 * m**-2.5, 0.2734375 * m**-4.5


class Power(_Positive):
    """``w^p (log w)^k``: the power and, for k = 1, 2, its derivatives in the exponent.

    With ``a > b`` and ``t = log(a / b) = log1p((a - b) / b)`` the divided difference of the power is
    ``sign(p) max(a^p, b^p) (1 - e^(-|p| t)) / (a - b)``, which neither cancels nor overflows before the value does.
    """

    def __init__(self, logs: int = 0) -> None:
        self.logs = logs
        self.parameter = Power(logs + 1) if logs < 2 else None
        self.native = None if logs else 4

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        power = w ** param(p, 1)
        return power * w.log() ** self.logs if self.logs else power

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        if self.logs > 1:
            raise NotImplementedError("powm: third derivatives in the exponent are not implemented.")
        low, high = _pairs(w)
        tiny = _tiny(w)
        gap = high - low
        rise = (gap / low).log1p_()
        size, power = param(p, 2).abs(), w ** param(p, 1)
        top = torch.maximum(power.unsqueeze(-1), power.unsqueeze(-2))
        share = gap.div_(high).add_(tiny)
        # the quotient first: a product of tiny with a power may underflow
        plain = (rise * -size).expm1_().neg_().add_(size * tiny).div_(share).div_(high).mul_(top)
        plain = plain.mul_(param(p, 2).sign())
        if self.logs == 0:
            return plain
        log = w.log()
        of_log = rise.add_(tiny).div_(share).div_(high)
        means = (power.unsqueeze(-1) + power.unsqueeze(-2)) * of_log + (log.unsqueeze(-1) + log.unsqueeze(-2)) * plain
        return means / 2

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.logs:
            raise NotImplementedError("powm: third derivatives in the exponent are not implemented.")
        q = param(p, 1)
        second = q * (q - 1)
        return second / 2 * m ** (q - 2), second * (q - 2) * (q - 3) / 24 * m ** (q - 4)


class ClampMin(SpectralFunction):
    """``max(w, p)``; exact: 1 above, 0 below, ``(a - p) / (a - b)`` across the threshold."""

    def __init__(self) -> None:
        self.parameter = _Below()

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w.maximum(param(p, 1))

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        low, high = _pairs(w)
        threshold = param(p, 2)
        across = (high - threshold) / (high - low + torch.finfo(w.dtype).tiny)
        return torch.where(low > threshold, 1.0, across.clamp(0.0, 1.0))

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(m), torch.zeros_like(m)


class _Below(SpectralFunction):
    """Indicator of ``w <= p``: the derivative of ``max(w, p)`` in the threshold (piecewise constant)."""

    def __init__(self) -> None:
        self.parameter = None

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return (w <= param(p, 1)).to(w.dtype)

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        low, high = _pairs(w)
        threshold = param(p, 2)
        return torch.where((low <= threshold) & (high > threshold), -1 / (high - low + torch.finfo(w.dtype).tiny), 0.0)


class Hyperbola(SpectralFunction):
    """``sqrt(w^2 + 1) - 1``; ``(a + b) / (sqrt(a^2 + 1) + sqrt(b^2 + 1))``."""

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return w * w / (1 + (w * w + 1).sqrt())

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        root = (w * w + 1).sqrt()
        return (w.unsqueeze(-1) + w.unsqueeze(-2)) / (root.unsqueeze(-1) + root.unsqueeze(-2))

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        root = (m * m + 1).sqrt()
        return 0.5 / root**3, (12 * m * m - 3) / (24 * root**7)

    def scale(self, m: Tensor) -> Tensor:
        return (m * m + 1).sqrt()


class Composed(SpectralFunction):
    """``outer(inner(w))``; ``(g o f)[a, b] = g[f a, f b] f[a, b]``. At most one of the two has a parameter: inner's."""

    def __init__(self, outer: SpectralFunction, inner: SpectralFunction) -> None:
        self.outer, self.inner = outer, inner
        self.positive = inner.positive
        self.parameter = _InnerParameter(outer, inner) if inner.parameter is not None else None

    def clamp(self, w: Tensor, eps: float) -> Tensor:
        return self.inner.clamp(w, eps)

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return self.outer.value(self.inner.value(w, p), None)

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        return self.outer.divided(self.inner.value(w, p), None) * self.inner.divided(w, p)

    def divided2(self, w: Tensor, p: Tensor | None) -> Tensor:
        inner = self.inner.value(w, p)
        first, outer_first = self.inner.divided(w, p), self.outer.divided(inner, None)
        curved = self.outer.divided2(inner, None) * first[..., :, :, None] * first[..., :, None, :]
        return curved + outer_first[..., None, :, :] * self.inner.divided2(w, p)


class _InnerParameter(SpectralFunction):
    """Derivative of a composition in the inner parameter: ``g'(f(w)) df/dp(w)``; df/dp is piecewise constant in p."""

    def __init__(self, outer: SpectralFunction, inner: SpectralFunction) -> None:
        assert inner.parameter is not None
        self.outer, self.inner, self.slope = outer, inner, inner.parameter
        self.parameter = _InnerCurvature(outer, inner)

    def _outer_slope(self, w: Tensor, p: Tensor | None) -> Tensor:
        return self.outer.divided(self.inner.value(w, p), None).diagonal(dim1=-2, dim2=-1)

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        return self._outer_slope(w, p) * self.slope.value(w, p)

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        # g'[A, B] = g[A, A, B] + g[A, B, B]
        second = self.outer.divided2(self.inner.value(w, p), None)
        twice = second.diagonal(dim1=-3, dim2=-2).mT
        of_slope = (twice + twice.mT) * self.inner.divided(w, p)
        return of_slope * self.slope.value(w, p).unsqueeze(-2) + self._outer_slope(w, p).unsqueeze(-1) * (
            self.slope.divided(w, p)
        )


class _InnerCurvature(SpectralFunction):
    """Second derivative of a composition in the inner parameter: ``g''(f(w)) (df/dp(w))^2``."""

    def __init__(self, outer: SpectralFunction, inner: SpectralFunction) -> None:
        assert inner.parameter is not None
        self.outer, self.inner, self.slope = outer, inner, inner.parameter

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        second = self.outer.divided2(self.inner.value(w, p), None)
        curvature = 2 * second.diagonal(dim1=-3, dim2=-2).diagonal(dim1=-2, dim2=-1)
        return curvature * self.slope.value(w, p) ** 2


LOG, EXP, SQRT, INV_SQRT, POWER, POWER_LOG = Log(), Exp(), Sqrt(), InvSqrt(), Power(), Power(1)
CLAMP_MIN, HYPERBOLA = ClampMin(), Hyperbola()
LOG_CLAMP_MIN = Composed(LOG, CLAMP_MIN)
LOG_HYPERBOLA = Composed(HYPERBOLA, LOG)
