"""Calling autograd Functions and operators without tracing overhead when nothing traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad


def plain_eager() -> bool:
    return not (
        torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def call(function: type[Function], *args: Any) -> Any:
    """Return ``function.apply(*args)``; outside of tracing without the inspection of signatures that costs 40 us.

    Where no gradient is asked for it is the forward alone.
    """
    if not plain_eager():
        return function.apply(*args)
    if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        return super(Function, function).apply(*args)  # type: ignore[misc]
    return function.forward(*args)


def plain(a: Tensor, device: str = "cpu") -> bool:
    """Return whether ``a`` is an ordinary tensor and nothing traces, so that an operator's kernel may be called."""
    return plain_eager() and ordinary(a, device)


def ordinary(a: Tensor, device: str = "cpu") -> bool:
    """Return whether ``a`` has memory on the device: what a transform wrapped may outlive the transform."""
    return type(a) is Tensor and a.device.type == device and not torch._C._functorch.is_functorch_wrapped_tensor(a)
