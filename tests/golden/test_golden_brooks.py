"""The first Riemannian batch norm (Brooks 2019), in its own code and in its copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import manifoldnorm as mn
from manifoldnorm.nn import GyroBatchNorm, RiemannianBatchNorm, published
from manifoldnorm.stats import Karcher

NAMES = ["brooks_N16h1_n5", "brooks_N8h2_n5", "liebn_spdnet_BROOKS_n5", "spdnn_BROOKS_n5"]
F64 = torch.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [RiemannianBatchNorm, GyroBatchNorm])
def test_clean_layer_with_the_scale_of_the_data(tools: Any, name: str, kind: type[RiemannianBatchNorm]) -> None:
    """With a scale of sqrt(v + eps) the dilation is the identity and what remains is centring and bias."""
    golden = tools.load(name)
    layer = kind(mn.AffineInvariant(5), mean=Karcher(1), grad_through_stats=False, bias="manifold", dtype=F64)
    layer.bias_point = golden["weight"]
    with torch.no_grad():
        layer(golden["X"])
    variance = (layer.running_var - 0.9) / 0.1
    tools.close(layer.running_mean, golden["running_mean"])
    layer.scale = (variance + layer.eps).sqrt()
    statistics = layer.running_mean.clone(), layer.running_var.clone()
    run = tools.train(layer, golden)
    tools.close(run.out, golden["out_train"])
    tools.close(run.grad_x, (golden["grad_X"] + golden["grad_X"].mT) / 2)
    tools.close(run.grad_bias, (golden["grad_weight"] + golden["grad_weight"].mT) / 2)

    for buffer, value in zip((layer.running_mean, layer.running_var), statistics, strict=True):
        buffer.copy_(value)
    layer.scale = (layer.running_var + layer.eps).sqrt()
    out, grad = tools.evaluate(layer, golden)
    tools.close(out, golden["out_eval"])
    tools.close(grad, (golden["grad_X_eval"] + golden["grad_X_eval"].mT) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_batch_mean(tools: Any, name: str) -> None:
    golden = tools.load(name)
    x = golden["X"].reshape(-1, 5, 5)
    tools.close(Karcher(1)(mn.AffineInvariant(5), x), golden["batch_mean"])


@pytest.mark.parametrize("name", NAMES)
def test_published_layer(tools: Any, name: str) -> None:
    golden = tools.load(name)
    layer = tools.prepare(published.BrooksBatchNorm(5, dtype=F64), golden)
    run = tools.train(layer, golden)
    tools.close(run.out, golden["out_train"])
    tools.close(run.grad_x, (golden["grad_X"] + golden["grad_X"].mT) / 2)
    tools.close(run.grad_bias, (golden["grad_weight"] + golden["grad_weight"].mT) / 2)
    tools.close(layer.running_mean, golden["running_mean"])
    out, grad = tools.evaluate(layer, golden)
    tools.close(out, golden["out_eval"])
    tools.close(grad, (golden["grad_X_eval"] + golden["grad_X_eval"].mT) / 2)


def test_channels_share_one_mean_or_have_their_own(tools: Any) -> None:
    golden = tools.load("brooks_N8h2_n5")
    shared = published.BrooksBatchNorm(5, dtype=F64)(golden["X"])
    own = published.BrooksBatchNorm(5, channels=2, dtype=F64)(golden["X"])
    assert (shared - own).abs().max() > 0.01
    single = published.BrooksBatchNorm(5, dtype=F64)(golden["X"][:, 1])
    tools.close(own[:, 1], single.detach())
