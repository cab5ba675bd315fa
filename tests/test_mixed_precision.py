"""The claims of docs/training.md on precision: networks in float32 against float64, and under autocast with scaling."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn

F64 = torch.float64
N = 12


def conditioned(decades: float) -> Callable[[int], Tensor]:
    """Return a maker of positive-definite matrices whose eigenvalues span so many decades."""

    def make(batch: int) -> Tensor:
        vectors = torch.linalg.qr(torch.randn(batch, N, N, dtype=F64))[0]
        values = torch.logspace(-decades, 0, N, dtype=F64) * (0.3 * torch.randn(batch, N, dtype=F64)).exp()
        return (vectors * values[:, None]) @ vectors.mT

    return make


def spd(norm: object) -> Callable[[], nn.Module]:
    return lambda: mn.models.SPDNet([N, 6], 4, norm=norm)


SPD = {
    "SPDNet": spd(None),
    "affine-invariant": spd(mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant)),
    "log-Euclidean": spd(mn.nn.LieBatchNorm.of(mn.LogEuclidean)),
    "log-Cholesky": spd(mn.nn.LieBatchNorm.of(mn.LogCholesky)),
    "Bures-Wasserstein": spd(mn.nn.BuresWassersteinBatchNorm.of()),
    "momentum": spd(mn.nn.MomentumBatchNorm.of(mn.AffineInvariant, train=0.5)),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "GrassmannNet": (
        lambda: mn.models.GrassmannNet([N, 8], 3, 4, norm=mn.nn.GyroBatchNorm),
        lambda batch: mn.Grassmann(N, 3).random_point(batch, dtype=F64),
    ),
    "SSVEPNet": (
        lambda: mn.models.SSVEPNet(8, 5, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean)),
        lambda batch: torch.randn(batch, 8, 125, dtype=F64),
    ),
    "PoincareResNet": (
        lambda: mn.models.PoincareResNet(1, 2, norm=mn.nn.GyroBatchNorm, widths=(4, 4, 4), depth=8),
        lambda batch: torch.randn(batch, 1, 8, 8, dtype=F64),
    ),
}


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return outputs in training, the gradient of a loss in all parameters, and outputs in evaluation."""
    y = model.train()(x)
    nn.functional.cross_entropy(y, torch.arange(len(y)) % 2).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [y.detach(), gradient, model.eval()(x).detach()]


def apart(make: Callable[[], nn.Module], data: Callable[[int], Tensor]) -> float:
    """Return the largest relative difference between one step in float32 and the same one in float64."""
    model, x = make(), data(16).float()
    wide = copy.deepcopy(model).double()
    pairs = zip(step(model, x), step(wide, x.double()), strict=True)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", [*SPD, *OTHERS])
def test_networks_in_single_precision(name: str) -> None:
    make, data = OTHERS.get(name) or (SPD[name], conditioned(1))
    assert apart(make, data) < 5e-6


@pytest.mark.parametrize("name", SPD)
def test_networks_in_single_precision_on_ill_conditioned_matrices(name: str) -> None:
    assert apart(SPD[name], conditioned(6)) < 2e-3


# ---- autocast


class Signals(nn.Sequential):
    """Features in half precision, and what follows from their covariance."""

    def __init__(self) -> None:
        norm = mn.nn.RiemannianBatchNorm(mn.AffineInvariant(4), bias="manifold")
        super().__init__(nn.Conv1d(4, 4, 3), mn.nn.Covariance(), norm, mn.nn.LogEig(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_layers_take_half_precision_and_return_single(half: torch.dtype) -> None:
    model, seen = Signals(), []
    for layer in model:
        layer.register_forward_hook(lambda layer, inputs, y: seen.append((inputs[0].dtype, y.dtype)))
    with torch.autocast("cpu", half):
        model(torch.randn(6, 4, 40))
    single = torch.float32
    assert seen == [
        (single, half),
        (half, single),
        (single, single),
        (single, single),
        (single, single),
        (single, half),
    ]
    assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {single}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [mn.optim.RiemannianAdam, torch.optim.AdamW], ids=["Riemannian", "torch"])
def test_scaled_gradients(make: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = Signals()
    if make is torch.optim.AdamW:
        model[2] = mn.nn.RiemannianBatchNorm(mn.AffineInvariant(4))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1000)
    search, x, labels = make(model.parameters(), lr=1e-2), torch.randn(12, 4, 40), torch.arange(12) % 3
    losses = []
    for number in range(8):
        search.zero_grad()
        before = copy.deepcopy(model.state_dict())
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(model(x), labels)
        scaler.scale(loss).backward()
        if number == 3:
            next(model.parameters()).grad[0] = torch.inf
        scaler.step(search)
        scaler.update()
        if number == 3:  # skipped: no parameter moves; the statistics of the forward pass stay, they were sound
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
            assert scaler.get_scale() == 2.0**11
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    manifold = model[2].manifold
    assert float(manifold.violation(model[2].bias_point.detach())) < 1e-5
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_unscaled_gradients_are_the_gradients() -> None:
    model, x = Signals(), torch.randn(12, 4, 40)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    gradients = []
    for scale in (scaler.scale, lambda loss: loss):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            scale(model(x).square().mean()).backward()
        gradients.append([p.grad.clone() for layer in list(model)[1:] for p in layer.parameters()])
    for scaled, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(scaled / 2.0**10, plain, rtol=1e-2, atol=1e-4)  # the Linear layer is bfloat16


def test_rounded_matrices_may_be_indefinite_and_are_named() -> None:
    x = conditioned(4)(6)
    norm = mn.nn.LieBatchNorm(mn.LogEuclidean(N))
    assert norm(x.float()).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        norm(x.bfloat16())


def test_a_network_is_not_converted_to_half_precision() -> None:
    model = mn.models.SPDNet([N, 6], 2, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean)).bfloat16()
    with pytest.raises(TypeError, match=r"torch\.bfloat16"):
        model(conditioned(1)(4).bfloat16())
