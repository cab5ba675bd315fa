"""Training of a classifier: Adam, a cosine for the step size, shuffled batches, test accuracy after the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .files import State
from .runs import Run

Part = tuple[Tensor, Tensor]


class Classifier:
    """A model with its samples and labels to train and to test on."""

    def __init__(
        self, run: Run, model: nn.Module, train: Part, test: Part, *, epochs: int, batch: int, lr: float
    ) -> None:
        self.run, self.model, self.train, self.test = run, model, train, test
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.batches = max(1, len(train[0]) // batch)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs * self.batches)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: list[dict[str, float]] = []

    def state(self) -> State:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        return {**parts, "order": self.order.get_state()}

    def restore(self, state: State) -> None:
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.order.set_state(state["order"])

    def order_of_samples(self) -> Iterable[Tensor]:
        """Return the positions in each batch of the next epoch."""
        return torch.randperm(len(self.train[0]), generator=self.order).tensor_split(self.batches)

    def scores(self, some: Tensor) -> Tensor:
        """Return the model's output for training samples."""
        return self.model(self.train[0][some])  # type: ignore[no-any-return]

    def epoch(self) -> None:
        start, total = time.perf_counter(), 0.0
        self.model.train()
        for some in self.order_of_samples():
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.scores(some), self.train[1][some])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item() * len(some) / len(self.train[0])
        if not math.isfinite(total):
            raise ValueError(f"{self.run.title}: the loss is not finite in epoch {len(self.history) + 1}; lower --lr")
        self.history.append({"training loss": total, "seconds": time.perf_counter() - start})

    @torch.no_grad()
    def result(self) -> State:
        self.model.eval()
        x, y = self.test
        right = torch.cat([self.model(part) for part in x.split(256)]).argmax(1) == y
        seconds = sum(row["seconds"] for row in self.history)
        return {"accuracy": 100 * right.double().mean().item(), "seconds": seconds}
