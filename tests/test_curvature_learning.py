"""Training on spaces of constant curvature: learnable curvature, Riemannian optimizers that stay on the manifold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import manifoldnorm as mn

F64 = torch.float64
MODELS: list[Any] = [mn.PoincareBall(3), mn.Lorentz(3), mn.Klein(3), mn.Sphere(3), mn.ProjectedSphere(3)]


@pytest.mark.parametrize("kind", [mn.Stereographic, mn.PoincareBall, mn.Lorentz, mn.Klein])
def test_a_learnable_curvature_is_learned(kind: Any) -> None:
    """Distances drawn from one curvature, coordinates kept: the curvature is found again."""
    truth = kind(3, -0.5)
    x = truth.random_point(40, dtype=F64)
    if kind is not mn.Lorentz:
        x = 0.5 * x
    target = truth.dist(x[:20], x[20:])
    start = 0.3 if kind is mn.Stereographic else -1.2
    module = mn.nn.LearnableManifold(kind(3, start), ("curvature",), dtype=F64)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        m = module()
        (m.dist(m.project(x[:20]), m.project(x[20:])) - target).square().mean().backward()
        optimizer.step()
    assert abs(float(module().curvature.detach()) + 0.5) < 1e-3


@pytest.mark.parametrize("kind", [mn.Sphere, mn.ProjectedSphere, mn.PoincareBall, mn.Lorentz])
def test_a_layer_with_learnable_curvature(kind: Any) -> None:
    sign = 1 if kind in (mn.Sphere, mn.ProjectedSphere) else -1
    geometry = mn.nn.LearnableManifold(kind(3, 0.8 * sign), ("curvature",), dtype=F64)
    layer = mn.nn.GyroBatchNorm(geometry, dtype=F64)
    x = layer.manifold.random_point(16, dtype=F64).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("m", "dtype"), [*((m, torch.float32) for m in MODELS), (MODELS[0], F64)], ids=str)
def test_two_thousand_steps_stay_on_the_manifold(m: Any, dtype: torch.dtype) -> None:
    """A row of spec/pains.md 5.4: NaN elsewhere. The loss drives points five units outwards, then to a target."""
    generator = torch.Generator().manual_seed(0)
    start, target = m.random_point(2, 8, generator=generator, dtype=F64).to(dtype)
    parameter = mn.optim.ManifoldParameter(m.project(start), m)
    optimizer = mn.optim.RiemannianAdam([parameter], lr=0.05)
    for step in range(2000):
        optimizer.zero_grad()
        away = m.squared_dist(parameter, target).sum()
        (-away if step < (100 if m.curvature < 0 and not isinstance(m, mn.Klein) else 40) else away).backward()
        optimizer.step()
        if step % 100 == 0:
            assert bool(parameter.isfinite().all()), step
            assert float(m.violation(parameter.detach()).max()) < 1e-5, step
    assert float(m.dist(parameter.detach(), target).max()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("m", MODELS[:3], ids=repr)
def test_two_thousand_steps_outwards_end_at_the_documented_limit(m: Any, dtype: torch.dtype) -> None:
    e = m.origin(dtype=dtype)
    point = m.random_point(dtype=dtype)
    for _ in range(2000):
        inwards = m.log(point, e)
        point = m.retract(point, -0.05 * inwards / m.dist(point, e))
    assert bool(point.isfinite().all()) and float(m.violation(point)) < 1e-6
    limit = {mn.PoincareBall: (15.9, 36.0), mn.Lorentz: (16.6, 36.7), mn.Klein: (7.9, 18.0)}[type(m)]
    assert abs(float(m.dist(e, point)) - limit[dtype == F64]) < 1.5
