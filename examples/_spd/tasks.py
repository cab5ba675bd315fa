"""The data to train on, their splits, the network for each and the recipe that suits it."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import manifoldnorm as mn
from manifoldnorm.datasets import Recordings, Split

from .norms import Factory


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: ``patience`` epochs without a better validation loss end a run; 0 tests the last epoch."""

    epochs: int
    patience: int
    batch: int
    lr: float
    weight_decay: float
    seeds: int
    sizes: tuple[int, ...] = ()
    optimizer: str = "adamw"


@dataclasses.dataclass(frozen=True)
class Case:
    """One training problem: ``form`` separates rows of the table, ``part`` (a subject) is averaged within a row."""

    form: str
    part: str
    data: Recordings
    build: Callable[[Factory | None, str], nn.Module]

    def split(self, seed: int) -> Split:
        """Split by sessions, or, where there is none, at random by trials, anew for each seed; divide by the unit."""
        split = self.data.default_split(seed=seed)
        unit = self.unit(split.train)
        return Split(*(dataclasses.replace(part, x=part.x / unit) for part in split))

    @staticmethod
    def unit(train: Recordings) -> float:
        """Return the mean eigenvalue of covariances (signals keep their unit)."""
        return float(train.x.diagonal(dim1=-2, dim2=-1).real.mean()) if train.kind == "covariances" else 1.0

    def digest(self) -> str:
        """Tell data apart: number of samples and sum of their magnitudes."""
        return f"{len(self.data)}:{float(self.data.x.abs().sum()):.10e}"


def spd_case(data: Recordings, args: Namespace, form: str = "") -> Case:
    """Train an SPDNet on covariances."""
    n = data.x.shape[-1]
    sizes = args.recipe.sizes or (n, min(n, max(2, -(-3 * n // 4))), min(n, max(2, n // 2)))
    if sizes[0] != n:
        raise ValueError(f"--sizes must start with the size of the matrices, {n}, got {','.join(map(str, sizes))}")
    field = "complex" if data.x.is_complex() else "real"

    def build(norm: Factory | None, parametrization: str) -> nn.Module:
        return mn.models.SPDNet(
            sizes,
            len(data.classes),
            norm=norm,
            field=field,
            parametrization=parametrization,
            rectify_last=True,
            dtype=data.x.dtype,
        )

    return Case(form, "", data, build)


def emg(args: Namespace) -> list[Case]:
    return [spd_case(mn.datasets.emg_gestures(), args)]


def radar(args: Namespace) -> list[Case]:
    data = mn.datasets.radar(n_samples=600 if args.quick else 3000)
    forms = {"complex": data, "real part": data.real_part()}
    chosen = list(forms) if args.compare_real else ["real part" if args.real else "complex"]
    return [spd_case(forms[form], args, form) for form in chosen]


def mamem(args: Namespace) -> list[Case]:
    if args.data is None:
        raise ValueError(
            "--dataset mamem needs --data, the path of mamem_ssvep.npz or of the folder of U001.mat to U011.mat; the "
            "README (EEG) says where they come from"
        )
    subjects = args.subjects or ([1] if args.quick else list(range(1, 12)))
    return [mamem_case(args.data, subject) for subject in subjects]


def mamem_case(path: Path, subject: int) -> Case:
    """Train the published network on the sessions 1 to 3 of one subject."""
    data = mn.datasets.mamem_ssvep(path, subject=subject, dtype=torch.float32)

    def build(norm: Factory | None, parametrization: str) -> nn.Module:
        return mn.models.SSVEPNet(data.x.shape[1], len(data.classes), norm=norm, parametrization=parametrization)

    return Case("", f"subject {subject}", data, build)


def own(args: Namespace) -> list[Case]:
    if args.data is None:
        raise ValueError("--dataset own needs --data, an npz file or a folder of *_<label>.npy files")
    if args.data.is_dir():
        data = mn.datasets.load_folder(args.data, window=args.window, hop=args.hop, shrinkage=args.shrinkage)
    elif args.window or args.hop:
        raise ValueError("--window and --hop are for a folder; cut the signals of an npz file before")
    else:
        data = mn.datasets.load_npz(args.data, shrinkage=args.shrinkage)
    if data.kind == "signals":
        try:
            covariance = mn.nn.Covariance(shrinkage="oas", check_input=True)(data.x)
        except ValueError as error:
            raise ValueError(f"{args.data}: {error}") from error
        data = dataclasses.replace(data, x=covariance, kind="covariances")
    check_classes(data)
    forms = {"complex": data, "real part": data.real_part()} if data.x.is_complex() else {"": data}
    if (args.real or args.compare_real) and not data.x.is_complex():
        raise ValueError("--real and --compare-real are for complex data; these are real already")
    chosen = list(forms) if args.compare_real else [list(forms)[-1 if args.real else 0]]
    return [spd_case(forms[form], args, form) for form in chosen]


def check_classes(data: Recordings) -> None:
    """Raise unless there is something to learn: several classes to train on, and no others to test on."""
    split = data.default_split()
    trained = set(split.train.y.tolist())
    if len(trained) < 2:
        only = ", ".join(data.classes[number] for number in trained)
        where = "it" if len(data.classes) == 1 else "its training part"
        raise ValueError(f"{data.name}: {where} has one class only ({only}), a classifier needs two; check the labels")
    for part in ("val", "test"):
        unseen = sorted(set(getattr(split, part).y.tolist()) - trained)
        if unseen:
            raise ValueError(
                f"{data.name}: the {part} part has classes that the training part lacks "
                f"({', '.join(data.classes[number] for number in unseen)}); every class must occur in the first "
                "sessions, or leave out the column session to split at random"
            )


Loader = Callable[[Namespace], Sequence[Case]]
TASKS: dict[str, tuple[Loader, Recipe]] = {
    "emg": (emg, Recipe(epochs=40, patience=8, batch=128, lr=4e-2, weight_decay=1.0, seeds=3, sizes=(8, 8))),
    "mamem": (mamem, Recipe(epochs=100, patience=0, batch=30, lr=3e-3, weight_decay=1.0, seeds=1)),
    "radar": (radar, Recipe(epochs=50, patience=50, batch=50, lr=1e-2, weight_decay=1e-2, seeds=3, sizes=(20, 16, 12))),
    "own": (own, Recipe(epochs=60, patience=15, batch=32, lr=5e-3, weight_decay=1e-2, seeds=3)),
}
QUICK: dict[str, dict[str, Any]] = {
    "emg": {"epochs": 4, "seeds": 1},
    "mamem": {"epochs": 20, "seeds": 1},
    "radar": {"epochs": 4, "seeds": 1},
    "own": {"epochs": 4, "seeds": 1},
}
