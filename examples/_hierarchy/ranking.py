"""Reconstruction: where the ancestors of an item rank among all items by distance, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .data import Hierarchy

Distance = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def reconstruction(
    points: Tensor, distance: Distance, hierarchy: Hierarchy, *, items: int | None = None, elements: int = 1 << 21
) -> tuple[float, float]:
    """Return the mean rank and the mean average precision of the ancestors among all items.

    An ancestor's rank is one plus the number of unrelated items that are nearer. ``items``: so many items, drawn at
    random, are ranked instead of all; ``elements``: distances held at a time.
    """
    below, counts = hierarchy.pairs[:, 0].unique_consecutive(return_counts=True)
    first = pad(counts.cumsum(0), (1, 0))[:-1]
    chosen = torch.arange(len(below))
    if items is not None and items < len(below):
        chosen = torch.randperm(len(below), generator=torch.Generator().manual_seed(0))[:items].sort().values
    ranks, precisions = [], []
    for part in chosen.split(max(1, elements // len(points))):
        rank, precision = _ranks(points, distance, hierarchy, below[part], first[part], counts[part])
        ranks.append(rank)
        precisions.append(precision)
    return torch.cat(ranks).mean().item(), torch.cat(precisions).mean().item()


def _ranks(
    points: Tensor, distance: Distance, hierarchy: Hierarchy, rows: Tensor, first: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ranks of all ancestors of some items, and each item's average precision."""
    width = int(counts.max())
    columns = torch.arange(width).expand(len(rows), -1)
    valid = columns < counts[:, None]
    ancestors = hierarchy.pairs[(first[:, None] + columns).clamp_max(len(hierarchy.pairs) - 1), 1]
    far = distance(points[rows, None], points)
    of_ancestors = far.gather(1, ancestors).masked_fill(~valid, torch.inf).sort(1).values
    # a related item is no competitor: behind every bound
    far.scatter_(1, torch.where(valid, ancestors, rows[:, None]), torch.inf)
    far.scatter_(1, rows[:, None], torch.inf)
    # in front of how many of its own ancestors each item stands, then counted: no sorting of n distances
    place = torch.searchsorted(of_ancestors, far, right=True) + (width + 1) * torch.arange(len(rows))[:, None]
    histogram = torch.bincount(place.flatten(), minlength=len(rows) * (width + 1)).reshape(len(rows), width + 1)
    nearer = histogram.cumsum(1)[:, :width].double()
    order = columns.double() + 1
    precision = torch.where(valid, order / (order + nearer), 0.0).sum(1) / counts
    return (1 + nearer)[valid], precision
