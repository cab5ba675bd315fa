"""One run, norm and seed: train, checkpoint after every epoch, continue bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _common.files import State, load, save
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.datasets import Recordings

from .norms import NORMS
from .tasks import Case, Recipe

Progress = Callable[["Run", State], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A norm and a seed on a case, with the file of its checkpoint."""

    case: Case
    norm: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.case.form, self.case.part, self.norm, f"seed {self.seed}"]))

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name.replace(' ', '_')}.pt"


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(mn.optim.no_decay_groups(model, recipe.weight_decay), lr=recipe.lr)


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(mn.optim.no_decay_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=0.9)


def riemannian_adam(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = mn.optim.no_decay_groups(model, recipe.weight_decay)
    return mn.optim.RiemannianAdam(groups, lr=recipe.lr)  # type: ignore[no-any-return]


# name -> (optimizer, where the BiMap weights and the biases of the norms live)
OPTIMIZERS = {
    "adamw": (adamw, "polar", "tangent"),
    "sgd": (sgd, "polar", "tangent"),
    "radam": (riemannian_adam, "manifold", "manifold"),
}


def build(run: Run, recipe: Recipe) -> nn.Module:
    """Return the model of a run; call after seeding."""
    _, weights, bias = OPTIMIZERS[recipe.optimizer]
    factory = NORMS[run.norm].factory
    norm = functools.partial(factory, bias=bias) if factory is not None else None
    return run.case.build(norm, weights)


@torch.no_grad()
def evaluate(model: nn.Module, data: Recordings) -> tuple[float, float]:
    """Return loss and accuracy in percent."""
    model.eval()
    scores = torch.cat([model(x) for x in data.x.split(1024)])
    loss = nn.functional.cross_entropy(scores, data.y)
    return loss.item(), 100 * (scores.argmax(1) == data.y).double().mean().item()


class Training:
    """Model, optimizer, schedule and order of the samples of a run, with one state for all of them."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        torch.manual_seed(run.seed)
        self.run, self.recipe, self.data = run, recipe, run.case.split(run.seed)
        self.model = build(run, recipe)
        self.optimizer = OPTIMIZERS[recipe.optimizer][0](self.model, recipe)
        self.batches = max(1, round(len(self.data.train) / recipe.batch))
        steps = recipe.epochs * self.batches
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: list[dict[str, float]] = []
        self.best: State = {"epoch": -1, "loss": math.inf, "model": {}}

    def state(self) -> State:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "history": self.history,
            "best": self.best,
        }

    def restore(self, state: State) -> None:
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        self.history, self.best = state["history"], state["best"]

    @property
    def finished(self) -> bool:
        waited = len(self.history) - 1 - self.best["epoch"]
        stop = self.recipe.patience > 0 and waited >= self.recipe.patience
        return len(self.history) >= self.recipe.epochs or (stop and bool(self.history))

    def epoch(self) -> None:
        """Train on every sample once, then look at the validation part."""
        start = time.perf_counter()
        loss = self._pass()
        seconds = time.perf_counter() - start
        val_loss, val_accuracy = evaluate(self.model, self.data.val)
        self.history.append(
            {"train_loss": loss, "val_loss": val_loss, "val_accuracy": val_accuracy, "seconds": seconds}
        )
        if val_loss < self.best["loss"] or self.recipe.patience == 0:
            kept = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": len(self.history) - 1, "loss": val_loss, "model": kept}

    def _pass(self) -> float:
        self.model.train()
        train, total = self.data.train, 0.0
        order = torch.randperm(len(train), generator=self.order)
        for chosen in order.tensor_split(self.batches):  # equal batches: none is too small for its statistics
            loss = self._step(train.x[chosen], train.y[chosen])
            total += loss * len(chosen)
        return total / len(train)

    def _step(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"{self.run.name}: the loss is {value} in epoch {len(self.history) + 1}; lower --lr")
        return value


def train(run: Run, recipe: Recipe, progress: Progress, *, resume: bool) -> State:
    """Return the final state of a run, from its checkpoint as far as that goes."""
    state = load(run.file) if resume else None
    if state is not None and "result" in state:
        return state
    training = Training(run, recipe)
    if state is not None:
        training.restore(state)
    while not training.finished:
        training.epoch()
        state = training.state()
        save(state, run.file)
        progress(run, state)
    return _finish(training)


def _finish(training: Training) -> State:
    """Test the chosen epoch, once."""
    run, best = training.run, training.best
    if not best["model"]:
        raise ValueError(f"{run.name}: the validation loss was never finite; use a larger --batch or a lower --lr")
    training.model.load_state_dict(best["model"])
    history = training.history
    result = {
        "epochs": len(history),
        "epoch": best["epoch"] + 1,
        "val_accuracy": history[best["epoch"]]["val_accuracy"],
        "test_accuracy": evaluate(training.model, training.data.test)[1],
        "seconds": sum(row["seconds"] for row in history) / len(history),
    }
    state = {"model": best["model"], "history": history, "result": result}
    save(state, run.file)
    return state
