"""What an estimator takes as a norm: a factory, the name of a metric, or none; per domain or for all samples."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

from manifoldnorm.manifolds import AffineInvariant, BuresWasserstein, LogCholesky, LogEuclidean
from manifoldnorm.nn import DomainBatchNorm, DomainFactory, LieBatchNorm, RiemannianBatchNorm

METRICS = MappingProxyType(
    {
        "riemann": RiemannianBatchNorm.of(AffineInvariant),
        "logeuclid": LieBatchNorm.of(LogEuclidean),
        "logchol": LieBatchNorm.of(LogCholesky),
        "wasserstein": RiemannianBatchNorm.of(BuresWasserstein),
    }
)
"""The norm that each of pyRiemann's names of metrics stands for."""


def resolve(norm: Any, domains: int | None, name: str) -> Any:
    """Return a factory of sizes, or None.

    Parameters
    ----------
    norm : factory, str or None
        As the estimator has it.
    domains : int or None
        How many domains have statistics of their own; None: there are no domains.
    name : str
        Of the estimator.
    """
    if isinstance(norm, str):
        if norm not in METRICS:
            raise ValueError(
                f"{name}: norm {norm!r} is not one of {', '.join(map(repr, METRICS))}. Other norms: pass a factory, "
                f"such as LieBatchNorm.of(LogEuclidean), or None."
            )
        norm = METRICS[norm]
    if norm is not None and not callable(norm):
        raise TypeError(f"{name}: norm must be a factory such as LieBatchNorm.of(LogEuclidean), a name or None.")
    if norm is None or (domains is None and not isinstance(norm, DomainFactory)):
        return norm
    if domains is None:
        raise ValueError(
            f"{name}: norm={norm!r} has statistics per domain: pass fit(X, y, domain=...) one label for each sample "
            f"(through scikit-learn's searches and pipelines: set_fit_request(domain=True))."
        )
    if isinstance(norm, DomainFactory):
        return dataclasses.replace(norm, num_domains=domains)
    return DomainBatchNorm.of(norm, domains)
