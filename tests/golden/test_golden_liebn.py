"""LieBN on SPD matrices: the authors' toolbox, their SPDNet code and the SPDNN baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import CholeskyInverse, Manifold, PowerDeformed
from manifoldnorm.nn import LieBatchNorm, published
from manifoldnorm.stats import Exact, Karcher, MeanPolicy

AIM, LEM, LCM, CRIM = mn.AffineInvariant, mn.LogEuclidean, mn.LogCholesky, mn.CholeskyRightInvariant
EARLY = published.EarlyStoppedKarcher()
EARLY_RIGHT = published.EarlyStoppedKarcher(chart=CholeskyInverse())
F64 = torch.float64

# name: (geometry, mean policy); early stops are the toolbox's, where its mean is not the paper's
CURVED: dict[str, tuple[Manifold, MeanPolicy]] = {
    "liebnspd_AIM_t1_n5": (AIM(5), Karcher(1)),
    "liebnspd_AIM_t1_k50_n5": (AIM(5), Karcher(1)),
    "liebnspd_AIM_t1_ab_n5": (AIM(5, 2.0, 0.25), Karcher(1)),
    "liebnspd_AIM_t1.5_ab_n5": (PowerDeformed(AIM(5, 2.0, 0.25), 1.5), Karcher(1)),
    "liebnspd_AIM_t0.5_n5": (PowerDeformed(AIM(5), 0.5), EARLY),
    "liebnspd_AIM_t0.5_n5_c2": (PowerDeformed(AIM(5), 0.5), EARLY),
    "liebnspd_AIM_tm0.5_n5": (PowerDeformed(AIM(5), -0.5), EARLY),
    "liebnspd_CRIM_t1_n5": (CRIM(5), EARLY_RIGHT),
    "liebnspd_CRIM_t1_n5_c2": (CRIM(5), EARLY_RIGHT),
    "liebnspd_CRIM_t1_k50_n5": (CRIM(5), EARLY_RIGHT),
    "liebnspd_CRIM_t0.5_ab_n5": (PowerDeformed(CRIM(5, 2.0, 0.25), 0.5), EARLY_RIGHT),
    "liebn_spdnet_AIM_t1_n5": (AIM(5), Karcher(1)),
    "liebn_spdnet_AIM_t1_ab_n5": (AIM(5, 2.0, 0.25), Karcher(1)),
    "liebn_spdnet_AIM_t0.5_n5": (PowerDeformed(AIM(5), 0.5), Karcher(1)),
    "liebn_spdnet_AIM_tm0.5_n5": (PowerDeformed(AIM(5), -0.5), Karcher(1)),
    "spdnn_AIM_t1_n5": (published.Float32AffineInvariant(5), Karcher(1)),
    "spdnn_AIM_t0.5_n5": (PowerDeformed(published.Float32AffineInvariant(5), 0.5), Karcher(1)),
    "spdnn_AIM_tm0.5_n5": (PowerDeformed(published.Float32AffineInvariant(5), -0.5), Karcher(1)),
}
FLAT: dict[str, Manifold] = {
    "liebnspd_LEM_n5": LEM(5),
    "liebnspd_LEM_n5_nodetach": LEM(5),
    "liebnspd_LEM_ab_n5": LEM(5, 2.0, 0.25),
    "liebnspd_LEM_ab_n5_c2": LEM(5, 2.0, 0.25),
    "liebnspd_LEM_ab_n5_nodetach": LEM(5, 2.0, 0.25),
    "liebnspd_ALEM_A1_n5": mn.AdaptiveLogEuclidean(5),
    "liebnspd_ALEM_A1_n5_c2": mn.AdaptiveLogEuclidean(5),
    "liebnspd_ALEM_A1_n5_nodetach": mn.AdaptiveLogEuclidean(5),
    "liebnspd_LCM_t1_n5": LCM(5),
    "liebnspd_LCM_t0.5_n5": PowerDeformed(LCM(5), 0.5),
    "liebnspd_LCM_t0.5_n5_c2": PowerDeformed(LCM(5), 0.5),
    "liebnspd_LCM_t0.5_n5_nodetach": PowerDeformed(LCM(5), 0.5),
    "liebnspd_LCM_tm0.5_n5": PowerDeformed(LCM(5), -0.5),
    "liebn_spdnet_LEM_n5": LEM(5),
    "liebn_spdnet_LEM_ab_n5": LEM(5, 2.0, 0.25),
    "liebn_spdnet_LCM_t1_n5": LCM(5),
    "liebn_spdnet_LCM_t1_ab_n5": published.TracedLogCholesky(5, 2.0, 0.25),
    "liebn_spdnet_LCM_t0.5_n5": PowerDeformed(LCM(5), 0.5),
    "liebn_spdnet_LCM_tm0.5_n5": PowerDeformed(LCM(5), -0.5),
}
# statistics not detached: the codes' gradients miss the exponent's, so only values can be compared
NO_DETACH: dict[str, tuple[Manifold, MeanPolicy]] = {
    "liebnspd_AIM_t1_n5_nodetach": (AIM(5), EARLY),
    "liebnspd_AIM_t0.5_n5_nodetach": (PowerDeformed(AIM(5), 0.5), EARLY),
    "liebnspd_CRIM_t1_n5_nodetach": (CRIM(5), EARLY_RIGHT),
}
UNSQUARED: dict[str, Manifold] = {
    "spdnn_LEM_n5": LEM(5),
    "spdnn_LCM_t1_n5": LCM(5),
    "spdnn_LCM_t0.5_n5": PowerDeformed(LCM(5), 0.5),
    "spdnn_LCM_tm0.5_n5": PowerDeformed(LCM(5), -0.5),
}


def clean(golden: Any, manifold: Manifold, mean: MeanPolicy | None = None, **options: Any) -> LieBatchNorm:
    through = golden.name.endswith("nodetach")
    defaults = {"channels": golden.channels, "grad_through_stats": through, "bias": "manifold", "dtype": F64}
    return LieBatchNorm(manifold, mean=mean, **{**defaults, **options})


def check_training(tools: Any, golden: Any, run: Any, gradient: bool = True) -> None:
    tools.close(run.out, golden["out_train"])
    if gradient:
        tools.close(run.grad_x, symmetric(golden["grad_X"]))
        tools.close(run.grad_bias, symmetric(golden["grad_weight"]))
    if "grad_shift" in golden:
        tools.close(run.grad_scale, golden.per_channel("grad_shift"))


def check_evaluation(tools: Any, golden: Any, layer: Any) -> None:
    out, grad = tools.evaluate(layer, golden)
    tools.close(out, golden["out_eval"])
    tools.close(grad, symmetric(golden["grad_X_eval"]))


def symmetric(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


# ---- the clean layers


@pytest.mark.parametrize("name", CURVED)
def test_clean_layer_on_curved_metrics(tools: Any, name: str) -> None:
    golden, (manifold, mean) = tools.load(name), CURVED[name]
    layer = tools.prepare(clean(golden, manifold, mean), golden)
    check_training(tools, golden, tools.train(layer, golden))
    tools.close(tools.codes_chart(layer)(layer.running_mean), golden["running_mean"])
    tools.close(layer.running_var, golden.per_channel("running_var"))
    check_evaluation(tools, golden, layer)


@pytest.mark.parametrize("name", FLAT)
def test_clean_layer_on_flat_metrics(tools: Any, name: str) -> None:
    """The codes start the running mean at the identity matrix in the chart, the layer at the chart's origin."""
    golden = tools.load(name)
    layer = tools.prepare(clean(golden, FLAT[name]), golden)
    check_training(tools, golden, tools.train(layer, golden))
    to_code = tools.codes_chart(layer)
    tools.close(to_code(layer.running_mean), golden["running_mean"] - 0.9 * golden["running_mean_init"])
    tools.close(layer.running_var, golden.per_channel("running_var"))
    if "out_eval_neutral" in golden:
        tools.close(to_code(layer.running_mean), golden["running_mean_neutral"])
        tools.close(tools.evaluate(layer, golden)[0], golden["out_eval_neutral"])
    layer.running_mean.copy_(tools.from_code(layer, golden["running_mean"]))
    check_evaluation(tools, golden, layer)


