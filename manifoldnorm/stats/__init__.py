"""Frechet means and variances: algorithms that take any manifold as an argument.

A policy (`Exact`, `Newton`, `Karcher`, `FixedPoint`, `Midpoint`) maps a batch to its mean in a fixed number
of steps without looking at values; `frechet_mean` iterates to a tolerance.
"""

from manifoldnorm.stats.hessian import EigenHessian, Frame, Hessian
from manifoldnorm.stats.means import Exact, FixedPoint, Karcher, MeanPolicy, Midpoint, Newton, mean_residual
from manifoldnorm.stats.processes import Processes
from manifoldnorm.stats.reduction import Pooled, Reduction, Segments, ToSamples, gather, over, segment, total
from manifoldnorm.stats.system import MeanSystem, converged_mean, frechet_mean, frechet_variance, solve_mean
from manifoldnorm.stats.weights import (
    Weights,
    joined,
    masked_weights,
    own_apply,
    own_mean,
    pooled,
    raw_weights,
    spread,
    weighted_mean,
    weighted_means,
)

__all__ = [
    "EigenHessian",
    "Exact",
    "FixedPoint",
    "Frame",
    "Hessian",
    "Karcher",
    "MeanPolicy",
    "MeanSystem",
    "Midpoint",
    "Newton",
    "Pooled",
    "Processes",
    "Reduction",
    "Segments",
    "ToSamples",
    "Weights",
    "converged_mean",
    "frechet_mean",
    "frechet_variance",
    "gather",
    "joined",
    "masked_weights",
    "mean_residual",
    "over",
    "own_apply",
    "own_mean",
    "pooled",
    "raw_weights",
    "segment",
    "solve_mean",
    "spread",
    "total",
    "weighted_mean",
    "weighted_means",
]
