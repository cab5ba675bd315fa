"""A batch that a GPU's solver does not take in one call is cut and put together again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manifoldnorm.linalg import _slices


class _OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("batch", [(0,), (4,), (5,), (3, 7), (2, 1, 4)])
def test_slices_are_put_together_in_order(batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slices, "LARGEST", 4)
    a = torch.randn(*batch, 3, 3, dtype=torch.float64)
    a = a + a.mT
    sizes = []

    def solve(part: Tensor) -> tuple[Tensor, ...]:
        sizes.append(part.shape[:-2].numel())
        return tuple(torch.linalg.eigh(part.as_subclass(torch.Tensor)))

    values, vectors = _slices.in_slices(solve, a.as_subclass(_OnDevice))
    assert max(sizes) <= 4 and sum(sizes) == torch.Size(batch).numel()
    expected, basis = torch.linalg.eigh(a)
    assert torch.equal(values, expected) and torch.equal(vectors, basis)


def test_on_cpu_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slices, "LARGEST", 1)
    sizes = []

    def solve(a: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(a))
        return (a,)

    _slices.in_slices(solve, torch.eye(2).expand(3, 2, 2))
    assert sizes == [3]
