"""Bures-Wasserstein batch normalisation."""

from __future__ import annotations

from typing import Any

import torch

from manifoldnorm.manifolds import GeneralizedBuresWasserstein, Manifold, PowerDeformed
from manifoldnorm.nn.batchnorm import RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold


class BuresWassersteinBatchNorm(RiemannianBatchNorm):
    """`RiemannianBatchNorm` on a (power-deformed) generalised Bures-Wasserstein metric with a learnable metric matrix.

    Works in the tangent space: steps that would leave the domain of the exponential are shrunk into it.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or a geometry to use as it is.
    power : float
        Power deformation.
    learn_metric : bool
        Whether the metric matrix M, initially the identity, is learned.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Wang et al. 2025, "Learning to normalize on the SPD manifold under Bures-Wasserstein geometry" (GBWBN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.BuresWasserstein(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.BuresWassersteinBatchNorm(3)(x).shape
    torch.Size([8, 3, 3])
    """

    fuses = True  # as RiemannianBatchNorm

    def __init__(
        self,
        n: int | Manifold | LearnableManifold,
        *,
        power: float = 1.0,
        learn_metric: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        geometry = n if not isinstance(n, int) else _geometry(n, power, learn_metric, device, dtype)
        super().__init__(geometry, device=device, dtype=dtype, **options)

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``; without a manifold, of the learnable default geometry."""
        return NormFactory(cls, manifold, options)


def _geometry(n: int, power: float, learn: bool, device: Any, dtype: torch.dtype | None) -> Any:
    manifold: Manifold = GeneralizedBuresWasserstein(n)
    name = "metric"
    if power != 1.0:
        manifold, name = PowerDeformed(manifold, power), "base.metric"
    return LearnableManifold(manifold, (name,), device=device, dtype=dtype) if learn else manifold
