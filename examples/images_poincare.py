"""Train a Poincare ResNet on scikit-learn's digits with several norms and compare them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import Tensor

import manifoldnorm as mn

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import tqdm  # noqa: F401
    from sklearn.datasets import load_digits
except ModuleNotFoundError as missing:
    sys.exit(f"images_poincare.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.classify import Classifier
from _common.cli import Parser, integers, positive, run
from _common.compare import Comparison, Norm
from _common.files import digest
from _common.runs import Run

NORMS = {
    "none": Norm("no norm"),
    "midpoint": Norm("midpoint BN", functools.partial(mn.nn.MidpointBatchNorm, route="direct")),
    "gyro": Norm("GyroBN = RBN", mn.nn.GyroBatchNorm),
}
GEOMETRIES = {"ball": mn.PoincareBall, "lorentz": mn.Lorentz}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int = 15
    batch: int = 64
    lr: float = 1e-2
    depth: int = 20
    widths: tuple[int, ...] = (8, 16, 32)
    geometry: str = "ball"
    images: int = 1797


QUICK = {"epochs": 4, "depth": 8, "batch": 32}
COMPARISON = Comparison(NORMS, Recipe, "accuracy", "test accuracy %", QUICK, seeds=5)


def classifier(run: Run, recipe: Recipe, x: Tensor, y: Tensor) -> Classifier:
    """One network and its digits: half to train, half to test, split anew for each seed."""
    torch.manual_seed(run.seed)
    train, test = torch.randperm(len(x))[: recipe.images].tensor_split(2)
    manifold = GEOMETRIES[recipe.geometry](1)
    model = mn.models.PoincareResNet(
        1, 10, norm=NORMS[run.name].factory, widths=recipe.widths, depth=recipe.depth, manifold=manifold
    )
    parts = (x[train], y[train]), (x[test], y[test])
    return Classifier(run, model, *parts, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr)


def parser() -> Parser:
    p = Parser(prog="images_poincare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--geometry", choices=list(GEOMETRIES), help="default ball")
    p.add_argument("--depth", type=positive, help="layers, 6 n + 2; default 20, and 8 with --quick")
    p.add_argument("--widths", type=integers, help="dimensions of the points in the stages, default 8,16,32")
    COMPARISON.add_options(p, "results/images")
    return p


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    recipe = COMPARISON.settings(args)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(digits.target).long()
    return COMPARISON.carry_out(
        args,
        recipe,
        {"digits": digest(x)},
        lambda run: classifier(run, recipe, x, y),
        title=f"digits, {recipe.depth} layers",
        note=f"Test accuracy after the last of {recipe.epochs} epochs, half of the {recipe.images} images to train; "
        f"{recipe.geometry}, dimensions {', '.join(map(str, recipe.widths))}, batches of {recipe.batch}, step size "
        f"{recipe.lr}.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
