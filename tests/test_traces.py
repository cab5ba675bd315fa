"""benchmarks/traces.py counts what it says: graph breaks, recompilations, and neither in layers and norms."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "traces.py"


@pytest.fixture(scope="module")
def traces() -> ModuleType:
    spec = importlib.util.spec_from_file_location("traces", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Broken(nn.Module):
    """A module with one graph break."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sin()
        torch._dynamo.graph_break()
        return y.cos()


class Branching(nn.Module):
    """A module with another graph for large batches."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if x.shape[0] > 5 else x.cos()


class Specialising(nn.Module):
    """A module with a graph for each batch size, the first of which AOT backends start twice (for `weight`)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.3

    def forward(self, x: Tensor) -> Tensor:
        return x.lerp(x.sin(), self.weight) * float(str(x.shape[0]))


class Restarted(Specialising):
    """The same with one graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.lerp(x.sin(), self.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [True, False])
def test_recompilations_are_those_for_other_sizes(traces: ModuleType, backend: str, training: bool) -> None:
    def count(module: nn.Module) -> int:
        return int(traces.trace(traces.Case(module, traces.noise(4)), training, backend).recompilations)

    assert count(Restarted()) == 0
    assert count(Branching()) == 1
    assert count(Specialising()) == len(traces.BATCHES) - 1


@pytest.mark.filterwarnings("ignore")
def test_counts(traces: ModuleType) -> None:
    assert traces.trace(traces.Case(Broken(), traces.noise(4)), True, "eager") == (1, 0)
    assert traces.trace(traces.Case(Branching(), traces.noise(4)), True, "eager") == (0, 1)
    rows = traces.rows_of("layer", {"a": traces.Case(Broken(), traces.noise(4))}, "eager")
    assert rows == [["layers", "1", "1", "0", "1", "0"], ["layer: a", "1", "1", "0", "1", "0"]]


@pytest.mark.filterwarnings("ignore")
def test_a_layer_and_a_domain_norm_are_clean(traces: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert traces.main(["--only", "layer: Cov"]) == 0
    assert "| layers | 1 | 0 | 0 | 0 | 0 |" in capsys.readouterr().out
    assert traces.main(["--only", "domain norm: log-Cho"]) == 0
    assert "| domain norms | 1 | 0 | 0 | 0 | 0 |" in capsys.readouterr().out