@pytest.mark.parametrize("name", [*CURVED, *FLAT, *NO_DETACH])
def test_batch_statistics(tools: Any, name: str) -> None:
    golden = tools.load(name)
    manifold, mean = {**CURVED, **NO_DETACH}[name] if name not in FLAT else (FLAT[name], None)
    layer = tools.train(tools.prepare(clean(golden, manifold, mean, momentum=1.0), golden), golden).layer
    tools.close(tools.codes_chart(layer)(layer.running_mean), golden["batch_mean"])
    tools.close(layer.running_var, golden.per_channel("batch_var"))


@pytest.mark.parametrize("name", NO_DETACH)
def test_values_with_gradients_through_statistics(tools: Any, name: str) -> None:
    golden, (manifold, mean) = tools.load(name), NO_DETACH[name]
    layer = tools.prepare(clean(golden, manifold, mean), golden)
    check_training(tools, golden, tools.train(layer, golden), gradient=False)
    tools.close(tools.codes_chart(layer)(layer.running_mean), golden["running_mean"])
    tools.close(layer.running_var, golden.per_channel("running_var"))
    check_evaluation(tools, golden, layer)


@pytest.mark.parametrize("name", ["liebnspd_LEM_ab_n5_c2", "liebnspd_LCM_t0.5_n5", "liebn_spdnet_AIM_t0.5_n5"])
def test_tangent_bias_is_the_same_layer(tools: Any, name: str) -> None:
    golden = tools.load(name)
    manifold, mean = CURVED[name] if name in CURVED else (FLAT[name], None)
    layer = tools.prepare(clean(golden, manifold, mean, bias="tangent"), golden)
    run = tools.train(layer, golden)
    tools.close(run.out, golden["out_train"])
    (expected,) = torch.autograd.grad((layer.bias_point * symmetric(golden["grad_weight"])).sum(), layer.bias)
    tools.close(layer.bias.grad, expected)


