"""`AveragedModel`: averages of weights and running statistics that stay on their manifolds."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

import manifoldnorm as mn
from manifoldnorm.testing.catalogue import NORMS
from manifoldnorm.testing.norm_cases import NormCase

AVERAGES: dict[str, dict[str, Any]] = {
    "equal": {},
    "avg_fn": {"avg_fn": swa_utils.get_ema_avg_fn(0.6)},
    "multi_avg_fn": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.6)},
}


def weights(kind: str, count: int) -> list[float]:
    """Return the weight of each model but the first."""
    return [1 / (k + 1) if kind == "equal" else 0.4 for k in range(1, count)]


@torch.no_grad()
def violations(model: nn.Module) -> dict[str, float]:
    """Return how far the points of a model, parameters and running means, lie from their manifolds."""
    found = {
        name: float(p.manifold.geometry.violation(p.detach()).max())
        for name, p in model.named_parameters()
        if hasattr(p, "manifold")
    }
    for name, norm in model.named_modules():
        if isinstance(norm, mn.nn.ManifoldNorm) and norm.track_running_stats:
            found[f"{name}.running_mean"] = float(norm.manifold.violation(norm.running_mean).max())
    return found


def steps(case: NormCase, count: int = 4) -> list[Any]:
    """Return the states of a layer along a training."""
    layer = case.generic()
    found = []
    for _ in range(count):
        layer.train()(case.batch())
        with torch.no_grad():
            if getattr(layer, "bias_kind", ""):
                layer.bias_point = case.points(*case.groups) if case.groups else case.points(1)[0]
        found.append(copy.deepcopy(layer))
    return found


@pytest.mark.parametrize("name", NORMS)
def test_running_means_move_along_geodesics(name: str) -> None:
    case = NormCase(NORMS[name][0]())
    models = steps(case)
    if not models[0].track_running_stats:
        assert not list(models[0].buffers())
        return
    average = mn.nn.AveragedModel(models[0], multi_avg_fn=AVERAGES["multi_avg_fn"]["multi_avg_fn"], use_buffers=True)
    for model in models:
        average.update_parameters(model)
    expected = models[0].running_mean.detach()
    for weight, model in zip(weights("ema", len(models)), models[1:], strict=True):
        expected = case.manifold.geodesic(expected, model.running_mean.detach(), weight)
    assert case.mismatch(average.module.running_mean, expected) < 1e-9
    assert float(case.manifold.violation(average.module.running_mean).max()) < 1e-10
    assert average.eval()(case.batch()).isfinite().all()


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_weight_is_that_of_the_function(kind: str) -> None:
    manifold = mn.Sphere(3)
    norm = mn.nn.GyroBatchNorm(manifold, bias="manifold", dtype=torch.float64)
    average = mn.nn.AveragedModel(norm, **AVERAGES[kind])
    points = [manifold.random_point(dtype=torch.float64) for _ in range(4)]
    for point in points:
        norm.bias_point = point
        average.update_parameters(norm)
    expected = points[0]
    for weight, point in zip(weights(kind, 4), points[1:], strict=True):
        expected = manifold.geodesic(expected, point, weight)
    torch.testing.assert_close(average.module.bias_on_manifold.detach(), expected, rtol=1e-12, atol=1e-12)
    assert type(average.module.bias_on_manifold).__name__ == "ManifoldParameter"


def test_what_is_no_point_is_averaged_as_in_torch() -> None:
    model = mn.models.SPDNet([5, 4], 2, norm=mn.nn.LieBatchNorm.of(mn.LogCholesky), dtype=torch.float64)
    ours, theirs = mn.nn.AveragedModel(model), swa_utils.AveragedModel(model)
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        model(mn.LogEuclidean(5).random_point(6, dtype=torch.float64))
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "SPD, frames and biases on manifolds": (
        lambda: mn.models.SPDNet(
            [6, 4], 3, norm=mn.nn.GyroBatchNorm.of(mn.AffineInvariant, bias="manifold"), parametrization="manifold"
        ),
        lambda count: mn.LogEuclidean(6).random_point(count),
    ),
    "Grassmann": (
        lambda: mn.models.GrassmannNet([8, 6], 2, 3, norm=mn.nn.GyroBatchNorm.of(mn.Grassmann, bias="manifold")),
        lambda count: mn.Grassmann(8, 2).random_point(count),
    ),
    "hyperboloid, curvature learned": (
        lambda: mn.nn.Sequential(
            mn.nn.GyroBatchNorm(mn.nn.LearnableManifold(mn.Lorentz(3), ("curvature",)), bias="manifold"),
            nn.Linear(4, 3),
        ),
        lambda count: mn.Lorentz(3).random_point(count),
    ),
    "rotations": (
        lambda: mn.nn.Sequential(mn.nn.LieBatchNorm(mn.Rotations(3), bias="manifold"), nn.Flatten(), nn.Linear(9, 3)),
        lambda count: mn.Rotations(3).random_point(count),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("use_buffers", [True, False])
def test_a_trained_network_in_single_precision(name: str, use_buffers: bool) -> None:
    make, data = NETWORKS[name]
    model = make()
    average = mn.nn.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    search = mn.optim.RiemannianAdam(model.parameters(), lr=1e-2)
    for _ in range(30):
        search.zero_grad()
        nn.functional.cross_entropy(model(data(12)), torch.arange(12) % 3).backward()
        search.step()
        average.update_parameters(model)
    assert average.eval()(data(5)).isfinite().all()
    if not use_buffers:
        mn.nn.update_bn([data(12) for _ in range(3)], average)
    found = violations(average.module)
    assert any("running" in key for key in found) and any("on_manifold" in key for key in found)
    assert max(found.values()) < 1e-5, found
    assert average(data(5)).isfinite().all()


def test_torchs_class_is_enough_for_matrices_that_are_positive_definite() -> None:
    """Plain `AveragedModel`, then `update_bn`: the statistics are those of the averaged weights."""
    model = mn.models.SPDNet([6, 4], 2, norm=mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant), dtype=torch.float64)
    average = swa_utils.AveragedModel(model)
    search = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = [mn.LogEuclidean(6).random_point(12, dtype=torch.float64) for _ in range(4)]
    for x in data:
        search.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(12) % 2).backward()
        search.step()
        average.update_parameters(model)
    mn.nn.update_bn(data, average)
    frames = [m.weight for m in average.modules() if isinstance(m, mn.nn.BiMap)]
    norms = [m for m in average.modules() if isinstance(m, mn.nn.ManifoldNorm)]
    assert frames and all((w.mT @ w - torch.eye(w.shape[1])).abs().max() < 1e-12 for w in frames)
    assert all(int(norm.num_batches_tracked) == 4 for norm in norms)
    means = []
    hook = norms[0].register_forward_pre_hook(lambda norm, inputs: means.append(inputs[0].detach()))
    average.eval()(torch.cat(data))
    hook.remove()
    parts = means[0].chunk(4)
    metric = norms[0].manifold
    expected = mn.stats.Newton(1)(metric, parts[0], None)
    for k, part in enumerate(parts[1:], 2):
        expected = metric.geodesic(expected, mn.stats.Newton(1)(metric, part, None), 1 / k)
    torch.testing.assert_close(norms[0].running_mean, expected, rtol=1e-8, atol=1e-9)


def test_torchs_class_leaves_curved_manifolds() -> None:
    norm = mn.nn.GyroBatchNorm(mn.Grassmann(6, 2), dtype=torch.float64)
    ours, theirs = (kind(norm, use_buffers=True) for kind in (mn.nn.AveragedModel, swa_utils.AveragedModel))
    for _ in range(3):
        norm.running_mean.copy_(norm.manifold.random_point(dtype=torch.float64))
        ours.update_parameters(norm)
        theirs.update_parameters(norm)
    assert float(norm.manifold.violation(theirs.module.running_mean)) > 0.1
    assert float(norm.manifold.violation(ours.module.running_mean)) < 1e-12


def test_statistics_of_every_kind_and_domain() -> None:
    manifold = mn.Sphere(3)
    inner = mn.nn.GyroBatchNorm(manifold, statistics=mn.nn.Momentum(0.6, 0.3), dtype=torch.float64)
    norm = mn.nn.DomainBatchNorm(inner, 2)
    average = mn.nn.AveragedModel(norm, use_buffers=True, **AVERAGES["avg_fn"])
    found = []
    for _ in range(3):
        norm(manifold.random_point(8, dtype=torch.float64), torch.arange(8) % 2)
        average.update_parameters(norm)
        found.append((inner.running_mean.clone(), inner.momentum_mean.clone()))
    for kind, points in zip(("running_mean", "momentum_mean"), zip(*found, strict=True), strict=True):
        expected = points[0]
        for point in points[1:]:
            expected = manifold.geodesic(expected, point, 0.4)
        torch.testing.assert_close(getattr(average.module.norm, kind), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_gains_and_loses_the_domains_of_its_model(kind: str, use_buffers: bool) -> None:
    manifold = mn.AffineInvariant(3)
    layer = mn.nn.DomainBatchNorm(mn.nn.MomentumBatchNorm(manifold, dtype=torch.float64), 2)
    average, without = (mn.nn.AveragedModel(layer, use_buffers=use_buffers, **AVERAGES[kind]) for _ in range(2))
    for _ in range(3):
        layer(manifold.random_point(12, dtype=torch.float64), torch.arange(12) % 2)
        average.update_parameters(layer)
        without.update_parameters(layer)
    before = copy.deepcopy(layer)
    first = layer.add_domain(2)
    layer(manifold.random_point(12, dtype=torch.float64), torch.arange(12) % 2 + first)
    average.update_parameters(layer)
    without.update_parameters(before)
    for name in layer.norm.statistics_names():
        found, model, old = (getattr(each.norm, name) for each in (average.module, layer, without.module))
        torch.testing.assert_close(found[:first], old, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[first:], model[first:], rtol=1e-12, atol=1e-12)
    layer.load_state_dict(before.state_dict())
    average.update_parameters(layer)
    assert average.module.num_domains == 2


def test_points_of_geoopts_own_manifolds_are_projected() -> None:
    geoopt = pytest.importorskip("geoopt")
    model = nn.Module()
    model.point = geoopt.ManifoldParameter(torch.tensor([1.0, 0.0, 0.0]), manifold=geoopt.Sphere())
    average = mn.nn.AveragedModel(model)
    average.update_parameters(model)
    with torch.no_grad():
        model.point.copy_(torch.tensor([0.0, 1.0, 0.0]))
    average.update_parameters(model)
    torch.testing.assert_close(average.module.point.detach(), torch.tensor([0.5, 0.5, 0.0]).sqrt())
