"""The momentum and domain-specific batch norms of TSMNet and of the LieBN on top of it, as their codes have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Manifold, flatten
from manifoldnorm.nn._running import write
from manifoldnorm.nn.batchnorm import LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.momentum import Momentum, moved_variance
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.nn.published.geometries import Float32AffineInvariant
from manifoldnorm.nn.statistics import Observed
from manifoldnorm.stats import Karcher, MeanPolicy, weighted_mean

Schedule = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class DetachedKarcher(MeanPolicy):
    """Karcher steps from the arithmetic mean whose gradient takes the last tangent space as constant.

    Quirk: neither the implicit gradient of the mean nor that of the step; a few percent off.

    Parameters
    ----------
    steps : int
        Number of steps.

    References
    ----------
    Code of Kobler et al. 2022 (TSMNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.stack([torch.eye(2), 4 * torch.eye(2)])
    >>> mn.nn.published.DetachedKarcher()(mn.AffineInvariant(2), x).diagonal()
    tensor([2., 2.])
    """

    steps: int = 1

    @torch.no_grad()
    def tangent_point(self, manifold: Any, x: Tensor, weights: stats.Weights) -> Tensor:
        """Return the point in whose tangent space the last step is taken."""
        point: Tensor = manifold.arithmetic_start(x, weights)
        for _ in range(self.steps - 1):
            point = _step(manifold, point, x, weights)
        return point

    def _iterate(self, manifold: Any, x: Tensor, weights: stats.Weights) -> Tensor:
        return _step(manifold, self.tangent_point(manifold, x, weights), x, weights)


def _step(manifold: Any, point: Tensor, x: Tensor, weights: stats.Weights) -> Tensor:
    tangent = weighted_mean(manifold.log(stats.spread(point, weights), x), weights, len(manifold.point_shape))
    return manifold.exp(point, tangent)


@dataclass(frozen=True)
class TangentMomentum(Momentum):
    """`Momentum` whose variance is measured in the tangent space of the last Karcher step.

    Quirk: squared distances are those of logarithms at the point before the step, not those from the mean: off by 0.02
    percent on concentrated data, 1.3 percent on spread. Needs `DetachedKarcher`.

    References
    ----------
    Code of Kobler et al. 2022 (TSMNet).

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.published.TangentMomentum(1.0, 0.1)
    TangentMomentum(train=1.0, test=0.1, schedule=None)
    """

    def variance(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the momentum variance, moved towards the batch's in the tangent space."""
        return moved_variance(layer.momentum_var, seen, self._about(layer, seen, mean), self._momenta(layer)[0])

    def test_variance(self, layer: Any, seen: Observed, running: Tensor) -> Tensor:
        """Return the batch's variance about the running mean in the tangent space."""
        return self._about(layer, seen, running)

    @staticmethod
    def _about(layer: Any, seen: Observed, mean: Tensor) -> Tensor:
        point = layer._mean_policy.tangent_point(seen.base, seen.samples, seen.weights)
        spread_point = stats.spread(point, seen.weights)
        centre = stats.spread(seen.base.log(point, mean), seen.weights)
        tangent = seen.base.log(spread_point, seen.samples) - centre
        return weighted_mean(seen.base.inner(spread_point, tangent, tangent), seen.weights, 0) * seen.metric_scale


class TSMNetBatchNorm(PublishedNorm, RiemannianBatchNorm):
    """The batch norms of TSMNet: SPDBN (``train=1``), SPDMBN, and renormalisation (``train == test``).

    ``DomainBatchNorm(TSMNetBatchNorm(...), num_domains)`` is its SPDDSMBN. Quirks: the mean's gradient
    (`DetachedKarcher`), the variance's tangent space (`TangentMomentum`), momenta of running means in single precision,
    and those of `PublishedNorm` but for gradients, which flow through the statistics.

    Parameters
    ----------
    manifold : int or Manifold
        Matrix size, or the affine-invariant geometry to use.
    train, test, schedule
        Of `Momentum`; the code applies the complement of the scheduled test momentum, which is not reproduced.
    karcher_steps : int
        Of the mean.
    dispersion : bool
        Whether there is a scale; without it the layer only centres.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Code of Kobler et al. 2022, "SPD domain-specific batch normalization to crack interpretable unsupervised domain
    adaptation in EEG".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.TSMNetBatchNorm(1, dispersion=False)
    >>> layer(torch.tensor([1.0, 2.0, 4.0])[:, None, None]).flatten().detach()
    tensor([0.5000, 1.0000, 2.0000])
    """

    def __init__(
        self,
        manifold: int | Manifold,
        *,
        train: float = 1.0,
        test: float = 0.1,
        schedule: Schedule | None = None,
        karcher_steps: int = 1,
        dispersion: bool = True,
        **options: Any,
    ) -> None:
        self.dispersion = dispersion  # before super().__init__, which asks for the move
        geometry = Float32AffineInvariant(manifold) if isinstance(manifold, int) else manifold
        policy = TangentMomentum(train, test, schedule)
        own = {"mean": DetachedKarcher(karcher_steps), "statistics": policy, "grad_through_stats": True}
        super().__init__(geometry, **{**own, **options})
        if not dispersion and self.scale is not None:
            del self.signed_scale

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``n -> layer``."""
        return NormFactory(cls, manifold, options)

    def _published_move(self, move: Move) -> Move:
        if self.dispersion:
            return move

        def unscaled(*arguments: Any) -> Moved:
            squared, finish, _ = move(*arguments)
            return Moved(squared, lambda factor, bias: finish(torch.ones_like(factor), bias))

        return unscaled


class LieBNTSMNet(PublishedNorm, LieBatchNorm):
    """The LieBN that was put into TSMNet: `Momentum` statistics, all detached, and exactly one Karcher step.

    Quirks: `refit` takes one Karcher step too; those of `PublishedNorm`; on the affine-invariant metric momenta of
    running means are in single precision (use `Float32AffineInvariant`).

    Parameters
    ----------
    manifold : Manifold
        `LogEuclidean`, `LogCholesky`, `Float32AffineInvariant` or a `PowerDeformed` one of these.
    train, test, schedule
        Of `Momentum`.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN_TSMNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.LieBNTSMNet(mn.LogEuclidean(2), train=0.6, test=0.2)
    >>> layer(torch.eye(2).expand(4, 2, 2)).shape
    torch.Size([4, 2, 2])
    """

    def __init__(
        self,
        manifold: Manifold,
        *,
        train: float = 1.0,
        test: float = 0.1,
        schedule: Schedule | None = None,
        **options: Any,
    ) -> None:
        policy = Momentum(train, test, schedule)
        super().__init__(manifold, **{"mean": Karcher(1), "statistics": policy, **options})

    @torch.no_grad()
    @without_autocast
    def refit(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Set all statistics to the one-step mean of ``x`` and the variance about it."""
        self._check(self.manifold, x, weights)
        flat, shares = self._flatten(x, weights)
        chart, base, scale = flatten(self.manifold)
        seen = self._observe(base, None, scale, flat if chart is None else chart(flat), None, shares)
        squared = self._moved(base, seen.mean, seen.samples, None).squared
        for kind in self.statistics.kinds:
            write(self, kind, seen.mean, weighted_mean(squared, seen.weights, 0) * scale, seen.valid)
