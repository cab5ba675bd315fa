"""Frechet means and variances: algorithms that take any manifold as an argument.

A policy (`Exact`, `Newton`, `Karcher`, `FixedPoint`, `Midpoint`) maps a batch to its mean in a fixed number
of steps without looking at values; `frechet_mean` iterates to a tolerance.
"""

from manifoldnorm.stats.hessian import EigenHessian, Frame, Hessian
from manifoldnorm.stats.means import Exact, FixedPoint, Karcher, MeanPolicy, Midpoint, Newton, mean_residual
from manifoldnorm.stats.reduction import Reduction, Segments, gather, segment, total
from manifoldnorm.stats.system import MeanSystem, converged_mean, frechet_mean, frechet_variance, solve_mean
from manifoldnorm.stats.weights import Weights, masked_weights, raw_weights, spread, weighted_apply, weighted_mean

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
    "Reduction",
    "Segments",
    "Weights",
    "converged_mean",
    "frechet_mean",
    "frechet_variance",
    "gather",
    "masked_weights",
    "mean_residual",
    "raw_weights",
    "segment",
    "solve_mean",
    "spread",
    "total",
    "weighted_apply",
    "weighted_mean",
]
