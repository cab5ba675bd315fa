"""A norm layer as a module: buffers, state_dict, copies, failures, precision, compilation."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.nn import _paths
from manifoldnorm.testing.cases import mismatch
from manifoldnorm.testing.norm_cases import NormCase, recast, state_of


def changed_entries(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Count the entries of a state that are not bit for bit the same."""
    same = before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    return 0.0 if same else 1.0


def buffers_keep_their_storage(case: NormCase) -> float:
    """Training updates the running statistics in place: same buffers, shapes and storage, new values."""
    layer = case.tracking(case.generic())
    if getattr(layer, "momentum", None) == 0:  # nothing would move
        layer.momentum = 0.1
    before = {name: (b.data_ptr(), b.shape, b.dtype) for name, b in layer.named_buffers()}
    start = {name: b.clone() for name, b in layer.named_buffers()}
    layer(case.batch())
    after = {name: (b.data_ptr(), b.shape, b.dtype) for name, b in layer.named_buffers()}
    stuck = [name for name in ("running_mean", "running_var") if torch.equal(start[name], getattr(layer, name))]
    return float(before != after) + len(stuck)


def _survives(case: NormCase, revive: Callable[[Any], Any]) -> float:
    """Count the ways in which a revived copy of a trained layer differs from it: parameters, evaluation, training."""
    layer = case.trained()
    twin = revive(layer)
    x, more = case.batch(), case.batch()
    faults = changed_entries(state_of(layer), state_of(twin))
    kinds = ({name: type(p) for name, p in module.named_parameters()} for module in (layer, twin))
    faults += float(len({tuple(k.items()) for k in kinds}) != 1)
    faults += float(not torch.equal(layer.eval()(x), twin.eval()(x)))
    faults += float(not torch.equal(layer.train()(more), twin.train()(more)))
    return faults + changed_entries(state_of(layer), state_of(twin))


def state_dict_round_trip(case: NormCase) -> float:
    """A trained layer's state loads strictly into a fresh one, which then evaluates and trains identically."""

    def revive(layer: Any) -> Any:
        twin = case.exact()
        twin.load_state_dict(layer.state_dict())
        return twin

    return _survives(case, revive)


def saved_weights_only(case: NormCase) -> float:
    """The state survives ``torch.save`` and ``torch.load(weights_only=True)``."""

    def revive(layer: Any) -> Any:
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        twin = case.exact()
        twin.load_state_dict(torch.load(file, weights_only=True))
        return twin

    return _survives(case, revive)


def state_dict_by_assignment(case: NormCase) -> float:
    """The state loads with ``assign=True``, and parameters keep their kind."""

    def revive(layer: Any) -> Any:
        twin = case.exact()
        twin.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
        return twin

    return _survives(case, revive)


def copies(case: NormCase) -> float:
    """Deep copies and pickles of a trained layer are independent and equal."""
    return max(_survives(case, copy.deepcopy), _survives(case, lambda layer: pickle.loads(pickle.dumps(layer))))


def failed_forward_changes_nothing(case: NormCase) -> float:
    """A call that raises leaves parameters and buffers as they were, and bad shapes, dtypes and weights do raise."""
    layer, x = case.generic(), case.batch()
    axes = case.axes
    other = torch.float32 if case.dtype == torch.float64 else torch.float64
    calls: list[tuple[Callable[[], Any], bool]] = [
        (lambda: layer(x.to(other.to_complex() if x.is_complex() else other)), True),
        (lambda: layer(-x), False),
    ]
    if "weights" in inspect.signature(layer.forward).parameters:
        calls.append((lambda: layer(x, torch.ones(len(x) + 1, dtype=case.dtype, device=x.device)), True))
    if axes:
        calls.append((lambda: layer(x[..., :-1]), True))
    if hasattr(layer, "bias_on_manifold"):
        calls.append((lambda: _with_bad_bias(layer, x), False))
    faults, before = 0.0, state_of(layer)
    for call, must_raise in calls:
        try:
            call()
        except (RuntimeError, TypeError, ValueError):
            faults += changed_entries(before, state_of(layer))
        else:
            faults += float(must_raise)
            layer.load_state_dict(before)
    return faults


