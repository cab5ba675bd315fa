"""Products: a layer on a product is the factors' layers side by side, each with its own variance and scale."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.manifolds import Gyrogroup, LieGroup, Manifold, PowerDeformed
from manifoldnorm.nn import GyroBatchNorm, LearnableManifold, LieBatchNorm, RiemannianBatchNorm
from manifoldnorm.optim import ManifoldParameter, RiemannianAdam, RiemannianSGD
from manifoldnorm.stats import Exact

F64 = torch.float64
FACTORS: tuple[Manifold, ...] = (
    mn.AffineInvariant(3),
    PowerDeformed(mn.LogEuclidean(2), 0.5),
    mn.PoincareBall(2, -0.7),
    mn.Euclidean(3),
)
GROUPS: tuple[Manifold, ...] = (mn.AffineInvariant(3), PowerDeformed(mn.LogCholesky(2), 0.5), mn.CorrelationOffLog(3))
BURES: tuple[Manifold, ...] = (mn.BuresWasserstein(2), mn.LogEuclidean(2))
KINDS: dict[str, tuple[type, tuple[Manifold, ...]]] = {
    "gyro": (GyroBatchNorm, FACTORS),
    "transport": (RiemannianBatchNorm, FACTORS),
    "group": (LieBatchNorm, GROUPS),
    "bures": (RiemannianBatchNorm, BURES),
}


def layers(kind: str, **options: Any) -> tuple[Any, list[Any]]:
    """A layer on the product, and one on each factor, with the same biases and scales."""
    cls, factors = KINDS[kind]
    options = {"mean": Exact(), "dtype": F64, **options}
    whole, single = cls(mn.Product(*factors), **options), [cls(f, **options) for f in factors]
    groups = () if whole.channels is None else (whole.channels,)
    points = [f.random_point(*groups, dtype=F64) for f in factors]
    for i, (layer, point) in enumerate(zip(single, points, strict=True)):
        layer.bias_point, layer.scale = point, 0.4 + 0.2 * i
    whole.bias_point = whole.manifold.merge(*points)
    whole.scale = torch.tensor([0.4 + 0.2 * i for i in range(len(factors))], dtype=F64)
    return whole, single


def batch(product: Any, *lead: int) -> Tensor:
    return product.random_point(*lead, dtype=F64)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_the_factors_layers_side_by_side(kind: str, channels: int | None) -> None:
    whole, single = layers(kind, channels=channels)
    product = whole.manifold
    lead = (12,) if channels is None else (12, channels)
    weights = torch.rand(12, dtype=F64) + 0.1
    for step, share in enumerate((None, weights)):
        x = batch(product, *lead).requires_grad_()
        parts = [p.detach().requires_grad_() for p in product.split(x)]
        y = whole(x, share)
        expected = [layer(p, share) for layer, p in zip(single, parts, strict=True)]
        torch.testing.assert_close(y, product.merge(*expected), rtol=1e-11, atol=1e-12)
        c = torch.randn_like(y)
        (y * c).sum().backward()
        for part, piece in zip(expected, product.split(c), strict=True):
            (part * piece).sum().backward()
        torch.testing.assert_close(x.grad, product.merge(*(p.grad for p in parts)), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(whole.running_mean, product.merge(*(s.running_mean for s in single)))
        torch.testing.assert_close(whole.running_var, torch.stack([s.running_var for s in single], -1))
        assert int(whole.num_batches_tracked) == step + 1
    torch.testing.assert_close(whole.log_scale.grad, torch.stack([s.log_scale.grad for s in single], -1))
    torch.testing.assert_close(whole.bias.grad, product.merge(*(s.bias.grad for s in single)))
    x = batch(product, *lead)
    expected = [layer.eval()(p) for layer, p in zip(single, product.split(x), strict=True)]
    torch.testing.assert_close(whole.eval()(x), product.merge(*expected), rtol=1e-11, atol=1e-12)


def test_shapes_of_statistics() -> None:
    layer = GyroBatchNorm(mn.Product(*FACTORS), channels=3)
    assert layer.running_var.shape == layer.log_scale.shape == (3, 4)
    assert layer.running_mean.shape == layer.bias.shape == (3, 9 + 4 + 2 + 3)
    joint = GyroBatchNorm(mn.Product(*FACTORS, per_factor=False), channels=3)
    assert joint.running_var.shape == joint.log_scale.shape == (3,)


@pytest.mark.parametrize("kind", ["gyro", "group"])
def test_each_factors_variance_is_controlled(kind: str) -> None:
    whole, _ = layers(kind)
    x = batch(whole.manifold, 16)
    y = whole(x).detach()
    parts = zip(whole.manifold.factors, whole.manifold.split(x), whole.manifold.split(y), strict=True)
    bias = whole.manifold.split(whole.bias_point.detach())
    for i, (factor, before, after) in enumerate(parts):
        v = factor.squared_dist(factor.frechet_mean(before), before).mean()
        expected = whole.scale.detach()[i].square() * v / (v + whole.eps)
        assert abs(float(factor.squared_dist(bias[i], after).mean() / expected) - 1) < 1e-12
        assert float(factor.dist(factor.frechet_mean(after), bias[i])) < 1e-11


def test_bad_samples_are_left_out_and_cumulative_averages() -> None:
    whole, _ = layers("gyro", momentum=None)
    x = batch(whole.manifold, 8)
    bad = x.clone()
    bad[3, 5] = torch.nan
    twin = copy.deepcopy(whole)
    y = whole(bad)
    expected = twin(torch.cat([x[:3], x[4:]]))
    torch.testing.assert_close(torch.cat([y[:3], y[4:]]), expected)
    assert bool(y[3].isnan().all())
    torch.testing.assert_close(whole.running_var, twin.running_var)
    before = whole.running_var.clone()
    whole(torch.full_like(x, torch.nan))
    assert torch.equal(whole.running_var, before)


def test_checked_input_names_the_factor() -> None:
    product = mn.Product(mn.Euclidean(2), mn.AffineInvariant(2))
    x = batch(product, 4)
    x[2, 2:] = torch.tensor([1.0, 2.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"\(factor 1\): sample 2 is not positive definite"):
        LieBatchNorm(product, check_input=True, dtype=F64)(x)
    with pytest.raises(ValueError, match="not a Lie group"):
        LieBatchNorm(mn.Product(mn.Euclidean(2), mn.BuresWasserstein(2)))
    with pytest.raises(ValueError, match="at least one factor"):
        mn.Product()
    with pytest.raises(ValueError, match="all real or all complex"):
        mn.Product(mn.Euclidean(2), mn.AffineInvariant(2, field="complex"))
    with pytest.raises(TypeError, match="factor 1"):
        mn.Product(mn.Euclidean(2), 3)
    with pytest.raises(TypeError, match="unknown"):
        mn.Product(mn.Euclidean(2)).replace(curvature=1.0)


def test_a_step_out_of_one_factors_domain_is_an_error_if_checked() -> None:
    layer = RiemannianBatchNorm(mn.Product(*BURES), check_input=True, dtype=F64)
    x = batch(layer.manifold, 8)
    layer(x)
    layer.scale = torch.tensor([50.0, 1.0], dtype=F64)
    with pytest.raises(ValueError, match="leaves the domain"):
        layer(x)


class OnlyGroup(mn.BuresWasserstein, LieGroup):
    """A geometry with one of the two structures."""

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def inverse(self, x: Tensor) -> Tensor:
        return x


def test_structures_are_those_that_all_factors_have() -> None:
    both, lie, gyro = mn.LogEuclidean(2), OnlyGroup(2), mn.PoincareBall(2)
    neither = mn.BuresWasserstein(2)
    cases = [((both, both), True, True), ((both, lie), True, False), ((both, gyro), False, True)]
    cases += [((lie, gyro), False, False), ((both, neither), False, False), ((lie, gyro, both), False, False)]
    for factors, is_group, is_gyrogroup in cases:
        product = mn.Product(*factors)
        assert isinstance(product, LieGroup) is is_group, product
        assert isinstance(product, Gyrogroup) is is_gyrogroup, product


def test_products_nest_and_are_values() -> None:
    inner = mn.Product(mn.Euclidean(2), mn.LogEuclidean(2))
    product = mn.Product(inner, mn.Euclidean())
    assert product == mn.Product(mn.Product(mn.Euclidean(2), mn.LogEuclidean(2)), mn.Euclidean())
    assert pickle.loads(pickle.dumps(product)) == product
    assert product.replace(factor_1=mn.Euclidean(3)).sizes == (6, 3)
    assert repr(inner).startswith("Product(Euclidean(2), LogEuclidean(n=2")
    flat = mn.Product(mn.Euclidean(2), mn.LogEuclidean(2), mn.Euclidean(), per_factor=False)
    x = flat.random_point(6, dtype=F64)
    torch.testing.assert_close(product.dist(x, x.flip(0)), flat.dist(x, x.flip(0)))
    with pytest.raises(ValueError, match="per_factor=False"):
        GyroBatchNorm(product, dtype=F64)
    joint = mn.Product(inner.replace(per_factor=False), mn.Euclidean())
    assert GyroBatchNorm(joint, dtype=F64)(x).shape == x.shape


def test_learnable_option_of_a_factor() -> None:
    geometry = LearnableManifold(mn.Product(mn.Euclidean(2), mn.PoincareBall(2)), ("factor_1.curvature",), dtype=F64)
    layer = GyroBatchNorm(geometry, mean=Exact(), dtype=F64)
    x = batch(geometry(), 8).detach()
    weight = torch.randn_like(x)
    (layer(x) * weight).sum().backward()
    raw = geometry.raw_factor_1_curvature

    def loss(shift: float) -> float:
        with torch.no_grad():
            raw.add_(shift)
            value = float((copy.deepcopy(layer)(x) * weight).sum())
            raw.sub_(shift)
        return value

    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert abs(float(raw.grad) - difference) < 1e-7 * max(1, abs(difference))
    assert geometry().factor_1.curvature.requires_grad


@pytest.mark.parametrize(
    ("make", "steps", "accuracy"),
    [
        (lambda p: RiemannianSGD(p, lr=0.7), 40, 1e-6),
        (lambda p: RiemannianAdam(p, lr=0.2, betas=(0.9, 0.9)), 120, 2e-2),
    ],
    ids=["SGD", "Adam"],
)
@pytest.mark.parametrize("factors", [FACTORS, GROUPS, BURES], ids=["curved", "groups", "bures"])
def test_optimizers_find_the_mean(factors: Any, make: Any, steps: int, accuracy: float) -> None:
    product = mn.Product(*factors)
    x = batch(product, 6)
    expected = product.frechet_mean(x)
    point = ManifoldParameter(x[0].clone(), product)
    search = make([point])
    schedule = torch.optim.lr_scheduler.ExponentialLR(search, 1.0 if accuracy < 1e-3 else 0.95)
    for _ in range(steps):
        search.zero_grad()
        (product.squared_dist(point, x).mean() / 2).backward()
        search.step()
        schedule.step()
    assert float(product.dist(point.detach(), expected)) < accuracy
    assert float(product.violation(point.detach())) < 1e-10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled() -> None:
    torch._dynamo.reset()
    layer = LieBatchNorm(mn.Product(PowerDeformed(mn.LogEuclidean(2), 0.5), mn.Euclidean(3)), dtype=F64)
    twin = copy.deepcopy(layer)
    run = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = batch(layer.manifold, 6)
    torch.testing.assert_close(run(x), layer(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(twin.running_var, layer.running_var)
