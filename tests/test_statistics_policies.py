"""Statistics policies: momentum, renormalisation, schedules, freezing and refitting, on several geometries."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import Batch, Momentum, MomentumSchedule, Renorm, _paths
from manifoldnorm.stats import Newton
from manifoldnorm.testing import laws_of_norm, run_laws

F64 = {"dtype": torch.float64}
GEOMETRIES: dict[str, mn.manifolds.Manifold] = {
    "AIM": mn.AffineInvariant(3),
    "AIM power": mn.PowerDeformed(mn.AffineInvariant(3), 0.5),
    "LEM": mn.LogEuclidean(3, 2.0, 0.25),
    "LCM": mn.LogCholesky(3),
    "BW": mn.BuresWasserstein(3),
    "Euclidean": mn.Euclidean(4),
}
POLICIES = {
    "momentum": Momentum(0.6, 0.2),
    "train 1": Momentum(),
    "scheduled": Momentum(schedule=MomentumSchedule(4, 0.2)),
    "renorm": Renorm(0.3),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
every_policy = pytest.mark.parametrize("policy", POLICIES)


def layer_of(geometry: str, policy: str, **options: Any) -> Any:
    return mn.nn.RiemannianBatchNorm(GEOMETRIES[geometry], statistics=POLICIES[policy], **{**F64, **options})


def batch(geometry: str, *lead: int) -> Tensor:
    """Samples around a point that is not the origin, concentrated enough for every domain of an exponential."""
    m = GEOMETRIES[geometry]
    centre = m.random_point(**F64)
    return m.exp(centre, 0.3 * m.random_tangent(centre.expand(*(lead or (9,)), *m.point_shape)))


def state(layer: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


# ---- what they compute


@every_geometry
def test_momentum_written_out(geometry: str) -> None:
    m, layer = GEOMETRIES[geometry], layer_of(geometry, "momentum", affine=False, bias=False)
    train_mean = test_mean = m.origin(**F64)
    train_var = test_var = torch.ones((), **F64)
    for _ in range(3):
        x = batch(geometry)
        y = layer(x)
        mean = m.default_mean(m, x)
        train_mean, test_mean = m.geodesic(train_mean, mean, 0.6), m.geodesic(test_mean, mean, 0.2)
        train_var = 0.4 * train_var + 0.6 * m.squared_dist(train_mean, x).mean()
        test_var = 0.8 * test_var + 0.2 * m.squared_dist(test_mean, x).mean()
        assert torch.allclose(layer.momentum_mean, train_mean, rtol=1e-10, atol=1e-12)
        assert torch.allclose(layer.running_mean, test_mean, rtol=1e-10, atol=1e-12)
        assert torch.allclose(layer.momentum_var, train_var, rtol=1e-10)
        assert torch.allclose(layer.running_var, test_var, rtol=1e-10)
        v = m.to_origin(train_mean, m.log(train_mean, x))
        origin = m.origin(**F64)
        factor = (train_var + layer.eps).rsqrt()
        assert torch.allclose(y, m.shoot(origin, factor * v), rtol=1e-8, atol=1e-10)
    assert layer.num_batches_tracked == 3


@every_geometry
def test_renorm_written_out(geometry: str) -> None:
    m, layer = GEOMETRIES[geometry], layer_of(geometry, "renorm")
    running, variance = m.origin(**F64), torch.ones((), **F64)
    for _ in range(2):
        x = batch(geometry)
        trained = copy.deepcopy(layer)
        y = trained(x)
        running = m.geodesic(running, m.default_mean(m, x), 0.3)
        variance = 0.7 * variance + 0.3 * m.squared_dist(running, x).mean()
        assert torch.allclose(trained.running_mean, running, rtol=1e-10, atol=1e-12)
        assert torch.allclose(trained.running_var, variance, rtol=1e-10)
        assert torch.allclose(trained.eval()(x), y, rtol=1e-9, atol=1e-11)  # one and the same statistics
        layer = trained.train()


def test_full_momentum_trains_like_batch_statistics() -> None:
    x = batch("AIM")
    momentum, plain = layer_of("AIM", "train 1"), mn.nn.RiemannianBatchNorm(mn.AffineInvariant(3), **F64)
    with _paths.template_only():
        assert torch.equal(momentum(x), plain(x))
    assert torch.equal(momentum.running_mean, plain.running_mean)
    assert momentum.running_var > plain.running_var  # about the running mean, which is not the batch's


def test_small_batches_agree_with_evaluation_under_momentum() -> None:
    """What the policy is for: a stream of small batches is normalised by statistics of many."""
    m, layer = mn.LogEuclidean(3), mn.nn.MomentumBatchNorm(mn.LogEuclidean(3), train=0.05, test=0.05, **F64)
    stream = m.exp(m.origin(**F64), 0.5 * m.random_tangent(m.origin(800, **F64)))
    shift = torch.diag(torch.tensor([1.0, 2.0, 4.0], **F64))
    for x in m.compose(shift, stream).split(4):
        layer(x)
    assert m.dist(layer.momentum_mean, shift) < 0.3
    x = m.compose(shift, stream[:4])
    assert m.dist(copy.deepcopy(layer)(x), layer.eval()(x)).max() < 0.3


# ---- gradients


@every_policy
@pytest.mark.parametrize("geometry", ["AIM", "LEM", "LCM", "BW"])
def test_gradients_through_momentum_statistics(geometry: str, policy: str) -> None:
    layer = layer_of(geometry, policy, mean=Newton(3, 12, 12) if geometry in ("AIM", "BW") else None)
    layer(batch(geometry))  # statistics that have moved
    start = state(layer)
    x, m = batch(geometry), GEOMETRIES[geometry]
    weight, direction = torch.randn_like(x), m.random_tangent(x)
    direction = direction / direction.norm()

    def loss(t: Tensor | float) -> Tensor:
        layer.load_state_dict(start)
        return (layer(m.exp(x, t * direction)) * weight).sum()

    t = torch.zeros((), **F64).requires_grad_()
    (got,) = torch.autograd.grad(loss(t), t)
    with torch.no_grad():
        h = 1e-4
        expected = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert torch.allclose(got, expected, rtol=1e-7, atol=1e-8)


@every_policy
def test_detached_statistics_have_the_gradient_of_constants(policy: str) -> None:
    layer = layer_of("AIM", policy, grad_through_stats=False)
    layer(batch("AIM"))
    x = batch("AIM").requires_grad_()
    (got,) = torch.autograd.grad(layer(x).square().sum(), x)
    kind = "running" if policy == "renorm" else "momentum"
    layer.running_mean.copy_(getattr(layer, f"{kind}_mean"))
    layer.running_var.copy_(getattr(layer, f"{kind}_var"))
    (expected,) = torch.autograd.grad(layer.eval()(x).square().sum(), x)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-11)


@every_policy
def test_learnable_geometries_train(policy: str) -> None:
    geometry = mn.nn.LearnableManifold(GEOMETRIES["AIM power"], ("power",), **F64)
    layer = mn.nn.GyroBatchNorm(geometry, statistics=POLICIES[policy], **F64)
    for _ in range(3):  # the buffers change between forward and backward
        layer(batch("AIM")).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


# ---- laws

MOVED_BY_THE_POLICY = {"running_statistics", "eval_repeats_training", "gradient_with_detached_statistics"}


@pytest.mark.parametrize("policy", ["train 1", "scheduled"])
@pytest.mark.parametrize("geometry", ["AIM", "LCM"])
def test_laws_of_norms_hold_but_for_the_running_statistics(geometry: str, policy: str) -> None:
    laws = laws_of_norm(lambda: layer_of(geometry, policy))
    # a scheduled momentum of 1 takes the geodesic to its end: repeated calls differ by rounding
    left_out = MOVED_BY_THE_POLICY | ({"autocast_changes_nothing"} if policy == "scheduled" else set())
    assert {law.name for law in laws} >= left_out
    run_laws([law for law in laws if law.name not in left_out]).assert_ok()


STATE_AND_EVAL = {
    "fresh_eval_is_a_dilation",
    "eval_four_steps",
    "eval_ignores_batch_mates",
    "gradient_in_eval",
    "buffers_keep_their_storage",
    "state_dict_round_trip",
    "saved_weights_only",
    "state_dict_by_assignment",
    "copies",
    "failed_forward_changes_nothing",
    "all_bad_batches_change_nothing",
    "empty_batches_change_nothing",
    "layer_precision",
}


@every_policy
@pytest.mark.parametrize("geometry", ["AIM", "LEM"])
@pytest.mark.parametrize("channels", [None, 2])
def test_laws_of_state_and_evaluation(geometry: str, policy: str, channels: int | None) -> None:
    laws = laws_of_norm(lambda: layer_of(geometry, policy, channels=channels))
    chosen = [law for law in laws if law.name in STATE_AND_EVAL]
    assert len(chosen) == len(STATE_AND_EVAL)
    run_laws(chosen).assert_ok()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about how it traces autograd Functions
@every_policy
def test_compiled(policy: str) -> None:
    layer = layer_of("LCM", policy, channels=2)
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    fast = torch.compile(twin, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (8, 9):
        x = batch("LCM", count, 2)
        assert torch.allclose(fast(x), layer(x), rtol=1e-10)
        mn.nn.set_epoch(layer, 3)
        mn.nn.set_epoch(twin, 3)
    for name, value in twin.state_dict().items():
        assert torch.allclose(value, layer.state_dict()[name]), name


# ---- samples that do not count


@every_policy
def test_weights_are_repetitions(policy: str) -> None:
    x = batch("AIM")
    weighted, repeated = layer_of("AIM", policy), layer_of("AIM", policy)
    weights = torch.tensor([2.0, 1.0] + [0.0] * 7, **F64)
    y = weighted(x, weights)
    assert torch.allclose(y[:2], repeated(torch.stack([x[0], x[0], x[1]]))[1:], rtol=1e-9)
    assert all(torch.allclose(a, b) for a, b in zip(state(weighted).values(), state(repeated).values(), strict=True))


@every_policy
def test_a_bad_sample_has_no_influence(policy: str) -> None:
    x = batch("AIM")
    bad = x.clone()
    bad[3, 0, 0] = torch.nan
    keep = torch.arange(len(x)) != 3
    first, second = layer_of("AIM", policy), layer_of("AIM", policy)
    leaf = bad.requires_grad_()
    y = first(leaf)
    y[keep].sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all()) and bool(y[3].isnan().all())
    assert torch.allclose(y[keep], second(x[keep]), rtol=1e-9)
    assert all(torch.allclose(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


# ---- options


def test_schedule() -> None:
    schedule = MomentumSchedule(5, 0.2, keep=0.85)
    momenta = [schedule(epoch) for epoch in range(8)]
    assert momenta[0] == pytest.approx((1.0, 0.15))
    assert momenta[4] == momenta[7] == pytest.approx((0.2, 1 - 0.85**0.2))
    assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(momenta))
    assert MomentumSchedule(1, 0.5)(0) == pytest.approx((0.5, 1 - 0.85**0.5))


def test_set_epoch_reaches_every_norm_and_survives_a_checkpoint() -> None:
    norm = mn.nn.MomentumBatchNorm.of(mn.LogEuclidean, schedule=MomentumSchedule(5, 0.2))
    net = mn.models.SPDNet([5, 4, 3], 2, norm=norm)
    mn.nn.set_epoch(net, 3)
    layers = [m for m in net.modules() if isinstance(m, mn.nn.MomentumBatchNorm)]
    assert len(layers) == 2
    for layer in layers:
        assert torch.allclose(layer.momenta, torch.tensor(MomentumSchedule(5, 0.2)(3)))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    twin = mn.models.SPDNet([5, 4, 3], 2, norm=norm)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin.state_dict()["features.1.momenta"], layers[0].momenta)


def test_scheduled_momenta_act() -> None:
    x = batch("LEM")
    scheduled, fixed = (
        layer_of("LEM", "scheduled"),
        mn.nn.RiemannianBatchNorm(GEOMETRIES["LEM"], statistics=Momentum(*MomentumSchedule(4, 0.2)(2)), **F64),
    )
    mn.nn.set_epoch(scheduled, 2)
    assert torch.allclose(scheduled(x), fixed(x), rtol=1e-12)
    assert torch.allclose(scheduled.running_var, fixed.running_var, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(train=1.5), "train must lie in"),
        (lambda: Momentum(test=-0.1), "test must lie in"),
        (lambda: Renorm(2.0), "momentum must lie in"),
        (lambda: MomentumSchedule(0, 0.2), "epochs >= 1"),
        (lambda: MomentumSchedule(3, 0.0), "ratio in"),
        (lambda: layer_of("LEM", "momentum", track_running_stats=False), "needs track_running_stats=True"),
    ],
)
def test_bad_options(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_that_leaves_the_interval_is_an_error() -> None:
    layer = mn.nn.MomentumBatchNorm(mn.LogEuclidean(2), schedule=lambda epoch: (1.0 - epoch, 0.1))
    with pytest.raises(ValueError, match="train must lie in"):
        mn.nn.set_epoch(layer, 2)
    assert torch.allclose(layer.momenta, torch.tensor([1.0, 0.1]))


def test_policies_are_values() -> None:
    assert Momentum(0.5) == Momentum(0.5) != Momentum(0.4)
    assert hash(Renorm(0.2)) == hash(Renorm(0.2))
    assert pickle.loads(pickle.dumps(POLICIES)) == POLICIES
    assert Batch() == Batch()


@every_policy
def test_reset_returns_to_the_start(policy: str) -> None:
    layer = layer_of("AIM", policy, channels=2)
    start = state(layer)
    layer(batch("AIM", 8, 2))
    layer.reset_running_stats()
    assert all(torch.equal(value, start[name]) for name, value in state(layer).items())


# ---- freeze and refit


@pytest.mark.parametrize("policy", ["batch", *POLICIES])
def test_frozen_statistics_stay_and_are_used(policy: str) -> None:
    statistics = Batch() if policy == "batch" else POLICIES[policy]
    layer = mn.nn.GyroBatchNorm(mn.AffineInvariant(3), statistics=statistics, **F64)
    layer(batch("AIM"))
    before, x = state(layer), batch("AIM")
    expected = copy.deepcopy(layer).eval()(x)
    assert torch.equal(layer.freeze().train()(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in state(layer).items())
    layer.unfreeze()(x)
    assert not torch.equal(layer.running_mean, before["running_mean"])


def test_freezing_needs_statistics() -> None:
    with pytest.raises(ValueError, match="keeps no running statistics"):
        mn.nn.LieBatchNorm(mn.LogEuclidean(2), track_running_stats=False).freeze()


@every_geometry
@pytest.mark.parametrize("policy", ["batch", "momentum"])
def test_refit_is_the_converged_mean_and_the_variance_about_it(geometry: str, policy: str) -> None:
    m = GEOMETRIES[geometry]
    statistics = Batch() if policy == "batch" else POLICIES[policy]
    layer = mn.nn.RiemannianBatchNorm(m, statistics=statistics, channels=2, **F64)
    x = batch(geometry, 12, 2)
    layer.refit(x)
    mean = m.frechet_mean(x)
    for kind in statistics.kinds:
        assert torch.allclose(getattr(layer, f"{kind}_mean"), mean, rtol=1e-7, atol=1e-8)
        assert torch.allclose(getattr(layer, f"{kind}_var"), m.squared_dist(mean, x).mean(0), rtol=1e-7)
    layer.scale = 0.2  # no step leaves the domain of the exponential
    y = layer.eval()(x)
    assert m.dist(m.frechet_mean(y), m.origin(2, **F64)).max() < 1e-6


def test_refit_with_weights_and_bad_samples() -> None:
    x = batch("AIM")
    bad = torch.cat([x, torch.full_like(x[:1], torch.nan)])
    first, second = layer_of("AIM", "momentum"), layer_of("AIM", "momentum")
    first.refit(bad, torch.tensor([2.0] + [1.0] * 9, **F64))
    second.refit(torch.cat([x[:1], x]))
    assert all(
        torch.allclose(a, b, rtol=1e-7) for a, b in zip(state(first).values(), state(second).values(), strict=True)
    )
    before = state(first)
    first.refit(torch.full_like(x, torch.nan))
    assert all(torch.equal(value, before[name]) for name, value in state(first).items())
    with pytest.raises(ValueError, match="no samples"):
        first.refit(x[:0])


def test_a_model_is_refitted_layer_by_layer() -> None:
    net = mn.models.SPDNet([5, 4, 3], 2, norm=mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant), **F64)
    net.train()
    net.features[1].eval()
    x = mn.AffineInvariant(5).random_point(30, **F64)
    y = mn.nn.refit(net, x)
    assert [m.training for m in net.features[:3]] == [True, False, True]
    assert not any(m._forward_pre_hooks for m in net.modules())
    net.eval()
    assert torch.allclose(net(x), y, rtol=1e-12)
    hidden = net.features[0](x)
    for position in (1, 4):
        norm, m = net.features[position], net.features[position].manifold
        assert m.dist(norm.running_mean, m.frechet_mean(hidden)) < 1e-8
        hidden = net.features[position + 2](net.features[position + 1](norm(hidden))) if position == 1 else hidden
