"""Embeddings on manifolds of vectors: sparse gradients through geoopt, and momentum that starts at rest."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.optim import (
    ManifoldParameter,
    RiemannianSGD,
    SparseRiemannianAdam,
    SparseRiemannianSGD,
)

F64 = torch.float64
MODELS: list[Any] = [mn.PoincareBall(3), mn.Lorentz(3), mn.Sphere(3), mn.Klein(3, -0.5)]
OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p: SparseRiemannianAdam(p, lr=2e-2),
    "SGD": lambda p: SparseRiemannianSGD(p, lr=0.3),
    "momentum": lambda p: SparseRiemannianSGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: SparseRiemannianSGD(p, lr=0.1, momentum=0.9, nesterov=True),
}
every = pytest.mark.parametrize("m", MODELS, ids=repr)


def table(m: Any, points: Tensor, sparse: bool = True) -> nn.Embedding:
    embedding = nn.Embedding(*points.shape, sparse=sparse, dtype=points.dtype)
    embedding.weight = ManifoldParameter(points.clone(), m)
    return embedding


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every
def test_sparse_optimizers_train_embeddings(m: Any, optimizer: str, dtype: torch.dtype) -> None:
    """Distances of points on the manifold are found again, from minibatches of pairs; other rows stay as they are."""
    size = 15
    truth = m.random_point(size, dtype=F64)
    first, second = torch.triu_indices(size, size, 1)
    wanted = m.dist(truth[first], truth[second]).to(dtype)
    start = m.geodesic(m.origin(size, dtype=F64), m.random_point(size, dtype=F64), 0.5).to(dtype)
    embedding = table(m, start)
    search = OPTIMIZERS[optimizer]([embedding.weight])

    def error() -> float:
        x = embedding.weight.detach()
        return float((m.dist(x[first], x[second]) - wanted).square().mean())

    before = error()
    for _ in range(300):
        batch = torch.randint(len(first), (20,))
        search.zero_grad()
        rows = embedding.weight.detach().clone()
        (m.dist(embedding(first[batch]), embedding(second[batch])) - wanted[batch]).square().mean().backward()
        assert embedding.weight.grad is not None and embedding.weight.grad.is_sparse
        search.step()
        rest = torch.ones(size, dtype=torch.bool)
        rest[first[batch]] = rest[second[batch]] = False
        assert torch.equal(embedding.weight.detach()[rest], rows[rest])
    assert error() < 0.2 * before
    assert float(m.violation(embedding.weight.detach()).max()) < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@every
def test_momentum_starts_at_rest(m: Any, sparse: bool) -> None:
    """The first step is that of plain descent; geoopt's own goes 38 units far out on the ball instead of 0.4."""
    far = 1.0 if isinstance(m, mn.Sphere) else 3.0
    x, y = m.gyroscale(far, m.random_point(4, dtype=F64)), m.random_point(4, dtype=F64)
    embedding = table(m, x, sparse)
    make = SparseRiemannianSGD if sparse else RiemannianSGD
    search = make([embedding.weight], lr=0.1, momentum=0.9)
    (m.squared_dist(embedding(torch.arange(4)), y).sum() / 2).backward()
    search.step()
    torch.testing.assert_close(embedding.weight.detach(), m.exp(x, 0.1 * m.log(x, y)), atol=1e-12, rtol=1e-9)
    copy = pickle.loads(pickle.dumps(search.state_dict()))
    search.load_state_dict(copy)
    assert type(search).__name__ == make.__name__ and make is getattr(mn.optim, make.__name__)
