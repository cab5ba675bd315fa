"""The published SPD norms as their code has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import AffineInvariant, CholeskyInverse, Euclidean, LogCholesky, Manifold, flatten
from manifoldnorm.manifolds.base import safe_sqrt, spread
from manifoldnorm.nn.bures import BuresWassersteinBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.moves import Finish, Move, by_transport
from manifoldnorm.nn.norm import LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.published.parts import EarlyStoppedKarcher, IndexedLogEuclidean, PublishedNorm, last_chart
from manifoldnorm.stats import FixedPoint, Karcher


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
        def unsquared(manifold: Any, mean: Tensor, x: Tensor) -> tuple[Tensor, Finish]:
            squared, finish = move(manifold, mean, x)
            return safe_sqrt(squared) if isinstance(manifold, Euclidean) else squared, finish

        return unsquared


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
    >>> layer(torch.tensor([1.0, 4.0, 16.0])[:, None, None].sqrt()).flatten() * 2
    tensor([1.0000, 2.0000, 4.0000])
    """

    def __init__(self, manifold: int | Manifold, **options: Any) -> None:
        geometry = AffineInvariant(manifold) if isinstance(manifold, int) else manifold
        super().__init__(geometry, **{"mean": Karcher(1), **options})
        del self.signed_scale

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)

    def _published_move(self, move: Move) -> Move:
        def unscaled(manifold: Any, mean: Tensor, x: Tensor) -> tuple[Tensor, Finish]:
            squared, finish = move(manifold, mean, x)
            return squared, lambda factor, bias: finish(torch.ones_like(factor), bias)

        return unscaled


class GBWBN(PublishedNorm, BuresWassersteinBatchNorm):
    """Generalised Bures-Wasserstein batch norm of the authors' SPDNet code.

    Quirks: the variance is taken about the identity before centring, so the output's variance is not the scale's
    square; tangent vectors pass twice through Exp and Log at the identity, which replaces negative eigenvalues of
    ``I + V / 2`` by their absolute values, and the last Exp is not kept in its domain either. Not reproduced: the
    exponent that all matrix powers shared backward, which made gradients wrong for powers other than one.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or a geometry to use as it is.
    **options
        ``power``, ``learn_metric`` and those of `RiemannianBatchNorm`.

    References
    ----------
    Code of Wang et al. 2025, "Learning to normalize on the SPD manifold under Bures-Wasserstein geometry".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.GBWBN(1, momentum=1.0)
    >>> _ = layer(torch.tensor([4.0, 9.0])[:, None, None])
    >>> layer.running_var
    tensor(2.5000, grad_fn=...)
    """

    def __init__(self, n: Any, **options: Any) -> None:
        super().__init__(n, **{"mean": FixedPoint(1), **options})

    def _bias_base(self, bias: Tensor) -> Tensor:
        """Return the point to which tangent vectors are transported from the identity."""
        return bias

    def _published_move(self, move: Move) -> Move:
        def folded(manifold: Any, mean: Tensor, x: Tensor) -> tuple[Tensor, Finish]:
            origin = manifold.origin(dtype=x.dtype, device=x.device)

            def fold(v: Tensor) -> Tensor:
                return manifold.log(origin, manifold.exp(origin, v))  # type: ignore[no-any-return]

            v = fold(manifold.to_origin(mean, manifold.log(mean, x)))

            def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
                scaled = spread(factor, 2) * v
                if bias is None:
                    return manifold.exp(origin, scaled)  # type: ignore[no-any-return]
                return manifold.exp(bias, manifold.from_origin(self._bias_base(bias), fold(scaled)))  # type: ignore[no-any-return]

            return manifold.squared_dist(origin, x), finish

        return folded


class GBWBNRResNet(GBWBN):
    """Generalised Bures-Wasserstein batch norm of the authors' RResNet code.

    Quirks: those of `GBWBN`; tangent vectors are transported to the bias point itself but applied at its image under
    the power and the metric, which differ unless the power is one and the metric the identity.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or a geometry to use as it is.
    **options
        ``power``, ``learn_metric`` and those of `RiemannianBatchNorm`.

    References
    ----------
    Code of Wang et al. 2025, "Learning to normalize on the SPD manifold under Bures-Wasserstein geometry" (RResNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.GBWBNRResNet(2, power=0.5)
    >>> layer(torch.eye(2).expand(4, 2, 2)).shape
    torch.Size([4, 2, 2])
    """

    def _bias_base(self, bias: Tensor) -> Tensor:
        point = self.bias_point
        assert point is not None
        return point


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
        def multiplicative(manifold: Any, mean: Tensor, x: Tensor) -> tuple[Tensor, Finish]:
            y = manifold.quotient(mean, x)
            lower, diagonal = y.tril(-1), y.diagonal(dim1=-2, dim2=-1)
            variance = safe_sqrt(lower.square().sum((-2, -1))) + diagonal.square().sum(-1)

            def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
                shifted = torch.diag_embed(diagonal + spread(factor.log(), 1))
                z = spread(factor, 2) * lower + shifted
                return z if bias is None else manifold.compose(bias, z)

            return variance, finish

        return multiplicative


def learnable_alem(n: int, **options: Any) -> LearnableManifold:
    """Return `IndexedLogEuclidean` with learnable weights, for `LieBN`.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.published.LieBN(mn.nn.published.learnable_alem(2)).manifold.weights.shape
    torch.Size([2])
    """
    return LearnableManifold(IndexedLogEuclidean(n), ("weights",), **options)
