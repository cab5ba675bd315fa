"""Constant curvature of either sign: one set of formulas, smooth through zero and accurate up to the boundary.

Spaces of constant curvature K share the conformal disk ``{x : 1 + K |x|^2 > 0}``. A point travels with its squared norm
and with ``1 + K |x|^2``, both to full relative accuracy, so that neither a ball point near the boundary nor one of the
hyperboloid far from its vertex loses digits to a cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import native
from manifoldnorm.stats import Weights, weighted_means

# |z| below which the functions of the signed square z are their series: seven terms reach 1e-17 there, while
# derivatives of the closed forms lose eps / |z|
_SERIES = 4e-3
_SINE = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(6))
_COSINE = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(6))
_TAN = (1.0, 1 / 3, 2 / 15, 17 / 315, 62 / 2835, 1382 / 155925, 21844 / 6081075)
_ARCTAN = tuple((-1.0) ** k / (2 * k + 1) for k in range(7))


class Disk(NamedTuple):
    """Points (..., d) of the disk, their squared norms and ``gap = 1 + curvature * square``, both (..., 1)."""

    point: Tensor
    square: Tensor
    gap: Tensor

    def __neg__(self) -> Disk:
        return Disk(-self.point, self.square, self.gap)


def widen(x: Tensor) -> Tensor:
    """Return single precision as double, in which all of this is computed unless `linalg.precision` is native."""
    if x.dtype != torch.float32 or x.device.type == "mps":
        return x
    # a traced graph must not hold what is true of the current call only
    return x.double() if torch.compiler.is_compiling() or not native() else x


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of products over the last dimension, which is kept."""
    return (x * y).sum(-1, keepdim=True)


class _Square(Function):
    """The squared norm, whose backward is one product where autograd's of ``x * x`` is two and their sum."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x * x).sum(-1, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (2 * g) * x


def square(x: Tensor) -> Tensor:
    """Return the squared norm over the last dimension, which is kept."""
    return call(_Square, x) if plain(x) else dot(x, x)


def outer(factor: Tensor, vector: Tensor) -> Tensor:
    """Return ``factor * vector`` (..., d), as a matrix product where one vector meets many factors (N, 1)."""
    return factor @ vector.unsqueeze(0) if vector.ndim == 1 and factor.ndim == 2 else factor * vector


def _series(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * z + coefficient
    return value


class _Roots:
    """The root of ``|z|`` on the sides of zero that occur, harmless numbers where another side or the series is used.

    Where the sign is known zero is no place to differentiate the curvature at: the series is its first term.
    """

    def __init__(self, z: Tensor, sign: int | None) -> None:
        self.z, self.sign = z, sign
        self.near = z.abs() < (_SERIES if sign is None else torch.finfo(z.dtype).eps)
        self.positive, self.negative = self._side(z, -1), self._side(-z, 1)

    def _side(self, z: Tensor, other: int) -> Tensor:
        unused = self.near if self.sign else self.near | (z < 0)
        return torch.where(unused, 1.0, z).sqrt() if self.sign != other else z

    def join(self, coefficients: tuple[float, ...], positive: Callable[[Tensor], Tensor], negative: Any) -> Tensor:
        """Return the series near zero and elsewhere a function of the root on the side of z."""
        if self.sign:
            far = positive(self.positive) if self.sign == 1 else negative(self.negative)
            return torch.where(self.near, coefficients[0], far)
        far = torch.where(self.z > 0, positive(self.positive), negative(self.negative))
        return torch.where(self.near, _series(torch.where(self.near, self.z, 0.0), coefficients), far)


def sine_cosine(z: Tensor, sign: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``sin(a) / a`` and ``cos(a)`` for ``a^2 = z``, hyperbolic where z is negative.

    Negative z is clamped where the square of the hyperbolic cosine would overflow.

    Parameters
    ----------
    z : Tensor
        Signed squares of angles.
    sign : {-1, 1, None}
        Of z if it is known (zero counts as either).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds._curvature import sine_cosine
    >>> sine_cosine(torch.tensor([0.0, -1.0]))
    (tensor([1.0000, 1.1752]), tensor([1.0000, 1.5431]))
    """
    roots = _Roots(_without_overflow(z, sign), sign)
    sine = roots.join(_SINE, lambda r: r.sin() / r, lambda r: r.sinh() / r)
    return sine, roots.join(_COSINE, torch.cos, torch.cosh)


