"""Watching the statistics of norms during training: what each batch says beside what the layer remembers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _running
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.statistics import Observed


class StatisticsHistory(NamedTuple):
    """What one norm saw in T training batches; on the CPU, NaN where a batch had no statistic (an absent domain).

    Attributes
    ----------
    step : Tensor
        Number (T,) of the layer's training batch, from 0.
    distance : Tensor
        From the running mean, as it was before the batch, to the mean of the batch: (T,), (T, C) with channels,
        (T, D) with domains, (T, D, C) with both.
    variance : Tensor
        By which the batch was scaled, of the shape of ``distance`` (a product has one more axis, for its factors): that
        of the batch, which `Momentum` and `Renorm` statistics blend with earlier ones.
    running_variance : Tensor
        Likewise, as it was before the batch.
    """

    step: Tensor
    distance: Tensor
    variance: Tensor
    running_variance: Tensor


class _Record:
    """The rows of one layer. A copied or pickled layer has None in its place."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def __reduce__(self) -> Any:
        return type(None), ()

    @torch.no_grad()
    def note(self, layer: ManifoldNorm, seen: Observed, variance: Tensor) -> None:
        """Write down a batch before the buffers follow it, without waiting for the device."""
        old = layer.running_mean if seen.chart is None else seen.chart(layer.running_mean)
        mean = seen.mean
        valid: Any = _running.sound(seen.base, mean, variance, seen.valid)
        if valid is not None:  # a distance from what is not finite may raise
            mean = torch.where(spread(valid, mean.ndim - valid.ndim), mean, old)  # type: ignore[arg-type]
        distance = seen.base.dist(old, mean) * seen.metric_scale**0.5
        if valid is not None:
            distance = torch.where(valid, distance, math.nan)
            variance = torch.where(spread(valid, variance.ndim - valid.ndim), variance, math.nan)  # type: ignore[arg-type]
        self.rows.append((distance, variance.detach(), layer.running_var.clone()))

    def history(self) -> StatisticsHistory:
        """Return the rows as tensors on the CPU."""
        columns = zip(*self.rows, strict=True) if self.rows else ((), (), ())
        return StatisticsHistory(torch.arange(len(self.rows)), *(_column(values) for values in columns))


def _column(values: tuple[Tensor, ...]) -> Tensor:
    if not values or values[0].ndim == 0:
        return torch.stack(values).cpu() if values else torch.zeros(0)
    # domains that were added on the way have no earlier values
    return nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=math.nan).cpu()


class StatisticsWatch:
    """What `watch_statistics` returns: ends at the end of a ``with`` block, or with `remove`.

    Parameters
    ----------
    layers : dict of str to ManifoldNorm
        The norms to watch, by name.
    """

    def __init__(self, layers: dict[str, ManifoldNorm]) -> None:
        self._watched = {name: (layer, _Record()) for name, layer in layers.items()}
        for layer, record in self._watched.values():
            layer.record = record

    def history(self) -> dict[str, StatisticsHistory]:
        """Return what has been recorded so far, by the names of the layers; `plotting.statistics` draws it."""
        return {name: record.history() for name, (_, record) in self._watched.items()}

    def remove(self) -> None:
        """Stop recording; the history stays."""
        for layer, record in self._watched.values():
            if layer.record is record:
                layer.record = None

    def __enter__(self) -> StatisticsWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def watch_statistics(model: nn.Module) -> StatisticsWatch:
    """Record, at every training batch, how the statistics of each norm in a model relate to its running ones.

    Nothing is copied to the CPU before the history is read, and no gradient is kept; a batch costs one distance between
    two points. Copies and pickles of the model are not watched. A forward pass compiled by `torch.compile` or under a
    transform of `torch.func` is not recorded (and not slower, nor compiled anew): watch an uncompiled model.

    Parameters
    ----------
    model : Module
        A norm, or a network with norms in it. Norms without running statistics are left out, frozen ones see no batch.

    Returns
    -------
    StatisticsWatch
        Its ``history()`` maps the names of the layers, as in ``model.named_modules()``, to a `StatisticsHistory`.

    Raises
    ------
    ValueError
        If no norm keeps running statistics, or one is being watched already.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.LieBatchNorm(mn.LogEuclidean(2), momentum=0.5)
    >>> x = torch.stack([torch.eye(2), torch.e**2 * torch.eye(2)])
    >>> with mn.nn.watch_statistics(layer) as watch:
    ...     _ = layer(x), layer(x)
    >>> watch.history()["LieBatchNorm"].distance
    tensor([1.4142, 0.7071])
    """
    layers = {
        name or type(module).__name__: module
        for name, module in model.named_modules()
        if isinstance(module, ManifoldNorm) and module.track_running_stats
    }
    if not layers:
        raise ValueError(f"watch_statistics: no norm in {type(model).__name__} keeps running statistics.")
    taken = [name for name, layer in layers.items() if layer.record is not None]
    if taken:
        raise ValueError(f"watch_statistics: {taken[0]} is being watched already; remove() that watch first.")
    return StatisticsWatch(layers)
