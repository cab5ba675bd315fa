"""Domain norms: one layer per domain is the reference; few samples, new domains, states, models, samplers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.nn import Batch, DomainBatchNorm, DomainBatchSampler, Momentum, MomentumSchedule, Renorm
from manifoldnorm.stats import Exact, FixedPoint, Karcher, MeanPolicy, Newton, segment, weighted_mean

F64 = {"dtype": torch.float64}
GEOMETRIES: dict[str, mn.manifolds.Manifold] = {
    "AIM": mn.AffineInvariant(4, 2.0, 0.25),
    "complex AIM": mn.AffineInvariant(3, field="complex"),
    "AIM power": mn.PowerDeformed(mn.AffineInvariant(4), 0.5),
    "LEM": mn.LogEuclidean(4),
    "LCM": mn.LogCholesky(4),
    "BW": mn.BuresWasserstein(4),
    "CRIM": mn.CholeskyRightInvariant(4),
    "Euclidean": mn.Euclidean(3),
    "Sphere": mn.Sphere(3),
    "Poincare": mn.PoincareBall(3),
    "Lorentz": mn.Lorentz(3),
    "Grassmann": mn.Grassmann(5, 2),
}
POLICIES = {"batch": Batch(), "momentum": Momentum(0.6, 0.2), "renorm": Renorm(0.3)}
KINDS = {"RiemannianBatchNorm": "AIM", "LieBatchNorm": "AIM", "GyroBatchNorm": "AIM"}
DOMAINS = torch.tensor([0, 2, 3, 0, 2, 2, 4, 3, 0, 2, 3, 0, 2])  # domain 1 is absent, 4 has one sample


def batch(geometry: str, *groups: int) -> Tensor:
    """Samples of each domain around a point of its own."""
    m = GEOMETRIES[geometry]
    dtype = torch.complex128 if m.is_complex else torch.float64
    centres = m.random_point(5, dtype=dtype)[DOMAINS]
    centres = centres.reshape(len(DOMAINS), *(1 for _ in groups), *m.point_shape)
    centres = centres.expand(len(DOMAINS), *groups, *m.point_shape)
    return m.exp(centres, 0.3 * m.random_tangent(centres))


def randomized(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


def layers_of(make: Callable[[], Any], domains: int = 5, **options: Any) -> tuple[DomainBatchNorm, list[Any]]:
    """A domain norm and one plain norm for each domain, in the same state."""
    layer = DomainBatchNorm(make(), domains, **options)
    randomized(layer)
    own = set(layer.norm.statistics_names())
    singles = [make() for _ in range(domains)]
    for d, single in enumerate(singles):
        single.load_state_dict({k: v[d] if k in own else v for k, v in layer.norm.state_dict().items()})
    return layer, singles


def apart(singles: list[Any], x: Tensor, domains: Tensor, few: int = 2) -> Tensor:
    """What one norm per domain makes of a batch; domains of fewer samples are evaluated."""
    out = torch.zeros_like(x)
    for d, single in enumerate(singles):
        own = (domains == d).nonzero()[:, 0]
        if len(own):
            training = single.training
            out = out.index_copy(0, own, single.train(training and len(own) >= few)(x[own]))
            single.train(training)
    return out


def check_same_statistics(layer: DomainBatchNorm, singles: list[Any]) -> None:
    for name in layer.norm.statistics_names():
        for d, single in enumerate(singles):
            torch.testing.assert_close(getattr(layer.norm, name)[d], getattr(single, name), rtol=1e-9, atol=1e-11)


def check_like_apart(make: Callable[[], Any], geometry: str, *groups: int) -> None:
    layer, singles = layers_of(make)
    for _ in range(2):
        x = batch(geometry, *groups)
        first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = layer(first, DOMAINS), apart(singles, second, DOMAINS)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
        weight = torch.randn_like(y)
        for out in (y, expected):
            (out * weight.conj()).real.sum().backward()
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-8, atol=1e-9)
        for name, p in layer.norm.named_parameters():
            total = sum(q.grad for s in singles if (q := dict(s.named_parameters())[name]).grad is not None)
            torch.testing.assert_close(p.grad, total, rtol=1e-8, atol=1e-9)
        layer.zero_grad()
        for single in singles:
            single.zero_grad()
        check_same_statistics(layer, singles)
    x = batch(geometry, *groups)
    layer.eval()
    for single in singles:
        single.eval()
    torch.testing.assert_close(layer(x, DOMAINS), apart(singles, x, DOMAINS), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("groups", [(), (2,)], ids=["one", "channels"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_like_one_norm_per_domain(geometry: str, policy: str, groups: tuple[int, ...]) -> None:
    manifold, channels = GEOMETRIES[geometry], groups[0] if groups else None
    options = {"statistics": POLICIES[policy], "channels": channels, **F64}
    check_like_apart(lambda: mn.nn.RiemannianBatchNorm(manifold, **options), geometry, *groups)


@pytest.mark.parametrize("move", ["RiemannianBatchNorm", "LieBatchNorm", "GyroBatchNorm"])
@pytest.mark.parametrize("mean", [Karcher(2), Newton(2), Exact()], ids=repr)
def test_every_move_and_mean(move: str, mean: MeanPolicy) -> None:
    check_like_apart(lambda: getattr(mn.nn, move)(GEOMETRIES["AIM"], mean=mean, **F64), "AIM")


@pytest.mark.parametrize(
    "options",
    [{"route": "direct"}, {"grad_through_stats": False}, {"bias": "manifold"}, {"bias": False}, {"momentum": None}],
    ids=str,
)
def test_every_option(options: dict[str, Any]) -> None:
    check_like_apart(lambda: mn.nn.RiemannianBatchNorm(GEOMETRIES["AIM"], **options, **F64), "AIM")


def test_fixed_point_and_learnable_geometries() -> None:
    check_like_apart(lambda: mn.nn.RiemannianBatchNorm(GEOMETRIES["BW"], mean=FixedPoint(2), **F64), "BW")
    check_like_apart(lambda: mn.nn.BuresWassersteinBatchNorm(4, power=0.5, **F64), "BW")


def test_published_norms_with_an_identity_of_their_own() -> None:
    layer = DomainBatchNorm(mn.nn.published.LieBNSPDNet(mn.LogEuclidean(4), **F64), 5)
    start = layer.norm.running_mean.clone()
    layer(batch("LEM"), DOMAINS)
    assert not torch.equal(layer.norm.running_mean[0], start[0])
    assert torch.equal(layer.norm.running_mean[1], start[1])


# ---- samples that do not count


def test_a_domain_with_few_samples_uses_and_keeps_its_running_statistics() -> None:
    make = lambda: mn.nn.RiemannianBatchNorm(GEOMETRIES["AIM"], **F64)  # noqa: E731
    layer, singles = layers_of(make, min_samples=4)
    x = batch("AIM")
    torch.testing.assert_close(layer(x, DOMAINS), apart(singles, x, DOMAINS, few=4), rtol=1e-9, atol=1e-11)
    check_same_statistics(layer, singles)
    assert layer.norm.num_batches_tracked.tolist() == [1, 0, 1, 0, 0]


def test_weights_are_repetitions_within_a_domain() -> None:
    m, domains = GEOMETRIES["AIM"], torch.tensor([0, 0, 1, 1, 1])
    x = m.random_point(5, **F64)
    weighted, repeated = (DomainBatchNorm(mn.nn.GyroBatchNorm(m, **F64), 2) for _ in range(2))
    y = weighted(x, domains, torch.tensor([20.0, 10.0, 1.0, 0.0, 3.0], **F64))
    more = torch.tensor([0, 0, 1, 2, 4, 4, 4])
    expected = repeated(x[more], domains[more])
    torch.testing.assert_close(y[[0, 1, 2, 4]], expected[[0, 2, 3, 4]], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(weighted.norm.running_mean, repeated.norm.running_mean, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_sample_has_no_influence(value: float) -> None:
    make = lambda: mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64)  # noqa: E731
    layer, singles = layers_of(make)
    x, keep = batch("LEM"), torch.arange(len(DOMAINS)) != 4
    bad = x.clone()
    bad[4] = value
    leaf = bad.requires_grad_()
    y = layer(leaf, DOMAINS)
    y[keep].sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all()) and bool(y[4].isnan().all())
    torch.testing.assert_close(y[keep], apart(singles, x[keep], DOMAINS[keep]), rtol=1e-9, atol=1e-11)
    check_same_statistics(layer, singles)


def test_a_domain_of_bad_samples_changes_nothing() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5)
    x = batch("LEM")
    x[DOMAINS == 2] = torch.nan
    before = copy.deepcopy(layer.state_dict())
    y = layer(x, DOMAINS)
    assert bool(y[DOMAINS == 2].isnan().all()) and bool(y[DOMAINS != 2].isfinite().all())
    assert torch.equal(layer.norm.running_mean[2], before["norm.running_mean"][2])
    assert layer.norm.num_batches_tracked.tolist() == [1, 0, 0, 1, 0]


def test_values_that_overflow_in_one_domain_stay_there() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(mn.Euclidean(2), **F64), 2)
    x = torch.tensor([[1e308, 1.0], [-1e308, 2.0], [1.0, 2.0], [3.0, 5.0]], **F64)
    y = layer(x, torch.tensor([0, 0, 1, 1]))
    assert bool(y[2:].isfinite().all()) and bool(layer.norm.running_mean.isfinite().all())
    assert layer.norm.num_batches_tracked.tolist() == [0, 1]


def test_an_empty_batch_comes_back_empty() -> None:
    layer = DomainBatchNorm(mn.nn.GyroBatchNorm(GEOMETRIES["AIM"], **F64), 2)
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.zeros(0, 4, 4, **F64), torch.zeros(0, dtype=torch.long)).shape == (0, 4, 4)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


# ---- input


def test_leading_dimensions_share_their_domain() -> None:
    m = GEOMETRIES["LCM"]
    first, second = (DomainBatchNorm(mn.nn.LieBatchNorm(m, channels=2, **F64), 3) for _ in range(2))
    x, domains = m.random_point(6, 4, 2, **F64), torch.tensor([0, 1, 2, 0, 1, 2])
    y = first(x, domains)
    expected = second(x.flatten(0, 1), domains.repeat_interleave(4))
    torch.testing.assert_close(y.flatten(0, 1), expected, rtol=1e-12, atol=0.0)


def test_one_domain_needs_no_label() -> None:
    x, m = batch("AIM"), GEOMETRIES["AIM"]
    layer, plain = DomainBatchNorm(mn.nn.GyroBatchNorm(m, **F64), 1), mn.nn.GyroBatchNorm(m, **F64)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (None, "pass the domain of each sample"),
        (torch.full((13,), 5), "domain 5 is not one of the 5 domains"),
        (torch.full((13,), -1), "domain -1 is not one of"),
        (torch.zeros(12, dtype=torch.long), "one integer for each of the 13 samples"),
    ],
)
def test_wrong_domains(domain: Tensor | None, message: str) -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=message):
        layer(batch("LEM"), domain)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_what_can_be_wrapped() -> None:
    norm = mn.nn.LieBatchNorm(mn.LogEuclidean(3))
    wrapped = DomainBatchNorm(norm, 2)
    with pytest.raises(ValueError, match="belongs to a DomainBatchNorm"):
        norm(torch.eye(3).expand(4, 3, 3))
    with pytest.raises(ValueError, match="not be per domain already"):
        DomainBatchNorm(wrapped.norm, 2)
    with pytest.raises(ValueError, match="must keep running statistics"):
        DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(3), track_running_stats=False), 2)
    with pytest.raises(ValueError, match="running_shift"):
        DomainBatchNorm(mn.nn.PoincareMidpointBatchNorm(3, recenter=True), 2)
    with pytest.raises(TypeError, match="must be a norm layer"):
        DomainBatchNorm(nn.BatchNorm1d(3), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(3)), 0)
    for numbers in (np.int64(3), torch.tensor(3)):
        assert DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(3)), numbers).num_domains == 3


@pytest.mark.parametrize("number", [2.5, 2.0, "a", True, None, torch.tensor(2.0), [2]], ids=repr)
def test_numbers_that_are_no_counts_change_nothing(number: Any) -> None:
    norm = mn.nn.LieBatchNorm(mn.LogEuclidean(3))
    for name, options in (("num_domains", {"num_domains": number}), ("min_samples", {"min_samples": number})):
        with pytest.raises(TypeError, match=f"DomainBatchNorm: {name} must be a whole number, got "):
            DomainBatchNorm(norm, **{"num_domains": 2, **options})
    assert norm(torch.eye(3).expand(4, 3, 3)).shape == (4, 3, 3)  # still a plain norm
    layer = DomainBatchNorm(norm, 2)
    with pytest.raises(TypeError, match=r"DomainBatchNorm.add_domain: count must be a whole number, got "):
        layer.add_domain(number)
    assert layer.num_domains == 2


def test_a_wrapping_that_fails_leaves_the_norm_as_it_was() -> None:
    norm = mn.nn.LieBatchNorm(mn.LogEuclidean(3))
    with pytest.raises(RuntimeError):
        DomainBatchNorm(norm, 2**50)  # no memory holds so many
    assert norm(torch.eye(3).expand(4, 3, 3)).shape == (4, 3, 3)
    assert DomainBatchNorm(norm, 2).num_domains == 2


FORMS: dict[str, Callable[[], Any]] = {
    "int32": lambda: DOMAINS.int(),
    "uint8": lambda: DOMAINS.to(torch.uint8),
    "int16, strided": lambda: DOMAINS.repeat_interleave(2).short()[::2],
    "list": lambda: DOMAINS.tolist(),
    "tuple": lambda: tuple(DOMAINS.tolist()),
    "numpy": lambda: DOMAINS.numpy(),
    "numpy uint8": lambda: DOMAINS.numpy().astype("uint8"),
    "list of numbers of numpy": lambda: list(DOMAINS.numpy()),
    "numpy object": lambda: DOMAINS.numpy().astype(object),
}
PATHS = {"program": "LEM", "program, affine-invariant": "AIM", "template": "CRIM"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_domains_in_any_form(path: str, form: str) -> None:
    make = lambda: DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES[PATHS[path]], **F64), 5)  # noqa: E731
    layer, twin = make(), make()
    x = batch(PATHS[path])
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = layer(first, FORMS[form]()), twin(second, DOMAINS)
    assert torch.equal(out, expected)
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(first.grad, second.grad)
    enough = (DOMAINS != 4).numpy().nonzero()[0].tolist()
    layer.adapt(x[enough], [FORMS[form]()[i] for i in enough])
    twin.adapt(x[enough], DOMAINS[enough])
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in layer.state_dict().items())
    assert torch.equal(layer.eval()(x, FORMS[form]()), twin.eval()(x, DOMAINS))


@pytest.mark.parametrize(
    "domain", [2, torch.tensor(2), DOMAINS.numpy()[1], torch.tensor(2, dtype=torch.uint8)], ids=repr
)
@pytest.mark.parametrize("path", PATHS)
def test_one_domain_for_the_whole_batch(path: str, domain: Any) -> None:
    make = lambda: DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES[PATHS[path]], **F64), 5)  # noqa: E731
    layer, twin = make(), make()
    x = batch(PATHS[path])
    assert torch.equal(layer(x, domain), twin(x, torch.full((len(x),), 2)))
    assert torch.equal(layer(x[:0], domain), x[:0])
    layer.adapt(x, domain)
    twin.adapt(x, 2)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize(
    "domain",
    [
        True,
        1.0,
        [True] * 13,
        [0.0] * 13,
        torch.zeros(13),
        torch.ones(13, dtype=torch.bool),
        ["a"] * 13,
        "a",
        [None] * 13,
        np.array([0.0] * 13, dtype=object),
        np.array([True] * 13, dtype=object),
        np.array(["a"] * 13, dtype=object),
    ],
    ids=repr,
)
def test_domains_that_are_no_integers(domain: Any) -> None:
    layer, x = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5), batch("LEM")
    for call in (layer, layer.adapt, layer.refit, layer.forward_in_chart):
        with pytest.raises(TypeError, match=r"domain must hold integers, got .*Map labels to 0, 1"):
            call(x, domain)


def test_a_tensor_of_domains_is_used_as_it_is() -> None:
    from manifoldnorm.nn._domains import index_of

    x = batch("LEM")
    for domain in (DOMAINS, DOMAINS.int(), DOMAINS[None].expand(2, 13)[1]):
        assert index_of(domain, x, "") is domain
    meta = torch.empty(13, dtype=torch.long, device="meta")
    assert index_of(meta, x, "") is meta  # neither moved nor looked at


# ---- new domains


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("geometry", ["AIM", "LEM", "BW", "Sphere"])
def test_adapting_is_refitting_one_norm_per_domain(geometry: str, policy: str) -> None:
    make = lambda: mn.nn.RiemannianBatchNorm(GEOMETRIES[geometry], statistics=POLICIES[policy], **F64)  # noqa: E731
    layer, singles = layers_of(make)
    x, enough = batch(geometry), DOMAINS != 4
    layer.adapt(x[enough], DOMAINS[enough])
    for d in (0, 2, 3):
        singles[d].refit(x[d == DOMAINS])
    for name in layer.norm.statistics_names():
        for d in range(5):
            actual, expected = getattr(layer.norm, name)[d], getattr(singles[d], name)
            torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def test_add_domain_and_adapt_to_it() -> None:
    m = GEOMETRIES["AIM"]
    layer = DomainBatchNorm(mn.nn.GyroBatchNorm(m, statistics=Momentum(0.6, 0.2), **F64), 5)
    layer(batch("AIM"), DOMAINS)
    before = copy.deepcopy(layer.state_dict())
    assert layer.add_domain(2) == 5 and layer.num_domains == 7
    for name in layer.norm.statistics_names():
        assert torch.equal(getattr(layer.norm, name)[:5], before[f"norm.{name}"])
    assert torch.equal(layer.norm.running_mean[5:], m.origin(2, **F64))
    x = batch("AIM")
    layer.adapt(x, 6)
    y = layer.eval()(x, torch.full((len(x),), 6))
    assert m.dist(m.frechet_mean(y), m.origin(**F64)) < 1e-6
    assert torch.equal(layer.norm.running_mean[:5], before["norm.running_mean"])
    torch.testing.assert_close(m.squared_dist(m.origin(**F64), y).mean(), torch.ones((), **F64), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("geometry", ["AIM", "LEM", "BW", "CRIM"])
def test_domains_added_in_inference_mode_can_be_trained(geometry: str, policy: str) -> None:
    make = lambda: mn.nn.RiemannianBatchNorm(GEOMETRIES[geometry], statistics=POLICIES[policy], **F64)  # noqa: E731
    layer, twin = DomainBatchNorm(make(), 2), DomainBatchNorm(make(), 2)
    x = batch(geometry)
    for each, mode in ((layer, torch.inference_mode), (twin, torch.no_grad)):
        with mode():
            each.add_domain()
            each.load_state_dict(DomainBatchNorm(make(), 5).state_dict())
            each.adapt(x, 4)
    assert not any(buffer.is_inference() or buffer.requires_grad for buffer in layer.buffers())
    y, expected = layer(x, DOMAINS), twin(x, DOMAINS)
    y.sum().backward()
    expected.sum().backward()
    assert torch.equal(y, expected) and torch.equal(layer.norm.bias.grad, twin.norm.bias.grad)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in layer.state_dict().items())


def test_adapting_to_too_few_samples_is_an_error_that_changes_nothing() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5, min_samples=3)
    x = batch("LEM")
    bad = x.clone()
    bad[DOMAINS == 3] = torch.nan
    light = (DOMAINS != 0).double()
    before = copy.deepcopy(layer.state_dict())
    for values, domain, weights, message in (
        (x, DOMAINS, None, "domain 4 has 1 samples that count, fewer than min_samples=3"),
        (x[:2], 1, None, "domain 1 has 2 samples"),
        (bad, DOMAINS, None, "domain 3 has 0 samples"),
        (x, DOMAINS, light, "domain 0 has 0 samples"),
    ):
        for call in (layer.adapt, layer.refit):
            with pytest.raises(ValueError, match=message):
                call(values, domain, weights)
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("groups", [(), (2,)], ids=["one", "channels"])
def test_one_sample_sets_the_mean_and_leaves_the_variance(policy: str, groups: tuple[int, ...]) -> None:
    m = GEOMETRIES["AIM"]
    make = lambda: mn.nn.GyroBatchNorm(  # noqa: E731
        m, statistics=POLICIES[policy], channels=groups[0] if groups else None, **F64
    )
    layer, plain = DomainBatchNorm(make(), 3, min_samples=1), make()
    x = m.random_point(6, *groups, **F64)
    layer(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    plain(x)
    for norm, own, call in (
        (layer.norm, 1, lambda: layer.adapt(x[:1], 1)),
        (plain, (), lambda: plain.refit(x[:1])),
    ):
        variances = {k: getattr(norm, f"{k}_var").clone() for k in norm.statistics.kinds}
        call()
        for kind, variance in variances.items():
            torch.testing.assert_close(getattr(norm, f"{kind}_mean")[own], x[0], rtol=1e-9, atol=1e-11)
            assert torch.equal(getattr(norm, f"{kind}_var"), variance) and bool((variance > 0).all())


def test_frozen_domains_stay() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5)
    layer(batch("LEM"), DOMAINS)
    before, x = copy.deepcopy(layer.state_dict()), batch("LEM")
    expected = copy.deepcopy(layer).eval()(x, DOMAINS)
    assert torch.equal(layer.freeze()(x, DOMAINS), expected)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    layer.unfreeze()(x, DOMAINS)
    assert not torch.equal(layer.norm.running_mean, before["norm.running_mean"])


# ---- states


@pytest.mark.parametrize("saved", [2, 5, 9])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("policy", ["batch", "momentum"])
def test_states_of_any_number_of_domains_load_strictly(saved: int, assign: bool, policy: str) -> None:
    make = lambda n: DomainBatchNorm(  # noqa: E731
        mn.nn.LieBatchNorm(GEOMETRIES["LEM"], statistics=POLICIES[policy], **F64), n
    )
    source, target = make(saved), make(5)
    source(batch("LEM"), DOMAINS % saved)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True), assign=assign)
    assert target.num_domains == saved
    x, domains = batch("LEM"), DOMAINS % saved
    for mode in (False, True):
        assert torch.equal(target.train(mode)(x, domains), source.train(mode)(x, domains))
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_other_states_fail_strictly() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 2)
    with pytest.raises(RuntimeError, match=r"Missing key.*norm\.running_mean"):
        layer.load_state_dict(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64).state_dict())
    other = DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(3), **F64), 2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict(other.state_dict())


@pytest.mark.parametrize("revive", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_equal_and_independent(revive: Callable[[Any], Any]) -> None:
    layer = DomainBatchNorm(mn.nn.GyroBatchNorm(GEOMETRIES["AIM"], bias="manifold", **F64), 5, min_samples=3)
    layer(batch("AIM"), DOMAINS)
    twin, x = revive(layer), batch("AIM")
    before = copy.deepcopy(layer.state_dict())
    y = twin(x, DOMAINS)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert torch.equal(layer(x, DOMAINS), y)


def test_buffers_are_updated_in_place() -> None:
    layer = DomainBatchNorm(mn.nn.GyroBatchNorm(GEOMETRIES["AIM"], **F64), 5)
    before = {name: (b.data_ptr(), b.shape) for name, b in layer.named_buffers()}
    layer(batch("AIM"), DOMAINS)
    assert {name: (b.data_ptr(), b.shape) for name, b in layer.named_buffers()} == before


@pytest.mark.parametrize("geometry", ["AIM", "LEM"])
def test_single_precision(geometry: str) -> None:
    wide = DomainBatchNorm(mn.nn.RiemannianBatchNorm(GEOMETRIES[geometry], statistics=Momentum(0.6, 0.2), **F64), 5)
    narrow = copy.deepcopy(wide).float()
    x = batch(geometry)
    y = narrow(x.float(), DOMAINS)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), wide(x, DOMAINS), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about how it traces autograd Functions
@pytest.mark.parametrize("geometry", ["AIM", "LCM"])
def test_compiled(geometry: str) -> None:
    layer = DomainBatchNorm(mn.nn.RiemannianBatchNorm(GEOMETRIES[geometry], statistics=Momentum(0.6, 0.2), **F64), 5)
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    fast = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = batch(geometry)
    results = []
    for module in (layer, fast):
        leaf = x.clone().requires_grad_()
        y = module(leaf, DOMAINS)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-9)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_with_domains_in_any_form() -> None:
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 5)
    torch._dynamo.reset()
    fast = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = batch("LEM")
    for domain in (DOMAINS.to(torch.uint8), DOMAINS.tolist(), 2, torch.tensor(2)):
        torch.testing.assert_close(fast(x, domain), layer(x, domain), rtol=1e-9, atol=1e-10)


# ---- no loop


def test_no_work_is_done_domain_by_domain() -> None:
    """The number of operations does not depend on the number of domains."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "item" not in str(func) and "_local_scalar_dense" not in str(func)
            self.calls += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for domains in (2, 10):
        layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["AIM"], **F64), domains)
        x = GEOMETRIES["AIM"].random_point(40, **F64).requires_grad_()
        with Count() as count:
            layer(x, torch.arange(40) % domains).sum().backward()
        counts.append(count.calls)
    assert counts[0] == counts[1]


