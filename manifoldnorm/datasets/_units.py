"""Units (runs, trials) that no split may cut: their values, and how they are dealt at random."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct(column: Tensor) -> list[int]:
    """Return the values that occur, sorted."""
    return sorted(set(column.tolist()))


def check_units(unit: Tensor, y: Tensor, name: str, called: str) -> None:
    """Raise unless some class has units enough for every part of a random split."""
    pairs = torch.stack([y.cpu(), unit.cpu()]).unique(dim=1)
    most = int(pairs[0].bincount().max()) if pairs.shape[1] else 0
    if most < 3:
        raise ValueError(
            f"{name}: no class has 3 {called}s, one each for train, val and test (the most is {most}, of {len(y)} "
            f"samples). Add {called}s, or number them so that samples recorded apart are not one."
        )


def deal_units(unit: Tensor, y: Tensor, shares: tuple[float, ...], seed: int) -> Tensor:
    """Deal whole units of each class at random to parts 1, 2, ... by their shares, and the rest to part 0."""
    units, member = torch.unique(unit.cpu(), return_inverse=True)
    label = torch.empty(len(units), dtype=torch.int64).scatter_(0, member, y.cpu())
    generator = torch.Generator().manual_seed(seed)
    part_of_unit = torch.zeros(len(units), dtype=torch.int64)
    for c in distinct(label):
        shuffled = torch.nonzero(label == c)[:, 0]
        shuffled = shuffled[torch.randperm(len(shuffled), generator=generator)]
        fewest = int(len(shuffled) > len(shares))  # every part sees every class where there are units enough
        start = 0
        for part, share in enumerate(shares, start=1):
            stop = start + max(round(share * len(shuffled)), fewest)
            part_of_unit[shuffled[start:stop]] = part
            start = stop
    return part_of_unit[member].to(y.device)
