"""Laws of Lie groups and gyrogroups carried by a manifold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Gyrogroup, LieGroup
from manifoldnorm.testing.cases import COUNT, ManifoldCase, largest, mismatch
from manifoldnorm.testing.laws_means import SAMPLES


def _group(case: ManifoldCase) -> Any:
    if not isinstance(case.manifold, LieGroup):
        raise NotImplementedError("not a Lie group")
    return case.manifold


def _gyro(case: ManifoldCase) -> Any:
    if not isinstance(case.manifold, Gyrogroup):
        raise NotImplementedError("not a gyrogroup")
    return case.manifold


def group_identity(case: ManifoldCase) -> float:
    """The origin is the identity of the group, on both sides."""
    m, x, e = _group(case), case.points(), case.origin(COUNT)
    return max(mismatch(m.compose(e, x), x), mismatch(m.compose(x, e), x))


def group_inverse(case: ManifoldCase) -> float:
    """The inverse cancels on both sides."""
    m, x, e = _group(case), case.points(), case.origin(COUNT)
    return max(mismatch(m.compose(m.inverse(x), x), e), mismatch(m.compose(x, m.inverse(x)), e))


def group_associativity(case: ManifoldCase) -> float:
    """The product is associative."""
    m, x, y, z = _group(case), case.points(), case.points(), case.points()
    return mismatch(m.compose(m.compose(x, y), z), m.compose(x, m.compose(y, z)))


def group_quotient(case: ManifoldCase) -> float:
    """The quotient is the product with the inverse on the left."""
    m, x, y = _group(case), case.points(), case.points()
    return mismatch(m.quotient(x, y), m.compose(m.inverse(x), y))


def group_isometry(case: ManifoldCase) -> float:
    """Left translations are isometries."""
    m, x, y, z = _group(case), case.points(), case.points(), case.points()
    return mismatch(m.dist(m.compose(z, x), m.compose(z, y)), m.dist(x, y))


def group_homogeneity(case: ManifoldCase) -> float:
    """A left translation moves the mean along and keeps the dispersion."""
    m, x, z = _group(case), case.cloud(SAMPLES), case.points(1)[0]
    return _homogeneity(m, x, m.compose(z, x), m.compose(z, m.frechet_mean(x)))


def _homogeneity(m: Any, x: Tensor, moved: Tensor, expected: Tensor) -> float:
    mean = m.frechet_mean(moved)
    before, after = m.squared_dist(m.frechet_mean(x), x).mean(), m.squared_dist(mean, moved).mean()
    return max(largest(m.dist(mean, expected)), mismatch(after, before))


def group_dilation(case: ManifoldCase) -> float:
    """The fused move of a norm layer is: quotient, dilation about the origin, product."""
    m, c, x, b = _group(case), case.points(1)[0], case.points(), case.points(1)[0]
    squared, finish = _fused(m, "group_dilation")(c, x)
    moved, e = m.quotient(c, x), case.origin(COUNT)
    return _same_move(m, squared, finish, moved, e, b, m.compose)


def gyro_dilation(case: ManifoldCase) -> float:
    """The fused move of a norm layer is: gyrosubtraction, dilation about the origin, gyroaddition."""
    m, c, x, b = _gyro(case), case.points(1)[0], case.points(), case.points(1)[0]
    squared, finish = _fused(m, "gyro_dilation")(c, x)
    moved, e = m.gyrosub(c, x), case.origin(COUNT)
    return _same_move(m, squared, finish, moved, e, b, m.gyroadd)


def _fused(m: Any, name: str) -> Any:
    if not hasattr(m, name):
        raise NotImplementedError("layers move points in the chart")
    return getattr(m, name)


def _same_move(m: Any, squared: Tensor, finish: Any, moved: Tensor, e: Tensor, b: Tensor, add: Any) -> float:
    t = torch.full_like(squared, 0.6)
    dilated = m.exp(e, 0.6 * m.log(e, moved))
    return max(
        mismatch(squared, m.squared_dist(e, moved)),
        mismatch(finish(t, None), dilated),
        mismatch(finish(t, b), add(b, dilated)),
    )


def gyro_identity(case: ManifoldCase) -> float:
    """The origin is the identity of gyroaddition, on both sides."""
    m, x, e = _gyro(case), case.points(), case.origin(COUNT)
    return max(mismatch(m.gyroadd(e, x), x), mismatch(m.gyroadd(x, e), x))


def gyro_inverse(case: ManifoldCase) -> float:
    """The gyroinverse cancels on both sides."""
    m, x, e = _gyro(case), case.points(), case.origin(COUNT)
    return max(mismatch(m.gyroadd(m.gyroneg(x), x), e), mismatch(m.gyroadd(x, m.gyroneg(x)), e))


def gyro_left_cancellation(case: ManifoldCase) -> float:
    """``-x + (x + y) = y``, and gyrosubtraction is that addition."""
    m, x, y = _gyro(case), case.points(), case.points()
    total = m.gyroadd(x, y)
    return max(mismatch(m.gyroadd(m.gyroneg(x), total), y), mismatch(m.gyrosub(x, total), y))


def gyro_associativity(case: ManifoldCase) -> float:
    """``x + (y + z) = (x + y) + gyr[x, y] z``."""
    m, x, y, z = _gyro(case), case.points(), case.points(), case.points()
    left = m.gyroadd(x, m.gyroadd(y, z))
    return mismatch(m.gyroadd(m.gyroadd(x, y), m.gyration(x, y, z)), left)


def gyro_automorphism(case: ManifoldCase) -> float:
    """Gyrations are automorphisms: ``gyr[x, y](a + b) = gyr[x, y] a + gyr[x, y] b``."""
    m, x, y, a, b = _gyro(case), case.points(), case.points(), case.points(), case.points()
    return mismatch(m.gyration(x, y, m.gyroadd(a, b)), m.gyroadd(m.gyration(x, y, a), m.gyration(x, y, b)))


def gyro_pseudo_reduction(case: ManifoldCase) -> float:
    """Gyrations by a point and its inverse are trivial: ``gyr[-x, x] = id``."""
    m, x, z = _gyro(case), case.points(), case.points()
    return mismatch(m.gyration(m.gyroneg(x), x, z), z)


def gyro_gyrations_are_isometries(case: ManifoldCase) -> float:
    """Gyrations preserve distances, also from the origin."""
    m, x, y, a, b = _gyro(case), case.points(), case.points(), case.points(), case.points()
    e = case.origin(COUNT)
    turned = m.gyration(x, y, a)
    size = mismatch(m.dist(e, turned), m.dist(e, a))
    return max(size, mismatch(m.dist(turned, m.gyration(x, y, b)), m.dist(a, b)))


def gyro_translations_are_isometries(case: ManifoldCase) -> float:
    """Left gyrotranslations are isometries."""
    m, x, y, z = _gyro(case), case.points(), case.points(), case.points()
    return mismatch(m.dist(m.gyroadd(z, x), m.gyroadd(z, y)), m.dist(x, y))


def gyro_scaling(case: ManifoldCase) -> float:
    """``1 x = x``, ``(r s) x = r (s x)`` and ``(r + s) x = r x + s x``; ``gyr[r x, s x]`` is trivial."""
    m, x, z = _gyro(case), case.points(), case.points()
    r, s = 0.7, -1.3
    rx, sx = m.gyroscale(r, x), m.gyroscale(s, x)
    return max(
        mismatch(m.gyroscale(1.0, x), x),
        mismatch(m.gyroscale(r, sx), m.gyroscale(r * s, x)),
        mismatch(m.gyroadd(rx, sx), m.gyroscale(r + s, x)),
        mismatch(m.gyration(rx, sx, z), z),
    )


def gyro_overrides(case: ManifoldCase) -> float:
    """Gyroaddition, scaling, inverse, subtraction and gyration equal their definitions by the geometry."""
    m, x, y, z, e = _gyro(case), case.points(), case.points(), case.points(), case.origin(COUNT)

    def add(a: Tensor, b: Tensor) -> Tensor:
        return m.exp(a, m.from_origin(a, m.log(e, b)))

    def scale(t: float, a: Tensor) -> Tensor:
        return m.exp(e, t * m.log(e, a))

    turned = add(scale(-1.0, add(x, y)), add(x, add(y, z)))
    return max(
        case.mismatch(m.gyroadd(x, y), add(x, y)),
        case.mismatch(m.gyroscale(0.3, x), scale(0.3, x)),
        case.mismatch(m.gyroneg(x), scale(-1.0, x)),
        case.mismatch(m.gyrosub(x, y), add(scale(-1.0, x), y)),
        case.mismatch(m.gyration(x, y, z), turned),
    )


def gyro_homogeneity(case: ManifoldCase) -> float:
    """A gyrotranslation moves the mean along and keeps the dispersion; dilation scales distances from the origin."""
    m, x, z, e = _gyro(case), case.cloud(SAMPLES), case.points(1)[0], case.origin()
    dilated = mismatch(m.squared_dist(e, m.gyroscale(0.6, x)), 0.36 * m.squared_dist(e, x))
    return max(dilated, _homogeneity(m, x, m.gyroadd(z, x), m.gyroadd(z, m.frechet_mean(x))))


LIE_LAWS = (
    group_identity,
    group_inverse,
    group_associativity,
    group_quotient,
    group_isometry,
    group_homogeneity,
    group_dilation,
)
GYRO_LAWS = (
    gyro_identity,
    gyro_inverse,
    gyro_left_cancellation,
    gyro_associativity,
    gyro_automorphism,
    gyro_pseudo_reduction,
    gyro_gyrations_are_isometries,
    gyro_translations_are_isometries,
    gyro_scaling,
    gyro_overrides,
    gyro_homogeneity,
    gyro_dilation,
)
