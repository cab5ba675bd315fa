"""Generalised Bures-Wasserstein batch norm, in the authors' SPDNet and RResNet codes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import Manifold
from manifoldnorm.nn import BuresWassersteinBatchNorm, published
from manifoldnorm.stats import FixedPoint

SPDNET = [f"gbwbn_spdnet_{kind}_n5" for kind in ("p1_M", "p1_MI", "p0.5_M", "p0.5_MI", "pm0.5_M")]
RRESNET = [name.replace("spdnet", "rresnet") for name in SPDNET]
F64 = torch.float64


def symmetric(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def geometry(name: str, metric: Tensor) -> Manifold:
    match = re.search(r"_p(m?)([\d.]+)_", name)
    assert match is not None
    power = float(match[2]) * (-1 if match[1] else 1)
    base = mn.GeneralizedBuresWasserstein(5, metric)
    return base if power == 1 else mn.PowerDeformed(base, power)


def published_layer(golden: Any, metric: Tensor) -> published.GBWBN:
    kind = published.GBWBNRResNet if "rresnet" in golden.name else published.GBWBN
    return kind(geometry(golden.name, metric), dtype=F64)


def clean(golden: Any, metric: Tensor, **options: Any) -> BuresWassersteinBatchNorm:
    defaults = {"mean": FixedPoint(1), "grad_through_stats": False, "bias": "manifold", "dtype": F64}
    return BuresWassersteinBatchNorm(geometry(golden.name, metric), **{**defaults, **options})


@pytest.mark.parametrize("name", [*SPDNET, *RRESNET])
def test_published_layer(tools: Any, name: str) -> None:
    golden = tools.load(name)
    assert golden["n_fold"] == 0
    metric = golden["M"].clone().requires_grad_()
    layer = tools.prepare(published_layer(golden, metric), golden)
    run = tools.train(layer, golden)
    tools.close(run.out, golden["out_train"])
    tools.close(run.grad_x, symmetric(golden["grad_X_fixed"]))
    tools.close(run.grad_bias, symmetric(golden["grad_weight_fixed"]))
    tools.close(run.grad_scale, golden.per_channel("grad_shift_fixed"))
    if "MI" not in name:  # at the identity matrix, where all eigenvalues tie, the code's gradient of M is wrong
        tools.close(symmetric(metric.grad), symmetric(golden["grad_M_fixed"]))
    tools.close(layer.running_mean, golden["running_mean"])
    tools.close(layer.running_var.expand(5), golden["running_var"])
    out, grad = tools.evaluate(layer, golden)
    tools.close(out, golden["out_eval"])
    tools.close(grad, symmetric(golden["grad_X_eval_fixed"]))


@pytest.mark.parametrize("name", SPDNET)
def test_clean_layer_up_to_the_variance(tools: Any, name: str) -> None:
    """The paper's layer, whose scale makes up for the code's variance about the identity."""
    golden = tools.load(name)
    metric = golden["M"].clone().requires_grad_()
    layer = tools.prepare(clean(golden, metric, momentum=1.0), golden)
    ratio = ((golden["var_about_mean"] + layer.eps) / (golden["batch_var"] + layer.eps)).sqrt()
    layer.scale = golden.per_channel("shift") * ratio
    run = tools.train(layer, golden)
    tools.close(run.out, golden["out_train"])
    tools.close(run.grad_x, symmetric(golden["grad_X_fixed"]))
    tools.close(run.grad_bias, symmetric(golden["grad_weight_fixed"]))
    tools.close(run.grad_scale * ratio, golden.per_channel("grad_shift_fixed"))
    if "MI" not in name:
        tools.close(symmetric(metric.grad), symmetric(golden["grad_M_fixed"]))
    chart, _, _ = mn.manifolds.flatten(layer.manifold)
    assert chart is not None
    tools.close(chart(golden["X"]), golden["X_deformed"])
    tools.close(chart(layer.running_mean), golden["batch_mean"])
    tools.close(layer.running_var, golden["var_about_mean"])


@pytest.mark.parametrize("name", SPDNET)
def test_clean_evaluation(tools: Any, name: str) -> None:
    """The same where the last step stays in the exponential's domain; outside, the clean layer shrinks the step."""
    golden = tools.load(name)
    layer = tools.train(tools.prepare(clean(golden, golden["M"]), golden), golden).layer
    chart, base, _ = mn.manifolds.flatten(layer.manifold)
    assert chart is not None
    tools.close(chart(layer.running_mean), golden["running_mean"])
    tools.close(layer.running_var, 0.9 + 0.1 * golden["var_about_mean"])
    layer.running_var.copy_(golden["running_var"][0])
    mean, target = golden["running_mean"], chart(golden["weight"])
    factor = golden["shift"] / (golden["running_var"][0] + layer.eps).sqrt()
    step = factor * base.to_origin(mean, base.log(mean, chart(golden["X_eval"])))
    fraction = base.injective_fraction(target, base.from_origin(target, step))
    inside = fraction == 1
    assert inside.sum() >= (15 if name == "gbwbn_spdnet_p1_M_n5" else 16)
    out, grad = tools.evaluate(layer, golden)
    tools.close(out[inside], golden["out_eval"][inside])
    tools.close(grad[inside], symmetric(golden["grad_X_eval_fixed"])[inside])
    shrunk = base.exp(target, base.from_origin(target, fraction[:, None, None] * step))
    tools.close(out, chart.inverse(shrunk))


