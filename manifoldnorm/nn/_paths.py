"""Which way a norm's training batch takes: one fused operation for each direction, or the template's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._precision import native
from manifoldnorm.manifolds import AffineInvariant, BuresWasserstein, Manifold
from manifoldnorm.nn import _fused_affine_invariant, _fused_bures, moves
from manifoldnorm.nn._fused_bures import LeavesDomain as LeavesDomain
from manifoldnorm.nn.statistics import Batch
from manifoldnorm.stats import Karcher, MeanPolicy, Newton

Plan = _fused_affine_invariant.Plan | _fused_bures.Plan


def _affine_invariant(layer: Any, base: Any, move: moves.Move, mean: MeanPolicy, scale: float) -> Plan | None:
    if type(mean) not in (Karcher, Newton) or move not in (moves.by_group, moves.by_gyrogroup):
        return None
    if isinstance(base.alpha, Tensor) or isinstance(base.beta, Tensor) or base.beta != 0:
        return None
    policy: Any = mean
    group = move is moves.by_group
    return _fused_affine_invariant.Plan(base, group, policy, base.alpha * scale, layer.eps, layer.grad_through_stats)


def _bures(layer: Any, base: Any, move: moves.Move, mean: MeanPolicy, scale: float) -> Plan | None:
    if layer.grad_through_stats or move is not moves.by_transport or native():
        return None
    return _fused_bures.Plan(base, mean, scale, layer.eps)


_PLANS: dict[type, Callable[..., Plan | None]] = {AffineInvariant: _affine_invariant, BuresWasserstein: _bures}


def plan(layer: Any, base: Manifold, metric_scale: float | Tensor, y: Tensor) -> Plan | None:
    """Return the plan of the fused operation for an unweighted batch of finite samples, or None for the template.

    Only exact types: a subclass may have changed any of the steps.
    """
    choose = _PLANS.get(type(base))
    if choose is None or not vars(type(layer)).get("fuses") or type(layer.statistics) is not Batch:
        return None
    if y.ndim != 3 or isinstance(metric_scale, Tensor) or not _fused.usable(y):
        return None
    return choose(layer, base, layer._select_move(base), layer._mean_policy or base.default_mean, metric_scale)