# ---- where the codes' gradients are missing or wrong


@pytest.mark.parametrize("name", ["liebnspd_AIM_t1_n5", "liebnspd_AIM_t0.5_n5_c2", "liebnspd_CRIM_t0.5_ab_n5"])
def test_scale_gradient_that_the_toolbox_lacks(tools: Any, name: str) -> None:
    golden, (manifold, mean) = tools.load(name), CURVED[name]
    assert "grad_shift" not in golden
    layer = tools.prepare(clean(golden, manifold, mean), golden)
    run = tools.train(layer, golden)

    def loss(scale: Tensor) -> Tensor:
        layer.scale = scale
        with torch.no_grad():
            return (golden["C"] * layer(golden["X"])).sum()

    scale = golden.per_channel("shift")
    direction = torch.ones_like(scale)
    tools.close(run.grad_scale.sum(), tools.finite_difference(loss, scale, direction), 1e-9)


@pytest.mark.parametrize("name", NO_DETACH)
def test_gradient_through_statistics_is_the_published_forwards_own(tools: Any, name: str) -> None:
    golden, (manifold, mean) = tools.load(name), NO_DETACH[name]
    layer = tools.prepare(published.LieBN(manifold, grad_through_stats=True, dtype=F64), golden)
    assert layer._mean_policy == mean
    check_gradient(tools, golden, layer)
    official = symmetric(golden["grad_X"])
    error = (tools.train(layer, golden).grad_x - official).abs().max() / official.abs().max()
    assert error > 0.01  # the codes drop the gradient of the exponent


@pytest.mark.parametrize("name", NO_DETACH)
def test_gradient_through_converged_statistics(tools: Any, name: str) -> None:
    golden, (manifold, _) = tools.load(name), NO_DETACH[name]
    check_gradient(tools, golden, tools.prepare(clean(golden, manifold, Exact()), golden))


