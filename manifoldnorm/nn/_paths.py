"""Which way a norm's training batch takes: one fused operation for each direction, or the template's steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import native
from manifoldnorm.manifolds import AffineInvariant, BuresWasserstein, Diffeo, Euclidean, Manifold
from manifoldnorm.manifolds.elliptope import HollowMatrices, StrictlyTriangularMatrices, ZeroRowSumMatrices
from manifoldnorm.manifolds.euclidean import SymmetricMatrices, TriangularMatrices
from manifoldnorm.nn import (
    _fused_affine_invariant,
    _fused_affine_invariant_domains,
    _fused_bures,
    _fused_bures_domains,
    _fused_flat,
    _fused_flat_domains,
    moves,
)
from manifoldnorm.nn._fused_bures import LeavesDomain
from manifoldnorm.nn._fused_domains import Domains
from manifoldnorm.nn.statistics import Batch, Observed
from manifoldnorm.stats import Exact, Karcher, Newton, Segments

Plan = _fused_affine_invariant.Plan | _fused_bures.Plan | _fused_flat.Plan


def _affine_invariant(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    move, mean = layer._select_move(base), layer._mean_policy or base.default_mean
    if y.ndim != 3 or not _fused.usable(y) or type(mean) not in (Karcher, Newton, Exact):
        return None
    if isinstance(base.alpha, Tensor) or isinstance(base.beta, Tensor) or base.beta != 0:
        return None
    group = move is moves.by_group
    if not group and move is not moves.by_gyrogroup:
        return None
    return _fused_affine_invariant.Plan(base, group, mean, base.alpha * scale, layer.eps, layer.grad_through_stats)


def _bures(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    if y.ndim != 3 or not _fused.usable(y) or native() or layer.grad_through_stats:
        return None
    if layer._select_move(base) is not moves.by_transport:
        return None
    return _fused_bures.Plan(base, layer._mean_policy or base.default_mean, scale, layer.eps)


def _flat(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    if y.is_complex() or not plain(y):
        return None
    return _fused_flat.Plan(base, scale, layer.eps, layer.grad_through_stats)


_FLAT = (
    Euclidean,
    SymmetricMatrices,
    TriangularMatrices,
    StrictlyTriangularMatrices,
    HollowMatrices,
    ZeroRowSumMatrices,
)
_PLANS: dict[type, Callable[[Any, Any, Tensor, float], Plan | None]] = {
    AffineInvariant: _affine_invariant,
    BuresWasserstein: _bures,
    **dict.fromkeys(_FLAT, _flat),
}


_BY_DOMAIN: dict[type, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    _fused_affine_invariant.Plan: _fused_affine_invariant_domains.run,
    _fused_bures.Plan: _fused_bures_domains.run,
    _fused_flat.Plan: _fused_flat_domains.run,
}

_template: ContextVar[bool] = ContextVar("manifoldnorm_template_only", default=False)


_watched: ContextVar[list[str] | None] = ContextVar("manifoldnorm_paths", default=None)


@contextlib.contextmanager
def watch() -> Iterator[list[str]]:
    """Write down which path each norm takes."""
    seen: list[str] = []
    token = _watched.set(seen)
    try:
        yield seen
    finally:
        _watched.reset(token)


def took(layer: Any, path: str) -> None:
    """Note the path, where somebody watches."""
    seen = None if torch.compiler.is_compiling() else _watched.get()
    if seen is not None:
        seen.append(f"{type(layer).__name__} on {layer.manifold}: {path}")


@contextlib.contextmanager
def template_only() -> Iterator[None]:
    """Keep to the template's steps, to compare a fused operation with them."""
    token = _template.set(True)
    try:
        yield
    finally:
        _template.reset(token)


def _plan(layer: Any, base: Manifold, metric_scale: float | Tensor, y: Tensor) -> Plan | None:
    if torch.compiler.is_compiling() or _template.get() or layer._others() is not None:
        return None  # the fused operations are not traced, and know of one process only
    choose = _PLANS.get(type(base))
    # only exact types: a subclass may have changed any of the steps
    if choose is None or not vars(type(layer)).get("fuses") or type(layer.statistics) is not Batch:
        return None
    return None if isinstance(metric_scale, Tensor) else choose(layer, base, y, metric_scale)


def fused(
    layer: Any,
    manifold: Any,
    chart: Diffeo | None,
    base: Manifold,
    metric_scale: float | Tensor,
    y: Tensor,
    per_domain: Any = None,
) -> Tensor | None:
    """Return the output for an unweighted batch of finite samples in the chart, or None for the template.

    The running statistics follow.
    """
    plan = _plan(layer, base, metric_scale, y)
    if plan is None:
        return None
    domains = None if per_domain is None else _domains(layer, chart, base, y, per_domain)
    tangent = point = None
    if layer.bias_kind == "tangent" and plan.takes_tangent:
        # the operation itself projects where there is no chart in between
        tangent = layer.bias if chart is None else layer._base_tangent_bias(manifold, base)
    elif layer.bias_kind:
        point = layer._base_bias(manifold, chart, base)
    try:
        inputs = (y, layer.log_scale if layer.affine else None, tangent, point)
        out, mean, variance = plan.run(*inputs) if domains is None else _BY_DOMAIN[type(plan)](plan, *inputs, domains)
    except LeavesDomain:
        return None
    took(layer, "fused")
    if layer.training and layer.track_running_stats:
        share, enough = (None, None) if domains is None else (domains.segments, domains.enough)
        layer.statistics.track(layer, Observed(base, chart, metric_scale, y, share, mean, enough), mean, variance)
    return out


def _domains(layer: Any, chart: Diffeo | None, base: Manifold, y: Tensor, per_domain: Any) -> Domains:
    share, enough = layer._shares(y, None, per_domain, base)
    with torch.no_grad():
        running = layer.running_mean.clone() if chart is None else chart(layer.running_mean)
    assert isinstance(share, Segments)
    return Domains(share, enough, running, layer.running_var.clone())  # the buffers change before backward
