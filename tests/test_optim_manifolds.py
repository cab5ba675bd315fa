"""geoopt's optimizers solve a Frechet mean on curved, orthogonal and correlation geometries, products, and the cone."""

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


METRIC = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.7]])
# geometries whose exponential is not defined everywhere
INCOMPLETE: dict[str, Any] = {
    "BuresWasserstein": lambda dtype: mn.BuresWasserstein(3),
    "BuresWasserstein complex": lambda dtype: mn.BuresWasserstein(3, field="complex"),
    "GeneralizedBuresWasserstein": lambda dtype: mn.GeneralizedBuresWasserstein(3, METRIC.to(dtype)),
    "PowerDeformed(0.5)": lambda dtype: mn.PowerDeformed(mn.BuresWasserstein(3), 0.5),
    "PowerDeformed(-0.7)": lambda dtype: mn.PowerDeformed(mn.BuresWasserstein(3), -0.7),
    "Product": lambda dtype: mn.Product(mn.BuresWasserstein(3), mn.PoincareBall(2)),
}
SEARCHES: dict[str, Any] = {
    "SGD 0.05": (F64, lambda p: RiemannianSGD([p], lr=0.05, momentum=0.9)),
    "SGD 0.1": (torch.float32, lambda p: RiemannianSGD([p], lr=0.1, momentum=0.9)),
    "Adam": (F64, lambda p: RiemannianAdam([p], lr=0.1)),
}


def clouds(manifold: Any, dtype: torch.dtype, seeds: int = 20) -> torch.Tensor:
    """Return 12 points for each seed (12, seeds, *point_shape), some of them close to singular."""
    kind = dtype.to_complex() if manifold.is_complex else dtype
    a = torch.randn(12, seeds, 3, 5, dtype=kind)
    matrices = a @ a.mH / 5 + 0.01 * torch.eye(3)
    if not isinstance(manifold, mn.Product):
        return matrices
    return manifold.merge(matrices, manifold.factors[1].random_point(12, seeds, dtype=dtype))


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", INCOMPLETE)
def test_momentum_stays_where_the_exponential_is_defined(name: str, search: str) -> None:
    dtype, make = SEARCHES[search]
    manifold = INCOMPLETE[name](dtype)
    x = clouds(manifold, dtype)
    expected = manifold.frechet_mean(x)
    spread = manifold.squared_dist(expected, x).mean(0).sqrt()
    point = ManifoldParameter(x[0].clone(), manifold)  # 20 runs side by side
    by = make(point)
    for _ in range(120):
        by.zero_grad()
        manifold.squared_dist(point, x).mean(0).sum().backward()
        by.step()
        manifold.check_point(point.detach())
    assert float((manifold.dist(point.detach(), expected) / spread).max()) < 0.02


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_step_over_the_edge_is_shrunk_and_stops_the_momentum(name: str) -> None:
    manifold = INCOMPLETE[name](F64)
    adapter = mn.optim.to_geoopt(manifold)
    p = clouds(manifold, F64)[0]
    v = 4 * manifold.random_tangent(p)
    fraction = manifold.injective_fraction(p, v)
    assert 0 < float(fraction.min()) < 0.5
    shorter = fraction.reshape(-1, *(1,) * len(manifold.point_shape)) * v
    end, left = adapter.retr_transp(p, v, v)
    manifold.check_point(end)
    for landed in (end, adapter.retr(p, v), adapter.expmap(p, v)):
        assert torch.equal(landed, manifold.exp(p, shorter))
    assert torch.allclose(manifold.norm(end, left), fraction * manifold.norm(p, v), rtol=1e-6)
