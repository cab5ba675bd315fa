"""The published hyperbolic norms against the numbers of their own codes, and what their quirks do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import published
from manifoldnorm.stats import Exact

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "golden" / "gyro"
F64 = torch.float64
golden = pytest.mark.skipif(not FOLDER.is_dir(), reason="the golden numbers (../shared/golden/gyro) are not here")


def load(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.array(arrays[key], dtype=np.float64)) for key in arrays.files}


def close(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert actual is not None and actual.shape == expected.shape
    error = (actual.detach() - expected).abs().max() / expected.abs().max().clamp_min(1)
    assert error <= tolerance, f"error {error:.2e} exceeds {tolerance:.0e}"


@golden
def test_gyrobnh() -> None:
    g = load("poincare_layer_K-1")
    layer = published.GyroBNH(3, dtype=F64)
    with torch.no_grad():
        layer.bias.copy_(g["b_tan"][0])
        layer.spread.copy_(g["s"])
    x = g["X1"].clone().requires_grad_()
    y = layer(x)
    (g["W"] * y).sum().backward()
    close(y, g["off_Y1"], 1e-11)
    close(x.grad, g["off_gradX"])
    close(layer.bias.grad, g["off_grad_mean_param"])
    close(layer.spread.grad, g["off_grad_var_param"])
    close(layer.running_mean, g["off_rm1"], 1e-11)
    close(layer.running_var, g["off_rv1"], 1e-11)
    close(layer(g["X2"]), g["off_Y2"], 1e-11)
    close(layer.running_mean, g["off_rm2"], 1e-11)
    close(layer.running_var, g["off_rv2"], 1e-11)
    close(layer.eval()(g["X3"]), g["off_eval3"], 1e-11)


@golden
@pytest.mark.parametrize("name", ["poincare", "hyperboloid"])
def test_rbnh(name: str) -> None:
    g = load(f"{name}_layer_K-1")
    m = mn.PoincareBall(3) if name == "poincare" else mn.Lorentz(3)
    layer = published.RBNH(m, dtype=F64)
    with torch.no_grad():
        layer.bias.copy_(g["b_tan"][0])
        layer.spread.copy_(g["s"])
    x = g["X1"].clone().requires_grad_()
    y = layer(x)
    (g["W"] * y).sum().backward()
    close(y, g["rbnh_Y1"], 1e-11)
    assert x.grad is not None
    close(m.egrad2rgrad(g["X1"], x.grad), m.egrad2rgrad(g["X1"], g["rbnh_gradX"]))
    skip = len(m.origin()) - 3  # the time coordinate of a vector at the origin is no parameter
    close(layer.bias.grad[skip:], g["rbnh_grad_mean_param"][skip:])
    close(layer.spread.grad, g["rbnh_grad_var_param"])
    close(layer(g["X2"]), g["rbnh_Y2"], 1e-11)
    close(layer.running_mean, g["rbnh_rm2"], 1e-11)
    close(layer.running_var, g["rbnh_rv2"], 1e-11)
    out = layer.eval()(g["X3"])
    if name == "poincare":
        close(out, g["rbnh_eval3"], 1e-11)
    else:  # the code leaves the hyperboloid here: vectors at the running mean are none at the bias
        assert float(m.violation(g["rbnh_eval3"]).max()) > 1e-3
        assert float(m.violation(out.detach()).max()) < 1e-14


@golden
@pytest.mark.parametrize("mean", ["mid", "fm"])
@pytest.mark.parametrize("code", ["resnet", "hypll"])
def test_poincare_midpoint_bn(mean: str, code: str) -> None:
    g = load("poincare_midpoint_bn")
    options = {} if mean == "mid" else {"mean": Exact()}
    layer = published.PoincareMidpointBN(3, tangent=code == "resnet", dtype=F64, **options)
    with torch.no_grad():
        layer.bias.copy_(g["b"])
        layer.spread.copy_(g["gamma"])
    x = g["T1" if code == "resnet" else "X1"].clone().requires_grad_()
    y = layer(x)
    (g["W"] * y).sum().backward()
    prefix, mean_key, spread_key = f"{code}_{mean}", "mean" if code == "resnet" else "bias", "var"
    spread_key = "var" if code == "resnet" else "weight"
    close(y, g[f"{prefix}_Y"], 1e-11)
    close(x.grad, g[f"{prefix}_gradX"])
    assert layer.spread.grad is not None
    close(layer.spread.grad, g[f"{prefix}_grad{spread_key}"])
    close(layer.bias.grad, g[f"{prefix}_grad{mean_key}"])
    if code == "resnet":
        close(layer.eval()(g["T2"]), g[f"{prefix}_eval"], 1e-11)


@golden
def test_the_clean_midpoint_layer_is_the_published_one_with_running_statistics() -> None:
    g = load("poincare_midpoint_bn")
    layer = mn.nn.PoincareMidpointBatchNorm(3, eps=1e-6, dtype=F64)
    layer.scale = g["gamma"].sqrt()
    with torch.no_grad():
        layer.bias.copy_(g["b"])
    close(layer(g["X1"]), g["hypll_mid_Y"], 1e-11)
    off = layer.manifold.dist(layer.bias_point, layer.manifold.midpoint(g["hypll_mid_Y"]))
    assert abs(float(off.detach()) - 0.064) < 1e-3  # the midpoint is not where the bias is


def test_lorentz_centroid_bn() -> None:
    m = mn.Lorentz(4)
    x = m.random_point(32, dtype=F64, generator=torch.Generator().manual_seed(0))
    layer = published.LorentzCentroidBN(4, dtype=F64, momentum=0.25)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.0, 0.3, -0.2, 0.1, 0.4]))
        layer.spread.fill_(0.7)
    y = layer(x)
    distance = m.dist(m.midpoint(x), x).mean()
    close(m.dist(layer.bias_point, y).mean(), 0.7 * distance / (distance + 1e-5), 1e-12)
    close(layer.running_var, 0.75 + 0.25 * distance, 1e-12)
    blend = m.midpoint(torch.stack([m.origin(dtype=F64), m.midpoint(x)]), torch.tensor([0.75, 0.25], dtype=F64))
    close(layer.running_mean, blend, 1e-12)
    layer.eval()
    close(layer(x[:3]), layer(x)[:3], 1e-12)


@pytest.mark.parametrize(
    "kind", [published.GyroBNH, published.RBNH, published.PoincareMidpointBN, published.LorentzCentroidBN]
)
def test_trains_resumes_and_resets(kind: type[published.HyperbolicNorm]) -> None:
    layer = kind.of()(4).double()
    fresh = {k: v.clone() for k, v in layer.state_dict().items()}
    x = layer.manifold.random_point(16, dtype=F64, generator=torch.Generator().manual_seed(0))
    if kind is published.PoincareMidpointBN:
        x = layer.manifold.tangent_from_point(x)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert any(not torch.equal(fresh[k], v) for k, v in layer.state_dict().items())
    other = kind(4, dtype=F64)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    layer.reset_parameters()
    assert all(torch.equal(fresh[k], v) for k, v in layer.state_dict().items())
