"""LieBN on SO(3): left and right translations of the published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import LieBatchNorm, published


def tangential(x: Tensor, g: Tensor) -> Tensor:
    """The part of a gradient that matters on rotations."""
    product = x.mT @ g
    return (product - product.mT) / 2


def make(kind: str, side: str) -> Any:
    if kind == "published":
        return published.LieBNRot(3, left=side == "left")
    mean = published.FirstSampleKarcher(1, 1e-4)
    m = mn.Rotations(3, right=side == "right")
    return LieBatchNorm(m, mean=mean, grad_through_stats=False, bias="manifold")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["published", "clean"])
def test_layer(tools: Any, kind: str, side: str) -> None:
    golden = tools.load(f"liebnrot_{side}_k1")
    layer = tools.prepare(make(kind, side), golden)
    x = golden["X"].clone().requires_grad_()
    out = layer(x)
    (golden["C"] * out).sum().backward()
    tools.close(out, golden["out_train"], 1e-11)
    assert x.grad is not None
    tools.close(tangential(golden["X"], x.grad), golden["rgrad_X"])
    tools.close(tangential(golden["weight"], layer.bias_on_manifold.grad), golden["rgrad_weight"])
    if kind == "published":
        tools.close(layer.signed_scale.grad, golden["grad_shift"].squeeze())
    else:
        tools.close(layer.log_scale.grad / layer.scale.detach(), golden["grad_shift"].squeeze())
    tools.close(layer.running_mean, golden["running_mean"], 1e-11)
    tools.close(layer.running_var, golden["running_var"].squeeze(), 1e-11)
    layer.eval()
    x = golden["X_eval"].clone().requires_grad_()
    out = layer(x)
    (grad,) = torch.autograd.grad((golden["C_eval"] * out).sum(), x)
    tools.close(out, golden["out_eval"], 1e-11)
    tools.close(tangential(golden["X_eval"], grad), golden["rgrad_X_eval"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_statistics(tools: Any, side: str) -> None:
    golden = tools.load(f"liebnrot_{side}_k1")
    layer = tools.prepare(make("published", side), golden)
    layer.momentum = 1.0
    layer(golden["X"])
    tools.close(layer.running_mean, golden["batch_mean"], 1e-11)
    tools.close(layer.running_var, golden["batch_var"].squeeze(), 1e-11)
