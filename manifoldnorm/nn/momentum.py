"""Momentum and renormalisation policies: centring with statistics that remember earlier batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from manifoldnorm import stats
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _running
from manifoldnorm.nn.batchnorm import RiemannianBatchNorm
from manifoldnorm.nn.statistics import Observed, Statistics

Momenta = tuple[Any, Any]


@dataclass(frozen=True)
class MomentumSchedule:
    """Momenta that fall over the epochs, given by an epoch that is counted from 0.

    In training from 1 to ``ratio``, in test from ``1 - keep`` to ``1 - keep^ratio``, and constant after that.

    Parameters
    ----------
    epochs : int
        Number of epochs over which the momenta fall.
    ratio : float
        Batch size over the batch size that the last momentum stands for; for `DomainBatchNorm` one over the domains in
        a batch.
    keep : float
        Share of the old test statistics that the first epoch keeps.

    References
    ----------
    Yong et al. 2020, "Momentum batch normalization for deep learning with small batch size"; Kobler et al. 2022. The
    code of the latter applies the complement of the test momentum.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> schedule = mn.nn.MomentumSchedule(epochs=20, ratio=0.2)
    >>> [round(momentum, 3) for epoch in (0, 19) for momentum in schedule(epoch)]
    [1.0, 0.15, 0.2, 0.032]
    """

    epochs: int
    ratio: float
    keep: float = 0.85

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.ratio <= 1 or not 0 <= self.keep <= 1:
            raise ValueError(
                f"MomentumSchedule: needs epochs >= 1, ratio in (0, 1] and keep in [0, 1], got {self.epochs}, "
                f"{self.ratio}, {self.keep}."
            )

    def __call__(self, epoch: int) -> tuple[float, float]:
        """Return the momenta (train, test) of an epoch."""
        left = min(max(self.epochs - 1 - epoch, 0) / max(self.epochs - 1, 1), 1.0)
        return 1 + self.ratio - self.ratio**left, 1 - self.keep ** (self.ratio * (1 - left) + left)


def _check_momenta(name: str, **momenta: float) -> None:
    for option, value in momenta.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: {option} must lie in [0, 1], got {value}.")


class _Remembering(Statistics):
    """What the policies below share."""

    def check(self, layer: Any) -> None:
        """Raise a ValueError if the layer keeps no running statistics."""
        if not layer.track_running_stats:
            raise ValueError(f"{type(layer).__name__}: {self} needs track_running_stats=True.")


@dataclass(frozen=True)
class Momentum(_Remembering):
    """Centre and scale with momentum statistics, which move towards each batch's by ``train`` before they are used.

    The running statistics of evaluation follow the batches by ``test``; their variance is that of the samples about the
    running mean. Gradients flow through the batch's part of the momentum statistics. Keeps ``momentum_mean`` and
    ``momentum_var`` beside the running pair, and with a schedule ``momenta``; the layer's ``momentum`` is not used.

    Parameters
    ----------
    train, test : float
        Weights of the new batch; ``train=1`` centres with the batch mean.
    schedule : callable, optional
        Maps an epoch to both, such as `MomentumSchedule`; `set_epoch` moves on. Before that, those of epoch 0 hold.

    References
    ----------
    Kobler et al. 2022, "SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation
    in EEG".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.LieBatchNorm(mn.LogEuclidean(3), statistics=mn.nn.Momentum(train=0.5, test=0.1))
    >>> sorted(name for name, _ in layer.named_buffers())
    ['momentum_mean', 'momentum_var', 'num_batches_tracked', 'running_mean', 'running_var']
    """

    kinds: ClassVar[tuple[str, ...]] = ("running", "momentum")
    train: float = 1.0
    test: float = 0.1
    schedule: Callable[[int], tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        _check_momenta("Momentum", train=self.train, test=self.test)

    def allocate(self, layer: Any) -> None:
        """Register ``momenta`` where there is a schedule: a buffer, so that a new epoch recompiles nothing."""
        if self.schedule is not None:
            layer.register_buffer("momenta", torch.zeros(2).to(layer.running_var))
            if not layer.momenta.is_meta:
                self.set_epoch(layer, 0)

    def set_epoch(self, layer: Any, epoch: int) -> None:
        """Set the momenta of an epoch."""
        if self.schedule is not None:
            momenta = self.schedule(epoch)
            _check_momenta(f"{self.schedule}({epoch})", train=momenta[0], test=momenta[1])
            with torch.no_grad():
                layer.momenta.copy_(torch.tensor(momenta, dtype=torch.float64))

    def _momenta(self, layer: Any) -> Momenta:
        return (self.train, self.test) if self.schedule is None else tuple(layer.momenta.clone().unbind())

    def mean(self, layer: Any, seen: Observed) -> Tensor:
        """Return the momentum mean, moved towards the batch mean."""
        return moved_mean(layer.momentum_mean, seen, self._momenta(layer)[0])

    def variance(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the momentum variance, moved towards the batch's about the momentum mean."""
        return moved_variance(layer.momentum_var, seen, variance, self._momenta(layer)[0])

    def track(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> None:
        """Keep the momentum statistics, and move the running ones."""
        with torch.no_grad():
            test = self._momenta(layer)[1]
            running = moved_mean(layer.running_mean, seen, test)
            about = moved_variance(layer.running_var, seen, self.test_variance(layer, seen, running), test)
            valid = _running.sound(seen.base, mean, variance + about, seen.valid)
            mean, running = leave(seen, mean), leave(seen, running)
        _running.write(layer, "momentum", mean.detach(), variance.detach(), valid)
        _running.write(layer, "running", running.detach(), about, valid)
        _running.count(layer, valid)

    def test_variance(self, layer: Any, seen: Observed, running: Tensor) -> Tensor:
        """Return the batch's variance about the running mean."""
        index = seen.weights.index if isinstance(seen.weights, stats.Reduction) else None
        squared = layer._moved(seen.base, running, seen.samples, index).squared
        return stats.weighted_mean(squared, seen.weights, len(seen.base.variance_shape)) * seen.metric_scale


@dataclass(frozen=True)
class Renorm(_Remembering):
    """Centre and scale with the running statistics, which move towards each batch's before they are used.

    Training and evaluation use the same statistics up to one step. The layer's ``momentum`` is not used.

    Parameters
    ----------
    momentum : float
        Weight of the new batch.

    References
    ----------
    Ioffe 2017, "Batch renormalization"; on manifolds Kobler et al. 2022, "Controlling the Frechet variance improves
    batch normalization on the symmetric positive definite manifold".

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.GyroBatchNorm(mn.AffineInvariant(3), statistics=mn.nn.Renorm(0.1)).statistics
    Renorm(momentum=0.1)
    """

    momentum: float = 0.1

    def __post_init__(self) -> None:
        _check_momenta("Renorm", momentum=self.momentum)

    def mean(self, layer: Any, seen: Observed) -> Tensor:
        """Return the running mean, moved towards the batch mean."""
        return moved_mean(layer.running_mean, seen, self.momentum)

    def variance(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the running variance, moved towards the batch's about the running mean."""
        return moved_variance(layer.running_var, seen, variance, self.momentum)

    def track(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> None:
        """Keep what was used."""
        with torch.no_grad():
            valid = _running.sound(seen.base, mean, variance, seen.valid)
            mean = leave(seen, mean)
        _running.write(layer, "running", mean.detach(), variance.detach(), valid)
        _running.count(layer, valid)


def moved_mean(buffer: Tensor, seen: Observed, weight: Any) -> Tensor:
    """Return a buffer's mean moved along the geodesic to the batch mean, out of place, in the base."""
    if isinstance(weight, float) and weight == 1.0:
        return seen.mean
    old = buffer.clone()  # backward needs the old value, and the buffer changes before
    old = old if seen.chart is None else seen.chart(old)
    new: Tensor = seen.base.geodesic(old, seen.mean, weight)
    return new if seen.valid is None else torch.where(_over(seen.valid, new), new, old)


def moved_variance(buffer: Tensor, seen: Observed, variance: Tensor, weight: Any) -> Tensor:
    """Return a buffer's variance moved towards ``variance``, out of place."""
    if isinstance(weight, float) and weight == 1.0:
        return variance
    new = buffer.lerp(variance.to(buffer.dtype), weight)
    return new if seen.valid is None else torch.where(_over(seen.valid, new), new, buffer)


def leave(seen: Observed, mean: Tensor) -> Tensor:
    """Return a point of the base as a point of the layer's manifold."""
    return mean if seen.chart is None else seen.chart.inverse(mean)


def _over(valid: Tensor, value: Tensor) -> Any:
    return spread(valid, value.ndim - valid.ndim)


class MomentumBatchNorm(RiemannianBatchNorm):
    """`RiemannianBatchNorm` with `Momentum` statistics.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        The geometry.
    train, test, schedule
        Of `Momentum`.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Kobler et al. 2022 (SPDMBN; TSMNet).

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> schedule = mn.nn.MomentumSchedule(epochs=40, ratio=0.2)
    >>> mn.nn.MomentumBatchNorm(mn.AffineInvariant(3), schedule=schedule).statistics.schedule
    MomentumSchedule(epochs=40, ratio=0.2, keep=0.85)
    """

    def __init__(
        self,
        manifold: Any,
        *,
        train: float = 1.0,
        test: float = 0.1,
        schedule: Callable[[int], tuple[float, float]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(manifold, statistics=Momentum(train, test, schedule), **options)


def set_epoch(model: nn.Module, epoch: int) -> None:
    """Move every scheduled momentum of a model to an epoch, counted from 0; call it when an epoch starts.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> schedule = mn.nn.MomentumSchedule(epochs=3, ratio=0.5)
    >>> model = mn.nn.Sequential(mn.nn.MomentumBatchNorm(mn.LogEuclidean(2), schedule=schedule))
    >>> mn.nn.set_epoch(model, 2)
    >>> model[0].momenta[0]
    tensor(0.5000)
    """
    for module in model.modules():
        policy = getattr(module, "statistics", None)
        if isinstance(policy, Momentum):
            policy.set_epoch(module, epoch)