def check_gradient(tools: Any, golden: Any, layer: Any) -> None:
    run = tools.train(layer, golden)
    direction = symmetric(torch.randn_like(golden["X"]))

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (golden["C"] * layer(x)).sum()

    expected = tools.finite_difference(loss, golden["X"], direction)
    tools.close((run.grad_x * direction).sum(), expected, 1e-9)


# ---- the published codes


def published_layer(golden: Any) -> Any:
    family = next(f for f in ("liebnspd", "liebn_spdnet", "spdnn") if golden.name.startswith(f))
    kinds = {"liebnspd": published.LieBN, "liebn_spdnet": published.LieBNSPDNet, "spdnn": published.LieBNSPDNN}
    known = {**FLAT, **UNSQUARED, **{name: manifold for name, (manifold, _) in {**CURVED, **NO_DETACH}.items()}}
    through = golden.name.endswith("nodetach")
    options = {"channels": golden.channels, "grad_through_stats": through, "dtype": F64}
    if "ALEM" in golden.name:
        layer = published.AdaptiveLieBN(5, **options)
        layer.weights = golden["A"]
        return layer
    return kinds[family](known[golden.name], **options)


@pytest.mark.parametrize("name", [*CURVED, *FLAT, *NO_DETACH, *UNSQUARED, "liebnspd_ALEM_Avar_n5"])
def test_published_layer(tools: Any, name: str) -> None:
    golden = tools.load(name)
    layer = tools.prepare(published_layer(golden), golden)
    tools.close(tools.buffer_in_code(layer), golden["running_mean_init"].expand_as(layer.running_mean))
    run = tools.train(layer, golden)
    check_training(tools, golden, run, gradient=name not in NO_DETACH)
    if "grad_shift" not in golden:
        assert run.grad_scale is None
    if "grad_A" in golden:
        tools.close(layer._geometry.raw_weights.grad, golden["grad_A"])
    tools.close(tools.buffer_in_code(layer), golden["running_mean"])
    tools.close(layer.running_var, golden.per_channel("running_var"))
    check_evaluation(tools, golden, layer)


def test_published_scale_may_be_negative(tools: Any) -> None:
    golden = tools.load("liebn_spdnet_LEM_n5")
    layer = tools.prepare(published.LieBNSPDNet(LEM(5), dtype=F64), golden)
    layer.scale = -golden.per_channel("shift")
    mirrored = 2 * mn.linalg.logm(golden["weight"]) - mn.linalg.logm(golden["out_train"])
    tools.close(mn.linalg.logm(layer(golden["X"])), mirrored)


@pytest.mark.parametrize("name", UNSQUARED)
def test_clean_variance_is_squared_where_spdnn_is_not(tools: Any, name: str) -> None:
    wrong, right = tools.load(name), tools.load(name.replace("spdnn", "liebn_spdnet"))
    tools.close(wrong["X"], right["X"], 0.0)
    layer = tools.prepare(clean(wrong, UNSQUARED[name], momentum=1.0), wrong)
    run = tools.train(layer, wrong)
    tools.close(run.out, right["out_train"])
    tools.close(layer.running_var, right.per_channel("batch_var"))
    assert (layer.running_var - wrong.per_channel("batch_var")).abs() > 5e-3


@pytest.mark.parametrize("name", ["spdnn_AIM_t1_n5", "spdnn_AIM_t0.5_n5", "spdnn_AIM_tm0.5_n5"])
def test_exact_momentum_differs_from_single_precision_by_rounding(tools: Any, name: str) -> None:
    golden, right = tools.load(name), tools.load(name.replace("spdnn", "liebn_spdnet"))
    manifold, mean = CURVED[right.name]
    layer = tools.train(tools.prepare(clean(golden, manifold, mean), golden), golden).layer
    running = tools.codes_chart(layer)(layer.running_mean)
    tools.close(running, right["running_mean"])
    error = (running - golden["running_mean"]).abs().max()
    assert 1e-11 < error < 5e-9
