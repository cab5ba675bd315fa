"""The law of how far the exponential is defined and injective."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifoldnorm.testing.cases import COUNT, ManifoldCase, largest, mismatch


def injectivity(case: ManifoldCase) -> float:
    """The logarithm undoes a step within the injectivity radius, and one cut by `injective_fraction` to its domain."""
    # points near the boundary are ill-conditioned
    case = ManifoldCase(case.manifold, torch.float64, case.seed, case.sampler)
    radius = float(case.manifold.injectivity_radius)
    p = case.points()
    v = case.tangents(p, 20.0, anywhere=True)
    fraction = case.manifold.injective_fraction(p, v)
    if fraction is None and math.isinf(radius):
        raise NotImplementedError("the exponential is injective everywhere")
    within = 0.0 if math.isinf(radius) else _within_radius(case, p, v, radius)
    return within if fraction is None else max(within, _within_domain(case, p, v, fraction))


def _within_radius(case: ManifoldCase, p: Tensor, v: Tensor, radius: float) -> float:
    """Compare steps of nearly the radius with the logarithm; steps of many radii must not be shortest."""
    m = case.manifold
    v = v * case.spread(radius / m.norm(p, v))
    step, far = 0.95 * v, m.exp(p, 20 * v)
    if bool((m.dist(p, far) > 19 * radius).any()):
        return math.inf
    end = m.exp(p, step)
    return max(mismatch(m.log(p, end), step), mismatch(m.dist(p, end), m.norm(p, step)))


def _within_domain(case: ManifoldCase, p: Tensor, v: Tensor, fraction: Tensor) -> float:
    """Compare steps cut to the domain of the exponential with the logarithm."""
    if bool((fraction <= 0).any()) or bool((fraction >= 1).all()):
        return math.inf
    step = case.spread(fraction) * v
    inside = mismatch(case.manifold.log(p, case.manifold.exp(p, step)), step)
    w = case.tangents(case.origin(COUNT), 20.0, anywhere=True)
    landed = case.manifold.shoot(p, w)
    travelled = case.manifold.to_origin(p, case.manifold.log(p, landed))
    shrunk = case.spread(case.inner(travelled, w) / case.inner(w, w))
    return max(inside, mismatch(travelled, shrunk * w), largest(case.manifold.violation(landed)))


DOMAIN_LAWS = (injectivity,)