# ---- factories and models


def test_factories_are_values() -> None:
    norm = mn.nn.LieBatchNorm.of(mn.LogEuclidean, momentum=0.05)
    factory = DomainBatchNorm.of(norm, 3, min_samples=4)
    assert factory == pickle.loads(pickle.dumps(factory)) != DomainBatchNorm.of(norm, 4, min_samples=4)
    assert hash(factory) == hash(copy.deepcopy(factory))
    layer = factory(6, dtype=torch.float64)
    assert layer.norm.running_mean.shape == (3, 6, 6) and layer.norm.min_samples == 4
    assert repr(factory) == "DomainBatchNorm.of(LieBatchNorm.of(LogEuclidean, momentum=0.05), 3, min_samples=4)"


@pytest.mark.parametrize("geometry", [mn.LogEuclidean, mn.AffineInvariant])
def test_models_pass_the_domain_on(geometry: type) -> None:
    norm = DomainBatchNorm.of(mn.nn.RiemannianBatchNorm.of(geometry), 3)
    net = mn.models.SPDNet([6, 5, 4], 2, norm=norm, **F64)
    x = mn.AffineInvariant(6).random_point(12, **F64)
    domains = torch.arange(12) % 3
    out = net(x, domains)
    out.sum().backward()
    tracked = [v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")]
    assert [v.tolist() for v in tracked] == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(ValueError, match="pass the domain"):
        net(x)
    y = mn.nn.refit(net, x, domains)
    torch.testing.assert_close(net.eval()(x, domains), y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_refitting_a_model_changes_all_norms_or_none(error: type[BaseException]) -> None:
    norm = DomainBatchNorm.of(mn.nn.MomentumBatchNorm.of(mn.AffineInvariant), 3)
    net = mn.models.SPDNet([6, 5, 4], 2, norm=norm, **F64).train()
    first, second = (module for module in net.modules() if isinstance(module, DomainBatchNorm))
    x, domains = mn.AffineInvariant(6).random_point(12, **F64), torch.arange(12) % 3
    net(x, domains)
    before, seen = copy.deepcopy(net.state_dict()), []
    if error is ValueError:
        second.norm.min_samples = 30
    else:

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        second.register_forward_hook(interrupt)  # its own statistics are set by then
    first.register_forward_hook(lambda *_: seen.append(first.norm.running_mean.clone()))
    with pytest.raises(error):
        mn.nn.refit(net, x, domains)
    assert not torch.equal(seen[0], before[next(k for k in before if k.endswith("running_mean"))])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and not any(module._forward_pre_hooks for module in net.modules())


def test_fusion_with_the_logarithm_saves_a_decomposition() -> None:
    m = GEOMETRIES["LEM"]
    norm = randomized(DomainBatchNorm(mn.nn.LieBatchNorm(m, **F64), 5))
    x = batch("LEM")
    fused = mn.nn.Sequential(copy.deepcopy(norm), mn.nn.LogEig())(x, DOMAINS)
    assert "Exp" not in str(fused.grad_fn)
    torch.testing.assert_close(fused, mn.nn.LogEig()(norm(x, DOMAINS)), rtol=1e-9, atol=1e-10)


def test_set_epoch_reaches_domain_norms() -> None:
    norm = mn.nn.MomentumBatchNorm(mn.LogEuclidean(3), schedule=MomentumSchedule(5, 0.2), **F64)
    layer = DomainBatchNorm(norm, 2)
    mn.nn.set_epoch(layer, 4)
    assert torch.allclose(layer.norm.momenta, torch.tensor(MomentumSchedule(5, 0.2)(4), **F64))


# ---- reductions


def test_segments_against_a_loop() -> None:
    raw, index = torch.rand(30, 2, **F64), torch.randint(0, 4, (30,))
    raw[index == 1] = 0.0
    values = torch.randn(30, 2, 3, **F64)
    segments, samples = segment(raw, index, 5)
    mean = weighted_mean(values, segments, 1)
    for d in (0, 2, 3):
        w = raw[index == d]
        torch.testing.assert_close(mean[d], (w[..., None] * values[index == d]).sum(0) / w.sum(0)[:, None])
        assert samples[d].tolist() == [int((index == d).sum())] * 2
    assert segments.empty is not None and segments.empty.any(1).tolist() == [False, True, False, False, True]
    assert torch.equal(mean[1], values.mean(0)) and torch.equal(mean[4], values.mean(0))


# ---- batches


def test_sampler_draws_every_sample_once_in_balanced_batches() -> None:
    domains = [0] * 12 + [1] * 7 + [2] * 20
    sampler = DomainBatchSampler(domains, per_batch=3, domains_per_batch=2, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    drawn = [i for b in batches for i in b]
    assert len(set(drawn)) == len(drawn) == 12 + 6 + 18
    for b in batches:
        counts = {d: sum(domains[i] == d for i in b) for d in {domains[i] for i in b}}
        assert len(counts) <= 2 and set(counts.values()) == {3}
        assert [domains[i] for i in b] == sorted(domains[i] for i in b)
    assert sum(len(b) == 6 for b in batches) == 6  # twelve groups, two in each batch


def test_sampler_is_seeded_and_changes_with_the_epoch() -> None:
    domains = torch.arange(60) % 4
    make = lambda seed: DomainBatchSampler(domains, 5, seed=seed)  # noqa: E731
    first = list(make(0))
    assert first == list(make(0)) != list(make(1))
    again = make(0)
    again.set_epoch(1)
    assert list(again) != first
    again.set_epoch(0)
    assert list(again) == first


def test_sampler_keeps_the_rest_on_demand() -> None:
    domains = [0] * 5 + [1] * 2
    kept = [sorted(b) for b in DomainBatchSampler(domains, 3, drop_last=False)]
    assert sorted(i for b in kept for i in b) == list(range(7))
    assert sorted(i for b in DomainBatchSampler(domains, 3) for i in b) != list(range(7))
    with pytest.raises(ValueError, match="no domain has per_batch=6"):
        DomainBatchSampler(domains, 6)
    with pytest.raises(ValueError, match="must be at least 1"):
        DomainBatchSampler(domains, 0)


@pytest.mark.parametrize(
    "labels",
    [["a", "b", "c"], [("a", 1), ("a", 2), ("b", 1)], [30, -1, 7], ["x", 3, ("b", 1)], [None, 1.5, frozenset({1})]],
    ids=str,
)
def test_sampler_takes_labels_of_any_kind(labels: list[Any]) -> None:
    numbers = [0] * 5 + [1] * 7 + [2] * 4
    domains = [labels[i] for i in numbers]
    batches = list(DomainBatchSampler(domains, 2, seed=3))
    for chosen in batches:
        counts = [sum(domains[i] == label for i in chosen) for label in labels]
        assert set(counts) <= {0, 2}
    assert batches == list(DomainBatchSampler(domains, 2, seed=3))
    if labels in (["a", "b", "c"], ["x", 3, ("b", 1)]):  # their order is that of the numbers
        assert batches == list(DomainBatchSampler(numbers, 2, seed=3))


def test_sampler_takes_arrays_and_tensors() -> None:
    numbers = [0] * 5 + [1] * 7 + [2] * 4
    reference = list(DomainBatchSampler(numbers, 2))
    tensor = torch.tensor(numbers)
    for form in (
        tensor,
        tensor.numpy(),
        tensor[:, None],
        list(tensor),
        list(tensor.numpy()),
        tensor.byte(),
        iter(numbers),
    ):
        assert list(DomainBatchSampler(form, 2)) == reference
    names = torch.tensor(numbers).numpy().astype(str)
    assert list(DomainBatchSampler(names, 2)) == reference
    with pytest.raises(ValueError, match="label 1 is NaN"):
        DomainBatchSampler([1.0, float("nan")], 1)
    with pytest.raises(TypeError, match="label 0 is not hashable"):
        DomainBatchSampler([[1], [2]], 1)
    with pytest.raises(TypeError, match="one label for each sample"):
        DomainBatchSampler("aab", 1)
    for table in (np.zeros((3, 2), int), torch.zeros(1, 3), np.array([("a", 1), ("b", 2)])):
        with pytest.raises(ValueError, match=r"one label for each sample, got shape \(\d, \d\).*list of tuples"):
            DomainBatchSampler(table, 1)


def test_sampler_feeds_a_loader() -> None:
    domains = torch.arange(24) % 3
    data = torch.utils.data.TensorDataset(GEOMETRIES["LEM"].random_point(24, **F64), domains)
    layer = DomainBatchNorm(mn.nn.LieBatchNorm(GEOMETRIES["LEM"], **F64), 3)
    for x, d in torch.utils.data.DataLoader(data, batch_sampler=DomainBatchSampler(domains, 4)):
        layer(x, d)
    assert layer.norm.num_batches_tracked.tolist() == [2, 2, 2]


@pytest.mark.parametrize("count", [0, -1])
def test_add_domain_refuses_to_drop_domains(count: int) -> None:
    layer = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(2)), 3)
    with pytest.raises(ValueError, match="at least 1"):
        layer.add_domain(count)
    assert layer.num_domains == 3
