"""The one thing the schools of Riemannian batch norm differ in: how a point is moved to the origin, and from it.

A move takes (manifold, mean, samples) and returns the squared distances from the mean together with a function
``finish(factor, bias)`` that scales about the origin and moves it to the bias point. Where there is a mean per domain,
a fourth argument makes what belongs to the mean broadcast against the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldnorm.manifolds import Gyrogroup, LieGroup, Manifold, flatten
from manifoldnorm.manifolds.base import safe_sqrt, spread
from manifoldnorm.manifolds.structures import Finish, Spread, same


class Moved(NamedTuple):
    """Squared distances from the mean, the rest of the layer, and what of a step its domain allows (None: all)."""

    squared: Tensor
    finish: Finish
    fraction: Callable[[Tensor, Tensor | None], Tensor | None] | None = None


Move = Callable[..., Moved]


def by_group(manifold: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
    """Move by left translations of the group."""
    return Moved(*manifold.group_dilation(mean, x, spread_mean))


def by_gyrogroup(manifold: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
    """Move by left gyrotranslations."""
    squared, finish = manifold.gyro_dilation(mean, x, spread_mean)
    radius = manifold.injectivity_radius
    if isinstance(radius, float) and radius == math.inf:  # math.isinf breaks a graph with dynamic numbers
        return Moved(squared, finish)

    def fraction(factor: Tensor, bias: Tensor | None) -> Tensor:
        # compact: neither the distance from the mean nor the scaled one may reach the cut locus
        reach = safe_sqrt(squared) * factor.clamp_min(1.0)
        return (radius / reach.clamp_min(torch.finfo(reach.dtype).tiny)).clamp_max(1.0)

    return Moved(squared, finish, fraction)


def by_transport(manifold: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
    """Move tangent vectors by parallel transport through the origin, without leaving the tangent space in between."""
    if hasattr(manifold, "log_to_origin"):
        v = manifold.log_to_origin(mean, x, spread_mean)
    else:
        mean = spread_mean(mean)
        v = manifold.to_origin(mean, manifold.log(mean, x))
    axes = len(manifold.point_shape)

    def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
        return manifold.shoot(bias, spread(factor, axes) * v)

    def fraction(factor: Tensor, bias: Tensor | None) -> Tensor | None:
        target = manifold.origin(dtype=x.dtype, device=x.device) if bias is None else bias
        return manifold.injective_fraction(target, manifold.from_origin(target, spread(factor, axes) * v))

    return Moved(manifold.origin_inner(v, v), finish, fraction)


def by_direct_transport(manifold: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
    """Move tangent vectors by one parallel transport from the mean to the bias."""
    mean = spread_mean(mean)
    v = manifold.log(mean, x)
    axes = len(manifold.point_shape)

    def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
        target = manifold.origin(dtype=x.dtype, device=x.device) if bias is None else bias
        return manifold.exp(target, spread(factor, axes) * manifold.transport(mean, target, v))

    return Moved(manifold.inner(mean, v, v), finish)


def by_factors(product: Any, choose: Callable[[Manifold], Move]) -> Move:
    """Return the move of a product with statistics per factor: squared distances and factors are (..., factors)."""
    charts = [flatten(factor) for factor in product.factors]
    if any(base.variance_shape for _, base, _ in charts):
        raise ValueError(f"{product}: a factor is a product with statistics per factor; give it per_factor=False.")
    steps = [choose(base) for _, base, _ in charts]

    def parts(p: Tensor | None) -> list[Any]:
        """Return a point's factors, each in its chart."""
        split = [None] * len(charts) if p is None else product.split(p)
        return [q if q is None or chart is None else chart(q) for (chart, _, _), q in zip(charts, split, strict=True)]

    def move(_: Any, mean: Tensor, x: Tensor, spread_mean: Spread = same) -> Moved:
        arguments = zip(steps, charts, parts(mean), parts(x), strict=True)
        moved = [step(base, m, y, spread_mean) for step, (_, base, _), m, y in arguments]
        squared = [scale * part.squared for (_, _, scale), part in zip(charts, moved, strict=True)]

        def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
            ends = [m.finish(factor[..., i], b) for i, (m, b) in enumerate(zip(moved, parts(bias), strict=True))]
            leave = zip(charts, ends, strict=True)
            return product.merge(*(y if chart is None else chart.inverse(y) for (chart, _, _), y in leave))

        def fraction(factor: Tensor, bias: Tensor | None) -> Tensor | None:
            each = enumerate(zip(moved, parts(bias), strict=True))
            limits = [m.fraction(factor[..., i], b) for i, (m, b) in each if m.fraction is not None]
            found = [t for t in limits if t is not None]
            return torch.stack(found).amin(0) if found else None

        return Moved(torch.stack(squared, -1), finish, fraction)

    return move


def transport_move(manifold: Manifold, route: str) -> Move:
    """Return the move of `RiemannianBatchNorm`: through the origin it is the gyrotranslation wherever that exists."""
    if manifold.variance_shape:
        return by_factors(manifold, lambda factor: transport_move(factor, route))
    if route == "direct":
        if type(manifold).transport is Manifold.transport:
            raise ValueError(
                f"RiemannianBatchNorm: route='direct' needs parallel transport between general points, "
                f"which {manifold} has no closed form for. Use route='origin'."
            )
        return by_direct_transport
    if route != "origin":
        raise ValueError(f"RiemannianBatchNorm: route must be 'origin' or 'direct', got {route!r}.")
    return by_gyrogroup if isinstance(manifold, Gyrogroup) else by_transport


def group_move(manifold: Manifold) -> Move:
    """Return the move of `LieBatchNorm`."""
    if not isinstance(manifold, LieGroup):
        raise ValueError(f"LieBatchNorm: {manifold} is not a Lie group. Use RiemannianBatchNorm.")
    return by_factors(manifold, group_move) if manifold.variance_shape else by_group


def gyro_move(manifold: Manifold) -> Move:
    """Return the move of `GyroBatchNorm`."""
    if not isinstance(manifold, Gyrogroup):
        raise ValueError(f"GyroBatchNorm: {manifold} is not a gyrogroup. Use RiemannianBatchNorm.")
    return by_factors(manifold, gyro_move) if manifold.variance_shape else by_gyrogroup
