"""Networks: shapes, training, states, and the folded convolutions against the layers they stand for."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.models.ssvep import FoldedConvolutions

NORMS = {
    "none": None,
    "riemannian": mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant),
    "gyro": mn.nn.GyroBatchNorm.of(mn.AffineInvariant),
    "lie": mn.nn.LieBatchNorm.of(mn.LogEuclidean),
    "power": mn.nn.LieBatchNorm.of(mn.PowerDeformed.of(mn.LogCholesky, 0.5)),
    "bures": mn.nn.BuresWassersteinBatchNorm,
}


def _matrices(n: int, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(batch, n, 3 * n, dtype=dtype)
    return x @ x.mH / (3 * n)


@pytest.mark.parametrize("name", NORMS)
def test_spdnet_trains_with_every_norm(name: str) -> None:
    x, y = _matrices(6, 24), torch.arange(24) % 3
    x[y == 1, 0, 0] += 2.0
    x[y == 2, 1, 1] += 2.0
    net = mn.models.SPDNet([6, 5, 4], 3, norm=NORMS[name], dtype=torch.float64)
    optimizer = torch.optim.AdamW(mn.optim.no_decay_groups(net), lr=2e-2)
    first = nn.functional.cross_entropy(net(x), y)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first.item()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_spdnet_takes_hermitian_matrices() -> None:
    net = mn.models.SPDNet([6, 4], 3, norm=NORMS["riemannian"], field="complex", dtype=torch.complex128)
    scores = net(_matrices(6, 5, torch.complex128))
    assert scores.shape == (5, 3) and scores.dtype == torch.float64
    assert net.classifier.in_features == 16
    scores.sum().backward()
    assert net.features[0].raw_weight.grad.is_complex()


def test_spdnet_has_no_rectification_after_the_last_block_unless_asked() -> None:
    def kinds(**options: bool) -> list[str]:
        return [type(layer).__name__ for layer in mn.models.SPDNet([6, 5, 4], 2, **options).features]

    assert kinds() == ["BiMap", "ReEig", "BiMap", "LogEig"]
    assert kinds(rectify_last=True) == ["BiMap", "ReEig", "BiMap", "ReEig", "LogEig"]


def test_spdnet_with_weights_on_the_manifold_stays_orthogonal_under_a_riemannian_optimizer() -> None:
    net = mn.models.SPDNet([6, 4], 2, parametrization="manifold", dtype=torch.float64)
    optimizer = mn.optim.RiemannianAdam(net.parameters(), lr=1e-2)
    x, y = _matrices(6, 16), torch.arange(16) % 2
    before = net.features[0].weight.detach().clone()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    after = net.features[0].weight.detach()
    assert (after - before).norm() > 1e-2
    torch.testing.assert_close(after.mT @ after, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)


def test_spdnet_names_too_few_sizes() -> None:
    with pytest.raises(ValueError, match=r"sizes needs an input and at least one output size, got \[4\]"):
        mn.models.SPDNet([4], 2)


@pytest.mark.parametrize("name", ["riemannian", "lie"])
def test_spdnet_state_round_trip_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    net = mn.models.SPDNet([5, 4], 2, norm=NORMS[name], dtype=torch.float64)
    net(_matrices(5, 12))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = mn.models.SPDNet([5, 4], 2, norm=NORMS[name], dtype=torch.float64)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    x = _matrices(5, 3)
    assert torch.equal(net.eval()(x), other.eval()(x))


# ---- the front of SSVEPNet


def _signals(dtype: torch.dtype = torch.float64) -> Tensor:
    mixing = torch.randn(8, 8, dtype=dtype)
    return 30 * mixing @ torch.randn(12, 8, 125, dtype=dtype) + 20  # correlated, with an offset, in microvolts


def test_folded_convolutions_equal_the_layers_in_training() -> None:
    folded = FoldedConvolutions(8, 25, 6, 36).double()
    plain = copy.deepcopy(folded)
    for _ in range(3):
        x = _signals()
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, expected = folded(a), plain.plain(b)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
        direction = torch.randn_like(out)
        (out * direction).sum().backward()
        (expected * direction).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-13)
    for (name, p), q in zip(folded.named_parameters(), plain.parameters(), strict=True):
        # a batch norm cancels the biases of the convolutions: their gradient is 0 up to rounding
        size = 1.0 if name in ("0.bias", "2.bias") else q.grad.abs().max().item()
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-10 * size)
    for p, q in zip(folded.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_folded_convolutions_equal_the_layers_in_evaluation() -> None:
    folded = FoldedConvolutions(8, 25, 6, 36).double()
    folded(_signals())
    folded.eval()
    before = [buffer.clone() for buffer in folded.buffers()]
    x = _signals()
    torch.testing.assert_close(folded(x), folded.plain(x), rtol=0, atol=1e-11)
    assert all(torch.equal(p, q) for p, q in zip(folded.buffers(), before, strict=True))


def test_folded_convolutions_equal_the_layers_in_single_precision() -> None:
    folded = FoldedConvolutions(8, 125, 15, 36)
    x = _signals(torch.float32)
    exact = copy.deepcopy(folded).double().plain(x.double())
    assert (folded(x).double() - exact).abs().max() < 1e-4 * exact.abs().max()


def test_ssvepnet_has_the_published_number_of_parameters_in_its_layers() -> None:
    net = mn.models.SSVEPNet(8, 5)
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in net.front.named_children()}
    assert count == {"0": 8 * 125 + 125, "1": 250, "2": 125 * 15 * 36 + 15, "3": 30}
    assert net.features[0].raw_weight.shape == (15, 12)


def test_ssvepnet_does_not_depend_on_the_unit_of_the_signal() -> None:
    torch.manual_seed(1)
    net = mn.models.SSVEPNet(8, 5, norm=NORMS["lie"])
    x = _signals()
    torch.testing.assert_close(net(x), net(x * 1e3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_ssvepnet_gives_gradients_to_every_parameter(name: str) -> None:
    net = mn.models.SSVEPNet(8, 5, norm=NORMS[name])
    x = _signals()
    nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 5).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
