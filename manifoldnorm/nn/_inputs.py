"""What a batch norm accepts: shapes, dtypes, weights, and errors that name the sample, the cause and the remedy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.manifolds import Manifold
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.moves import Moved


def as_geometry(manifold: Any) -> Any:
    """Return a geometry of this package, or a learnable one; a geoopt manifold is converted."""
    if isinstance(manifold, (Manifold, LearnableManifold)):
        return manifold
    if isinstance(manifold, type):
        raise TypeError(f"manifold: pass an instance, e.g. {manifold.__name__}(20), not the class.")
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
    fraction = moved.fraction(factor, bias) if moved.fraction is not None else None
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
    shape = x.shape[:lead]
    if tuple(weights.shape) not in (tuple(shape), tuple(shape[:pooled]), tuple(shape[:1])):
        raise ValueError(
            f"{name}: weights must have shape {tuple(shape)} or {tuple(shape[:pooled])}, got {tuple(weights.shape)}."
        )
    weights = weights.reshape(weights.shape + (1,) * (lead - weights.ndim)).expand(shape)
    return flat, weights.flatten(0, pooled - 1) if pooled > 1 else weights
