"""geoopt's optimizers solve a Frechet mean on every curved, orthogonal and correlation geometry, and on products."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import manifoldnorm as mn
from manifoldnorm.optim import ManifoldParameter, RiemannianAdam, RiemannianSGD

F64 = torch.float64
MANIFOLDS: list[Any] = [
    mn.Stereographic(3, -0.7),
    mn.PoincareBall(3),
    mn.Lorentz(3),
    mn.Klein(3),
    mn.Sphere(3),
    mn.ProjectedSphere(3, 0.25),
    mn.Grassmann(5, 2),
    mn.Rotations(3),
    mn.Rotations(4),
    mn.CorrelationOffLog(3),
    mn.CorrelationPolyHyperbolic(3),
    mn.Product(mn.PoincareBall(2), mn.Sphere(2), mn.Rotations(3), mn.AffineInvariant(2)),
]


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_a_frechet_mean_is_found(manifold: Any, name: str) -> None:
    centre = manifold.random_point(dtype=F64)
    v = manifold.random_tangent(centre.expand(12, *manifold.point_shape))
    x = manifold.exp(centre, 0.5 * v / manifold.norm(centre, v).reshape(-1, *(1,) * len(manifold.point_shape)))
    expected = manifold.frechet_mean(x)
    point = ManifoldParameter(x[0].clone(), manifold)
    sgd = name == "SGD"
    search = RiemannianSGD([point], lr=0.7) if sgd else RiemannianAdam([point], lr=0.1, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.ExponentialLR(search, 1.0 if sgd else 0.94)
    for _ in range(40 if sgd else 150):
        search.zero_grad()
        (manifold.squared_dist(point, x).mean() / 2).backward()
        search.step()
        schedule.step()
    assert float(manifold.dist(point.detach(), expected)) < (1e-6 if sgd else 1e-3)
    assert float(manifold.violation(point.detach())) < 1e-12
