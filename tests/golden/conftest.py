"""Golden numbers of the published codes: loading them, running a layer on them, comparing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import CholeskyInverse, TraceScaling

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "spd"


def sym(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


class Golden:
    """The arrays of one published run, as float64 tensors; `name` carries the layer's options."""

    def __init__(self, name: str) -> None:
        self.name = name
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.arrays = {key: torch.from_numpy(np.array(arrays[key], dtype=np.float64)) for key in arrays.files}

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    @property
    def channels(self) -> int | None:
        return 2 if self.name.endswith("_c2") else None

    def per_channel(self, key: str) -> Tensor:
        """A scalar per channel, (C?)."""
        value = self[key].flatten()
        return value if self.channels else value[0]


@dataclass
class Run:
    """What one training forward of a layer gives: output, gradients, and the layer after it."""

    layer: Any
    out: Tensor
    grad_x: Tensor
    grad_bias: Tensor | None
    grad_scale: Tensor | None


class Tools:
    @staticmethod
    def load(name: str) -> Golden:
        return Golden(name)

    @staticmethod
    def close(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-10) -> None:
        """Largest error, relative to the largest entry where that exceeds one."""
        assert actual is not None
        error = (actual.detach() - expected).abs().max() / expected.abs().max().clamp_min(1)
        assert error <= tolerance, f"error {error:.2e} exceeds {tolerance:.0e}"

    @staticmethod
    def prepare(layer: Any, golden: Golden) -> Any:
        """Set the bias point and the scale of the published run."""
        layer = layer.double()
        if layer.bias_kind:
            layer.bias_point = golden["weight"]
        if "shift" in golden and layer.scale is not None:
            layer.scale = golden.per_channel("shift")
        return layer

    @staticmethod
    def train(layer: Any, golden: Golden) -> Run:
        """One training forward and backward, the gradient of the scale itself rather than of its logarithm."""
        layer.train()
        x = golden["X"].clone().requires_grad_()
        out = layer(x)
        (golden["C"] * out).sum().backward()
        parameters = dict(layer.named_parameters())
        bias, log_scale, signed = (parameters.get(k) for k in ("bias_on_manifold", "log_scale", "signed_scale"))
        if log_scale is not None and log_scale.grad is not None:
            grad_scale = log_scale.grad / log_scale.detach().exp()
        else:
            grad_scale = None if signed is None else signed.grad
        assert x.grad is not None
        return Run(layer, out.detach(), sym(x.grad), None if bias is None else bias.grad, grad_scale)

    @staticmethod
    def evaluate(layer: Any, golden: Golden) -> tuple[Tensor, Tensor]:
        """The evaluation output and the gradient of its input."""
        layer.eval()
        x = golden["X_eval"].clone().requires_grad_()
        out = layer(x)
        (grad,) = torch.autograd.grad((golden["C_eval"] * out).sum(), x)
        return out.detach(), sym(grad)

    @staticmethod
    def codes_chart(layer: Any) -> Callable[[Tensor], Tensor]:
        """Map from the layer's manifold to the coordinates of the code: without (alpha, beta) and the group inverse."""
        chart, _, _ = mn.manifolds.flatten(layer.manifold)
        last = mn.nn.published.geometries.last_chart(chart)

        def to_code(point: Tensor) -> Tensor:
            y = point if chart is None else chart(point)
            return last.inverse(y) if isinstance(last, (TraceScaling, CholeskyInverse)) else y

        return to_code

    @staticmethod
    def from_code(layer: Any, coordinates: Tensor) -> Tensor:
        """The point of the layer's manifold with these coordinates in the published code."""
        chart, _, _ = mn.manifolds.flatten(layer.manifold)
        last = mn.nn.published.geometries.last_chart(chart)
        y = last(coordinates) if isinstance(last, (TraceScaling, CholeskyInverse)) else coordinates
        return y if chart is None else chart.inverse(y)

    @staticmethod
    def buffer_in_code(layer: Any) -> Tensor:
        """The running mean of a published norm, which is kept in the chart, in the coordinates of the code."""
        chart, _, _ = mn.manifolds.flatten(layer.manifold)
        last = mn.nn.published.geometries.last_chart(chart)
        own = isinstance(last, (TraceScaling, CholeskyInverse))
        return last.inverse(layer.running_mean) if own else layer.running_mean

    @staticmethod
    def finite_difference(f: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, h: float = 1e-4) -> Tensor:
        """Fourth-order central difference of a scalar function along a direction."""
        near = f(at + h * direction) - f(at - h * direction)
        far = f(at + 2 * h * direction) - f(at - 2 * h * direction)
        return (8 * near - far) / (12 * h)


@pytest.fixture(scope="session")
def tools() -> Tools:
    if not FOLDER.is_dir():
        pytest.skip("the golden numbers (../shared/golden/spd) are not here")
    return Tools()
