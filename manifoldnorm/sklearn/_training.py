"""How an estimator's network is trained: batches, weight decay, epochs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler, Sampler

from manifoldnorm.models import SPDNet
from manifoldnorm.nn import DomainBatchSampler, set_epoch
from manifoldnorm.optim import no_decay_groups


class Net(NeuralNetClassifier):
    """skorch's classifier, whose optimizer decays no scale, bias or point, and which knows if its training ended."""

    finished_ = False

    def get_params_for_optimizer(self, prefix: str, named_parameters: Any) -> Any:
        """Return the groups of `no_decay_groups` and the other options."""
        _, options = super().get_params_for_optimizer(prefix, named_parameters)
        return (no_decay_groups(self.module_, options.pop("weight_decay")),), options

    def fit_loop(self, *args: Any, **options: Any) -> Any:
        """Note whether it came to its end: skorch's ``fit`` swallows a KeyboardInterrupt."""
        self.finished_ = False
        super().fit_loop(*args, **options)
        self.finished_ = True
        return self


class Epochs(Callback):
    """Tell norms and batches which epoch it is, and stop where the loss is not finite."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Before the batches of an epoch."""
        epoch = len(net.history) - 1
        set_epoch(net.module_, epoch)
        if isinstance(self.sampler, DomainBatchSampler):
            self.sampler.set_epoch(epoch)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """After them."""
        if not math.isfinite(net.history[-1, "train_loss"]):
            raise FloatingPointError("the loss is not finite.")


class Loader:
    """The batches of a data set, each asked for at once: those of a sampler, or one after the other.

    (torch's loader asks for single samples, and draws from the global generator even where nothing is random.)
    """

    def __init__(self, dataset: Any, batch_size: int, sampler: Iterable[list[int]] | None = None) -> None:
        self.dataset = dataset
        self.batches = BatchSampler(range(len(dataset)), batch_size, False) if sampler is None else sampler

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[chosen] for chosen in self.batches)


def batches(
    samples: int, domain: Sequence[Hashable] | None, batch_size: int, least: int, seed: int
) -> Sampler[list[int]]:
    """Return the batches of an epoch: of nearly equal size, or with as many samples of each domain, at least some."""
    if domain is not None:
        per_batch = max(least, batch_size // len(set(domain)))
        return DomainBatchSampler(domain, per_batch, seed=seed, drop_last=False)
    size = math.ceil(samples / max(1, samples // batch_size))
    alone = samples > 1 and samples % size == 1  # one sample has no statistics
    return BatchSampler(RandomSampler(range(samples)), size, drop_last=alone)


def train(net: Net, samples: Any, answers: Any, name: str) -> None:
    """Fit a net; that it diverges is an error that says so, and an interruption reaches the caller."""
    try:
        net.fit(samples, answers)
    except (FloatingPointError, torch.linalg.LinAlgError) as error:
        raise ValueError(f"{name}: training failed in epoch {len(net.history)}: {error} Lower lr.") from error
    if not net.finished_:
        raise KeyboardInterrupt(f"{name}: training was interrupted in epoch {len(net.history)}.")


def new_net(estimator: Any, sampler: Sampler[list[int]], **options: Any) -> Net:
    """Return a net that trains as the examples do: AdamW, a cosine for the step size, the last epoch counts."""
    return Net(
        SPDNet,
        module__rectify_last=True,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=estimator.weight_decay,
        lr=estimator.lr,
        max_epochs=estimator.epochs,
        batch_size=estimator.batch_size,
        device=estimator.device,
        verbose=estimator.verbose,
        train_split=None,
        iterator_train=Loader,
        iterator_train__sampler=sampler,
        iterator_valid=Loader,
        iterator_valid__batch_size=1024,
        callbacks=[Epochs(sampler), LRScheduler("CosineAnnealingLR", T_max=estimator.epochs)],
        **options,
    )
