"""Programs of `torch.export`: written, read again, and equal to the module they came from, in both modes."""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifoldnorm.testing.catalogue import NORMS

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "traces.py"
QUICK = {"Lie-LogEuclidean", "Riemannian-AffineInvariant", "Gyro-Grassmann", "Gyro-PoincareBall-learned"}
EVERY_NORM = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NORMS]
each_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.fixture(scope="module")
def traces() -> Any:
    spec = importlib.util.spec_from_file_location("traces", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reloaded(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Export for any batch size, write the program, and read it again."""
    batch, edges = torch.export.Dim("batch", min=2, max=512), torch.export.Dim("edges", min=2, max=512)
    shapes = tuple({0: batch} if len(x) == len(inputs[0]) else {1: edges} for x in inputs)  # edges are (2, E)
    program, file = (
        torch.export.export(copy.deepcopy(module), inputs, dynamic_shapes=shapes, strict=False),
        io.BytesIO(),
    )
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@torch.no_grad()
def check(module: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]], training: bool) -> None:
    """Steps with batches of two sizes give the module's outputs and buffers."""
    module = module.double().train(training)
    program = reloaded(module, inputs(7))
    for batch in (7, 5):
        x = inputs(batch)
        torch.testing.assert_close(program(*x), module(*x), rtol=1e-9, atol=1e-10)
    state = module.state_dict()
    assert state.keys() <= program.state_dict().keys()
    for name, value in program.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-9, atol=1e-10)
        assert not value.requires_grad


@pytest.mark.filterwarnings("ignore")
@each_mode
@pytest.mark.parametrize("name", EVERY_NORM)
def test_norms(name: str, training: bool, traces: Any) -> None:
    case = traces.of_norm(NORMS[name][0]())
    check(case.module, case.inputs, training)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@each_mode
@pytest.mark.parametrize("group", ["policies", "domain_norms", "layers", "networks"])
def test_the_others(group: str, training: bool, traces: Any) -> None:
    for name, case in getattr(traces, group)().items():
        try:
            check(case.module, case.inputs, training)
        except Exception as error:
            raise AssertionError(f"{group}: {name}: {error}") from error


def test_a_program_keeps_values_but_no_gradients(traces: Any) -> None:
    """As docs/compilation.md says: of an autograd Function torch exports the forward pass only."""
    case = traces.layers()["LogEig"]
    x = case.inputs(4)[0].requires_grad_()
    assert case.module(x).requires_grad and not reloaded(case.module, (x,))(x).requires_grad
