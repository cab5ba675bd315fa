"""What the pullback abstraction is worth: a further metric is one line, and one golden value fixes its scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import manifoldnorm as mn
from manifoldnorm.manifolds import LogCholeskyChart, Pullback, TraceScaling, TriangularMatrices
from manifoldnorm.nn import GyroBatchNorm, LieBatchNorm, ManifoldNorm, RiemannianBatchNorm

# the line: a metric that only one published code has
NEW_METRIC = Pullback(TraceScaling(2.0, 0.25) @ LogCholeskyChart(), TriangularMatrices(5))


def test_one_golden_value_fixes_the_scale(tools: Any) -> None:
    golden = tools.load("liebn_spdnet_LCM_t1_ab_n5")
    mean = NEW_METRIC.frechet_mean(golden["X"])
    tools.close(mn.stats.frechet_variance(NEW_METRIC, golden["X"], mean), golden.per_channel("batch_var"))


@pytest.mark.parametrize("kind", [RiemannianBatchNorm, LieBatchNorm, GyroBatchNorm])
def test_every_layer_works_on_it(tools: Any, kind: type[ManifoldNorm]) -> None:
    golden = tools.load("liebn_spdnet_LCM_t1_ab_n5")
    layer = kind(NEW_METRIC, grad_through_stats=False, bias="manifold", dtype=torch.float64)
    run = tools.train(tools.prepare(layer, golden), golden)
    tools.close(run.out, golden["out_train"])
    tools.close(run.grad_x, (golden["grad_X"] + golden["grad_X"].mT) / 2)
    tools.close(run.grad_scale, golden.per_channel("grad_shift"))


def test_an_optimizer_works_on_it() -> None:
    """The Frechet mean of two points by one Riemannian gradient step, which leads there at once."""
    p, q = NEW_METRIC.random_point(2, dtype=torch.float64).unbind()
    start = torch.eye(5, dtype=torch.float64).requires_grad_()
    cost = NEW_METRIC.squared_dist(start, torch.stack([p, q])).mean() / 2
    (gradient,) = torch.autograd.grad(cost, start)
    end = NEW_METRIC.exp(start, -NEW_METRIC.egrad2rgrad(start, gradient)).detach()
    torch.testing.assert_close(end, NEW_METRIC.geodesic(p, q, 0.5), rtol=1e-10, atol=1e-10)
