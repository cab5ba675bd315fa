"""Learnable geometries: powers and metrics as parameters, shared, saved, and right in evaluation."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.optim import RiemannianSGD
from manifoldnorm.stats import Exact

DOUBLE = {"dtype": torch.float64}


def learnable() -> mn.nn.LearnableManifold:
    return mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(4), 0.5), ("power",), **DOUBLE)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GBW": lambda: mn.nn.BuresWassersteinBatchNorm(4, mean=Exact(), **DOUBLE),
    "GBW power": lambda: mn.nn.BuresWassersteinBatchNorm(4, power=0.5, mean=Exact(), **DOUBLE),
    "learned power": lambda: mn.nn.GyroBatchNorm(learnable(), mean=Exact(), **DOUBLE),
}


def batch() -> Tensor:
    noise = torch.randn(9, 4, 12, dtype=torch.float64)
    return noise @ noise.mT / 12 + 0.1 * torch.eye(4)


def learn(layer: nn.Module, steps: int) -> None:
    """Change every parameter, the geometry's too."""
    search = torch.optim.Adam(layer.parameters(), lr=0.05)
    target = torch.diag(torch.tensor([2.0, 1.0, 0.5, 3.0], dtype=torch.float64))
    for _ in range(steps):
        search.zero_grad()
        (layer(batch()) - target).square().mean().backward()
        search.step()


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_is_right_after_learning_the_geometry(name: str) -> None:
    layer = LAYERS[name]()
    start = [p.detach().clone() for n, p in layer.named_parameters() if "raw" in n]
    learn(layer, 12)
    learned = [p.detach() for n, p in layer.named_parameters() if "raw" in n]
    assert all(float((a - b).abs().max()) > 0.05 for a, b in zip(start, learned, strict=True))
    x = batch()
    y = layer.eval()(x).detach()
    # from scratch: the geometry at its current options, the running statistics as they are stored
    manifold = layer.manifold
    v = manifold.to_origin(layer.running_mean, manifold.log(layer.running_mean, x))
    v = v * layer.scale / (layer.running_var + layer.eps).sqrt()
    expected = manifold.shoot(layer.bias_point, v)
    assert torch.allclose(y, expected.detach(), rtol=1e-7, atol=1e-9)
    # and the running statistics are points of the manifold, whatever its options: an evaluation after the statistics
    # have caught up with the data is the training output
    frozen = copy.deepcopy(layer).train()
    for p in frozen.parameters():
        p.requires_grad_(False)
    frozen.momentum = 1.0
    trained = frozen(x)
    assert torch.allclose(frozen.eval()(x), trained, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("manifold", "learn_names"),
    [
        (mn.PowerDeformed(mn.AffineInvariant(4), 0.5), ("power",)),
        (mn.PowerDeformed(mn.LogCholesky(4), -0.5), ("power",)),
        (mn.GeneralizedBuresWasserstein(4), ("metric",)),
        (mn.PowerDeformed(mn.GeneralizedBuresWasserstein(4), 2.0), ("power", "base.metric")),
        (mn.AffineInvariant(4, 2.0), ("alpha",)),
        (mn.LogEuclidean(4, 2.0), ("alpha",)),
        (mn.AdaptiveLogEuclidean(4, 0.5, 2.0), ("low", "high")),
    ],
    ids=repr,
)
def test_every_learnable_option(manifold: mn.manifolds.Manifold, learn_names: tuple[str, ...]) -> None:
    geometry = mn.nn.LearnableManifold(manifold, learn_names, **DOUBLE)
    plain, layer = mn.nn.RiemannianBatchNorm(manifold, **DOUBLE), mn.nn.RiemannianBatchNorm(geometry, **DOUBLE)
    x = batch()
    expected = plain(x).detach()
    y = layer(x)
    assert torch.allclose(y, expected, rtol=1e-9, atol=1e-11)  # the same geometry at the start
    (y * torch.randn_like(y)).sum().backward()
    gradients = [p.grad for p in geometry.parameters()]
    assert len(gradients) == len(learn_names) and all(g is not None and g.isfinite().all() for g in gradients)
    restored = mn.nn.LearnableManifold(manifold, learn_names, **DOUBLE)
    with torch.no_grad():
        for p in geometry.parameters():
            p.add_(0.1)
    restored.load_state_dict(through_a_file(geometry.state_dict()))
    for name in learn_names:
        owner, other = geometry(), restored()
        *path, option = name.split(".")
        for step in path:
            owner, other = getattr(owner, step), getattr(other, step)
        assert torch.equal(getattr(owner, option), getattr(other, option))


