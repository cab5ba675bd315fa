"""Cholesky batch norm (CBN), whose code works on Cholesky factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import LieBatchNorm, published

F64 = torch.float64
# the code's own scalars are single precision: the scale's gradient and the first update of the running variance
SINGLE = 1e-7


def factor_of(log_factor: Tensor) -> Tensor:
    return log_factor.tril(-1) + torch.diag_embed(log_factor.diagonal(dim1=-2, dim2=-1).exp())


def layer_of(golden: Any) -> published.CBN:
    layer = published.CBN(5, dtype=F64)
    layer.bias_point = golden["weight"] @ golden["weight"].mT
    layer.scale = golden["s"]
    return layer


def test_published_layer(tools: Any) -> None:
    golden = tools.load("cbn_n5")
    layer = layer_of(golden)
    factor = golden["L"].clone().requires_grad_()
    out = mn.linalg.cholesky(layer(factor @ factor.mT))
    (golden["C"] * out).sum().backward()
    tools.close(out, golden["out_train"])
    tools.close(factor.grad.tril(), golden["grad_L"])
    grad_bias = layer.bias_on_manifold.grad
    tools.close(((grad_bias + grad_bias.mT) @ golden["weight"]).tril(), golden["grad_weight"])
    tools.close(layer.signed_scale.grad, golden["grad_s"], SINGLE)
    tools.close(factor_of(layer.running_mean), golden["running_mean"])
    rounded = torch.tensor(0.9, dtype=torch.float32).double()
    tools.close(layer.running_var - 0.9, golden["running_var"] - rounded)
    layer.running_var.copy_(golden["running_var"])
    tools.close(mn.linalg.cholesky(layer.eval()(golden["P_eval"])), golden["out_eval"])


def test_batch_statistics_before_the_bias(tools: Any) -> None:
    golden = tools.load("cbn_n5")
    layer = published.CBN(5, bias=False, momentum=1.0, dtype=F64)
    layer.scale = golden["s"]
    tools.close(mn.linalg.cholesky(layer(golden["P"])), golden["out_bn"])
    tools.close(factor_of(layer.running_mean), golden["batch_mean"])
    tools.close(layer.running_var, golden["batch_var"])


def test_clean_layer_has_the_frechet_variance(tools: Any) -> None:
    golden = tools.load("cbn_n5")
    layer = LieBatchNorm(mn.LogCholesky(5), eps=0.0, momentum=1.0, dtype=F64)
    layer(golden["P"])
    tools.close(layer.running_var, golden["frechet_var_logcholesky"])
    tools.close(mn.linalg.cholesky(layer.running_mean), golden["batch_mean"])
    assert (golden["batch_var"] - layer.running_var).abs() > 0.04


def test_cholesky_gradient_that_the_code_has_wrong(tools: Any) -> None:
    golden = tools.load("cbn_n5")
    p = golden["P"].clone().requires_grad_()
    (golden["C"] * mn.linalg.cholesky(p)).sum().backward()
    true = golden["chol_grad_true"]
    tools.close(p.grad, (true + true.mT) / 2)
    official = golden["chol_grad_official"]
    assert (official - true).abs().max() > true.abs().max()
