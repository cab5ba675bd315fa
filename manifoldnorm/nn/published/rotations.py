"""LieBN on rotations, as its code has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold, Rotations
from manifoldnorm.nn.batchnorm import LieBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.stats import MeanPolicy, Weights, weighted_mean


@dataclass(frozen=True)
class FirstSampleKarcher(MeanPolicy):
    """Karcher steps from the first sample of the batch.

    Quirk: the mean depends on the order of the samples unless the steps are many. It stops before a step whose
    Euclidean norm, over all channels together, is at most ``tolerance``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> mn.nn.published.FirstSampleKarcher()(mn.Rotations(2), torch.stack([torch.eye(2), turn]))
    tensor([[ 0.7071, -0.7071],
            [ 0.7071,  0.7071]])
    """

    over_processes: ClassVar[bool] = False
    steps: int = 1
    tolerance: float = 0.0

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        point = x[0]
        for _ in range(self.steps):
            step = weighted_mean(manifold.log(point, x), weights, len(manifold.point_shape))
            moves = torch.linalg.vector_norm(step) > self.tolerance
            point = torch.where(moves, manifold.exp(point, step), point)
        return point


class LieBNRot(PublishedNorm, LieBatchNorm):
    """LieBN on SO(3).

    Quirks: the mean is a Karcher step from the first sample (`FirstSampleKarcher`, which stops at a norm of 1e-4), so
    it depends on the order of the batch; statistics are detached; the scale may be negative. Not reproduced: rotations
    of less than 1e-5 taken for the identity, and NaN gradients where a sample equals the mean.

    Parameters
    ----------
    n : int or Manifold
        Matrix size (the code has 3 only), or the geometry.
    left : bool
        Whether points are moved by left translations.
    karcher_steps : int
        Largest number of steps.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (``LieBNRot.py``).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.published.LieBNRot(3)(torch.eye(3).expand(4, 3, 3)).shape
    torch.Size([4, 3, 3])
    """

    def __init__(self, n: int | Manifold = 3, *, left: bool = True, karcher_steps: int = 1, **options: Any) -> None:
        geometry = Rotations(n, right=not left) if isinstance(n, int) else n
        super().__init__(geometry, **{"mean": FirstSampleKarcher(karcher_steps, 1e-4), **options})
        if self.bias_kind == "manifold":
            from manifoldnorm._geoopt import manifold_parameter

            self.bias_on_manifold = manifold_parameter(self.bias_on_manifold.detach(), self.manifold)

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)