def test_a_negative_power_stays_negative() -> None:
    geometry = mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(3), -0.5), ("power",))
    with torch.no_grad():
        geometry.raw_power.fill_(-3.0)
    assert float(geometry().power.detach()) == pytest.approx(-(2.718281828**-3.0), rel=1e-5)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'beta' is not learnable on LogEuclidean.*learnable: \('alpha',\)"):
        mn.nn.LearnableManifold(mn.LogEuclidean(3), ("beta",))


def test_a_geometry_shared_by_two_layers() -> None:
    geometry = learnable()
    net = nn.Sequential(mn.nn.GyroBatchNorm(geometry, **DOUBLE), mn.nn.GyroBatchNorm(geometry, **DOUBLE))
    raw = [name for name, _ in net.named_parameters() if "raw_power" in name]
    assert len(raw) == 1  # one parameter, whoever uses it
    assert len([name for name in net.state_dict() if "raw_power" in name]) == 2
    twin = copy.deepcopy(net)
    assert twin[0]._geometry is twin[1]._geometry is not geometry
    x = batch()
    search = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        search.zero_grad()
        net(x)[:, 0, 0].square().sum().backward()
        search.step()
    powers = [float(layer.manifold.power.detach()) for layer in (net[0], net[1], twin[0])]
    assert powers[0] == powers[1] != 0.5 == powers[2]
    twin.load_state_dict(through_a_file(net.state_dict()))
    assert torch.equal(twin.eval()(x), net.eval()(x))
    moved = net.float()
    assert moved[0].manifold.power.dtype == torch.float32 and moved[0]._geometry is moved[1]._geometry


@pytest.mark.parametrize("revive", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["itself", "deepcopy", "pickle"])  # fmt: skip
def test_a_bias_on_a_learned_geometry_moves_in_what_was_learned(revive: Callable) -> None:
    layer = mn.nn.GyroBatchNorm(learnable(), bias="manifold", **DOUBLE)
    x = batch()
    layer.bias_point = x[0]
    layer = revive(layer)
    with torch.no_grad():
        layer._geometry.raw_power.fill_(0.7)
    search = RiemannianSGD([layer.bias_on_manifold], lr=0.1)
    layer(x)[:, 0, 0].sum().backward()
    start, gradient = layer.bias_on_manifold.detach().clone(), layer.bias_on_manifold.grad.clone()
    search.step()
    stepped = {}
    for power in (0.5, float(torch.tensor(0.7).exp())):
        manifold = mn.PowerDeformed(mn.AffineInvariant(4), power)
        stepped[power] = manifold.exp(start, -0.1 * manifold.egrad2rgrad(start, gradient))
    before, after = stepped.values()
    assert torch.allclose(layer.bias_on_manifold.detach(), after, rtol=1e-6)
    assert not torch.allclose(before, after, rtol=1e-3)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("power", [0.5, -1.2])
def test_the_gradient_of_a_power_is_its_finite_difference(mode: bool, power: float) -> None:
    x, weight = batch(), torch.randn(9, 4, 4, dtype=torch.float64)
    bias = batch()[0]

    def loss(gradients: list[Tensor] | None, h: float = 0.0) -> Tensor:
        geometry = mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(4), power), "power", **DOUBLE)
        layer = mn.nn.GyroBatchNorm(geometry, mean=Exact(steps=8), bias="manifold", **DOUBLE)
        layer.bias_point, layer.scale = bias, 1.2
        with torch.no_grad():
            geometry.raw_power.add_(h)
            layer.running_mean.copy_(batch_mean)
        layer.train(mode)
        value = (layer(x) * weight).sum()
        if gradients is not None:
            gradients.append(torch.autograd.grad(value, geometry.raw_power)[0])
        return value.detach()

    batch_mean, found, h = batch()[0], [], 1e-3
    loss(found)
    steps = [loss(None, k * h) - loss(None, -k * h) for k in (1, 2, 3)]
    expected = (45 * steps[0] - 9 * steps[1] + steps[2]) / (60 * h)
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-7)


def test_the_module_reads_and_prints_what_it_learns() -> None:
    geometry = mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(3), 0.5), "power", dtype=torch.float64)
    assert set(geometry.state_dict()) == {"raw_power", "sign_power"}
    assert "learn=('power',)" in repr(geometry) and float(geometry().power.detach()) == pytest.approx(0.5)
    assert geometry.float()().power.dtype == torch.float32
    nested = mn.nn.LearnableManifold(mn.PowerDeformed(mn.GeneralizedBuresWasserstein(3), 0.5), ("base.metric",))
    assert torch.equal(nested().base.metric, torch.eye(3))
    assert nested().origin().shape == (3, 3)
