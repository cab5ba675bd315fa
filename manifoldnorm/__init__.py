"""Normalisation layers for data that lives on manifolds."""

from __future__ import annotations

import importlib
from typing import Any

from manifoldnorm import _collector, linalg, manifolds, models, nn, optim, stats
from manifoldnorm.manifolds import (
    AdaptiveLogEuclidean,
    AffineInvariant,
    BuresWasserstein,
    CholeskyRightInvariant,
    CorrelationEuclideanCholesky,
    CorrelationLogEuclideanCholesky,
    CorrelationLogScaling,
    CorrelationOffLog,
    CorrelationPolyHyperbolic,
    Euclidean,
    GeneralizedBuresWasserstein,
    Grassmann,
    KernelMetric,
    Klein,
    LogCholesky,
    LogEuclidean,
    Lorentz,
    MixedPowerEuclidean,
    PoincareBall,
    PowerDeformed,
    Product,
    ProjectedSphere,
    Rotations,
    Sphere,
    Stereographic,
    Stiefel,
)

_collector.resume()

__version__ = "0.1.0"

_LAZY = ("datasets", "plotting", "sklearn", "testing")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"manifoldnorm.{name}")
    raise AttributeError(f"module 'manifoldnorm' has no attribute {name!r}")


__all__ = [
    "AdaptiveLogEuclidean",
    "AffineInvariant",
    "BuresWasserstein",
    "CholeskyRightInvariant",
    "CorrelationEuclideanCholesky",
    "CorrelationLogEuclideanCholesky",
    "CorrelationLogScaling",
    "CorrelationOffLog",
    "CorrelationPolyHyperbolic",
    "Euclidean",
    "GeneralizedBuresWasserstein",
    "Grassmann",
    "KernelMetric",
    "Klein",
    "LogCholesky",
    "LogEuclidean",
    "Lorentz",
    "MixedPowerEuclidean",
    "PoincareBall",
    "PowerDeformed",
    "Product",
    "ProjectedSphere",
    "Rotations",
    "Sphere",
    "Stereographic",
    "Stiefel",
    "datasets",
    "linalg",
    "manifolds",
    "models",
    "nn",
    "optim",
    "plotting",
    "sklearn",
    "stats",
    "testing",
]
