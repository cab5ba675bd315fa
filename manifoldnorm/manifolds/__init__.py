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
from manifoldnorm.manifolds.correlation import (
    CorrelationEuclideanCholesky,
    CorrelationLogEuclideanCholesky,
    CorrelationLogScaling,
    CorrelationOffLog,
)
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.euclidean import Euclidean, SymmetricMatrices, TriangularMatrices
from manifoldnorm.manifolds.grassmann import Grassmann
from manifoldnorm.manifolds.hyperbolic import Klein, Lorentz
from manifoldnorm.manifolds.kernel_metric import KernelMetric
from manifoldnorm.manifolds.kernels import BuresKernel, CustomKernel, MixedPowerKernel, SpectralKernel
from manifoldnorm.manifolds.mixed_power import MixedPowerEuclidean
from manifoldnorm.manifolds.poly_hyperbolic import CorrelationPolyHyperbolic
from manifoldnorm.manifolds.product import Product
from manifoldnorm.manifolds.pullback import Pullback, flatten
from manifoldnorm.manifolds.pullbacks_spd import (
    AdaptiveLogEuclidean,
    CholeskyRightInvariant,
    LogCholesky,
    LogEuclidean,
    PowerDeformed,
)
from manifoldnorm.manifolds.rotations import Rotations
from manifoldnorm.manifolds.spd import AffineInvariant
from manifoldnorm.manifolds.sphere import Sphere
from manifoldnorm.manifolds.stereographic import PoincareBall, ProjectedSphere, Stereographic
from manifoldnorm.manifolds.stiefel import Stiefel
from manifoldnorm.manifolds.structures import Gyrogroup, LieGroup

__all__ = [
    "AdaptiveLog",
    "AdaptiveLogEuclidean",
    "AffineInvariant",
    "BuresKernel",
    "BuresWasserstein",
    "CholeskyInverse",
    "CholeskyRightInvariant",
    "Congruence",
    "CorrelationEuclideanCholesky",
    "CorrelationLogEuclideanCholesky",
    "CorrelationLogScaling",
    "CorrelationOffLog",
    "CorrelationPolyHyperbolic",
    "CustomKernel",
    "Diffeo",
    "Euclidean",
    "GeneralizedBuresWasserstein",
    "Grassmann",
    "Gyrogroup",
    "KernelMetric",
    "Klein",
    "LieGroup",
    "LogCholesky",
    "LogCholeskyChart",
    "LogEuclidean",
    "Lorentz",
    "Manifold",
    "MatrixLog",
    "MatrixPower",
    "MixedPowerEuclidean",
    "MixedPowerKernel",
    "PoincareBall",
    "PowerDeformed",
    "Product",
    "ProjectedSphere",
    "Pullback",
    "Rotations",
    "SpectralKernel",
    "Sphere",
    "Stereographic",
    "Stiefel",
    "SymmetricMatrices",
    "TraceScaling",
    "TriangularMatrices",
    "flatten",
]
