"""Which sessions train and which one is unseen, and the network for each recording."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.datasets import Recordings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mamem_ssvep.npz"


@dataclasses.dataclass(frozen=True)
class Fold:
    """Samples, labels and domains 0, 1, ... of the sessions that train, and of those that are unseen."""

    task: str
    name: str
    train: tuple[Tensor, Tensor]
    train_domain: Tensor
    test: tuple[Tensor, Tensor]
    test_domain: Tensor
    build: Callable[[Any], nn.Module]

    @property
    def part(self) -> str:
        """The name of its runs."""
        return f"{self.task} {self.name}"

    def digest(self) -> str:
        """Tell data apart."""
        both = torch.cat([self.train[0].flatten(), self.test[0].flatten()])
        return hashlib.sha256(both.numpy().tobytes()).hexdigest()[:16]


def fold(
    task: str,
    name: str,
    data: Recordings,
    build: Callable[[Any], nn.Module],
    *,
    train: Sequence[int | str],
    test: Sequence[int | str],
) -> Fold:
    """Return the fold with a domain for each session; covariances are divided by their mean eigenvalue in training."""
    parts, domains = [], []
    for sessions in (train, test):
        chosen = data.subset(data.mask(session=sessions))
        parts.append(chosen)
        domains.append(torch.unique(chosen.groups["session"], return_inverse=True)[1])
    first, second = parts
    unit = float(first.x.diagonal(dim1=-2, dim2=-1).mean()) if data.kind == "covariances" else 1.0
    return Fold(task, name, (first.x / unit, first.y), domains[0], (second.x / unit, second.y), domains[1], build)


def _emg(task: str, tests: dict[str, tuple[str, ...]]) -> list[Fold]:
    data = mn.datasets.emg_gestures()
    sessions = data.group_names["session"]

    def build(norm: Any) -> nn.Module:
        return mn.models.SPDNet((8, 8), len(data.classes), norm=norm, rectify_last=True, dtype=data.x.dtype)

    return [
        fold(task, name, data, build, train=[s for s in sessions if s not in test], test=test)
        for name, test in tests.items()
    ]


def emg_sessions(path: Path | None, quick: bool) -> list[Fold]:
    """Leave one of the four sessions out."""
    names = ("mg_s1",) if quick else ("mg_s1", "mg_s2", "rr_s1", "rr_s2")
    return _emg("EMG session", {name: (name,) for name in names})


def emg_people(path: Path | None, quick: bool) -> list[Fold]:
    """Train on both sessions of one person, test on both of the other."""
    folds = {"mg to rr": ("rr_s1", "rr_s2"), "rr to mg": ("mg_s1", "mg_s2")}
    return _emg("EMG person", dict(list(folds.items())[: 1 if quick else 2]))


def mamem(path: Path | None, quick: bool) -> list[Fold]:
    """Train on the sessions 1 to 3 of a person, test on session 5; session 4, for choices, is not used."""
    folds = []
    for subject in (11,) if quick else (1, 6, 11):
        data = mn.datasets.mamem_ssvep(path or SHARED, subject=subject, dtype=torch.float32)

        def build(norm: Any, channels: int = data.x.shape[1], classes: int = len(data.classes)) -> nn.Module:
            return mn.models.SSVEPNet(channels, classes, norm=norm)

        folds.append(fold("MAMEM session", f"subject {subject}", data, build, train=(1, 2, 3), test=(5,)))
    return folds


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; ``batch`` samples are dealt evenly to the domains."""

    epochs: int
    quick_epochs: int
    batch: int
    lr: float
    weight_decay: float = 1.0


TASKS: dict[str, tuple[Callable[[Path | None, bool], list[Fold]], Recipe]] = {
    "emg-session": (emg_sessions, Recipe(epochs=20, quick_epochs=2, batch=126, lr=2e-2)),
    "emg-person": (emg_people, Recipe(epochs=20, quick_epochs=2, batch=128, lr=2e-2)),
    "mamem": (mamem, Recipe(epochs=40, quick_epochs=5, batch=30, lr=3e-3)),
}
