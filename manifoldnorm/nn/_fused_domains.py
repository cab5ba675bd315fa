"""What the norms as one operation need for statistics per domain: values to samples, and sums of samples to domains."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn._tracking import where_enough
from manifoldnorm.stats import Segments, total


class Domains(NamedTuple):
    """The domains of an unweighted batch.

    Its segments, which of them have enough samples, and the running statistics of the others.
    """

    segments: Segments
    enough: Tensor
    running_mean: Tensor
    running_var: Tensor

    def to_samples(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the value of each sample's domain, in the memory of ``out`` where that fits."""
        if out is None or out.dtype != values.dtype:
            return values.index_select(0, self.segments.index)
        return torch.index_select(values, 0, self.segments.index, out=out)

    def shared(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the value of each sample's domain over the number of its samples."""
        return self.to_samples(self._over_counts(values), out)

    def sums(self, each: Tensor) -> Tensor:
        """Return the sum over each domain's samples."""
        like = each.new_empty((len(self.enough), *each.shape[1:]))
        return total(each, self.segments.index, like)

    def means(self, each: Tensor) -> Tensor:
        """Return the mean over each domain's samples, 0 where there is none."""
        return self._over_counts(self.sums(each))

    def _over_counts(self, values: Tensor) -> Tensor:
        each = self.segments.each
        assert each is not None
        wide: Any = spread(each.to(values.dtype), values.ndim - each.ndim)
        return values * wide

    def mean_or_running(self, mean: Tensor) -> Tensor:
        """Return the running mean where there are too few samples."""
        return where_enough(self.enough, mean, self.running_mean.to(mean.dtype))

    def variance_or_running(self, variance: Tensor) -> Tensor:
        """Return the running variance where there are too few samples."""
        return torch.where(self.enough, variance, self.running_var.to(variance.dtype))

    def of_batch(self, grad: Tensor) -> Tensor:
        """Return the gradient in a statistic that is the batch's, 0 where it is the running one."""
        return where_enough(self.enough, grad, grad.new_zeros(()))
