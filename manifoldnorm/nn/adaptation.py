"""Adaptation of a whole model to unlabelled data, without a gradient and without the data it was trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.nn.domain import DomainBatchNorm
from manifoldnorm.nn.norm import ManifoldNorm


@torch.no_grad()
def refit(model: nn.Module, x: Any, domain: Any = None) -> Tensor:
    """Refit the running statistics of every norm in a model, one after the other, and return the model's output.

    Each norm sees what the refitted layers before it make of the data. Parameters, and the statistics of domains that
    do not occur, stay as they are; other layers run in evaluation mode. Where a norm refuses its data, or anything else
    fails or interrupts, all statistics are put back.

    Parameters
    ----------
    model : Module
        Called as ``model(x)``, or ``model(x, domain=domain)`` where a domain is given.
    x : Tensor or tuple
        Its input, all data at once; a tuple for a model of several, such as ``(x, edge_index)``.
    domain : Tensor, array, sequence or int, optional
        Domain (N,) of each sample, or the one of all.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.SPDNet([4, 3], 2, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean))
    >>> mn.nn.refit(net, mn.LogEuclidean(4).random_point(20)).shape
    torch.Size([20, 2])
    """
    modes = [(module, module.training) for module in model.modules()]
    norms = [m for m in model.modules() if isinstance(m, DomainBatchNorm) or _stands_alone(m)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    hooks = [norm.register_forward_pre_hook(_before, with_kwargs=True) for norm in norms]
    try:
        model.eval()
        inputs = x if isinstance(x, tuple) else (x,)
        return model(*inputs) if domain is None else model(*inputs, domain=domain)
    except BaseException:  # KeyboardInterrupt too
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def _stands_alone(module: nn.Module) -> bool:
    return isinstance(module, ManifoldNorm) and not module.per_domain and module.track_running_stats


def _before(norm: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    norm.refit(*arguments, **options)
