"""Running statistics of averaged weights (SWA, EMA): one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from manifoldnorm.nn import _running
from manifoldnorm.nn.momentum import Momentum, Renorm
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.statistics import Batch

_TORCH = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def update_bn(loader: Iterable[Any], model: nn.Module, device: Any = None, *, inputs: int = 1) -> None:
    """Set the running statistics of every batch norm in a model, ours and torch's, to averages over a loader's batches.

    As `torch.optim.swa_utils.update_bn`, which does not know the norms of this package: statistics are reset, the model
    runs once over the data in training mode, and each batch gets the same weight, with any statistics policy. Momenta
    and modes are put back. Frozen norms keep their statistics.

    Parameters
    ----------
    loader : iterable
        Batches: the model's input, or a tuple or list that begins with it.
    model : Module
        Called with each batch's input.
    device : optional
        Where the input goes first.
    inputs : int
        How many elements of a tuple the model takes: 2 for ``model(x, domain)``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(2)))
    >>> mn.nn.update_bn([(torch.eye(2)[None], "label"), (torch.eye(2)[None] * 4, "label")], net)
    >>> net[0].running_mean.diagonal()  # the geometric mean
    tensor([2., 2.])
    """
    norms: list[Any] = [module for module in model.modules() if _follows(module)]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    options = [
        (norm, name, getattr(norm, name)) for norm in norms for name in ("momentum", "statistics") if name in vars(norm)
    ]
    try:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            if _remembers(norm):
                norm.statistics = Batch()
        for batch in loader:
            some = batch[:inputs] if isinstance(batch, (tuple, list)) else (batch,)
            model(*(x if device is None else x.to(device) for x in some))
    finally:
        for norm, name, value in options:
            setattr(norm, name, value)
        for module, training in modes:
            module.training = training
    for norm in filter(_remembers, norms):
        for kind in norm.statistics.kinds:
            _running.write(norm, kind, norm.running_mean, norm.running_var, None)


def _follows(module: nn.Module) -> bool:
    if isinstance(module, ManifoldNorm):
        return module.track_running_stats and not module.frozen
    return isinstance(module, _TORCH)


def _remembers(norm: Any) -> bool:
    return isinstance(getattr(norm, "statistics", None), (Momentum, Renorm))
