"""Classify hand gestures by the subspaces that windows of EMG span, with several norms on the Grassmann manifold."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import manifoldnorm as mn

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import tqdm  # noqa: F401
except ModuleNotFoundError as missing:
    sys.exit(f"grassmann_signals.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common import compare
from _common.classify import Classifier
from _common.cli import Parser, add_output, integers, positive, prepare, run
from _common.runs import Run, execute

NORMS: dict[str, Any] = {
    "none": None,
    "gyro": mn.nn.GyroBatchNorm,
    "rbn": mn.nn.RiemannianBatchNorm.of(mn.Grassmann, route="direct"),
    "gyro-exact": mn.nn.GyroBatchNorm.of(mn.Grassmann, mean=mn.stats.Exact()),
    "gyro-published": mn.nn.published.GyroBNGr.of(),
    "rbn-published": mn.nn.published.RBNGr.of(bias="tangent"),
}
LABELS = {
    "none": "no norm",
    "gyro": "GyroBN",
    "rbn": "RBN",
    "gyro-exact": "GyroBN, converged mean",
    "gyro-published": "GyroBN as published (Cayley)",
    "rbn-published": "RBN as published (misaligned)",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train, and how a window becomes a subspace."""

    epochs: int = 12
    batch: int = 128
    lr: float = 1e-2
    lags: int = 4
    p: int = 6
    sizes: tuple[int, ...] = (24, 16)
    window: int = 100


def subspaces(signals: Tensor, lags: int, p: int) -> Tensor:
    """Return frames (N, channels * lags, p) of the dominant subspaces of the delayed signals (N, channels, time).

    Delays turn frequencies into directions; a subspace forgets the strength of the signal.
    """
    centred = signals - signals.mean(-1, keepdim=True)
    delayed = centred.unfold(-1, lags, 1).movedim(-1, -2).flatten(1, 2)
    return mn.nn.OrthMap(p)(delayed @ delayed.mT)


def classifier(run: Run, recipe: Recipe, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Classifier:
    """One network; the seed decides how it starts and the order of the samples."""
    torch.manual_seed(run.seed)
    sizes = [train[0].shape[-2], *recipe.sizes]
    model = mn.models.GrassmannNet(sizes, recipe.p, 5, norm=NORMS[run.name])
    return Classifier(run, model, train, test, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr)


def parser() -> Parser:
    p = Parser(prog="grassmann_signals.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--norm", default="all", help=f"all, or several of {', '.join(NORMS)}; default %(default)s")
    p.add_argument("--window", type=positive, help="samples per window, default 100")
    p.add_argument(
        "--lags", type=positive, help="delays of each of the 8 electrodes, default 4: a space of dimension 32"
    )
    p.add_argument("--p", type=positive, help="dimension of the subspaces, default 6")
    p.add_argument("--sizes", type=integers, help="dimensions of the space after each block, default 24,16")
    p.add_argument("--epochs", type=positive, help="default 12")
    p.add_argument("--batch", type=positive, help="default 128")
    p.add_argument("--lr", type=float, help="step size of Adam, default 0.01; falls to 0 along a cosine")
    p.add_argument("--seeds", type=positive, help="default 5")
    p.add_argument("--quick", action="store_true", help="few epochs, one seed: a smoke test")
    add_output(p, "results/grassmann")
    return p


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    names = compare.chosen(args.norm, NORMS)
    quick = {"epochs": 3, "batch": 256} if args.quick else {}
    fields = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{**quick, **{key: getattr(args, key) for key in fields if getattr(args, key, None) is not None}})
    seeds = args.seeds or (1 if args.quick else 5)
    data = mn.datasets.emg_gestures(window=recipe.window, signals=True)
    frames = subspaces(data.x, recipe.lags, recipe.p).float()
    second = torch.isin(data.groups["session"], torch.tensor([1, 3]))  # mg_s2 and rr_s2
    first = (frames[~second], data.y[~second])
    digest = hashlib.sha256(data.x.numpy().tobytes()).hexdigest()[:16]
    prepare(args, {**dataclasses.asdict(recipe), "quick": args.quick, "data": {"emg": digest}})
    runs = [Run(name, seed, args.out / "checkpoints") for name in names for seed in range(seeds)]
    print(f"EMG: {len(frames)} subspaces {tuple(frames.shape[1:])}, {len(runs)} runs of {recipe.epochs} epochs")
    make = lambda each: classifier(each, recipe, first, (frames[second], data.y[second]))  # noqa: E731
    done = execute(runs, recipe.epochs, make, "training loss", resume=args.resume)
    title = f"EMG subspaces, {seeds} seed{'s' * (seeds > 1)}{', --quick' if args.quick else ''}"
    note = (
        f"{title}: accuracy on the second sessions of both people after the last epoch, trained on the first sessions; "
        f"5 gestures, windows of {recipe.window} samples, {recipe.lags} delays, subspaces of dimension {recipe.p}, "
        f"spaces of {', '.join(map(str, recipe.sizes))}, batches of {recipe.batch}, step size {recipe.lr}. "
        f"{compare.NOTE}"
    )
    return compare.write(done, LABELS, "accuracy", "test accuracy %", "training loss", title, note, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
