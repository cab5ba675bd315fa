"""LieBN on correlation matrices: the authors' toolbox, by the package's layers and by the published one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold, flatten
from manifoldnorm.manifolds.charts_correlation import HollowScaling
from manifoldnorm.manifolds.correlation import (
    CorrelationEuclideanCholesky,
    CorrelationLogEuclideanCholesky,
    CorrelationLogScaling,
    CorrelationOffLog,
)
from manifoldnorm.nn import GyroBatchNorm, LieBatchNorm
from manifoldnorm.nn.published import LieBNCor, SeriesLogEuclideanCholesky
from manifoldnorm.nn.published.correlation import poincare_correlation
from manifoldnorm.nn.published.geometries import last_chart

F64 = torch.float64
METRICS: dict[str, Manifold] = {
    "ECM": CorrelationEuclideanCholesky(5),
    "LECM": CorrelationLogEuclideanCholesky(5),
    "OLM": CorrelationOffLog(5),
    "OLM_abg": CorrelationOffLog(5, 1.0, 0.5, 0.25),
    "LSM": CorrelationLogScaling(5),
    "LSM_adz": CorrelationLogScaling(5, 1.0, 0.5, 0.25),
}
# solved to 1e-13 by the code, or in closed form
SHARP = [
    "ECM_n5",
    "ECM_n5_c2",
    "ECM_n5_nodetach",
    "ECM_n5_trivial",
    "LECM_n5",
    "LECM_n5_c2",
    "LECM_n5_nodetach",
    "LECM_n5_trivial",
    "OLM_n5_tight",
    "OLM_n5_c2_tight",
    "OLM_n5_tight_nodetach",
    "OLM_n5_tight_trivial",
    "OLM_abg_n5_tight",
    "OLM_abg_n5_tight_nodetach",
    "LSM_n5_tight",
    "LSM_n5_c2_tight",
    "LSM_n5_tight_nodetach",
    "LSM_n5_tight_trivial",
    "LSM_adz_n5_tight",
    "LSM_adz_n5_tight_nodetach",
]
# solved to 1e-6 by the code
BLUNT = [
    "OLM_n5",
    "OLM_n5_nodetach",
    "OLM_abg_n5",
    "OLM_abg_n5_nodetach",
    "LSM_n5",
    "LSM_n5_nodetach",
    "LSM_adz_n5",
    "LSM_adz_n5_nodetach",
]
VALUES, GRADIENTS, LOOSE = 1e-11, 1e-10, 5e-6


def metric(name: str) -> Manifold:
    return METRICS[name.split("_n5")[0]]


def hollow(a: Tensor) -> Tensor:
    a = (a + a.mT) / 2
    return a - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1))


def rows_of(golden: Any, prefix: str = "poincare") -> list[Tensor]:
    return [golden[f"{prefix}_{i}"] for i in range(1, 5)]


def channels(name: str) -> int | None:
    return 2 if "_c2" in name else None


def per_channel(golden: Any, key: str) -> Tensor:
    value = golden[key].flatten()
    return value if channels(golden.name) else value[0]


def in_code(layer: Any, y: Tensor) -> Tensor:
    """Coordinates of the code, which has the inner product in its variance and not in its chart."""
    last = last_chart(flatten(layer.manifold)[0])
    return last.inverse(y) if isinstance(last, HollowScaling) else y


def clean(golden: Any, kind: type = LieBatchNorm, **options: Any) -> Any:
    manifold = metric(golden.name.removeprefix("liebncor_"))
    defaults = {"channels": channels(golden.name), "bias": "manifold", "dtype": F64}
    through = "nodetach" in golden.name
    layer = kind(manifold, **{**defaults, "grad_through_stats": through, **options})
    if "weight_correlation" in golden:
        layer.bias_point = golden["weight_correlation"]
    else:
        last = last_chart(flatten(manifold)[0])
        code = golden["weight_codomain"]
        layer.bias_point = manifold.chart.inverse(last(code) if isinstance(last, HollowScaling) else code)
    layer.scale = per_channel(golden, "shift")
    return layer


def train(layer: Any, golden: Any) -> tuple[Tensor, Tensor]:
    x = golden["X"].clone().requires_grad_()
    out = layer.train()(x)
    (golden["C"] * out).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


def has_exact_unit_diagonal(out: Tensor) -> bool:
    return bool((out.diagonal(dim1=-2, dim2=-1) == 1).all())


def check_clean(tools: Any, name: str, kind: type, values: float, gradients: float) -> None:
    golden = tools.load(f"liebncor_{name}")
    layer = clean(golden, kind)
    out, grad = train(layer, golden)
    assert has_exact_unit_diagonal(out)
    tools.close(out, golden["out_train"], values)
    tools.close(hollow(grad), golden["grad_X_hollow"], gradients)
    tools.close(layer.log_scale.grad / layer.scale, per_channel(golden, "grad_shift"), gradients)
    tools.close(layer.running_var, per_channel(golden, "running_var"), values)
    chart, _, _ = flatten(layer.manifold)
    assert chart is not None
    mean = in_code(layer, chart(layer.running_mean))
    # the code's running mean starts at the identity matrix in the chart, the layer's at its origin
    tools.close(mean, golden["running_mean_neutral"], values)
    tools.close(layer.eval()(golden["X_eval"]), golden["out_eval_neutral"], values)
    if "poincare_1" in golden:
        rows = [y.clone().requires_grad_() for y in rows_of(golden)]
        through = torch.autograd.grad(poincare_correlation(rows), rows, layer.bias_on_manifold.grad)
        for got, expected in zip(through, rows_of(golden, "grad_poincare"), strict=True):
            tools.close(got, expected, gradients)


@pytest.mark.parametrize("kind", [LieBatchNorm, GyroBatchNorm])
@pytest.mark.parametrize("name", SHARP)
def test_clean_layers(tools: Any, name: str, kind: type) -> None:
    check_clean(tools, name, kind, VALUES, GRADIENTS)


@pytest.mark.parametrize("name", BLUNT)
def test_clean_layer_where_the_code_stops_early(tools: Any, name: str) -> None:
    check_clean(tools, name, LieBatchNorm, LOOSE, 2 * LOOSE)


@pytest.mark.parametrize("name", SHARP + BLUNT)
def test_charts_and_batch_statistics(tools: Any, name: str) -> None:
    golden = tools.load(f"liebncor_{name}")
    tolerance = VALUES if name in SHARP else LOOSE
    layer = clean(golden, momentum=1.0)
    chart, _, _ = flatten(layer.manifold)
    assert chart is not None
    tools.close(in_code(layer, chart(golden["X"])), golden["X_deformed"], tolerance)
    if "weight_correlation" in golden:
        tools.close(poincare_correlation(rows_of(golden)), golden["weight_correlation"], VALUES)
        tools.close(in_code(layer, chart(golden["weight_correlation"])), golden["weight_codomain"], tolerance)
    layer(golden["X"])
    tools.close(in_code(layer, chart(layer.running_mean)), golden["batch_mean"], tolerance)
    tools.close(layer.running_var, per_channel(golden, "batch_var"), tolerance)


@pytest.mark.parametrize("name", SHARP)
def test_published_layer(tools: Any, name: str) -> None:
    golden = tools.load(f"liebncor_{name}")
    manifold = SeriesLogEuclideanCholesky(5) if name.startswith("LECM") else metric(name)
    kind = "poincare" if "poincare_1" in golden else "trivial"
    through = "nodetach" in name
    layer = LieBNCor(manifold, bias=kind, channels=channels(name), grad_through_stats=through, dtype=F64)
    with torch.no_grad():
        if kind == "trivial":
            layer.free.copy_(golden["weight"])
        else:
            for own, y in zip(layer.rows, rows_of(golden), strict=True):
                getattr(layer, own).copy_(y)
        layer.scale = per_channel(golden, "shift")
    tools.close(in_code(layer, layer.running_mean), golden["running_mean_init"], VALUES)
    out, grad = train(layer, golden)
    tools.close(out, golden["out_train"], VALUES)
    tools.close(hollow(grad), golden["grad_X_hollow"], GRADIENTS)
    tools.close(layer.signed_scale.grad, per_channel(golden, "grad_shift"), GRADIENTS)
    if kind == "poincare":
        for own, expected in zip(layer.rows, rows_of(golden, "grad_poincare"), strict=True):
            tools.close(getattr(layer, own).grad, expected, GRADIENTS)
    tools.close(in_code(layer, layer.running_mean), golden["running_mean"], VALUES)
    tools.close(layer.running_var, per_channel(golden, "running_var"), VALUES)
    x = golden["X_eval"].clone().requires_grad_()
    evaluated = layer.eval()(x)
    tools.close(evaluated, golden["out_eval"], VALUES)
    (grad,) = torch.autograd.grad((golden["C_eval"] * evaluated).sum(), x)
    tools.close(hollow(grad), hollow(golden["grad_X_eval"]), GRADIENTS)


def test_published_layer_trains_its_bias_in_the_balls() -> None:
    layer = LieBNCor(CorrelationOffLog(3), dtype=F64)
    x = CorrelationOffLog(3).random_point(6, dtype=F64)
    layer(x)[..., 0, 1].sum().backward()
    assert type(layer.poincare_2).__name__ == "ManifoldParameter"
    assert layer.poincare_1.grad.abs().max() > 0
    layer.bias_point = x[0]
    torch.testing.assert_close(layer.bias_point, x[0])
    free = LieBNCor(CorrelationOffLog(3), bias="trivial", dtype=F64)
    with pytest.raises(ValueError, match="free matrix"):
        free.bias_point = x[0]
    copy = LieBNCor(CorrelationOffLog(3), dtype=F64)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy.eval()(x), layer.eval()(x))
    with pytest.raises(ValueError, match="'poincare' or 'trivial'"):
        LieBNCor(CorrelationOffLog(3), bias="tangent")
