"""Layers: batch norms on manifolds, and the layers of SPD, Grassmann and hyperbolic networks."""

from __future__ import annotations

import importlib
from typing import Any

from manifoldnorm.nn._explain import explain
from manifoldnorm.nn.adaptation import refit
from manifoldnorm.nn.batchnorm import GyroBatchNorm, LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.bures import BuresWassersteinBatchNorm
from manifoldnorm.nn.covariance import Covariance
from manifoldnorm.nn.domain import DomainBatchNorm, DomainFactory
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.grassmann import FRMap, OrthMap, ProjMap, ProjPool, ReOrth
from manifoldnorm.nn.hyperbolic import (
    BusemannLinear,
    BusemannMLR,
    HyperbolicActivation,
    HyperbolicAggregation,
    HyperbolicEmbedding,
    HyperbolicLinear,
    HyperbolicMLR,
    HyperbolicResidual,
    Lift,
    Lower,
    PoincareConv2d,
    SameCurvature,
    from_channels_first,
)
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.midpoint import LorentzCentroidBatchNorm, MidpointBatchNorm, PoincareMidpointBatchNorm
from manifoldnorm.nn.mlr import SPDMLR
from manifoldnorm.nn.momentum import Momentum, MomentumBatchNorm, MomentumSchedule, Renorm, set_epoch
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.sampler import DomainBatchSampler
from manifoldnorm.nn.sequential import Sequential
from manifoldnorm.nn.spd import BiMap, ExpEig, LogEig, ReEig, SPDVectorize
from manifoldnorm.nn.statistics import Batch, Statistics
from manifoldnorm.nn.swa import AveragedModel, update_bn
from manifoldnorm.nn.synchronised import convert_sync_batchnorm
from manifoldnorm.nn.watching import StatisticsHistory, StatisticsWatch, watch_statistics


def __getattr__(name: str) -> Any:
    if name == "published":  # a dozen modules that most programs never use
        return importlib.import_module("manifoldnorm.nn.published")
    raise AttributeError(f"module 'manifoldnorm.nn' has no attribute {name!r}")


__all__ = [
    "SPDMLR",
    "AveragedModel",
    "Batch",
    "BiMap",
    "BuresWassersteinBatchNorm",
    "BusemannLinear",
    "BusemannMLR",
    "Covariance",
    "DomainBatchNorm",
    "DomainBatchSampler",
    "DomainFactory",
    "ExpEig",
    "FRMap",
    "GyroBatchNorm",
    "HyperbolicActivation",
    "HyperbolicAggregation",
    "HyperbolicEmbedding",
    "HyperbolicLinear",
    "HyperbolicMLR",
    "HyperbolicResidual",
    "LearnableManifold",
    "LieBatchNorm",
    "Lift",
    "LogEig",
    "LorentzCentroidBatchNorm",
    "Lower",
    "ManifoldNorm",
    "MidpointBatchNorm",
    "Momentum",
    "MomentumBatchNorm",
    "MomentumSchedule",
    "NormFactory",
    "OrthMap",
    "PoincareConv2d",
    "PoincareMidpointBatchNorm",
    "ProjMap",
    "ProjPool",
    "ReEig",
    "ReOrth",
    "Renorm",
    "RiemannianBatchNorm",
    "SPDVectorize",
    "SameCurvature",
    "Sequential",
    "Statistics",
    "StatisticsHistory",
    "StatisticsWatch",
    "convert_sync_batchnorm",
    "explain",
    "from_channels_first",
    "published",
    "refit",
    "set_epoch",
    "update_bn",
    "watch_statistics",
]