def _with_bad_bias(layer: Any, x: Tensor) -> Tensor:
    """Run with a bias off the manifold, which fails late, and put the bias back."""
    bias = layer.bias_on_manifold.detach().clone()
    with torch.no_grad():
        layer.bias_on_manifold.neg_()
    try:
        return layer(x)
    finally:
        with torch.no_grad():
            layer.bias_on_manifold.copy_(bias)


def layer_precision(case: NormCase) -> float:
    """Single precision agrees with double in training and evaluation; dtype and device of the input are kept."""
    narrow = recast(case.generic(), torch.float32, case.device)
    wide = recast(narrow, torch.float64)
    x = case.wide_batch().to(device=case.device, dtype=torch.complex64 if case.manifold.is_complex else torch.float32)
    worst = 0.0
    for mode in (True, False):
        got, expected = narrow.train(mode)(x), wide.train(mode)(x.to(case.wide))
        kept = got.dtype == x.dtype and got.device == x.device and expected.dtype == case.wide
        worst = max(worst, mismatch(got.detach().to(case.wide), expected.detach()) if kept else math.inf)
    return worst


def autocast_changes_nothing(case: NormCase) -> float:
    """Under autocast the layer keeps its precision."""
    layer, x = case.generic(), case.batch()
    expected = layer(x).detach()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return mismatch(layer(x).detach(), expected)


def paths_agree(case: NormCase) -> float:
    """A fused operation gives the template's output, gradients and state."""
    layer, x = case.generic(), case.batch()
    weight = case.cast(case.noise(*x.shape))
    if x.ndim > 2 and x.shape[-1] == x.shape[-2]:  # of a symmetric matrix's gradient only the symmetric part counts
        weight = weight + weight.mH
    results = []
    for only_template in (False, True):
        with contextlib.ExitStack() as stack:
            if only_template:
                stack.enter_context(_paths.template_only())
            taken = stack.enter_context(_paths.watch())
            results.append(_training_step(copy.deepcopy(layer), x, weight))
        if not only_template and not any(path.endswith("fused") for path in taken):
            raise NotImplementedError("the layer takes the template's steps")
    return max(mismatch(a.to(case.wide), b.to(case.wide)) for a, b in zip(*results, strict=True))


def _training_step(layer: nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Return output, gradients and the state of one step."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    gradients = torch.autograd.grad((y * weight.conj()).real.sum(), [leaf, *layer.parameters()], allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None), *layer.buffers()]


def compiled(case: NormCase) -> float:
    """``torch.compile(fullgraph=True)`` gives the same output, gradients and state, in training and evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Dynamo's own, about how it traces autograd Functions
        return _compiled(case)


def _compiled(case: NormCase) -> float:
    layer, x = case.generic(), case.batch()
    twin = copy.deepcopy(layer)
    weight = case.cast(case.noise(*x.shape))
    worst = 0.0
    for mode in (True, False):
        torch._dynamo.reset()
        layer.train(mode)
        twin.train(mode)
        fast = torch.compile(twin, fullgraph=True, backend="aot_eager")
        results = []
        for module in (layer, fast):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            (y * weight.conj()).real.sum().backward()
            results.append((y.detach(), leaf.grad))
        worst = max(worst, *(mismatch(b, a) for a, b in zip(*results, strict=True) if a is not None and b is not None))
        for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
            if p.grad is not None:
                worst = max(worst, mismatch(q.grad, p.grad) if q.grad is not None else math.inf)
    states = zip(state_of(layer).values(), state_of(twin).values(), strict=True)
    return max(worst, *(mismatch(b.to(case.wide), a.to(case.wide)) for a, b in states))


STATE_LAWS = (
    buffers_keep_their_storage,
    state_dict_round_trip,
    saved_weights_only,
    state_dict_by_assignment,
    copies,
    failed_forward_changes_nothing,
    layer_precision,
    autocast_changes_nothing,
    paths_agree,
)
SLOW_LAWS = (compiled,)
