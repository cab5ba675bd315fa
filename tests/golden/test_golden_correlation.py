"""Correlation matrices as products of hyperbolic rows, and the four flat charts: `correlation.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import GyroBatchNorm, RiemannianBatchNorm
from manifoldnorm.stats import Exact

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "gyro" / "correlation.npz"
POLY = mn.CorrelationPolyHyperbolic(4)
FLAT = {
    "ECM": mn.CorrelationEuclideanCholesky(4),
    "LECM": mn.CorrelationLogEuclideanCholesky(4),
    "OLM": mn.CorrelationOffLog(4),
    "LSM": mn.CorrelationLogScaling(4),
}
F64 = torch.float64


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not FILE.is_file():
        pytest.skip("the golden numbers (../shared/golden/gyro) are not here")
    with np.load(FILE) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key], dtype=np.float64)) for key in arrays.files}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    error = float((actual.detach() - expected).abs().max() / expected.abs().max().clamp_min(1))
    assert error <= tolerance, f"error {error:.2e} exceeds {tolerance:.0e}"


def hollow(a: Tensor) -> Tensor:
    a = (a + a.mT) / 2
    return a - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1))


def test_metric(golden: dict[str, Tensor]) -> None:
    a, b, u = golden["A"], golden["B"], golden["U"]
    close(POLY.dist(a, b), golden["ref_dist"])
    close(POLY.dist(a, b), golden["geomstats_dist"])
    close(POLY.log(a, b), golden["geomstats_log"])
    close(POLY.exp(a, u), golden["geomstats_exp"])
    close(POLY.inner(a, u, u), golden["geomstats_inner"])
    rows = POLY.chart(a)
    for i in (1, 2, 3):
        close(rows[..., i, :i], golden[f"liebn_poincare_row{i}"])


def test_gyrogroup(golden: dict[str, Tensor]) -> None:
    a, b, c, t = (golden[k] for k in ("A", "B", "C", "t"))
    close(POLY.gyroadd(a, b), golden["ref_gyroadd"])
    close(POLY.gyroneg(a), golden["ref_gyroinv"])
    close(POLY.gyroscale(t.flatten(), a), golden["ref_gyroscal"])
    close(POLY.gyration(a, b, c), golden["ref_gyration"])


def test_mean(golden: dict[str, Tensor]) -> None:
    mean = POLY.frechet_mean(golden["X"])
    close(mean, golden["ref_mean"])
    close(POLY.squared_dist(mean, golden["X"]).mean(), golden["ref_var"])


@pytest.mark.parametrize("kind", [GyroBatchNorm, RiemannianBatchNorm])
def test_layer(golden: dict[str, Tensor], kind: type) -> None:
    layer = kind(POLY, mean=Exact(), bias="manifold", eps=float(golden["eps"]), dtype=F64)
    layer.bias_point, layer.scale = golden["Bpoint"][0], float(golden["s"])
    frozen = kind(POLY, mean=Exact(), grad_through_stats=False, eps=float(golden["eps"]), dtype=F64)
    frozen.bias_point, frozen.scale = golden["Bpoint"][0], float(golden["s"])
    for own, key in ((frozen, "ref_bn_gradX_detach"), (layer, "ref_bn_gradX_full")):
        x = golden["X"].clone().requires_grad_()
        y = own(x)
        close(y, golden["ref_bn_Y1"])
        (golden["W"] * y).sum().backward()
        assert x.grad is not None
        close(hollow(x.grad), golden[key], 1e-10)
        assert bool((y.diagonal(dim1=-2, dim2=-1) == 1).all())
    # the file's running statistics start at those of the first batch
    layer.running_mean.copy_(golden["ref_bn_mean1"])
    layer.running_var.copy_(golden["ref_bn_var1"])
    layer(golden["X2"])
    close(layer.running_mean, golden["ref_bn_rm2"])
    close(layer.running_var, golden["ref_bn_rv2_momentum"])
    close(layer.eval()(golden["X3"]), golden["ref_bn_eval3"])


@pytest.mark.parametrize("name", FLAT)
def test_flat_charts(golden: dict[str, Tensor], name: str) -> None:
    metric = FLAT[name]
    a, b = golden["A"], golden["B"]
    close(metric.chart(a), golden[f"liebn_{name}_phi_A"], 1e-6 if name in ("OLM", "LSM") else 1e-11)
    close(metric.chart(b), golden[f"liebn_{name}_phi_B"], 1e-6 if name in ("OLM", "LSM") else 1e-11)
    # the code's off-log and log-scaled solves stop at 1e-6
    total = metric.compose(a, b)
    close(total, golden[f"liebn_{name}_sum"], 5e-6 if name in ("OLM", "LSM") else 1e-11)
    close(metric.gyroadd(a, b), total)
