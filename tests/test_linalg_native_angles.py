"""Principal angles in the compiled kernels: the same numbers as the formulas in torch, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.linalg import backend
from manifoldnorm.linalg.native import kernels
from manifoldnorm.linalg.principal import dilate, principal, squared_length, velocity

F64 = torch.float64
pytestmark = pytest.mark.skipif(isinstance(kernels(), str), reason="no compiled kernels")
SHAPES = [(10, 40, (5,)), (3, 2, (4, 2)), (1, 1, (3,)), (2, 4, ()), (8, 8, (3,)), (17, 33, (3,))]


def evaluate(rows: Tensor, t: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Values and, along the manifold, gradients."""
    p, n = rows.shape[-2:]
    leaf, time = rows.clone().requires_grad_(), t.clone().requires_grad_()
    angles = principal(*leaf.split([p, n - p], -1))
    values = [dilate(angles, time), velocity(angles), squared_length(angles)]
    found = [v.detach() for v in values]
    for value, weight in zip(values, weights, strict=True):
        inputs = [leaf, time] if value is values[0] else [leaf]
        gradients = torch.autograd.grad((value * weight).sum(), inputs, retain_graph=True)
        found += [gradients[0] - gradients[0] @ rows.mT @ rows, *gradients[1:]]
    return found


@pytest.mark.parametrize("scale", [0.7, 1.0, 40.0])
@pytest.mark.parametrize(("p", "m", "batch"), SHAPES)
def test_kernels_equal_the_formulas(p: int, m: int, batch: tuple[int, ...], scale: float) -> None:
    manifold = mn.Grassmann(p + m, p)
    x = manifold.random_point(*batch, dtype=F64)
    if batch:
        x[0] = manifold.origin(dtype=F64)  # all angles 0
    t = scale * (0.5 + torch.rand(batch, dtype=F64))
    weights = [torch.randn(*batch, p, k, dtype=F64) for k in (p + m, m)] + [torch.randn(batch, dtype=F64)]
    results = []
    for mode in ("torch", "auto"):
        with backend(mode):
            results.append(evaluate(x.mT.contiguous(), t, weights))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-13 * scale, rtol=1e-12)


def test_small_equal_and_right_angles() -> None:
    """Where formulas divide by sines of sums and differences of angles."""
    for angles in ([1e-9, 1e-9, 1e-4], [0.3, 0.3, 0.3], [0.0, 1e-12, 1.5], [1.2, 1.5707, 0.0]):
        theta = torch.tensor(angles, dtype=F64)
        turn = torch.linalg.qr(torch.randn(4, 3, 3, dtype=F64))[0]
        rows = turn @ torch.cat([theta.cos().diag(), theta.sin().diag()], -1)
        t = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=F64)
        weights = [torch.randn(4, 3, k, dtype=F64) for k in (6, 3)] + [torch.randn(4, dtype=F64)]
        results = []
        for mode in ("torch", "auto"):
            with backend(mode):
                results.append(evaluate(rows, t, weights))
        size = 1 / (1e-2 + theta.cos().min())  # derivatives lose digits towards right angles
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-12 * float(size), rtol=1e-10 * float(size))


def test_a_sample_that_is_not_finite_leaves_the_others_alone() -> None:
    x = mn.Grassmann(6, 2).random_point(4, dtype=F64).mT.contiguous()
    bad = x.clone()
    bad[1] = torch.nan
    sound = torch.tensor([0, 2, 3])
    got = dilate(principal(*bad.split([2, 4], -1)), 0.5)
    assert torch.equal(got[sound], dilate(principal(*x.split([2, 4], -1)), 0.5)[sound])
    assert bool(got[1].isnan().all())


def test_a_result_does_not_depend_on_the_threads() -> None:
    x = mn.Grassmann(20, 6).random_point(600, dtype=F64).mT.contiguous()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(dilate(principal(*x.split([6, 14], -1)), 0.5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
