"""Normalisation layers for data that lives on manifolds."""

from manifoldnorm import linalg, manifolds, stats
from manifoldnorm.manifolds import (
    AdaptiveLogEuclidean,
    AffineInvariant,
    BuresWasserstein,
    CholeskyRightInvariant,
    Euclidean,
    GeneralizedBuresWasserstein,
    LogCholesky,
    LogEuclidean,
    PowerDeformed,
    Stiefel,
)

__version__ = "0.1.0"
