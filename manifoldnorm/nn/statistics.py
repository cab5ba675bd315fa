"""Statistics policies: which mean centres a batch in training, which variance scales it, and how the buffers follow."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from manifoldnorm.manifolds import Diffeo
from manifoldnorm.stats import Weights


class Observed(NamedTuple):
    """What one batch says about its statistics.

    Attributes
    ----------
    base, chart, metric_scale
        Where samples and means live, how the layer's manifold is mapped there (None: it is the base), and the factor
        of its squared distances.
    samples : Tensor
        Points of the base (N, *groups, *point_shape).
    weights : Tensor, Reduction or None
        Their shares in the statistics.
    mean : Tensor
        The batch mean, a point of the base per statistic.
    valid : Tensor or None
        Which statistics have enough samples to count; None where all do for certain.
    """

    base: Any
    chart: Diffeo | None
    metric_scale: float | Tensor
    samples: Tensor
    weights: Weights
    mean: Tensor
    valid: Tensor | None


class Statistics(abc.ABC):
    """A policy: an immutable value that a norm asks three times per training batch.

    The buffers ``running_mean`` and ``running_var`` are what evaluation uses, whatever the policy; ``kinds`` names the
    prefixes of all pairs of buffers it keeps.
    """

    kinds: ClassVar[tuple[str, ...]] = ("running",)

    def check(self, layer: Any) -> None:
        """Raise a ValueError if the layer's options contradict the policy."""

    def allocate(self, layer: Any) -> None:
        """Register buffers beside the pairs, like those in dtype and device."""

    @abc.abstractmethod
    def mean(self, layer: Any, seen: Observed) -> Tensor:
        """Return the mean that centres the batch, a point of ``seen.base`` per statistic."""

    @abc.abstractmethod
    def variance(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the variance that scales the batch, given that of the batch about ``mean``, the centring mean."""

    @abc.abstractmethod
    def track(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> None:
        """Update the buffers in place, given the mean and variance that were used, without their gradients."""


@dataclass(frozen=True)
class Batch(Statistics):
    """Use the batch's own mean and variance in training, the running ones in evaluation."""

    def mean(self, layer: Any, seen: Observed) -> Tensor:
        """Return the batch mean."""
        return seen.mean

    def variance(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the batch variance."""
        return variance

    def track(self, layer: Any, seen: Observed, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by the layer's momentum."""
        layer._track(seen.base, seen.chart, mean.detach(), variance.detach(), seen.valid)
