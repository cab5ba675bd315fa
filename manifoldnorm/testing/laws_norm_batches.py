"""How a norm layer treats batches: order, weights, leading dimensions, channels, bad and degenerate samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.testing.cases import mismatch
from manifoldnorm.testing.laws_norm_state import changed_entries
from manifoldnorm.testing.norm_cases import BATCH, NormCase, state_of


def eval_ignores_batch_mates(case: NormCase) -> float:
    """In evaluation each sample is treated on its own."""
    layer, x = case.tracking(case.trained()).eval(), case.batch()
    singly = torch.cat([layer(x[i : i + 1]) for i in range(BATCH)])
    return mismatch(layer(x).detach(), singly.detach())


def order_is_immaterial(case: NormCase) -> float:
    """Permuting the batch permutes the output and changes the statistics by rounding only."""
    layer, x = case.generic(), case.batch()
    order = torch.randperm(BATCH, generator=case.generator)
    return mismatch(layer(x[order]).detach(), layer(x).detach()[order])


def leading_dimensions_are_pooled(case: NormCase) -> float:
    """All dimensions before the channel are one batch."""
    layer, x = case.generic(), case.batch(4, 3)
    return mismatch(layer(x).detach().flatten(0, 1), layer(x.flatten(0, 1)).detach())


def channels_are_independent(case: NormCase) -> float:
    """Each channel is normalised by its own statistics."""
    if case.channels is None:
        raise NotImplementedError("the layer has no channels")
    layer, x = case.generic(), case.batch()
    changed = x.clone()
    changed[:, 0] = case.batch()[:, 0]
    y, z = layer(x).detach(), layer(changed).detach()
    return math.inf if torch.equal(y[:, 0], z[:, 0]) else mismatch(z[:, 1:], y[:, 1:])


def weights_are_repetitions(case: NormCase) -> float:
    """Integer weights act as repetitions, weight 0 as absence from the statistics, a mask as weights 0 and 1."""
    x = case.batch()
    w = torch.tensor([2.0, 1.0, 3.0] + [0.0] * (BATCH - 3), dtype=case.dtype, device=x.device)
    repeated = torch.cat([x[:1], x[:1], x[1:2], x[2:3], x[2:3], x[2:3]])
    weighted, plain, masked, cut = (case.weighing(case.generic()) for _ in range(4))
    for layer in (plain, masked, cut):
        layer.load_state_dict(weighted.state_dict())
    y, expected = weighted(x, w).detach(), plain(repeated).detach()
    mask = w > 0
    pairs = [(y[:1], expected[:1]), (y[1:2], expected[2:3]), (y[2:3], expected[3:4])]
    pairs.append((masked(x, mask).detach()[:3], cut(x[:3]).detach()))
    states = zip(state_of(weighted).values(), state_of(plain).values(), strict=True)
    pairs += [(a, b) for a, b in states if a.is_floating_point() or a.is_complex()]
    return max(mismatch(a, b) for a, b in pairs)


def _run(layer: Any, x: Tensor, keep: Tensor | slice, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return output, input gradient and parameter gradients of a linear loss on the samples ``keep``."""
    leaf = x.detach().clone().requires_grad_()
    y = layer(leaf)
    (y[keep] * weight.conj()).real.sum().backward()
    assert leaf.grad is not None
    return y.detach(), leaf.grad, [p.grad for p in layer.parameters() if p.grad is not None]


def bad_samples_are_left_out(case: NormCase) -> float:
    """A non-finite sample has weight 0 and a NaN output of its own; the others and all gradients are as without it."""
    return max(_left_out(case, math.nan), _left_out(case, math.inf))


def _left_out(case: NormCase, value: float) -> float:
    layer, without, x = case.lenient(case.generic()), case.generic(), case.batch()
    without.load_state_dict(layer.state_dict())
    bad, keep = x.clone(), torch.arange(BATCH) != 2
    bad[2].flatten()[0] = value
    weight = case.cast(case.noise(BATCH - 1, *x.shape[1:]))
    y, gradient, parameters = _run(layer, bad, keep, weight)
    expected, wanted, wanted_parameters = _run(without, x[keep], slice(None), weight)
    own, others = (y[2], y[keep]) if case.channels is None else (y[2, 0], y[keep][:, 0])
    finite = y[keep].isfinite().all() and gradient.isfinite().all() and own.isnan().all()
    if case.channels is not None:  # the sample's other channels count
        return mismatch(others, expected[:, 0]) if bool(finite and y[2, 1:].isfinite().all()) else math.inf
    pairs = [(others, expected), (gradient[keep], wanted), *zip(parameters, wanted_parameters, strict=True)]
    states = zip(state_of(layer).values(), state_of(without).values(), strict=True)
    pairs += [(a, b) for a, b in states if a.dtype != torch.long]
    return max(mismatch(a, b) for a, b in pairs) if bool(finite) else math.inf


def all_bad_batches_change_nothing(case: NormCase) -> float:
    """A batch without a finite sample gives NaN and leaves every buffer as it was."""
    layer, x = case.lenient(case.trained().train()), case.batch()
    before = state_of(layer)
    y = layer(torch.full_like(x, math.nan)).detach()
    return float(not bool(y.isnan().all())) + changed_entries(before, state_of(layer))


def empty_batches_change_nothing(case: NormCase) -> float:
    """An empty batch returns an empty batch, in training and evaluation, and leaves every buffer as it was."""
    layer, x = case.trained(), case.batch()
    before, faults = state_of(layer), 0.0
    for mode in (True, False):
        y = layer.train(mode)(x[:0])
        faults += float(y.shape != x[:0].shape or y.dtype != x.dtype)
    return faults + changed_entries(before, state_of(layer))


def one_sample_goes_to_the_bias(case: NormCase) -> float:
    """A batch of one sample, or of identical samples, goes to the bias with variance 0 and finite gradients."""
    if getattr(case.prototype, "eps", None) == 0:
        raise NotImplementedError("with eps=0 a batch without spread has no scale")
    worst = 0.0
    for count in (1, BATCH):
        layer = case.generic()
        x = case.batch(1).expand(count, *case.groups, *case.manifold.point_shape)
        y, gradient, parameters = _run(layer, x, slice(None), case.cast(case.noise(*x.shape)))
        bias = case.bias_of(layer).expand_as(y)
        finite = gradient.isfinite().all() and all(bool(g.isfinite().all()) for g in parameters)
        # rounding of the variance is amplified by eps^-1/2
        worst = max(worst, mismatch(y, bias) if bool(finite) else math.inf)
    return worst


BATCH_LAWS = (
    eval_ignores_batch_mates,
    order_is_immaterial,
    leading_dimensions_are_pooled,
    channels_are_independent,
    weights_are_repetitions,
    bad_samples_are_left_out,
    all_bad_batches_change_nothing,
    empty_batches_change_nothing,
    one_sample_goes_to_the_bias,
)
