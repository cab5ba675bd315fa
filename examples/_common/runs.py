"""Runs of a comparison: one per name and seed, checkpointed after every epoch, continued bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from .files import State, load, save, trained


@dataclasses.dataclass(frozen=True)
class Run:
    """A name, a seed and possibly the problem's part, with the file of its checkpoint."""

    name: str
    seed: int
    folder: Path
    part: str = ""

    @property
    def title(self) -> str:
        return " ".join(filter(None, [self.part, self.name, f"seed {self.seed}"]))

    @property
    def file(self) -> Path:
        return self.folder / f"{self.title.replace(' ', '_')}.pt"


class Training(Protocol):
    """A model being trained: ``history`` has one row of numbers per epoch."""

    history: list[dict[str, float]]

    def epoch(self) -> None: ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...

    def result(self) -> State: ...


Make = Callable[[Run], Training]


def train(run: Run, epochs: int, make: Make, progress: Callable[[Training], None], *, resume: bool) -> State:
    """Return the history and the result of a run, from its checkpoint as far as that goes."""
    state = load(run.file) if resume else None
    if state is not None and "result" in state:
        return state
    training = make(run)
    if state is not None:
        training.restore(state["training"])
        training.history = state["history"]
    while len(training.history) < epochs:
        training.epoch()
        save({"training": training.state(), "history": training.history}, run.file)
        progress(training)
    state = {"history": training.history, "result": training.result()}
    save(state, run.file)
    return state


def execute(runs: Sequence[Run], epochs: int, make: Make, show: str, *, resume: bool) -> list[tuple[Run, State]]:
    """Train every run behind one progress bar, counted in epochs, that shows the number called ``show``."""
    done, before = [], [trained(run.file, epochs) if resume else 0 for run in runs]
    options = {"unit": "epoch", "smoothing": 0.05, "dynamic_ncols": True}
    with tqdm(total=len(runs) * epochs, initial=sum(before), **options) as bar:
        for run in runs:

            def progress(training: Training, title: str = run.title) -> None:
                bar.set_postfix_str(f"{title}: {show} {training.history[-1][show]:.3f}")
                bar.update()

            done.append((run, train(run, epochs, make, progress, resume=resume)))
    return done


def values(done: Sequence[tuple[Run, State]], name: str, key: str, part: str = "") -> list[float]:
    """Return a number of the results of one name, by seed."""
    return [state["result"][key] for run, state in done if (run.name, run.part) == (name, part)]