@pytest.mark.parametrize("name", [*SPDNET, *RRESNET])
def test_metric_gradient_where_the_code_has_ties(tools: Any, name: str) -> None:
    """With the statistics frozen in the chart, as the code detaches them, against finite differences."""
    golden = tools.load(name)
    metric = golden["M"].clone().requires_grad_()
    tools.train(tools.prepare(published_layer(golden, metric), golden), golden)
    direction = symmetric(torch.randn(5, 5, dtype=F64))

    def loss(m: Tensor) -> Tensor:
        frozen = tools.prepare(published_layer(golden, m), golden).eval()
        frozen.running_mean.copy_(golden["batch_mean"])
        frozen.running_var.copy_(golden["batch_var"])
        with torch.no_grad():
            return (golden["C"] * frozen(golden["X"])).sum()

    expected = tools.finite_difference(loss, golden["M"], direction)
    tools.close((metric.grad * direction).sum(), expected, 1e-8)
    official = (golden["grad_M_fixed"] * direction).sum()
    if "MI" in name:
        assert (official - expected).abs() > 0.01 * expected.abs()
    else:
        tools.close(official, expected, 1e-7)


def test_learned_metric_is_the_same_layer(tools: Any) -> None:
    golden = tools.load("gbwbn_spdnet_p0.5_M_n5")
    layer = published.GBWBN(5, power=0.5, dtype=F64)
    with torch.no_grad():
        layer._geometry.raw_base_metric.copy_(mn.linalg.logm(golden["M"]))
    tools.close(tools.train(tools.prepare(layer, golden), golden).out, golden["out_train"])


def test_folding_takes_absolute_values_outside_the_domain(tools: Any) -> None:
    """In one dimension square roots are flat coordinates: centring shifts them, folding takes their absolute value."""
    root = torch.tensor([0.05, 0.1, 1.0, 3.0, 4.0], dtype=F64)
    layer = published.GBWBN(1, learn_metric=False, dtype=F64)
    layer.scale = 3.0
    out = layer((root**2)[:, None, None]).flatten().sqrt()
    centred = (1 + root - root.mean()).abs() - 1
    factor = 3 / ((root - 1).square().mean() + layer.eps).sqrt()
    tools.close(out, (1 + factor * centred).abs())
    assert ((1 + root - root.mean()) < 0).any()
    assert ((1 + factor * centred) < 0).any()
