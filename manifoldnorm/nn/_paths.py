"""Which way a norm's training batch takes: one fused operation for each direction, or the template's steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import native, widens, working_dtype
from manifoldnorm.linalg._program import Declined
from manifoldnorm.manifolds import (
    AffineInvariant,
    BuresWasserstein,
    Diffeo,
    Euclidean,
    Grassmann,
    LogCholesky,
    LogEuclidean,
    Manifold,
)
from manifoldnorm.manifolds.elliptope import HollowMatrices, StrictlyTriangularMatrices, ZeroRowSumMatrices
from manifoldnorm.manifolds.euclidean import SymmetricMatrices, TriangularMatrices
from manifoldnorm.nn import _inputs, _running, moves
from manifoldnorm.nn.statistics import Batch, Observed
from manifoldnorm.stats import Exact, Karcher, Newton

if TYPE_CHECKING:
    from manifoldnorm.nn import _fused_affine_invariant, _fused_bures, _fused_flat, _fused_grassmann
    from manifoldnorm.nn._programmed import Run

    Plan = _fused_affine_invariant.Plan | _fused_bures.Plan | _fused_flat.Plan | _fused_grassmann.Plan

# the operations are imported where they are first chosen: together they take a tenth of the package's import


def _affine_invariant(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    move, mean = layer._select_move(base), layer._mean_policy or base.default_mean
    if y.ndim != 3 or not _fused.usable(y) or type(mean) not in (Karcher, Newton, Exact):
        return None
    if isinstance(base.alpha, Tensor) or isinstance(base.beta, Tensor) or base.beta != 0:
        return None
    group = move is moves.by_group
    if not group and move is not moves.by_gyrogroup:
        return None
    from manifoldnorm.nn import _fused_affine_invariant

    return _fused_affine_invariant.Plan(base, group, mean, base.alpha * scale, layer.eps, layer.grad_through_stats)


def _bures(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    if y.ndim != 3 or not _fused.usable(y) or native():
        return None
    if layer._select_move(base) is not moves.by_transport:
        return None
    from manifoldnorm.nn import _fused_bures

    return _fused_bures.Plan(base, layer._mean_policy or base.default_mean, scale, layer.eps, layer.grad_through_stats)


def _flat(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    if y.is_complex() or not plain(y):
        return None
    from manifoldnorm.nn import _fused_flat

    return _fused_flat.Plan(base, scale, layer.eps, layer.grad_through_stats)


def _grassmann(layer: Any, base: Any, y: Tensor, scale: float) -> Plan | None:
    mean = layer._mean_policy or base.default_mean
    from manifoldnorm.linalg import _grassmann as frames
    from manifoldnorm.nn import _fused_grassmann

    if y.ndim != 3 or not frames.usable(y) or layer.check_input or type(mean) not in (Karcher, Newton, Exact):
        return None
    if layer._select_move(base) is not moves.by_gyrogroup:
        return None
    return _fused_grassmann.Plan(base, mean, scale, layer.eps, layer.grad_through_stats)


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
    Grassmann: _grassmann,
    **dict.fromkeys(_FLAT, _flat),
}


_CHARTED = (LogEuclidean, LogCholesky)
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


def charted(
    layer: Any,
    manifold: Any,
    chart: Diffeo | None,
    base: Any,
    metric_scale: float | Tensor,
    x: Tensor,
    per_domain: Any,
    leaves: bool,
) -> Tensor | None:
    """Return the output for an unweighted batch of finite samples, or None for the steps in the chart.

    With ``leaves`` it has left the chart. The running statistics follow.
    """
    if type(manifold) not in _CHARTED or x.ndim != 3 or not _fused.usable(x):
        return None
    if _inputs.finite_samples(manifold, x) is not None:
        return None
    flat: Any = _plan(layer, base, metric_scale, x)
    if flat is None:
        return None
    from manifoldnorm.nn import _fused_charted

    kind = _fused_charted.CHARTS.get((type(manifold), type(chart)))
    if kind is None:
        return None
    assert chart is not None
    bias = layer.bias if layer.bias_kind == "tangent" else layer._base_bias(manifold, chart, base)
    given = _run(layer, None, base, x, per_domain)
    run = _fused_charted.ChartedRun(**vars(given), flat=flat, diffeo=chart)
    run.shape = _fused_charted.Shape(
        chart=kind,
        batch=x.shape[0],
        n=x.shape[-1],
        dtype=working_dtype(x.dtype, widens(x)),
        precision=torch.finfo(x.dtype).eps,
        metric_scale=flat.metric_scale,
        eps=flat.eps,
        scaled=layer.affine,
        bias="" if bias is None else "tangent" if layer.bias_kind == "tangent" else "point",
        leaves=leaves,
        tracks=bool(run.tracks),
        domains=run.domains,
        min_samples=run.min_samples,
    )
    try:
        out: Any = _fused_charted.FusedCharted.apply(x, layer.log_scale if layer.affine else None, bias, run)
    except Declined:
        return None
    took(layer, "fused")
    _follow(layer, Observed(base, chart, metric_scale, x, None, x, None), run, None)
    return out


def fused(
    layer: Any,
    manifold: Any,
    chart: Diffeo | None,
    base: Manifold,
    metric_scale: float | Tensor,
    y: Tensor,
    per_domain: Any,
) -> Tensor | None:
    """Return the output for an unweighted batch of finite samples in the chart, or None for the template.

    The running statistics follow.
    """
    plan: Any = _plan(layer, base, metric_scale, y)
    if per_domain is not None:
        plan = _by_domain(plan, chart, y)
    if plan is None:
        return None
    tangent = point = None
    if layer.bias_kind == "tangent" and plan.takes_tangent:
        # the operation itself projects where there is no chart in between
        tangent = layer.bias if chart is None else layer._base_tangent_bias(manifold, base)
    elif layer.bias_kind:
        point = layer._base_bias(manifold, chart, base)
    inputs = (y, layer.log_scale if layer.affine else None, tangent, point)
    try:
        if plan.is_program:
            run = _run(layer, chart, base, y, per_domain)
            out = plan.run(*inputs, run)
            _follow(layer, Observed(base, chart, metric_scale, y, None, y, None), run, chart)
        else:
            valid = None
            if per_domain is None:
                out, mean, variance = plan.run(*inputs)
            else:
                out, mean, variance, valid = plan.by_domain(layer, per_domain.domain, *inputs)
            layer._follow(Observed(base, chart, metric_scale, y, None, mean, valid), mean, variance)
    except Declined:
        return None
    took(layer, "fused")
    return out


def _follow(layer: Any, seen: Observed, run: Run, chart: Diffeo | None) -> None:
    """Let the buffers follow what a program made of them, in the chart (None: of the layer's manifold)."""
    if not run.tracks:
        return
    new_mean, new_variance, *enough = run.tracked
    valid = enough[0].view(-1) != 0 if enough else None
    if layer.record is not None:
        mean, variance = (found.clone() for found in run.found)  # not views: a record outlives the batch
        mean = mean.view_as(layer.running_mean).to(layer.running_mean.dtype)
        layer.record.note(layer, seen._replace(mean=mean, valid=valid), variance.view_as(layer.running_var))
    every = valid is None or bool(valid.all())
    _running.after(layer, chart, new_mean, new_variance, None if every else valid)
    run.forget()


def _by_domain(plan: Any, chart: Diffeo | None, y: Tensor) -> Any:
    """Return the plan for statistics per domain, or None."""
    if plan is None or plan.is_program:
        return plan
    if type(plan.manifold) is Grassmann:
        return plan if chart is None else None
    flat = type(plan.manifold) in _FLAT and y.ndim == 1 + len(plan.manifold.point_shape)
    if not flat or not plain(y) or y.numel() == 0 or not _fused.usable(y.new_empty(1)):  # of any length
        return None
    from manifoldnorm.nn import _fused_flat_domains

    return _fused_flat_domains.Plan(plan)


def _run(layer: Any, chart: Diffeo | None, base: Any, y: Tensor, per_domain: Any) -> Run:
    from manifoldnorm.nn._programmed import Run

    tracks = _running.before(layer, chart) if layer.training and layer.track_running_stats else ()
    if not tracks:
        return Run(None, tracks)
    running, variance, weight = tracks
    if per_domain is None:
        return Run(None, (running.detach(), variance, weight))
    if running.requires_grad and _falls_back(per_domain.domain, len(variance), layer.min_samples):
        raise Declined  # no program has a gradient in the running means
    return Run(
        None,
        (running.detach().clone(), variance.clone(), weight),  # the buffers change before backward
        domain=per_domain.domain,
        domains=len(variance),
        min_samples=layer.min_samples,
        segments=lambda: layer._shares(y, None, per_domain, base)[0],
    )


def _falls_back(domain: Tensor, domains: int, min_samples: int) -> bool:
    """Return whether samples are centred by running statistics, because their domain has too few of them."""
    counts = torch.bincount(domain, minlength=domains)
    return bool(((counts > 0) & (counts < min_samples)).any())
