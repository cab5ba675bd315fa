"""The first Riemannian batch norm, as its code has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import AffineInvariant, Manifold
from manifoldnorm.nn.batchnorm import RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.stats import Karcher


class BrooksBatchNorm(PublishedNorm, RiemannianBatchNorm):
    """The first Riemannian batch norm: centring and bias only.

    Quirks: no scale, neither learned nor of the data (the tracked variance is not used); the channels of an input
    (N, h, n, n) share one mean.

    Parameters
    ----------
    manifold : int or Manifold
        Matrix size, or the affine-invariant geometry to use.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Code of Brooks et al. 2019, "Riemannian batch normalization for SPD neural networks".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.BrooksBatchNorm(1)
    >>> layer(torch.tensor([1.0, 2.0, 4.0])[:, None, None]).flatten().detach()
    tensor([0.5000, 1.0000, 2.0000])
    """

    def __init__(self, manifold: int | Manifold, **options: Any) -> None:
        geometry = AffineInvariant(manifold) if isinstance(manifold, int) else manifold
        super().__init__(geometry, **{"mean": Karcher(1), **options})
        if self.scale is not None:
            del self.signed_scale

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)

    def _published_move(self, move: Move) -> Move:
        def unscaled(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            squared, finish, _ = move(manifold, mean, x)
            return Moved(squared, lambda factor, bias: finish(torch.ones_like(factor), bias))

        return unscaled
