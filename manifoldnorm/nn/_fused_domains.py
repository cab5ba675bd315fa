"""What the norms as one operation need for statistics per domain: values to samples, and sums of samples to domains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldnorm.nn._tracking import where_enough
from manifoldnorm.stats import Segments, total


class Domains(NamedTuple):
    """The domains of a batch: its segments, which have enough samples, and the running statistics of the others."""

    segments: Segments
    enough: Tensor
    running_mean: Tensor
    running_var: Tensor

    def to_samples(self, values: Tensor) -> Tensor:
        """Return the value of each sample's domain."""
        return values.index_select(0, self.segments.index)

    def shared(self, values: Tensor) -> Tensor:
        """Return the value of each sample's domain times the sample's share in it."""
        each = self.to_samples(values)
        return each * self.segments.shares.to(each.dtype).view(-1, *(1,) * (each.ndim - 1))

    def sums(self, each: Tensor) -> Tensor:
        """Return the sum over each domain's samples."""
        like = each.new_empty((len(self.enough), *each.shape[1:]))
        return total(each, self.segments.index, like)

    def means(self, each: Tensor) -> Tensor:
        """Return the mean over each domain's samples, 0 where there is none."""
        return self.sums(each * self.segments.shares.to(each.dtype).view(-1, *(1,) * (each.ndim - 1)))

    def mean_or_running(self, mean: Tensor) -> Tensor:
        """Return the running mean where there are too few samples."""
        return where_enough(self.enough, mean, self.running_mean.to(mean.dtype))

    def variance_or_running(self, variance: Tensor) -> Tensor:
        """Return the running variance where there are too few samples."""
        return torch.where(self.enough, variance, self.running_var.to(variance.dtype))

    def of_batch(self, grad: Tensor) -> Tensor:
        """Return the gradient in a statistic that is the batch's, 0 where it is the running one."""
        return where_enough(self.enough, grad, grad.new_zeros(()))
