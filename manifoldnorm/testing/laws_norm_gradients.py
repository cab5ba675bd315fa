"""Gradients of a norm layer against finite differences: input and every parameter, with and without the statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.testing.cases import derivative, mismatch
from manifoldnorm.testing.norm_cases import BATCH, NormCase, recast

_EPS = torch.finfo(torch.float64).eps


def _loss(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return (layer(x) * weight.conj()).real.sum()


def _residual(case: NormCase, layer: Any, x: Tensor) -> float:
    """Compare autograd in the case's precision with differences in double, relative to the largest derivative."""
    weight = case.noise(*x.shape).to(x.device)
    leaf = x.detach().clone().requires_grad_()
    layer.zero_grad()
    _loss(layer, leaf, case.cast(weight)).backward()
    twin = recast(layer, torch.float64)
    wide = x.detach().to(case.wide)
    u = case.tangents(wide, 0.1)
    assert leaf.grad is not None
    pairs = [(case.inner(leaf.grad.to(case.wide), u).sum(), _along_input(case, twin, wide, u, weight))]
    grads = {name: p.grad for name, p in layer.named_parameters()}
    for name, parameter in twin.named_parameters():
        d = _direction(case, name, parameter.detach())
        grad = grads[name]
        got = torch.zeros(()) if grad is None else (grad.to(parameter.dtype).conj() * d).real.sum()
        pairs.append((got, _along_parameter(twin, parameter, d, wide, weight)))
    size = max(1.0, *(abs(float(expected)) for _, expected in pairs))
    worst = max(abs(float(got) - float(expected)) for got, expected in pairs) / size
    return worst if math.isfinite(worst) else math.inf


def _direction(case: NormCase, name: str, value: Tensor) -> Tensor:
    if name.endswith("bias_on_manifold"):
        return case.tangents(value, 0.1)
    noise = torch.randn(value.shape, generator=case.generator, dtype=value.dtype).to(value.device)
    return 0.1 * noise


@torch.no_grad()
def _along_input(case: NormCase, layer: Any, x: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    return derivative(lambda t: _loss(layer, case.manifold.exp(x, t * u), weight), _EPS)


@torch.no_grad()
def _along_parameter(layer: Any, parameter: Tensor, d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    start = parameter.detach().clone()

    def loss(t: float) -> Tensor:
        parameter.copy_(start + t * d)
        return _loss(layer, x, weight)

    slope = derivative(loss, _EPS)
    parameter.copy_(start)
    return slope


def gradient_through_statistics(case: NormCase) -> float:
    """In training with a converged mean, gradients of input and parameters are finite differences."""
    layer = case.generic()
    if not getattr(layer, "grad_through_stats", True):
        raise NotImplementedError("the layer detaches its statistics")
    return _residual(case, layer, case.batch())


def gradient_in_eval(case: NormCase) -> float:
    """With frozen statistics, gradients of input and parameters are finite differences."""
    layer = case.trained().eval()
    case.tracking(layer)
    return _residual(case, layer, case.batch())


def gradient_with_detached_statistics(case: NormCase) -> float:
    """With detached statistics, training gradients are those of evaluation with the same mean and variance."""
    layer, x = case.needs(case.tracking(case.generic()), "momentum"), case.batch()
    if not hasattr(layer, "grad_through_stats"):
        raise NotImplementedError("the layer has no grad_through_stats")
    layer.grad_through_stats, layer.momentum = False, 1.0
    weight = case.cast(case.noise(*x.shape))
    gradients = []
    for mode in (True, False):
        layer.train(mode)
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        _loss(layer, leaf, weight).backward()
        own = [
            p.grad.clone()
            for name, p in layer.named_parameters()
            if not name.startswith("_geometry") and p.grad is not None
        ]
        gradients.append([leaf.grad, *own])
    return max(mismatch(a, b) for a, b in zip(*gradients, strict=True))


def gradient_at_ties(case: NormCase) -> float:
    """Gradients are right at the origin, where all eigenvalues are equal, and for identical samples."""
    origins = case.origin(BATCH, *case.groups)
    fresh = case.fresh().eval()
    case.tracking(fresh)
    layer = case.needs(case.generic(), "eps")
    layer.eps = 0.1  # zero variance: a small eps would leave no room for differences
    same = case.batch(1).expand(BATCH, *case.groups, *case.manifold.point_shape)
    if not getattr(layer, "grad_through_stats", True):
        return _residual(case, fresh, origins)
    return max(_residual(case, fresh, origins), _residual(case, layer, same))


GRADIENT_LAWS = (
    gradient_through_statistics,
    gradient_in_eval,
    gradient_with_detached_statistics,
    gradient_at_ties,
)
