"""What a batch norm accepts: shapes, dtypes, weights, and errors that name the sample, the cause and the remedy."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds import Manifold
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.moves import Moved
from manifoldnorm.nn.statistics import Statistics
from manifoldnorm.stats import MeanPolicy


class PerDomain(NamedTuple):
    """The domain (M,) of each pooled sample, with the samples' weights."""

    domain: Tensor
    weights: Tensor | None


def unweighted(weights: Any) -> bool:
    """Return whether all samples count alike, in their domain where there are domains."""
    return (weights.weights if isinstance(weights, PerDomain) else weights) is None


def as_geometry(manifold: Any) -> Any:
    """Return a geometry of this package, or a learnable one; a geoopt manifold is converted."""
    if isinstance(manifold, (Manifold, LearnableManifold)):
        return manifold
    if isinstance(manifold, type):
        raise TypeError(f"manifold: pass an instance, e.g. {manifold.__name__}(20), not the class.")
    if isinstance(manifold, int):
        raise TypeError(
            f"manifold: pass a geometry, e.g. AffineInvariant({manifold}), not a size. Where a network calls the norm "
            f"with a size, give it a factory, e.g. norm=RiemannianBatchNorm.of(AffineInvariant)."
        )
    from manifoldnorm._geoopt import from_geoopt

    return from_geoopt(manifold)


def bias_kind(bias: str | bool) -> str:
    """Return ``"tangent"``, ``"manifold"`` or, for no bias, the empty string."""
    if bias is False:
        return ""
    if bias is True:
        return "tangent"
    if bias not in ("tangent", "manifold"):
        raise ValueError(f"bias must be 'tangent', 'manifold' or False, got {bias!r}.")
    return bias


def check_numbers(channels: Any, eps: Any, momentum: Any, name: str) -> None:
    """Raise unless these options of a norm are numbers in their range."""
    if channels is not None and (not isinstance(channels, Integral) or channels < 1):
        raise ValueError(f"{name}: channels must be None or at least 1 and whole, got {channels!r}.")
    if not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ValueError(f"{name}: eps must not be negative, a finite number, got {eps!r}.")
    if momentum is not None and (not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1):
        raise ValueError(f"{name}: momentum must lie in [0, 1] or be None, got {momentum!r}.")


def check_policies(mean: Any, statistics: Any, name: str) -> None:
    """Raise unless the mean and the statistics are policies, or None."""
    if mean is not None and not isinstance(mean, MeanPolicy):
        raise TypeError(
            f"{name}: mean must be a policy of manifoldnorm.stats, such as Exact(), Newton(1), Karcher(1), "
            f"FixedPoint(1) or Midpoint(), got {mean!r}."
        )
    if statistics is not None and not isinstance(statistics, Statistics):
        raise TypeError(f"{name}: statistics must be a policy of manifoldnorm.nn, such as Batch(), got {statistics!r}.")


def check_layout(manifold: Manifold, channels: int | None, x: Tensor, name: str) -> None:
    """Raise unless ``x`` is (N, ..., C?, *point_shape)."""
    manifold.check_shape(x, f"{name} input")
    lead = x.shape[: x.ndim - len(manifold.point_shape)]
    point = ", ".join(map(str, manifold.point_shape))
    if channels is None and len(lead) < 1:
        raise ValueError(f"{name}: expected (N, ..., {point}), got {tuple(x.shape)}. Add a batch dimension: x[None].")
    if channels is not None and (len(lead) < 2 or lead[-1] != channels):
        raise ValueError(f"{name}: expected (N, ..., {channels}, {point}), got {tuple(x.shape)}.")


def check_same_kind(own: Tensor | None, x: Tensor, name: str) -> None:
    """Raise unless the layer's tensors and the input share dtype and device."""
    if own is not None and (own.dtype != x.dtype or own.device != x.device):
        raise TypeError(
            f"{name}: the layer holds {own.dtype} on {own.device}, the input is {x.dtype} on {x.device}. "
            f"Convert one of them, e.g. layer.to(x)."
        )


def finite_samples(manifold: Manifold, x: Tensor) -> Tensor | None:
    """Return which points of ``x`` are finite (*batch); None where all are and looking at values costs nothing."""
    x = x.detach()
    if plain(x) and math.isfinite(abs(x.sum().item())):
        return None
    axes = len(manifold.point_shape)
    return (x.sum(tuple(range(-axes, 0))) if axes else x).isfinite()


