"""Every network with a norm takes the domain of each sample: like one network per domain, in shared weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import DomainBatchNorm

DOMAINS = torch.tensor([0, 2, 2, 0, 1, 1, 2, 0, 1, 2, 0, 2])
F64 = {"dtype": torch.float64}
LEM = mn.nn.LieBatchNorm.of(mn.LogEuclidean)
BALL, FRAMES = mn.PoincareBall(3), mn.Grassmann(6, 2)
EDGES = torch.tensor([[0, 3, 3, 7, 4, 5, 8, 1, 2, 9], [3, 0, 7, 3, 5, 8, 4, 2, 9, 11]])  # within domains


class Case:
    """A network: how it is built with a norm, its input, and how that is cut to some samples."""

    def __init__(self, build: Callable[[Any], Any], x: Callable[[], Tensor], norm: Any, graph: bool = False) -> None:
        self.build, self.x, self.norm, self.graph = build, x, norm, graph

    def network(self, norm: Any) -> Any:
        torch.manual_seed(5)
        net = self.build(norm)
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):  # a residual block starts as its shortcut
                parameter.data.fill_(0.5)
        for module in net.modules():  # torch's own batch norms know no domains
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval().requires_grad_(False)
        return net

    def inputs(self, x: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, ...]:
        if not self.graph:
            return (x if chosen is None else x[chosen],)
        if chosen is None:
            return x, EDGES
        place = torch.full((len(x),), -1).index_copy(0, chosen, torch.arange(len(chosen)))
        edges = place[EDGES]
        return x[chosen], edges[:, (edges >= 0).all(0)]


def spd() -> Tensor:
    return mn.AffineInvariant(6).random_point(12, **F64)


CASES = {
    "SPDNet": Case(lambda n: mn.models.SPDNet([6, 5, 4], 3, norm=n, **F64), spd, LEM),
    "SPDNet, size": Case(lambda n: mn.models.SPDNet([6, 4], 3, norm=n, **F64), spd, mn.nn.BuresWassersteinBatchNorm),
    "SSVEPNet": Case(lambda n: mn.models.SSVEPNet(4, 3, norm=n), lambda: torch.randn(12, 4, 60), LEM),
    "GrassmannNet": Case(
        lambda n: mn.models.GrassmannNet([6, 5, 4], 2, 3, norm=n, **F64),
        lambda: FRAMES.random_point(12, **F64),
        mn.nn.GyroBatchNorm,
    ),
    "GrassmannNet, sizes": Case(
        lambda n: mn.models.GrassmannNet([6, 5], 2, 3, norm=n, **F64),
        lambda: FRAMES.random_point(12, **F64),
        mn.nn.RiemannianBatchNorm.of(mn.Grassmann),
    ),
    "PoincareResNet": Case(
        lambda n: mn.models.PoincareResNet(2, 3, norm=n, depth=8, widths=(2, 3, 4), **F64),
        lambda: torch.randn(12, 2, 4, 4, **F64),
        mn.nn.PoincareMidpointBatchNorm,
    ),
    "PoincareResNet, size": Case(
        lambda n: mn.models.PoincareResNet(2, 3, norm=n, depth=8, widths=(2, 3, 4), **F64),
        lambda: torch.randn(12, 2, 4, 4, **F64),
        mn.nn.GyroBatchNorm.of(mn.PoincareBall),
    ),
    "HyperbolicGraphNet": Case(
        lambda n: mn.models.HyperbolicGraphNet(5, [3, 4, 3], norm=n, **F64),
        lambda: torch.randn(12, 5, **F64),
        mn.nn.GyroBatchNorm,
        graph=True,
    ),
    "HyperbolicEmbedding": Case(
        lambda n: mn.nn.HyperbolicEmbedding(20, BALL, normalize=n, statistics="batch", radius=1.0, **F64),
        lambda: torch.arange(12),
        mn.nn.GyroBatchNorm,
    ),
}


def norms_of(net: torch.nn.Module) -> list[DomainBatchNorm]:
    return [module for module in net.modules() if isinstance(module, DomainBatchNorm)]


@pytest.mark.parametrize("name", CASES)
def test_like_one_network_per_domain(name: str) -> None:
    case, x = CASES[name], CASES[name].x()
    net = case.network(DomainBatchNorm.of(case.norm, 3))
    assert norms_of(net) and all(norm.num_domains == 3 for norm in norms_of(net))
    y = net(*case.inputs(x), domain=DOMAINS)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    single = case.network(case.norm)
    for d in range(3):
        own = (d == DOMAINS).nonzero()[:, 0]
        out = single(*case.inputs(x, own))
        torch.testing.assert_close(y[own], out, rtol=1e-6, atol=1e-8)
        (out * weight[own]).sum().backward()
    for p, q in zip(net.parameters(), single.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)
    assert all(norm.norm.num_batches_tracked.tolist() == [1, 1, 1] for norm in norms_of(net))


@pytest.mark.parametrize("name", CASES)
def test_one_domain_for_all_in_any_form(name: str) -> None:
    case, x = CASES[name], CASES[name].x()
    net = case.network(DomainBatchNorm.of(case.norm, 3)).eval()
    for norm in norms_of(net):
        norm.norm.running_var.copy_(torch.tensor([1.0, 2.0, 3.0]))
    inputs = case.inputs(x)
    reference = net(*inputs, domain=torch.full((12,), 1))
    for domain in (1, [1] * 12, torch.full((12,), 1, dtype=torch.uint8).numpy(), torch.tensor(1)):
        assert torch.equal(net(*inputs, domain=domain), reference)
    assert not torch.equal(net(*inputs, domain=2), reference)


@pytest.mark.parametrize("name", CASES)
def test_a_domain_that_is_missing_and_one_that_is_not_needed(name: str) -> None:
    case, x = CASES[name], CASES[name].x()
    net = case.network(DomainBatchNorm.of(case.norm, 3))
    with pytest.raises(ValueError, match="pass the domain of each sample, 0 to 2"):
        net(*case.inputs(x))
    for norm in (None, case.norm):
        plain = case.network(norm).eval()
        assert torch.equal(plain(*case.inputs(x), domain=DOMAINS), plain(*case.inputs(x)))


@pytest.mark.parametrize("name", CASES)
def test_adapting_every_network(name: str) -> None:
    case, x = CASES[name], CASES[name].x()
    net = case.network(DomainBatchNorm.of(case.norm, 2))
    for norm in norms_of(net):
        assert norm.add_domain() == 2
    y = mn.nn.refit(net, case.inputs(x), DOMAINS)
    torch.testing.assert_close(net.eval()(*case.inputs(x), domain=DOMAINS), y, rtol=1e-9, atol=1e-10)


def test_every_model_takes_a_domain() -> None:
    for name in mn.models.__all__:
        model = getattr(mn.models, name)
        assert model.takes_domain and "domain" in inspect.signature(model.forward).parameters, name
        assert any(case.startswith(name) for case in CASES), name


def test_the_models_of_a_sequence_get_the_domain() -> None:
    net = CASES["SPDNet"].network(DomainBatchNorm.of(LEM, 3))
    x = spd()
    nested = mn.nn.Sequential(torch.nn.Identity(), net)
    assert torch.equal(nested.eval()(x, DOMAINS), net(x, DOMAINS))


def test_domains_of_items_for_statistics_of_the_table() -> None:
    per_item = torch.arange(20) % 3
    make = lambda n, s: mn.nn.HyperbolicEmbedding(20, BALL, normalize=n, statistics=s, radius=1.0, **F64)  # noqa: E731
    table = make(DomainBatchNorm.of(mn.nn.GyroBatchNorm, 3), "table")
    index = torch.tensor([[3, 1, 19], [1, 0, 2]])
    points = table(index, per_item)
    assert points.shape == (2, 3, 3)
    assert table.norm.norm.num_batches_tracked.tolist() == [1, 1, 1]
    for d in range(3):
        own = (per_item == d).nonzero()[:, 0]
        plain = mn.nn.GyroBatchNorm(BALL, **F64)(table._plain().detach()[own])
        torch.testing.assert_close(
            points[per_item[index] == d], plain[torch.searchsorted(own, index[per_item[index] == d])]
        )
    table.eval()
    everything = table.table(per_item)
    torch.testing.assert_close(table(index, per_item), everything[index], rtol=1e-12, atol=0)
    torch.testing.assert_close(table(index.flatten(), per_item.tolist()), everything[index.flatten()])
    table.reset_parameters()
    assert table.norm.norm.num_batches_tracked.tolist() == [0, 0, 0]


def test_a_learnable_curvature_is_shared_with_domain_norms() -> None:
    ball = mn.nn.LearnableManifold(mn.PoincareBall(3), ("curvature",))
    net = mn.models.HyperbolicGraphNet(5, [3, 3], norm=DomainBatchNorm.of(mn.nn.GyroBatchNorm, 3), manifold=ball)
    net(torch.randn(12, 5), EDGES, DOMAINS).sum().backward()
    assert all(norm.norm._geometry.raw_curvature is ball.raw_curvature for norm in norms_of(net))


def test_a_norm_on_another_geometry() -> None:
    with pytest.raises(
        ValueError, match=r"GrassmannNet: the points are on Grassmann\(n=5, p=2\), the norm on LogEuclidean"
    ):
        mn.models.GrassmannNet([6, 5], 2, 3, norm=DomainBatchNorm.of(lambda g, **o: LEM(5, **o), 3))
    other = mn.nn.GyroBatchNorm.of(mn.PoincareBall, curvature=-2.0)
    with pytest.raises(ValueError, match="PoincareResNet: the points are on PoincareBall"):
        mn.models.PoincareResNet(2, 3, norm=DomainBatchNorm.of(other, 3), depth=8)
