"""Faults of a norm layer's statistics: variance, running averages, weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.nn import norm
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.stats import weighted_mean as true_weighted_mean
from manifoldnorm.testing.mutants import Change, Mutant, swap

_NORMALIZE, _TRACK = ManifoldNorm._normalize, ManifoldNorm._track
_BIAS, _MEAN = ManifoldNorm._base_bias, ManifoldNorm._batch_mean
_FORWARD, _FLATTEN = ManifoldNorm.forward, ManifoldNorm._flatten
EPS = 1e-5


@contextlib.contextmanager
def _temporarily(layer: Any, **values: Any) -> Iterator[None]:
    """Run with attributes (or parameters) of a layer replaced."""
    store = {name: layer._parameters if name in layer._parameters else layer.__dict__ for name in values}
    before = {name: store[name][name] for name in values}
    for name, value in values.items():
        store[name][name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            store[name][name] = value


def _variance_as(change: Callable[[Tensor, int], Tensor]) -> Change:
    """Return a change of the batch variance, given it and the number of samples."""

    def weighted_mean(x: Tensor, weights: Tensor | None, point_ndim: int) -> Tensor:
        return change(true_weighted_mean(x, weights, point_ndim), len(x))

    return swap((norm, "weighted_mean", weighted_mean))


def _track_with(**values: Callable[[Any], Any]) -> Change:
    def track(self: Any, *args: Any) -> None:
        with _temporarily(self, **{name: f(self) for name, f in values.items()}):
            _TRACK(self, *args)

    return swap((ManifoldNorm, "_track", track))


def _replaced_buffers(self: Any, *args: Any) -> None:
    self.running_mean, self.running_var = self.running_mean.clone(), self.running_var.clone()
    _TRACK(self, *args)


def _reshaped_buffer(self: Any, *args: Any) -> None:
    _TRACK(self, *args)
    self.running_var = self.running_var.unsqueeze(0)


@torch.no_grad()
def _arithmetic_running_mean(self: Any, base: Any, chart: Any, mean: Tensor, variance: Tensor, valid: Tensor) -> None:
    before = self.running_mean.clone()
    _TRACK(self, base, chart, mean, variance, valid)
    point = mean if chart is None else chart.inverse(mean)
    self.running_mean.copy_(before.lerp(point, self.momentum if self.momentum is not None else 0.5))


def _detached_mean(self: Any, base: Any, y: Tensor, share: Tensor) -> Tensor:
    return _MEAN(self, base, y, share).detach()


def _batch_in_eval(self: Any, *args: Any) -> Any:
    with _temporarily(self, track_running_stats=False):
        return _NORMALIZE(self, *args)


def _weights_ignored(self: Any, x: Tensor, weights: Tensor | None = None) -> Tensor:
    return _FORWARD(self, x)


def _weights_kept_out_of_the_variance() -> Change:
    def weighted_mean(x: Tensor, weights: Tensor | None, point_ndim: int) -> Tensor:
        return x.mean(0)

    return swap((norm, "weighted_mean", weighted_mean))


def _counts_bad_batches(self: Any, base: Any, chart: Any, mean: Tensor, variance: Tensor, valid: Any) -> None:
    _TRACK(self, base, chart, mean, variance, None if valid is None else torch.ones_like(valid))


def _unsaved_buffer(self: Any, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
    torch.nn.Module.register_buffer(self, name, tensor, persistent=name != "running_var")


def _shared_statistics(self: Any, base: Any, y: Tensor, share: Tensor) -> Tensor:
    mean = _MEAN(self, base, y, share)
    return mean[:1].expand_as(mean)


def _float32_statistics(self: Any, base: Any, y: Tensor, share: Tensor) -> Tensor:
    return _MEAN(self, base, y, share).float().to(y.dtype)


STATISTICS_FAULTS = (
    Mutant(
        "eps outside the root",
        "sqrt(v) + eps",
        "Lie-LogEuclidean",
        _variance_as(lambda v, n: (v.sqrt() + EPS).square() - EPS),
    ),
    Mutant("eps missing", "v instead of v + eps", "Lie-LogEuclidean", _variance_as(lambda v, n: v - EPS)),
    Mutant("Bessel's correction", "v N / (N - 1)", "Lie-LogEuclidean", _variance_as(lambda v, n: v * n / (n - 1))),
    Mutant("variance not squared", "mean distance", "Lie-LogEuclidean", _variance_as(lambda v, n: v.sqrt())),
    Mutant(
        "scale of the metric forgotten",
        "the chart's variance",
        "Lie-LogCholesky-power",
        _variance_as(lambda v, n: v / 4),
    ),
    Mutant(
        "momentum complemented",
        "1 - momentum",
        "Lie-LogEuclidean",
        _track_with(momentum=lambda s: 1 - (s.momentum or 0.5)),
    ),
    Mutant(
        "cumulative average of the last",
        "momentum 1 instead of 1 / k",
        "Lie-LogEuclidean",
        _track_with(momentum=lambda s: 1.0 if s.momentum is None else s.momentum),
    ),
    Mutant(
        "running mean off the geodesic",
        "arithmetic interpolation",
        "Riemannian-AffineInvariant",
        swap((ManifoldNorm, "_track", _arithmetic_running_mean)),
    ),
    Mutant(
        "running statistics never move",
        "no update",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_track", lambda self, *args: None)),
    ),
    Mutant(
        "buffer replaced",
        "a new tensor each step",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_track", _replaced_buffers)),
    ),
    Mutant("buffer reshaped", "() becomes (1,)", "Lie-LogEuclidean", swap((ManifoldNorm, "_track", _reshaped_buffer))),
    Mutant(
        "batch statistics in evaluation",
        "batch mates matter",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_normalize", _batch_in_eval)),
    ),
    Mutant(
        "mean detached",
        "though gradients flow through statistics",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_batch_mean", _detached_mean)),
    ),
    Mutant(
        "mean in single precision",
        "rounded to float32",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_batch_mean", _float32_statistics)),
    ),
    Mutant(
        "weights ignored",
        "every sample counts once",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "forward", _weights_ignored)),
    ),
    Mutant(
        "weights in the mean only",
        "the variance is unweighted",
        "Lie-LogEuclidean",
        _weights_kept_out_of_the_variance(),
    ),
    Mutant(
        "channels share a mean",
        "the first channel's",
        "Gyro-AffineInvariant",
        swap((ManifoldNorm, "_batch_mean", _shared_statistics)),
    ),
    Mutant(
        "bad batches counted",
        "an all-bad batch moves the statistics",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "_track", _counts_bad_batches)),
    ),
    Mutant(
        "buffer not saved",
        "the running variance is not in the state",
        "Lie-LogEuclidean",
        swap((ManifoldNorm, "register_buffer", _unsaved_buffer)),
    ),
)
