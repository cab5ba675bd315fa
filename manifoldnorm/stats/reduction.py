"""How the samples of a batch are combined into statistics, where that is more than one weighted mean."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.stats.processes import Processes


def trailing(t: Tensor, axes: int) -> Tensor:
    """Return ``t`` with ``axes`` trailing dimensions of size one."""
    return t.reshape(t.shape + (1,) * axes) if axes else t


class Reduction(abc.ABC):
    """Takes samples (N, *groups, *point) to statistics, and hands statistics back to their samples.

    Attributes
    ----------
    shares : Tensor
        The weight (N, *groups) of each sample in its own statistic; those of one statistic sum to one, or all are 0.
    index : Tensor or None
        Which statistic (N,) each sample belongs to; None where all belong to one.
    empty : Tensor or None
        Which statistics have no sample; None where that is impossible.
    processes : Processes or None
        Over whose samples the statistics are; None: only over those at hand.
    """

    shares: Tensor
    index: Tensor | None = None
    empty: Tensor | None = None
    processes: Processes | None = None

    @abc.abstractmethod
    def own_mean(self, values: Tensor, point_ndim: int) -> Tensor:
        """Return what the samples at hand add to the weighted mean of ``values`` (N, *groups, *point).

        A statistic without samples gets the plain mean over the batch: any point will do, but it must be one.
        """

    def join(self, *own: Tensor) -> tuple[Tensor, ...]:
        """Return means from what the samples at hand add to them, all in one step of communication."""
        return own if self.processes is None else self.processes.sum(*own)

    def mean(self, values: Tensor, point_ndim: int) -> Tensor:
        """Return the weighted mean of ``values`` (N, *groups, *point) in each statistic."""
        return self.join(self.own_mean(values, point_ndim))[0]

    def spread(self, p: Tensor) -> Tensor:
        """Return a value per statistic so that it broadcasts against the samples."""
        return p if self.index is None else p.index_select(0, self.index)

    @abc.abstractmethod
    def detach(self) -> Reduction:
        """Return the same reduction with constant weights."""

    @abc.abstractmethod
    def to(self, dtype: torch.dtype) -> Reduction:
        """Return the same reduction with weights in another real dtype."""


def total(values: Tensor, index: Tensor | None, like: Tensor) -> Tensor:
    """Return the sum of ``values`` (N, ...) over dimension 0, per segment where there is an index, as ``like``."""
    return values.sum(0) if index is None else torch.zeros_like(like).index_add(0, index, values.to(like.dtype))


def over(processes: Processes | None, own: Tensor) -> Tensor:
    """Return the sum over processes of what each of them adds."""
    return own if processes is None else processes.sum(own)[0]


def gather(p: Tensor, index: Tensor | None) -> Tensor:
    """Return, for each sample, its segment's value; ``p`` itself without an index."""
    return p if index is None else p.index_select(0, index)


@dataclass(frozen=True, eq=False)
class ToSamples:
    """Hands a value per segment to its samples, by their index (N,)."""

    index: Tensor

    def __call__(self, p: Tensor) -> Tensor:
        """Return, for each sample, its segment's value."""
        return p.index_select(0, self.index)


@dataclass(frozen=True, eq=False)
class Pooled(Reduction):
    """One weighted mean over the samples of several processes."""

    shares: Tensor
    processes: Processes

    def own_mean(self, values: Tensor, point_ndim: int) -> Tensor:
        """Return what the samples at hand add to the mean (*groups, *point)."""
        return weighted_sum(values, self.shares, values.ndim - self.shares.ndim)

    def detach(self) -> Pooled:
        """Return the same reduction with constant weights."""
        return replace(self, shares=self.shares.detach())

    def to(self, dtype: torch.dtype) -> Pooled:
        """Return the same reduction with weights in another real dtype."""
        return replace(self, shares=self.shares.to(dtype))


def weighted_sum(x: Tensor, weights: Tensor, point_ndim: int) -> Tensor:
    """Return the sum over dimension 0 of ``x`` (N, *groups, *point) times weights (N, *groups)."""
    if weights.ndim == 1:
        return (weights.to(x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    return (trailing(weights.to(x.dtype), point_ndim) * x).sum(0)


@dataclass(frozen=True, eq=False)
class Segments(Reduction):
    """One weighted mean for each of D segments of the batch, without a loop and without a look at values.

    Statistics are (D, *groups, *point). Built by `segment`. Where all samples of a segment count alike, ``each`` is the
    share (D, *groups) of one; ``filled`` says that no segment is empty, where that is known.
    """

    shares: Tensor
    index: Tensor
    empty: Tensor
    processes: Processes | None = None
    each: Tensor | None = None
    filled: bool = False

    def own_mean(self, values: Tensor, point_ndim: int) -> Tensor:
        """Return what the samples at hand add to the mean of each segment (D, *groups, *point)."""
        zeros = values.new_zeros(self.empty.shape[:1] + values.shape[1:])
        if self.each is None:
            weighted = values * trailing(self.shares.to(values.dtype), values.ndim - self.shares.ndim)
            means = zeros.index_add(0, self.index, weighted)
        else:
            each = trailing(self.each.to(values.dtype), values.ndim - self.each.ndim)
            means = zeros.index_add(0, self.index, values) * each
        if self.filled:
            return means
        anything = values.mean(0) if self.processes is None else values.mean(0) / self.processes.size
        return torch.where(trailing(self.empty, values.ndim - self.empty.ndim), anything, means)

    def detach(self) -> Segments:
        """Return the same segments with constant weights."""
        return replace(self, shares=self.shares.detach()) if self.shares.requires_grad else self

    def to(self, dtype: torch.dtype) -> Segments:
        """Return the same segments with weights in another real dtype."""
        return self if self.shares.dtype == dtype else replace(self, shares=self.shares.to(dtype))


def segment(
    raw: Tensor, index: Tensor, count: int, processes: Processes | None = None, *, alike: bool = False
) -> tuple[Segments, Tensor]:
    """Return the segments of a batch and how many samples (D, *groups) count in each.

    Parameters
    ----------
    raw : Tensor
        Weights (N, *groups), any scale, 0 for samples that are left out.
    index : Tensor
        Segment of each sample (N,), integers in [0, count).
    count : int
        Number of segments D; some may be empty.
    processes : Processes, optional
        Whose samples belong to the segments too.
    alike : bool
        Whether all weights are known to be 1.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.stats import segment, weighted_mean
    >>> segments, samples = segment(torch.ones(3), torch.tensor([1, 1, 0]), 3)
    >>> weighted_mean(torch.tensor([2.0, 4.0, 9.0]), segments, 0)
    tensor([9., 3., 5.])
    >>> samples
    tensor([1., 2., 0.])
    """
    zeros = raw.new_zeros((count, *raw.shape[1:]))
    totals = zeros.index_add(0, index, raw)
    samples = totals if alike else zeros.index_add(0, index, (raw > 0).to(raw.dtype))
    if processes is not None:
        totals, samples = processes.sum(totals, samples)
    empty = totals == 0
    filled = plain(empty) and not bool(empty.any())  # looking at values costs nothing there
    each = (totals if filled else torch.where(empty, 1.0, totals)).reciprocal()
    shares = each.index_select(0, index)
    if alike:
        return Segments(shares, index, empty, processes, each, filled), samples
    return Segments(shares * raw, index, empty, processes, None, filled), samples