def _without_overflow(z: Tensor, sign: int | None) -> Tensor:
    return z if sign == 1 else z.clamp_min(-(_largest(z) ** 2))


def _largest(z: Tensor) -> float:
    return 0.4 * math.log(torch.finfo(z.dtype).max)


def tan_ratio(z: Tensor, sign: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``tan(a) / a`` and ``1 + tan(a)^2`` for ``a^2 = z``, hyperbolic where z is negative.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds._curvature import tan_ratio
    >>> tan_ratio(torch.tensor([0.0, -1.0]))
    (tensor([1.0000, 0.7616]), tensor([1.0000, 0.4200]))
    """
    if sign == -1:  # below eps the series is its first term, as in `_Roots`
        root = (-z).clamp_min(torch.finfo(z.dtype).eps).sqrt()
        far = root.clamp_max(_largest(z)).cosh()
        return root.tanh() / root, far.square().reciprocal()
    ratio = _Roots(z, sign).join(_TAN, lambda r: r.tan() / r, lambda r: r.tanh() / r)
    cosine = _Roots(_without_overflow(z, sign), sign).join(_COSINE, torch.cos, torch.cosh)
    return ratio, cosine.square().reciprocal()


def arctan_ratio(z: Tensor, gap: Tensor, sign: int | None = None) -> Tensor:
    """Return ``atan(t) / t`` for ``t^2 = z``, hyperbolic where z is negative, given ``gap = 1 + z``.

    The hyperbolic side uses ``atanh(t) = asinh(t / sqrt(1 - t^2))``, which only loses what the gap has lost.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds._curvature import arctan_ratio
    >>> arctan_ratio(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor([1.0000, 0.7854])
    """
    roots = _Roots(z, sign)
    return roots.join(_ARCTAN, lambda r: r.atan() / r, lambda r: (r * gap.rsqrt()).asinh() / r)


class Space:
    """The gyrovector space of the conformal disk of one curvature.

    Frames are orthonormal coordinates of tangent vectors, carried from the origin by radial transport: in them
    transport to and from the origin is the identity, and lengths are Riemannian.

    Parameters
    ----------
    curvature : float or Tensor
        Signed.
    sign : {-1, 1, None}
        Of the curvature if it is known (zero counts as positive).
    """

    def __init__(self, curvature: float | Tensor, sign: int | None) -> None:
        self.curvature, self.sign = curvature, sign

    def origin(self, like: Tensor) -> Disk:
        """Return the origin, without batch dimensions."""
        zero = torch.zeros(1, dtype=like.dtype, device=like.device)
        return Disk(zero, zero, zero + 1)

    def disk(self, point: Tensor) -> Disk:
        """Return points given by their coordinates; the gap of a point outside is a rounding error, not negative."""
        norm2 = square(point)
        return Disk(point, norm2, (1 + self.curvature * norm2).clamp_min(torch.finfo(point.dtype).eps))

    def add(self, x: Disk, y: Disk, total: Tensor | None = None) -> Disk:
        """Return the Mobius sum, written in ``total = x + y`` so that nothing cancels where that is small."""
        total = x.point + y.point if total is None else total
        norm2 = square(total)
        inverse = 1 / self._denominator(x, y, norm2)
        point = (x.gap * inverse) * total - outer(self.curvature * norm2 * inverse, x.point)
        return Disk(point, norm2 * inverse, x.gap * y.gap * inverse)

    def _denominator(self, x: Disk, y: Disk, norm2: Tensor) -> Tensor:
        """Return ``1 - 2 K <x, y> + K^2 |x|^2 |y|^2`` as a sum of positive terms; ``norm2`` is ``|x + y|^2``."""
        product = x.gap * y.gap
        hyperbolic = product - self.curvature * norm2
        if self.sign == -1:
            return hyperbolic
        inner = dot(x.point, y.point)
        wedge = x.square * y.point - inner * x.point
        # for x = 0 the quotient is 0, and so is its gradient: an offset any smaller would overflow there
        area = square(wedge) / (x.square + torch.finfo(norm2.dtype).tiny ** 0.5)
        spherical = (1 - self.curvature * inner).square() + self.curvature**2 * area
        # at the antipode the sum is the point at infinity: a finite point very far out stands for it
        spherical = torch.maximum(spherical, torch.finfo(norm2.dtype).eps ** 2 * product)
        return spherical if self.sign == 1 else torch.where(torch.as_tensor(self.curvature) < 0, hyperbolic, spherical)

    def arc(self, x: Disk) -> Tensor:
        """Return ``atan_K |x| / |x|``: half the distance from the origin over the norm, (..., 1)."""
        return arctan_ratio(self.curvature * x.square, x.gap, self.sign)

    def scale(self, x: Disk, arc: Tensor, time: Tensor | float) -> Disk:
        """Return the point at ``time`` of the geodesic from the origin to ``x``, given `arc`."""
        stretch = time * arc
        tangent, gap = tan_ratio(self.curvature * x.square * stretch.square(), self.sign)
        ratio = stretch * tangent
        return Disk(ratio * x.point, ratio.square() * x.square, gap)

    def exp(self, frame: Tensor) -> Disk:
        """Return the exponential at the origin of tangent vectors given in the frame."""
        half = 0.5 * frame
        norm2 = square(half)
        ratio, gap = tan_ratio(self.curvature * norm2, self.sign)
        return Disk(ratio * half, ratio.square() * norm2, gap)

    def log(self, x: Disk) -> Tensor:
        """Return the logarithm at the origin, in the frame."""
        return (2 * self.arc(x)) * x.point

    def gyrate(self, x: Disk, y: Disk, vector: Tensor) -> Tensor:
        """Return ``gyr[x, y] vector``, a rotation, written in ``x + y`` so that nothing cancels near the boundary."""
        total, k = x.point + y.point, self.curvature
        norm2 = square(total)
        along, across = dot(total, vector), dot(y.point, vector)
        first = (1 - y.gap) * along - (x.gap - k * norm2) * across
        second = y.gap * along - k * norm2 * across
        return vector + (2 * k / self._denominator(x, y, norm2)) * (first * total + second * y.point)

    def midpoint(self, x: Disk, weights: Weights) -> Tensor:
        """Return the gyromidpoint over dimension 0: the projected centroid of the hyperboloid (or sphere).

        Source: Ungar 2010, "Barycentric calculus in Euclidean and hyperbolic geometry", in the form that needs no
        choice between a point and its antipode.
        """
        inverse = 1 / x.gap
        position, time = weighted_means(weights, (2 * inverse * x.point, 1), ((2 - x.gap) * inverse, 1))
        finfo = torch.finfo(time.dtype)
        norm2 = torch.maximum(time.square() + self.curvature * square(position), (finfo.eps * time).square())
        positive = norm2 > 0  # both vanish for a batch that is symmetric about the origin of a sphere
        root = torch.where(positive, torch.where(positive, norm2, 1.0).sqrt(), 0.0)
        return position / (time + root + finfo.tiny)

    def stretch(self, x: Disk, vector: Tensor) -> Tensor:
        """Return the vector with its radial part multiplied by ``(2 - gap) / gap``, the cosine of the distance."""
        return vector - (2 * self.curvature / x.gap * dot(x.point, vector)) * x.point

    def shrink(self, x: Disk, vector: Tensor) -> Tensor:
        """Return the vector with its radial part divided by ``(2 - gap) / gap``: the inverse of `stretch`."""
        return vector + (2 * self.curvature / (2 - x.gap) * dot(x.point, vector)) * x.point
