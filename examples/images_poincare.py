"""Train a Poincare ResNet on scikit-learn's digits with several norms and compare them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import math
import sys
import time
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
from _common.cli import Parser, add_output, integers, positive, prepare, run
from _common.files import State
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


class Training:
    """One network and its digits: half to train, half to test, split anew for each seed."""

    def __init__(self, run: Run, recipe: Recipe, x: Tensor, y: Tensor) -> None:
        torch.manual_seed(run.seed)
        self.run, self.recipe = run, recipe
        order = torch.randperm(len(x))[: recipe.images]
        train, test = order.tensor_split(2)
        self.train, self.test = (x[train], y[train]), (x[test], y[test])
        manifold = GEOMETRIES[recipe.geometry](1)
        self.model = mn.models.PoincareResNet(
            1, 10, norm=NORMS[run.name], widths=recipe.widths, depth=recipe.depth, manifold=manifold
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        self.batches = max(1, len(train) // recipe.batch)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, recipe.epochs * self.batches)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: list[dict[str, float]] = []

    def state(self) -> State:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        return {**parts, "order": self.order.get_state()}

    def restore(self, state: State) -> None:
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.order.set_state(state["order"])

    def epoch(self) -> None:
        start, total = time.perf_counter(), 0.0
        self.model.train()
        x, y = self.train
        for some in torch.randperm(len(x), generator=self.order).tensor_split(self.batches):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(x[some]), y[some])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item() * len(some) / len(x)
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
    done = execute(runs, recipe.epochs, lambda each: Training(each, recipe, x, y), "training loss", resume=args.resume)
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
