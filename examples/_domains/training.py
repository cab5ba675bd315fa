"""Training with a domain for each sample, and the test on a domain that was never seen."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from _common.classify import Classifier
from _common.files import State
from _common.runs import Run
from torch import Tensor, nn

import manifoldnorm as mn

from .folds import Fold, Recipe


class Choice(NamedTuple):
    """A norm: how its row is called, its factory, and whether its statistics are per domain."""

    label: str
    factory: Any
    per_domain: bool = False


_LEM, _AIM = mn.nn.LieBatchNorm.of(mn.LogEuclidean), mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant)
NORMS = {
    "none": Choice("no norm", None),
    "lem": Choice("plain, log-Euclidean", _LEM),
    "aim": Choice("plain, affine-invariant", _AIM),
    "domain-lem": Choice("domain, log-Euclidean", _LEM, True),
    "domain-aim": Choice("domain, affine-invariant", _AIM, True),
}


class DomainClassifier(Classifier):
    """Every norm sees the same batches, with as many samples of each domain; only a domain norm is told which."""

    def __init__(self, run: Run, fold: Fold, recipe: Recipe, epochs: int) -> None:
        torch.manual_seed(run.seed)
        norm, domains = NORMS[run.name], int(fold.train_domain.max()) + 1
        factory = mn.nn.DomainBatchNorm.of(norm.factory, domains) if norm.per_domain else norm.factory
        self.sampler = mn.nn.DomainBatchSampler(fold.train_domain, recipe.batch // domains, seed=run.seed)
        super().__init__(
            run, fold.build(factory), fold.train, fold.test, epochs=epochs, batch=recipe.batch, lr=recipe.lr
        )
        self.fold, self.per_domain = fold, norm.per_domain
        groups = mn.optim.no_decay_groups(self.model, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs * len(self.sampler))

    def order_of_samples(self) -> Iterable[Tensor]:
        self.sampler.set_epoch(len(self.history))
        return map(torch.tensor, self.sampler)

    def scores(self, some: Tensor) -> Tensor:
        inputs = (self.train[0][some], self.fold.train_domain[some] if self.per_domain else None)
        return self.model(*inputs)  # type: ignore[no-any-return]

    @torch.no_grad()
    def result(self) -> State:
        """Test without labels and without the training data: as it is, and with the statistics of the test samples.

        A domain norm has no statistics of its own for an unseen domain, so "as it is" is missing there.
        """
        self.model.eval()
        x, y = self.test
        found: State = {"seconds": sum(row["seconds"] for row in self.history)}
        if not self.per_domain:
            found["as it is"] = _percent(torch.cat([self.model(part) for part in x.split(1024)]), y)
        if NORMS[self.run.name].factory is not None:
            found["refitted"] = _percent(_adapted(self.model, x, self.fold.test_domain, self.per_domain), y)
        return found


def _adapted(model: nn.Module, x: Tensor, domain: Tensor, per_domain: bool) -> Tensor:
    """Return the scores with statistics from all test samples: those of their domain, in a domain norm."""
    model = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, mn.nn.DomainBatchNorm)]
    first = max([norm.add_domain(int(domain.max()) + 1) for norm in norms], default=0)
    return mn.nn.refit(model, x, domain + first if per_domain else None)


def _percent(scores: Tensor, y: Tensor) -> float:
    return 100 * (scores.argmax(1) == y).double().mean().item()
