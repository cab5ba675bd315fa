"""Geometries as immutable values: tensors in, tensors out."""

from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.bures import BuresWasserstein, GeneralizedBuresWasserstein
from manifoldnorm.manifolds.charts import (
    AdaptiveLog,
    CholeskyInverse,
    Congruence,
    LogCholeskyChart,
    MatrixLog,
    MatrixPower,
    TraceScaling,
)
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.euclidean import Euclidean, SymmetricMatrices, TriangularMatrices
from manifoldnorm.manifolds.pullback import Pullback, flatten
from manifoldnorm.manifolds.pullbacks_spd import (
    AdaptiveLogEuclidean,
    CholeskyRightInvariant,
    LogCholesky,
    LogEuclidean,
    PowerDeformed,
)
from manifoldnorm.manifolds.spd import AffineInvariant
from manifoldnorm.manifolds.stiefel import Stiefel
from manifoldnorm.manifolds.structures import Gyrogroup, LieGroup

__all__ = [
    "AdaptiveLog",
    "AdaptiveLogEuclidean",
    "AffineInvariant",
    "BuresWasserstein",
    "CholeskyInverse",
    "CholeskyRightInvariant",
    "Congruence",
    "Diffeo",
    "Euclidean",
    "GeneralizedBuresWasserstein",
    "Gyrogroup",
    "LieGroup",
    "LogCholesky",
    "LogCholeskyChart",
    "LogEuclidean",
    "Manifold",
    "MatrixLog",
    "MatrixPower",
    "PowerDeformed",
    "Pullback",
    "Stiefel",
    "SymmetricMatrices",
    "TraceScaling",
    "TriangularMatrices",
    "flatten",
]
