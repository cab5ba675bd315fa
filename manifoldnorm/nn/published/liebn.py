"""LieBN on positive-definite matrices, as three repositories have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import CholeskyInverse, Euclidean, flatten
from manifoldnorm.manifolds.base import safe_sqrt
from manifoldnorm.nn.batchnorm import LieBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import EarlyStoppedKarcher, PublishedNorm
from manifoldnorm.nn.published.geometries import IndexedLogEuclidean, last_chart
from manifoldnorm.stats import Karcher


class LieBN(PublishedNorm, LieBatchNorm):
    """LieBN of the authors' toolbox, on any of its SPD metrics.

    Quirks: the Karcher flow stops before its first step if that is short (`EarlyStoppedKarcher`), and for the
    right-invariant metric starts at the arithmetic mean of the matrices themselves; the scale is not trained unless the
    metric is flat; those of `PublishedNorm`: the running mean of a flat metric starts at the identity matrix in the
    chart, whose neutral element is 0.

    Parameters
    ----------
    manifold : Manifold
        `LogEuclidean`, `LogCholesky`, `AffineInvariant`, `CholeskyRightInvariant`, `IndexedLogEuclidean` or a
        `PowerDeformed` one of these.
    karcher_steps : int
        Largest number of steps.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.LieBN(mn.LogEuclidean(2))
    >>> layer.running_mean
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(self, manifold: Any, *, karcher_steps: int = 1, **options: Any) -> None:
        geometry = manifold() if isinstance(manifold, LearnableManifold) else manifold
        chart, base, _ = flatten(geometry)
        last = last_chart(chart)
        own = last if isinstance(last, CholeskyInverse) else None
        super().__init__(manifold, **{"mean": EarlyStoppedKarcher(karcher_steps, chart=own), **options})
        if self.scale is not None and not isinstance(base, Euclidean):
            self.signed_scale.requires_grad_(False)


class LieBNSPDNet(PublishedNorm, LieBatchNorm):
    """LieBN as in the networks of its paper: exactly one Karcher step.

    Quirks: those of `PublishedNorm`; its log-Cholesky metric accepts (alpha, beta), see `TracedLogCholesky`.

    Parameters
    ----------
    manifold : Manifold
        `LogEuclidean`, `TracedLogCholesky`, `AffineInvariant` or a `PowerDeformed` one of these.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN_SPDNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.LieBNSPDNet(mn.nn.published.TracedLogCholesky(2, 2.0, 0.25))
    >>> layer(torch.eye(2).expand(4, 2, 2)).shape
    torch.Size([4, 2, 2])
    """

    def __init__(self, manifold: Any, **options: Any) -> None:
        super().__init__(manifold, **{"mean": Karcher(1), **options})


class LieBNSPDNN(LieBNSPDNet):
    """LieBN as the baseline of SPDNN has it.

    Quirks: on flat metrics the variance is the mean distance, not squared; the affine-invariant running mean moves by
    a momentum in single precision (use `Float32AffineInvariant`); those of `PublishedNorm`.

    Parameters
    ----------
    manifold : Manifold
        `LogEuclidean`, `LogCholesky`, `Float32AffineInvariant` or a `PowerDeformed` one of these.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of SPDNN, ``spnn/LieBN.py``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.LieBNSPDNN(mn.LogEuclidean(1), momentum=1.0)
    >>> _ = layer(torch.tensor([0.0, 6.0]).exp()[:, None, None])
    >>> layer.running_var
    tensor(3.)
    """

    def _published_move(self, move: Move) -> Move:
        def unsquared(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            squared, finish, _ = move(manifold, mean, x)
            return Moved(safe_sqrt(squared) if isinstance(manifold, Euclidean) else squared, finish)

        return unsquared


class AdaptiveLieBN(LieBN):
    """LieBN of the authors' toolbox on `IndexedLogEuclidean` with learnable weights (ALEM).

    Quirks: those of `LieBN` and of `IndexedLogEuclidean`.

    Parameters
    ----------
    n : int
        Matrix size.
    **options
        Of `LieBN`.

    References
    ----------
    Code of Chen et al. 2024, "Adaptive log-Euclidean metrics for SPD matrix learning".

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.published.AdaptiveLieBN(2).weights.tolist()
    [1.0, 1.0]
    """

    def __init__(self, n: int, *, device: Any = None, dtype: torch.dtype | None = None, **options: Any) -> None:
        if options.get("bias") == "tangent":
            raise ValueError("AdaptiveLieBN: bias='tangent' needs second derivatives of its chart; keep 'manifold'.")
        geometry = LearnableManifold(IndexedLogEuclidean(n), ("weights",), device=device, dtype=dtype)
        super().__init__(geometry, device=device, dtype=dtype, **options)

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)

    @property
    def weights(self) -> Tensor:
        """The weights (n,); may be assigned."""
        return self.manifold.weights  # type: ignore[attr-defined]

    @weights.setter
    def weights(self, value: Tensor) -> None:
        with torch.no_grad():
            self._geometry.raw_weights.copy_(value)
