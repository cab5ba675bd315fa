"""Classify hand gestures by the subspaces that windows of EMG span, with several norms on the Grassmann manifold."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import Tensor

import manifoldnorm as mn

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import tqdm  # noqa: F401
except ModuleNotFoundError as missing:
    sys.exit(f"grassmann_signals.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.classify import Classifier
from _common.cli import Parser, integers, positive, run
from _common.compare import Comparison, Norm
from _common.files import digest
from _common.runs import Run

NORMS = {
    "none": Norm("no norm"),
    "gyro": Norm("GyroBN", mn.nn.GyroBatchNorm),
    "rbn": Norm("RBN", mn.nn.RiemannianBatchNorm.of(mn.Grassmann, route="direct")),
    "gyro-exact": Norm("GyroBN, converged mean", mn.nn.GyroBatchNorm.of(mn.Grassmann, mean=mn.stats.Exact())),
    "gyro-published": Norm("GyroBN as published (Cayley)", mn.nn.published.GyroBNGr.of()),
    "rbn-published": Norm("RBN as published (misaligned)", mn.nn.published.RBNGr.of(bias="tangent")),
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


QUICK = {"epochs": 3, "batch": 256}
COMPARISON = Comparison(NORMS, Recipe, "accuracy", "test accuracy %", QUICK, seeds=5)


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
    model = mn.models.GrassmannNet(sizes, recipe.p, 5, norm=NORMS[run.name].factory)
    return Classifier(run, model, train, test, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr)


def parser() -> Parser:
    p = Parser(prog="grassmann_signals.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--window", type=positive, help="samples per window, default 100")
    p.add_argument(
        "--lags", type=positive, help="delays of each of the 8 electrodes, default 4: a space of dimension 32"
    )
    p.add_argument("--p", type=positive, help="dimension of the subspaces, default 6")
    p.add_argument("--sizes", type=integers, help="dimensions of the space after each block, default 24,16")
    COMPARISON.add_options(p, "results/grassmann")
    return p


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    recipe = COMPARISON.settings(args)
    data = mn.datasets.emg_gestures(window=recipe.window, signals=True)
    frames = subspaces(data.x, recipe.lags, recipe.p).float()
    second = torch.isin(data.groups["session"], torch.tensor([1, 3]))  # mg_s2 and rr_s2
    first = (frames[~second], data.y[~second])
    return COMPARISON.carry_out(
        args,
        recipe,
        {"emg": digest(data.x)},
        lambda run: classifier(run, recipe, first, (frames[second], data.y[second])),
        title="EMG subspaces",
        note=f"Accuracy on the second sessions of both people after the last of {recipe.epochs} epochs, trained on the "
        f"first sessions; 5 gestures, windows of {recipe.window} samples, {recipe.lags} delays, subspaces of dimension "
        f"{recipe.p}, spaces of {', '.join(map(str, recipe.sizes))}, batches of {recipe.batch}, step size {recipe.lr}.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
