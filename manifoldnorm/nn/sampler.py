"""Batches with several samples of each of their domains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from manifoldnorm.nn._domains import distinct, labels_of


class DomainBatchSampler(Sampler[list[int]]):
    """Batches of ``domains_per_batch`` domains with ``per_batch`` samples of each: what domain statistics need.

    Order: every domain's samples are shuffled, domain by domain in ascending label, and cut into groups of
    ``per_batch``; a rest is dropped, or with ``drop_last=False`` a group of its own. Batches are planned one by one,
    each from the domains with most groups left (ties by label), and shuffled; in them the domains ascend. Labels that
    cannot be compared are ordered as they first appear. Only the seed and the epoch decide.

    Parameters
    ----------
    domains : sequence, array or Tensor
        Domain of each sample of the data set: any hashable labels, such as strings or (person, session).
    per_batch : int
        Samples of one domain in a batch.
    domains_per_batch : int, optional
        Domains in a batch, default all; fewer where fewer have samples left.
    seed : int
        Of the shuffling; `set_epoch` gives each epoch its own order.
    drop_last : bool
        Whether groups of fewer than ``per_batch`` samples are left out.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> sampler = mn.nn.DomainBatchSampler([0, 0, 0, 0, 1, 1], per_batch=2)
    >>> sorted(len(batch) for batch in sampler)
    [2, 4]
    """

    def __init__(
        self,
        domains: Any,
        per_batch: int,
        *,
        domains_per_batch: int | None = None,
        seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        if per_batch < 1 or (domains_per_batch is not None and domains_per_batch < 1):
            raise ValueError(
                f"DomainBatchSampler: per_batch and domains_per_batch must be at least 1, got {per_batch} and "
                f"{domains_per_batch}."
            )
        labels = labels_of(domains, "DomainBatchSampler")
        self.members: dict[Any, list[int]] = {label: [] for label in distinct(labels)}
        for position, label in enumerate(labels):
            self.members[label].append(position)
        self.per_batch, self.domains_per_batch = per_batch, domains_per_batch or len(self.members)
        self.seed, self.drop_last, self.epoch = seed, drop_last, 0
        if not self._counts():
            raise ValueError(f"DomainBatchSampler: no domain has per_batch={per_batch} samples.")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose number enters the seed."""
        self.epoch = epoch

    def _counts(self) -> dict[Any, int]:
        """Return the number of groups of each domain that has any."""
        rest = 0 if self.drop_last else self.per_batch - 1
        counts = {label: (len(members) + rest) // self.per_batch for label, members in self.members.items()}
        return {label: count for label, count in counts.items() if count}

    def _deal(self) -> Iterator[list[Any]]:
        """Yield the domains of each batch."""
        left = self._counts()
        rank = {label: position for position, label in enumerate(left)}
        while left:
            chosen = sorted(left, key=lambda label: -left[label])[: self.domains_per_batch]
            for label in chosen:
                left[label] -= 1
            left = {label: count for label, count in left.items() if count}
            yield sorted(chosen, key=rank.__getitem__)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of positions in the data set."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        groups: dict[Any, list[list[int]]] = {}
        for label, members in self.members.items():
            order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
            groups[label] = [order[i : i + self.per_batch] for i in range(0, len(order), self.per_batch)]
        batches = list(self._deal())
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield [sample for label in batches[position] for sample in groups[label].pop(0)]

    def __len__(self) -> int:
        return sum(1 for _ in self._deal())
