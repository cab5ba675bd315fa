"""TSMNet's norms and the LieBN inside it: momentum, renormalisation, domains, schedule, refit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import Manifold, PowerDeformed, TraceScaling
from manifoldnorm.nn import DomainBatchNorm, LieBatchNorm, Momentum, MomentumBatchNorm, published
from manifoldnorm.nn.published import Float32AffineInvariant
from manifoldnorm.stats import Karcher

F64 = torch.float64
LIE: dict[str, Manifold] = {
    "liebn_tsmnet_AIM_t1_n5": Float32AffineInvariant(5),
    "liebn_tsmnet_AIM_t1_ab_n5": Float32AffineInvariant(5, 2.0, 0.25),
    "liebn_tsmnet_AIM_t0.5_n5": PowerDeformed(Float32AffineInvariant(5), 0.5),
    "liebn_tsmnet_AIM_tm0.5_n5": PowerDeformed(Float32AffineInvariant(5), -0.5),
    "liebn_tsmnet_LEM_n5": mn.LogEuclidean(5),
    "liebn_tsmnet_LEM_ab_n5": mn.LogEuclidean(5, 2.0, 0.25),
    "liebn_tsmnet_LCM_t1_n5": mn.LogCholesky(5),
    "liebn_tsmnet_LCM_t0.5_n5": PowerDeformed(mn.LogCholesky(5), 0.5),
}
MOMENTA = {"AdaMom": (0.6, 0.2), "SPDBN": (1.0, 0.1), "ReNorm": (0.1, 0.1)}
SPD = [
    *(f"tsmnet_{kind}_scalar_n5_c{c}" for kind in MOMENTA for c in (1, 2)),
    *(f"tsmnet_{kind}_scalar_k5_n5_c{c}" for kind in ("AdaMom", "SPDBN") for c in (1, 2)),
    *(f"tsmnet_SPDBN_none_n5_c{c}" for c in (1, 2)),
]


def sym(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def close(tools: Any, actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    tools.close(actual, expected.reshape(actual.shape), tolerance)


def prepare(layer: Any, golden: Any) -> Any:
    layer.bias_point = golden["mean"]
    if layer.scale is not None:
        layer.scale = golden["std"].flatten()
    return layer


def in_code(layer: Any) -> Any:
    """Map buffers of a published norm to the coordinates of the code."""
    chart, _, _ = mn.manifolds.flatten(layer.manifold)
    last = published.geometries.last_chart(chart)
    return last.inverse if isinstance(last, TraceScaling) else lambda y: y


def check_buffers(tools: Any, layer: Any, golden: Any, to_code: Any, step: str, tolerance: float = 1e-12) -> None:
    for kind, suffix in (("momentum", ""), ("running", "_test")):
        close(tools, to_code(getattr(layer, f"{kind}_mean")), golden[f"running_mean{suffix}{step}"], tolerance)
        close(tools, getattr(layer, f"{kind}_var"), golden[f"running_var{suffix}{step}"], tolerance)


def check_run(tools: Any, layer: Any, golden: Any, to_code: Any, gradients: float, dispersed: bool = True) -> None:
    """Two training steps and an evaluation, with every buffer and gradient."""
    x = golden["X"].clone().requires_grad_()
    out = layer(x)
    (golden["C"] * out).sum().backward()
    close(tools, out, golden["out_train"])
    assert x.grad is not None
    close(tools, sym(x.grad), sym(golden["grad_X"]), gradients)
    close(tools, sym(layer.bias_on_manifold.grad), sym(golden["grad_mean"]))
    if dispersed:
        scale = layer.signed_scale.grad if hasattr(layer, "signed_scale") else layer.log_scale.grad / layer.scale
        close(tools, scale, golden["grad_std"])
        check_buffers(tools, layer, golden, to_code, "")
    else:
        close(tools, layer.momentum_mean, golden["running_mean"])
        close(tools, layer.running_mean, golden["running_mean_test"])
    close(tools, layer(golden["X2"]), golden["out_train2"])
    if dispersed:
        check_buffers(tools, layer, golden, to_code, "_2")
    x = golden["X_eval"].clone().requires_grad_()
    out = layer.eval()(x)
    (grad,) = torch.autograd.grad((golden["C_eval"] * out).sum(), x)
    close(tools, out, golden["out_eval_after2"])
    close(tools, sym(grad), sym(golden["grad_X_eval_after2"]))


@pytest.mark.parametrize("name", LIE)
def test_published_lie_norm(tools: Any, name: str) -> None:
    golden = tools.load(name)
    layer = published.LieBNTSMNet(LIE[name], channels=1, train=0.6, test=0.2, dtype=F64)
    to_code = in_code(layer)
    close(tools, to_code(layer.running_mean), golden["running_mean_init"])
    check_run(tools, prepare(layer, golden), golden, to_code, 1e-12)
    layer.refit(golden["X_eval"])
    check_buffers(tools, layer, golden, to_code, "_refit")
    close(tools, layer(golden["X_eval"]), golden["out_refit"])


@pytest.mark.parametrize("name", LIE)
def test_clean_lie_norm(tools: Any, name: str) -> None:
    """The paper's layer is the clean one, from the code's initial running mean and with its one Karcher step."""
    golden, manifold = tools.load(name), LIE[name]
    layer = LieBatchNorm(
        manifold,
        channels=1,
        mean=Karcher(1),
        statistics=Momentum(0.6, 0.2),
        grad_through_stats=False,
        bias="manifold",
        dtype=F64,
    )
    start = published.LieBNTSMNet(manifold, channels=1, dtype=F64).running_mean
    chart, _, _ = mn.manifolds.flatten(manifold)
    if "AIM" not in name:  # the code starts at the identity matrix in the chart
        start = chart.inverse(start)  # type: ignore[union-attr]
        layer.running_mean.copy_(start)
        layer.momentum_mean.copy_(start)
    last = published.geometries.last_chart(chart)

    def to_code(point: Tensor) -> Tensor:
        y = point if chart is None else chart(point)
        return last.inverse(y) if isinstance(last, TraceScaling) else y

    check_run(tools, prepare(layer, golden), golden, to_code, 1e-12)
    layer.refit(golden["X_eval"])  # converged, where the code takes one step
    flat = not manifold.has_hessian
    assert flat == bool((layer(golden["X_eval"]) - golden["out_refit"]).abs().max() < 1e-8)


@pytest.mark.parametrize("name", ["liebn_tsmnet_AIM_t1_n5", "liebn_tsmnet_AIM_t0.5_n5"])
def test_exact_momenta_differ_by_single_precision(tools: Any, name: str) -> None:
    golden = tools.load(name)
    manifold = mn.AffineInvariant(5) if "t1" in name else PowerDeformed(mn.AffineInvariant(5), 0.5)
    layer = prepare(published.LieBNTSMNet(manifold, channels=1, train=0.6, test=0.2, dtype=F64), golden)
    error = (layer(golden["X"]) - golden["out_train"]).abs().max()
    assert 1e-10 < error < 1e-7


@pytest.mark.parametrize("name", SPD)
def test_published_tsmnet_norm(tools: Any, name: str) -> None:
    golden, momenta = tools.load(name), MOMENTA[name.split("_")[1]]
    channels, steps, dispersion = int(name[-1]), 5 if "k5" in name else 1, "none" not in name
    layer = published.TSMNetBatchNorm(
        5, channels=channels, train=momenta[0], test=momenta[1], karcher_steps=steps, dispersion=dispersion, dtype=F64
    )
    # a momentum in single precision makes the code's gradient single too: INDEX.md, caveat 6
    check_run(tools, prepare(layer, golden), golden, lambda y: y, 1e-9, dispersion)
    layer.refit(golden["X_eval"])
    close(tools, layer(golden["X_eval"]), golden["out_refit"], 1e-8)
    if dispersion:
        check_buffers(tools, layer, golden, lambda y: y, "_refit", 1e-8)


@pytest.mark.parametrize("name", [name for name in SPD if "AdaMom" in name or "SPDBN_scalar" in name])
def test_clean_norm_has_the_same_means_and_a_variance_close_by(tools: Any, name: str) -> None:
    golden, (train, test) = tools.load(name), MOMENTA[name.split("_")[1]]
    layer = MomentumBatchNorm(
        Float32AffineInvariant(5),
        channels=int(name[-1]),
        mean=Karcher(5 if "k5" in name else 1),
        train=train,
        test=test,
        bias="manifold",
        dtype=F64,
    )
    prepare(layer, golden)(golden["X"])
    close(tools, layer.momentum_mean, golden["running_mean"])
    close(tools, layer.running_mean, golden["running_mean_test"])
    exact, tangent = layer.momentum_var, golden["running_var"].flatten()
    gap = ((exact - tangent) / exact).abs().max()
    assert gap < 0.01 and (gap > 1e-9 or "k5" in name)
    about = layer.manifold.squared_dist(layer.momentum_mean, golden["X"]).mean(0)
    assert torch.allclose(exact, (1 - train) + train * about, rtol=1e-12)
    layer.eval().refit(golden["X_eval"])  # converged: there the tangent variance is exact
    close(tools, layer(golden["X_eval"]), golden["out_refit"], 1e-8)
    close(tools, layer.running_var, golden["running_var_test_refit"], 1e-8)


def test_domains(tools: Any) -> None:
    golden = tools.load("tsmnet_DSMBN_n5")
    labels = [3, 7]
    index = torch.tensor([labels.index(int(d)) for d in golden["d"]])
    layer = DomainBatchNorm(published.TSMNetBatchNorm(5, channels=1, train=0.6, test=0.2, dtype=F64), 2)
    prepare(layer, golden)
    x = golden["X"].clone().requires_grad_()
    out = layer(x, index)
    (golden["C"] * out).sum().backward()
    close(tools, out, golden["out_train"])
    assert x.grad is not None
    close(tools, sym(x.grad), sym(golden["grad_X"]), 1e-9)
    close(tools, sym(layer.norm.bias_on_manifold.grad), sym(golden["grad_mean"]))  # type: ignore[operator]
    close(tools, layer.norm.signed_scale.grad, golden["grad_std"])  # type: ignore[arg-type, union-attr]

    def check(stage: str, tolerance: float) -> None:
        for row, label in enumerate(labels):
            for kind, suffix in (("momentum", ""), ("running", "_test")):
                for what in ("mean", "var"):
                    actual = getattr(layer.norm, f"{kind}_{what}")[row]
                    close(tools, actual, golden[f"running_{what}{suffix}{stage}_dom{label}"], tolerance)

    check("", 1e-12)
    x = golden["X_eval"].clone().requires_grad_()
    out = layer.eval()(x, index)
    (grad,) = torch.autograd.grad((golden["C_eval"] * out).sum(), x)
    close(tools, out, golden["out_eval"])
    close(tools, sym(grad), sym(golden["grad_X_eval"]))
    layer.adapt(golden["X_eval"], index)
    check("_refit", 1e-8)
    close(tools, layer(golden["X_eval"], index), golden["out_refit"], 1e-8)


def test_schedule_is_the_intended_one(tools: Any) -> None:
    golden = tools.load("tsmnet_scheduler")
    ratio = float(golden["bs"] / golden["bs0"])
    schedule = mn.nn.MomentumSchedule(int(golden["epochs"]), ratio, keep=float(golden["tau0"]))
    momenta = torch.tensor([schedule(int(epoch) - 1) for epoch in golden["epoch"][1:]], dtype=F64)
    assert torch.allclose(momenta[:, 0], golden["eta"][1:], rtol=1e-12)
    assert torch.allclose(momenta[:, 1], golden["eta_test_attr"][1:], rtol=1e-12)
    assert torch.allclose(1 - momenta[:, 1], golden["eta_test_applied"][1:])  # what the code does instead
