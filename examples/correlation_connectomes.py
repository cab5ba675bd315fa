"""Tell patients from controls by the correlations of their brain networks, with five norms on correlation matrices."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import manifoldnorm as mn

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import tqdm  # noqa: F401
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as missing:
    sys.exit(f"correlation_connectomes.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.classify import Classifier, Part
from _common.cli import Parser, integers, run
from _common.compare import Comparison, Norm
from _common.files import State, digest
from _common.runs import Run

FOLDS = 5
NORMS = {
    "none": Norm("no norm", mn.CorrelationOffLog),
    "ec": Norm("Euclidean-Cholesky", mn.CorrelationEuclideanCholesky),
    "lec": Norm("log-Euclidean-Cholesky", mn.CorrelationLogEuclideanCholesky),
    "off-log": Norm("off-log", mn.CorrelationOffLog),
    "log-scaled": Norm("log-scaled", mn.CorrelationLogScaling),
    "poly-hyperbolic": Norm("poly-hyperbolic, GyroBN = RBN", mn.CorrelationPolyHyperbolic),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; ``sizes`` are those of the matrices after each BiMap."""

    epochs: int = 40
    batch: int = 32
    lr: float = 1e-2
    sizes: tuple[int, ...] = (14,)


QUICK = {"epochs": 5}
COMPARISON = Comparison(NORMS, Recipe, "accuracy", "test accuracy %", QUICK, seeds=5, folds=FOLDS)


class ToCorrelation(nn.Module):
    """The correlation matrix of a covariance, and a norm on it."""

    def __init__(self, manifold: Any, norm: nn.Module | None) -> None:
        super().__init__()
        self.manifold, self.norm = manifold, norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.manifold.project(x)
        return x if self.norm is None else self.norm(x)


def network(name: str, sizes: Sequence[int]) -> nn.Module:
    """Return an SPDNet whose blocks give correlation matrices; the manifold of ``none`` is of no account."""

    def block(n: int, **kind: Any) -> nn.Module:
        manifold = NORMS[name].factory(n)
        return ToCorrelation(manifold, None if name == "none" else mn.nn.GyroBatchNorm(manifold, **kind))

    return mn.models.SPDNet(sizes, 2, norm=block)


def fold(seed: int, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples to train and to test on: run ``seed`` is a fold of repetition ``seed // FOLDS``."""
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed // FOLDS).split(y, y)
    train, test = list(split)[seed % FOLDS]
    return torch.from_numpy(train), torch.from_numpy(test)


def classifier(run: Run, recipe: Recipe, x: Tensor, y: Tensor) -> Classifier:
    """One network and a fold; every norm has the same folds."""
    parts: list[Part] = [(x[part], y[part]) for part in fold(run.seed, y)]
    torch.manual_seed(run.seed)
    model = network(run.name, [x.shape[-1], *recipe.sizes])
    return Classifier(run, model, *parts, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr)


def tangent_space(x: Tensor, y: Tensor, folds: int) -> Iterator[State]:
    """Yield the accuracy per fold of the classical method: affine-invariant tangent space, logistic regression."""
    manifold, vectorize = mn.AffineInvariant(x.shape[-1]), mn.nn.SPDVectorize(x.shape[-1])
    for seed in range(folds):
        start = time.perf_counter()
        train, test = fold(seed, y)
        mean = manifold.frechet_mean(x[train])
        features = vectorize(manifold.to_origin(mean, manifold.log(mean, x))).numpy()
        fitted = LogisticRegression(max_iter=5000).fit(features[train], y[train])
        accuracy = 100 * float(fitted.score(features[test], y[test]))
        yield {"accuracy": accuracy, "seconds": time.perf_counter() - start}


def parser() -> Parser:
    p = Parser(
        prog="correlation_connectomes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--sizes", type=integers, help="sizes of the correlation matrices after each BiMap, default 14")
    COMPARISON.add_options(p, "results/connectomes")
    return p


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    recipe = COMPARISON.settings(args)
    data = mn.datasets.connectomes()
    x, y = data.x.float(), data.y
    classical = "tangent space, logistic regression"
    return COMPARISON.carry_out(
        args,
        recipe,
        {"connectomes": digest(data.x)},
        lambda run: classifier(run, recipe, x, y),
        title="connectomes",
        note=f"{len(x)} correlation matrices of {x.shape[-1]} networks: accuracy in {FOLDS}-fold cross-validation "
        f"after the last of {recipe.epochs} epochs. BiMap to {', '.join(map(str, recipe.sizes))}, correlation matrix, "
        f"norm, LogEig, linear; batches of {recipe.batch}, step size {recipe.lr}. The last row is no network.",
        references=lambda folds: {classical: list(tangent_space(data.x, y, folds))},
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
