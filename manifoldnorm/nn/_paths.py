"""Which way a norm's training batch takes: one fused operation for each direction, or the template's steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from manifoldnorm.linalg import _fused
from manifoldnorm.manifolds import AffineInvariant, Manifold
from manifoldnorm.nn import moves
from manifoldnorm.nn._fused_affine_invariant import Plan
from manifoldnorm.nn.statistics import Batch
from manifoldnorm.stats import Karcher, Newton


def affine_invariant(layer: Any, base: Manifold, metric_scale: float | Tensor, y: Tensor) -> Plan | None:
    """Return the plan of the fused affine-invariant norm for an unweighted batch of finite samples, if it covers it.

    Only exact types: a subclass may have changed any of the steps.
    """
    if type(base) is not AffineInvariant or not vars(type(layer)).get("fuses") or type(layer.statistics) is not Batch:
        return None
    if y.ndim != 3 or not _fused.usable(y) or base._has_beta or isinstance(base.alpha, Tensor):
        return None
    mean = layer._mean_policy or base.default_mean
    if type(mean) not in (Karcher, Newton) or isinstance(metric_scale, Tensor):
        return None
    move = layer._select_move(base)
    if move not in (moves.by_group, moves.by_gyrogroup):
        return None
    scale = base.alpha * metric_scale
    return Plan(base, move is moves.by_group, mean, scale, layer.eps, layer.grad_through_stats)
