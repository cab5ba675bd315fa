"""Layers: batch norms on manifolds, and the layers of SPD networks."""

from manifoldnorm.nn.batchnorm import GyroBatchNorm, LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.bures import BuresWassersteinBatchNorm
from manifoldnorm.nn.covariance import Covariance
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.sequential import Sequential
from manifoldnorm.nn.spd import BiMap, ExpEig, LogEig, ReEig, SPDVectorize
from manifoldnorm.nn.statistics import Batch

from manifoldnorm.nn import published  # isort: skip  (it builds on the layers above)

__all__ = [
    "Batch",
    "BiMap",
    "BuresWassersteinBatchNorm",
    "Covariance",
    "ExpEig",
    "GyroBatchNorm",
    "LearnableManifold",
    "LieBatchNorm",
    "LogEig",
    "ManifoldNorm",
    "NormFactory",
    "ReEig",
    "RiemannianBatchNorm",
    "SPDVectorize",
    "Sequential",
    "published",
]
