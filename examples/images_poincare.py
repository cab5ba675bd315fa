"""Train a Poincare ResNet on scikit-learn's digits with several norms and compare them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
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
    from sklearn.datasets import load_digits
except ModuleNotFoundError as missing:
    sys.exit(f"images_poincare.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common import compare
from _common.classify import Classifier
from _common.cli import Parser, add_output, integers, positive, prepare, run
from _common.runs import Run, execute

NORMS: dict[str, Any] = {
    "none": None,
    "midpoint": functools.partial(mn.nn.MidpointBatchNorm, route="direct"),
    "gyro": mn.nn.GyroBatchNorm,
}
LABELS = {"none": "no norm", "midpoint": "midpoint BN", "gyro": "GyroBN = RBN"}
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


def classifier(run: Run, recipe: Recipe, x: Tensor, y: Tensor) -> Classifier:
    """One network and its digits: half to train, half to test, split anew for each seed."""
    torch.manual_seed(run.seed)
    train, test = torch.randperm(len(x))[: recipe.images].tensor_split(2)
    manifold = GEOMETRIES[recipe.geometry](1)
    model = mn.models.PoincareResNet(
        1, 10, norm=NORMS[run.name], widths=recipe.widths, depth=recipe.depth, manifold=manifold
    )
    parts = (x[train], y[train]), (x[test], y[test])
    return Classifier(run, model, *parts, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr)


def parser() -> Parser:
    p = Parser(prog="images_poincare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--norm", default="all", help=f"all, or several of {', '.join(NORMS)}; default %(default)s")
    p.add_argument("--geometry", choices=list(GEOMETRIES), default="ball", help="default %(default)s")
    p.add_argument("--depth", type=positive, help="layers, 6 n + 2; default 20")
    p.add_argument("--widths", type=integers, help="dimensions of the points in the stages, default 8,16,32")
    p.add_argument("--epochs", type=positive, help="default 15")
    p.add_argument("--batch", type=positive, help="default 64")
    p.add_argument("--lr", type=float, help="step size of Adam, default 0.01; falls to 0 along a cosine")
    p.add_argument("--seeds", type=positive, help="default 3")
    p.add_argument("--quick", action="store_true", help="a smaller network, few epochs, one seed: a smoke test")
    add_output(p, "results/images")
    return p


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    names = compare.chosen(args.norm, NORMS)
    quick = {"epochs": 4, "depth": 8, "batch": 32} if args.quick else {}
    fields = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{**quick, **{key: getattr(args, key) for key in fields if getattr(args, key, None) is not None}})
    seeds = args.seeds or (1 if args.quick else 3)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(digits.target).long()
    digest = hashlib.sha256(digits.images.tobytes()).hexdigest()[:16]
    prepare(args, {**dataclasses.asdict(recipe), "quick": args.quick, "data": {"digits": digest}})
    runs = [Run(name, seed, args.out / "checkpoints") for name in names for seed in range(seeds)]
    print(f"digits: {recipe.images} images of 8 x 8, {len(runs)} runs of {recipe.epochs} epochs")
    done = execute(
        runs, recipe.epochs, lambda each: classifier(each, recipe, x, y), "training loss", resume=args.resume
    )
    title = f"digits, {recipe.depth} layers, {seeds} seed{'s' * (seeds > 1)}{', --quick' if args.quick else ''}"
    note = (
        f"{title}: test accuracy after the last epoch, half of the images to train; {recipe.geometry}, dimensions "
        f"{', '.join(map(str, recipe.widths))}, batches of {recipe.batch}, step size {recipe.lr}. {compare.NOTE}"
    )
    return compare.write(done, LABELS, "accuracy", "test accuracy %", "training loss", title, note, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
