"""Cholesky batch norm, as its code has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import LogCholesky, Manifold
from manifoldnorm.manifolds.base import safe_sqrt, spread
from manifoldnorm.nn.batchnorm import LieBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import PublishedNorm


class CBN(PublishedNorm, LieBatchNorm):
    """Cholesky batch norm.

    Quirks: the scale multiplies the centred Cholesky factor, which moves its diagonal by a translation and not by a
    dilation; the variance adds the plain norm of the strict lower part to the squared norm of the logarithms of the
    diagonal; no eps; gradients flow through the statistics. The scale must be positive here. Not reproduced: the
    backward of the Cholesky decomposition, which was wrong, and single-precision scalars.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or the log-Cholesky geometry to use.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of CBN, ``spd/nn.py``; with the dilation of the metric it is ``LieBatchNorm(LogCholesky(n))``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.CBN(1, momentum=1.0)
    >>> y = layer(torch.tensor([0.0, 4.0]).exp()[:, None, None])
    >>> y.flatten().log(), layer.running_var
    (tensor([-2.,  2.], grad_fn=...), tensor(1.))
    """

    def __init__(self, n: int | Manifold, **options: Any) -> None:
        geometry = LogCholesky(n) if isinstance(n, int) else n
        super().__init__(geometry, **{"eps": 0.0, "grad_through_stats": True, **options})

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the identity factor, 0 in the chart, and the running variance at one."""
        LieBatchNorm.reset_running_stats(self)
        if self.track_running_stats:
            self.running_mean.zero_()

    def _published_move(self, move: Move) -> Move:
        def multiplicative(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            y = manifold.quotient(mean, x)
            lower, diagonal = y.tril(-1), y.diagonal(dim1=-2, dim2=-1)
            variance = safe_sqrt(lower.square().sum((-2, -1))) + diagonal.square().sum(-1)

            def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
                shifted = torch.diag_embed(diagonal + spread(factor.log(), 1))
                z = spread(factor, 2) * lower + shifted
                return z if bias is None else manifold.compose(bias, z)

            return Moved(variance, finish)

        return multiplicative
