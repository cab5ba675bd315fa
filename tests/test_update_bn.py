"""`update_bn`: running statistics from one pass over a loader."""

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn

LEM = mn.LogEuclidean(3)


def batches(count: int = 3) -> list[Tensor]:
    return [LEM.random_point(7, dtype=torch.float64) for _ in range(count)]


def by_hand(data: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean of the batches' means and of their variances, in logarithms."""
    logs = [mn.linalg.logm(x) for x in data]
    means = torch.stack([log.mean(0) for log in logs])
    variances = [(log - log.mean(0)).square().sum((-2, -1)).mean() for log in logs]
    return mn.linalg.expm(means.mean(0)), torch.stack(variances).mean()


@pytest.mark.parametrize("statistics", [None, mn.nn.Momentum(0.5, 0.1), mn.nn.Renorm(0.1)], ids=str)
def test_statistics_are_averages_over_the_batches(statistics: mn.nn.Statistics | None) -> None:
    norm = mn.nn.LieBatchNorm(LEM, dtype=torch.float64, statistics=statistics)
    frozen = mn.nn.LieBatchNorm(LEM, dtype=torch.float64)
    model = mn.nn.Sequential(norm, frozen).eval()
    data = batches()
    for x in batches():
        model.train()(x)
    frozen.freeze()
    kept, parameters = frozen.running_mean.clone(), [p.clone() for p in model.parameters()]
    model.eval()
    mn.nn.update_bn([(x, "label") for x in data], model)
    mean, variance = by_hand(data)
    for kind in norm.statistics.kinds:
        torch.testing.assert_close(getattr(norm, f"{kind}_mean"), mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(getattr(norm, f"{kind}_var"), variance, rtol=1e-10, atol=1e-10)
    assert norm.momentum == 0.1 and norm.num_batches_tracked == 3 and not any(m.training for m in model.modules())
    assert norm.statistics == (statistics or mn.nn.Batch()) and torch.equal(frozen.running_mean, kept)
    assert all(torch.equal(p, q) for p, q in zip(parameters, model.parameters(), strict=True))


def test_domains() -> None:
    norm = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(LEM, dtype=torch.float64), 2)
    data, domain = batches(4), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    mn.nn.update_bn([(x, domain, "label") for x in data], norm, inputs=2)
    for d in range(2):
        mean, variance = by_hand([x[domain == d] for x in data])
        torch.testing.assert_close(norm.norm.running_mean[d], mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(norm.norm.running_var[d], variance, rtol=1e-10, atol=1e-10)
    assert norm.training and norm.norm.momentum == 0.1


def test_norms_of_torch_in_the_folded_front() -> None:
    torch.manual_seed(0)
    net = mn.models.SSVEPNet(4, 3, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean))
    plain = nn.Sequential(*net.front)  # the layers one after the other, without folding
    data = [torch.randn(5, 4, 60) for _ in range(3)]
    mn.nn.update_bn(data, net, device="cpu")
    folded = [b.clone() for b in net.front.buffers()]
    torch.optim.swa_utils.update_bn([x.unsqueeze(1) for x in data], plain)
    for ours, theirs in zip(folded, plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert [m.momentum for m in net.modules() if hasattr(m, "momentum")] == [0.1, 0.1, 0.1]
    assert net.features[1].num_batches_tracked == 3


def test_a_failing_pass_puts_everything_back() -> None:
    norm = mn.nn.LieBatchNorm(LEM, statistics=mn.nn.Renorm(0.2)).eval()
    with pytest.raises(ValueError, match="LieBatchNorm"):
        mn.nn.update_bn([torch.eye(5)[None]], norm)
    assert norm.momentum == 0.1 and norm.statistics == mn.nn.Renorm(0.2) and not norm.training
