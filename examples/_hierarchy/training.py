"""One run, embedding and seed: what an epoch is, and the ranking at the end."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _common.files import State
from _common.runs import Run
from torch import Tensor

from . import models
from .data import Hierarchy
from .ranking import reconstruction


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: the step size is a tenth during ``burn_in`` epochs, then falls to 0 along a cosine."""

    dim: int = 5
    negatives: int = 50
    epochs: int = 300
    burn_in: int = 20
    batch: int = 1024
    lr: float = 0.03
    geometry: str = "ball"
    sparse: bool = False
    ranked: int | None = None

    def rate(self, epoch: int) -> float:
        if epoch < self.burn_in:
            return self.lr / 10
        done = (epoch - self.burn_in) / max(1, self.epochs - self.burn_in)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """Model, optimizers and samples of a run, with one state for all of them."""

    def __init__(self, run: Run, recipe: Recipe, hierarchy: Hierarchy, keys: Tensor) -> None:
        torch.manual_seed(run.seed)
        self.run, self.recipe, self.hierarchy, self.keys = run, recipe, hierarchy, keys
        self.model = models.build(run.name, len(hierarchy), recipe.geometry, recipe.dim, recipe.sparse)
        self.optimizers = self.model.optimizers(recipe.lr)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: list[dict[str, float]] = []

    def state(self) -> State:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "order": self.order.get_state(),
        }

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.order.set_state(state["order"])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield items (B, 1) and an ancestor with negatives (B, 1 + negatives), a megabyte of samples at a time."""
        recipe, pairs = self.recipe, self.hierarchy.pairs
        order = torch.randperm(len(pairs), generator=self.order)
        batches = max(1, (1 << 20) // (recipe.batch * recipe.negatives))
        for chosen in order.split(batches * recipe.batch):
            some = pairs[chosen]
            negatives = self._negatives(some[:, :1])
            candidates = torch.cat([some[:, 1:], negatives], 1)
            yield from zip(some[:, :1].split(recipe.batch), candidates.split(recipe.batch), strict=True)

    def _negatives(self, items: Tensor) -> Tensor:
        """Draw items that are not ancestors; what still is after three redraws of an item with many stays."""
        n = len(self.hierarchy)
        shape = (len(items), self.recipe.negatives)
        drawn = torch.randint(n, shape, generator=self.order)
        for _ in range(3):
            key = items * n + drawn
            place = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
            related = self.keys[place] == key
            drawn = torch.where(related, torch.randint(n, shape, generator=self.order), drawn)
        return drawn

    def step(self, items: Tensor, candidates: Tensor) -> float:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        scores = -self.model(items, candidates)
        loss = torch.nn.functional.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    def epoch(self) -> None:
        start = time.perf_counter()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate(len(self.history))
        self.model.train()
        losses = [self.step(items, candidates) for items, candidates in self.batches()]
        loss = statistics.fmean(losses)
        self.history.append({"loss": loss, "seconds": time.perf_counter() - start})
        if not math.isfinite(loss):
            raise ValueError(f"{self.run.title}: the loss is not finite in epoch {len(self.history)}; lower --lr")

    def result(self) -> State:
        self.model.eval()
        with torch.no_grad():
            points = self.model.points().clone()
        rank, precision = reconstruction(points, self.model.distance, self.hierarchy, items=self.recipe.ranked)
        seconds = sum(row["seconds"] for row in self.history)
        return {"rank": rank, "map": 100 * precision, "seconds": seconds, "points": points}


def speeds(names: Sequence[str], recipe: Recipe, hierarchy: Hierarchy, keys: Tensor) -> dict[str, float]:
    """Return steps per second of processor time, the median of turns that the embeddings take one after the other."""
    trainings = [Training(Run(name, 0, Path()), recipe, hierarchy, keys) for name in names]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(9):
        for training in trainings:
            batches = [batch for _, batch in zip(range(10), training.batches(), strict=False)]
            training.step(*batches[0])  # after another embedding the first step finds nothing in the caches
            start = time.process_time()
            for batch in batches[1:]:
                training.step(*batch)
            times[training.run.name].append((time.process_time() - start) / max(1, len(batches) - 1))
    return {name: 1 / statistics.median(found) for name, found in times.items()}
