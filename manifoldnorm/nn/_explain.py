"""Saying what a layer computes: which path its norms take, and what they decompose."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import tally
from manifoldnorm.nn import _paths


def explain(module: nn.Module, x: Tensor, *inputs: Any) -> str:
    """Run a copy of a module forward and backward and say which path each norm took and what was decomposed.

    Parameters
    ----------
    module : Module
        A layer or a network; it stays as it is.
    x : Tensor
        A batch.
    *inputs
        What else its ``forward`` takes.

    Returns
    -------
    str
        A line for each norm in the order of their calls ("fused": one operation for each direction; "template": step
        by step), and one for each direction. Decompositions are counted on CPU.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.LogEuclidean(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> print(mn.nn.explain(mn.nn.LieBatchNorm(mn.LogEuclidean(3)), x))
    LieBatchNorm on LogEuclidean(n=3, alpha=1.0, beta=0.0, field='real'): fused
    forward: eigh of 8 matrices 2 times, eigh of 1 matrix 2 times
    backward: nothing is decomposed
    """
    module = copy.deepcopy(module)
    with _paths.watch() as taken, tally() as forward:
        y = module(x.detach().clone().requires_grad_(), *inputs)
    with tally() as backward:
        torch.autograd.backward(y, torch.ones_like(y))
    return "\n".join([*taken, f"forward: {_sentence(forward)}", f"backward: {_sentence(backward)}"])


def _sentence(counts: Counter[tuple[str, int]]) -> str:
    parts = []
    for (kind, size), times in sorted(counts.items(), key=lambda item: (-item[0][1], item[0][0])):
        matrices = "1 matrix" if size == 1 else f"{size} matrices"
        parts.append(f"{kind} of {matrices}" + (f" {times} times" if times > 1 else ""))
    return ", ".join(parts) or "nothing is decomposed"
