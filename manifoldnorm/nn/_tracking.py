"""The running statistics of a norm layer: its buffers, when they are used, and how they are set."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._call import plain_eager
from manifoldnorm.manifolds import Diffeo
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _refit, _running
from manifoldnorm.nn.statistics import Observed, Statistics
from manifoldnorm.stats import Processes

Self = TypeVar("Self", bound="Tracking")


class Tracking(nn.Module):
    """A module with running statistics that follow a policy."""

    statistics: Statistics
    track_running_stats: bool
    grad_through_stats: bool
    manifold: Any
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    per_domain = False
    min_samples = 1
    frozen = False
    processes: Processes | None = None  # `convert_sync_batchnorm` sets them
    record: Any = None  # `watch_statistics` sets it

    def _allocate_statistics(self, mean: Tensor, variance: Tensor) -> None:
        for kind in self.statistics.kinds:
            self.register_buffer(f"{kind}_mean", mean.clone())
            self.register_buffer(f"{kind}_var", variance.clone())
        tracked = torch.zeros((), dtype=torch.long, device=variance.device)
        self.register_buffer("num_batches_tracked", tracked)
        self.statistics.allocate(self)

    def statistics_names(self) -> tuple[str, ...]:
        """Return the names of the statistics' buffers."""
        pairs = [f"{kind}_{what}" for kind in self.statistics.kinds for what in ("mean", "var")]
        return (*pairs, "num_batches_tracked")

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the origin and the running variance at one."""
        if self.track_running_stats:
            like = self.running_mean
            origin = self.manifold.origin(dtype=like.dtype, device=like.device).expand_as(like)
            for kind in self.statistics.kinds:
                _running.write(self, kind, origin, torch.ones_like(self.running_var), None)
            self.num_batches_tracked.zero_()

    def freeze(self: Self, frozen: bool = True) -> Self:
        """Use the running statistics in training too, and leave them as they are, until `unfreeze`."""
        if frozen and not self.track_running_stats:
            raise ValueError(f"{type(self).__name__}.freeze: the layer keeps no running statistics.")
        self.frozen = frozen
        return self

    def unfreeze(self: Self) -> Self:
        """Undo `freeze`."""
        return self.freeze(False)

    @without_autocast
    def refit(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Set the running statistics to the converged mean and the variance of (unlabelled) data.

        A single sample sets the mean and leaves the variance, of which it says nothing.

        Parameters
        ----------
        x : Tensor
            Points (N, ..., C?, *point_shape), all data at once; samples that are not finite are left out.
        weights : Tensor, optional
            As in `forward`.
        """
        _refit.refit(self, x, weights)

    def _from_batch(self) -> bool:
        """Return whether a forward pass takes statistics from its batch."""
        return (self.training and not self.frozen) or not self.track_running_stats

    def _others(self) -> Processes | None:
        """Return the processes whose samples count too; None in an evaluation without running statistics."""
        if self.processes is None or not (self.training or self.track_running_stats) or self.processes.size == 1:
            return None
        return self.processes

    def _centre(self, seen: Observed | None, chart: Diffeo | None) -> Tensor:
        """Return the mean that centres: the policy's, and the running one in evaluation or for too few samples."""
        if seen is None:
            return self.running_mean if chart is None else chart(self.running_mean)
        mean = self.statistics.mean(self, seen)
        mean = mean if self.grad_through_stats else mean.detach()
        if not self.per_domain:
            return mean
        running = self.running_mean.clone()  # the buffer changes before backward
        return where_enough(seen.valid, mean, running if chart is None else chart(running))

    def _follow(self, seen: Observed, mean: Tensor, variance: Tensor) -> None:
        """Let the buffers follow a batch in training, given the mean and the variance that were used."""
        if self.training and self.track_running_stats:
            if plain_eager() and self.record is not None:  # in this order: a compiled graph does not depend on it
                self.record.note(self, seen, variance)
            self.statistics.track(self, seen, mean, variance)

    _track = _running.update


def where_enough(enough: Tensor | None, statistic: Tensor, running: Tensor) -> Tensor:
    """Return the running statistic for domains with too few samples."""
    assert enough is not None
    kept: Any = spread(enough, statistic.ndim - enough.ndim)
    return torch.where(kept, statistic, running)