def origin_where_not(finite: Tensor, manifold: Manifold, x: Tensor) -> Tensor:
    """Return ``x`` with the origin in place of the points that are not finite."""
    origin = manifold.origin(dtype=x.dtype, device=x.device).detach()
    return torch.where(spread(finite, len(manifold.point_shape)), x, origin)  # type: ignore[arg-type]


def one_left_out(x: Tensor, weights: Any) -> tuple[Tensor, Any]:
    """Return a batch of one sample that does not count, in place of an empty one: so a process joins the others."""

    def grown(empty: Tensor, value: float) -> Tensor:
        return torch.cat([empty, empty.new_full((1, *empty.shape[1:]), value)])  # with the gradient that others need

    def light(none: Tensor | None) -> Tensor | None:
        return None if none is None else grown(none, 0)

    if isinstance(weights, PerDomain):
        return grown(x, math.nan), PerDomain(grown(weights.domain, 0), light(weights.weights))
    return grown(x, math.nan), light(weights)


def name_the_sample(manifold: Manifold, x: Tensor, error: Exception, name: str) -> None:
    """Raise with the sample at fault if it is one of ``x``: a decomposition may have met it in a mean only."""
    axes = len(manifold.point_shape)
    finite = x.detach().flatten(x.ndim - axes).isfinite().all(-1)
    origin = manifold.origin(dtype=x.dtype, device=x.device).detach()
    safe = torch.where(spread(finite, axes), x.detach(), origin)  # type: ignore[arg-type]
    try:
        manifold.check_point(safe, f"{name} input")
    except ValueError as reason:
        raise torch.linalg.LinAlgError(str(reason)) from error


def check_domain(moved: Moved, factor: Tensor, bias: Tensor | None, name: str) -> None:
    """Raise if a scaled step leaves the domain of the exponential map."""
    if moved.fraction is None:
        return
    with torch.no_grad():
        fraction = moved.fraction(factor, bias)
    where = first_bad(fraction < 1) if fraction is not None else None
    if fraction is not None and where is not None:
        raise ValueError(
            f"{name}: {where[0]} leaves the domain of the exponential map after scaling (only "
            f"{float(fraction.flatten()[where[1]]):.3g} of its step is allowed). Use a smaller scale, "
            f"or check_input=False to shrink such steps."
        )


def pool(x: Tensor, weights: Tensor | None, axes: int, channels: int | None, name: str) -> tuple[Tensor, Any]:
    """Return points (M, C?, *point_shape) and weights (M, C?), every axis before the channel pooled."""
    lead = x.ndim - axes
    pooled = lead if channels is None else lead - 1
    flat = x.flatten(0, pooled - 1) if pooled > 1 else x
    if weights is None:
        return flat, None
    check_tensor(weights, name, "weights")
    shape = x.shape[:lead]
    allowed = dict.fromkeys((tuple(shape), tuple(shape[:pooled]), tuple(shape[:1])))
    if tuple(weights.shape) not in allowed:
        raise ValueError(
            f"{name}: weights must have shape {' or '.join(map(str, allowed))}, got {tuple(weights.shape)}."
        )
    weights = weights.reshape(weights.shape + (1,) * (lead - weights.ndim)).expand(shape)
    return flat, weights.flatten(0, pooled - 1) if pooled > 1 else weights


def pool_domain(layer: Any, x: Tensor, domain: Tensor) -> Tensor:
    """Return the domain of each pooled sample (M,); looks at values only where that costs nothing."""
    name, count = type(layer).__name__, layer.running_mean.shape[0]
    if tuple(domain.shape) != tuple(x.shape[:1]):
        raise ValueError(
            f"{name}: domain must hold one integer for each of the {x.shape[0]} samples, got shape "
            f"{tuple(domain.shape)}. One domain for all samples: pass its number."
        )
    if plain(domain) and domain.numel() and not (domain.min().item() >= 0 and domain.max().item() < count):
        bad = int(domain[(domain < 0) | (domain >= count)][0])
        raise ValueError(
            f"{name}: domain {bad} is not one of the {count} domains (0 to {count - 1}). Add it with add_domain()."
        )
    lead = x.ndim - len(layer.manifold.point_shape) - (layer.channels is not None)
    return domain.reshape(domain.shape + (1,) * (lead - 1)).expand(x.shape[:lead]).reshape(-1)


def check_no_domain(layer: Any) -> None:
    """Raise if the layer's statistics are per domain."""
    if layer.per_domain:
        raise ValueError(f"{type(layer).__name__} belongs to a DomainBatchNorm; call that with (x, domain).")
