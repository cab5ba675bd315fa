"""Watching statistics: what is recorded equals an independent computation, and the model does not notice."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import manifoldnorm as mn
from manifoldnorm.linalg import _fused
from manifoldnorm.nn import _paths
from manifoldnorm.stats import Exact

F64 = torch.float64
AIM, LEM, BW, BALL = mn.AffineInvariant(3), mn.LogEuclidean(3), mn.BuresWasserstein(3), mn.PoincareBall(3, -0.7)

# ---- distances by their formulas, with numpy and scipy only


def affine_invariant(p: Any, q: Any) -> float:
    return float(np.sqrt((np.log(scipy.linalg.eigvalsh(p, q)) ** 2).sum()))


def log_euclidean(p: Any, q: Any) -> float:
    return float(np.linalg.norm(scipy.linalg.logm(p) - scipy.linalg.logm(q)))


def bures_wasserstein(p: Any, q: Any) -> float:
    root = scipy.linalg.sqrtm(p)
    return float(np.sqrt(max(np.trace(p + q - 2 * scipy.linalg.sqrtm(root @ q @ root).real), 0)))


def hyperbolic(p: Any, q: Any) -> float:
    k = 0.7
    ratio = 2 * k * ((p - q) ** 2).sum() / ((1 - k * (p**2).sum()) * (1 - k * (q**2).sum()))
    return float(np.arccosh(1 + ratio) / np.sqrt(k))


CASES: dict[str, tuple[Any, Callable[[Any, Any], float]]] = {
    "AIM": (partial(mn.nn.RiemannianBatchNorm, AIM, mean=Exact()), affine_invariant),
    "LEM": (partial(mn.nn.LieBatchNorm, LEM), log_euclidean),
    "BW": (partial(mn.nn.RiemannianBatchNorm, BW, mean=Exact(), grad_through_stats=False), bures_wasserstein),
    "ball": (partial(mn.nn.GyroBatchNorm, BALL, mean=Exact()), hyperbolic),
}


def batches(manifold: Any, count: int = 4, size: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [manifold.random_point(size, generator=generator, dtype=F64) for _ in range(count)]


def make(factory: Any) -> Any:
    layer = factory(dtype=F64)
    layer.scale = 0.3  # a step that Bures-Wasserstein need not shrink, so that it is fused
    return layer


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("template", [False, True])
def test_records_equal_the_formulas(name: str, template: bool) -> None:
    factory, distance = CASES[name]
    layer = make(factory)
    expected = []
    with mn.nn.watch_statistics(layer) as watch:
        for x in batches(layer.manifold):
            running, running_var = layer.running_mean.numpy().copy(), float(layer.running_var)
            if template:
                with _paths.template_only():
                    layer(x)
            else:
                layer(x)
            mean = layer.manifold.frechet_mean(x).numpy()
            variance = np.mean([distance(mean, sample) ** 2 for sample in x.numpy()])
            expected.append((distance(running, mean), variance, running_var))
    (history,) = watch.history().values()
    assert history.step.tolist() == [0, 1, 2, 3]
    found = torch.stack([history.distance, history.variance, history.running_variance], 1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=1e-7, atol=1e-7)
    assert not found.requires_grad


@pytest.mark.skipif(not _fused.usable(torch.zeros(1, 3, 3)), reason="needs the compiled kernels")
@pytest.mark.parametrize("name", ["AIM", "LEM", "BW"])
def test_the_fused_path_stays_fused(name: str) -> None:
    layer = make(CASES[name][0])
    (x,) = batches(layer.manifold, 1)
    with mn.nn.watch_statistics(layer) as watch, _paths.watch() as paths:
        layer(x)
    assert [path.rsplit(" ", 1)[1] for path in paths] == ["fused"]
    assert len(watch.history()[type(layer).__name__].step) == 1


def test_a_metric_factor_and_a_chart_count() -> None:
    metric = mn.PowerDeformed(mn.AffineInvariant(3, alpha=4.0), 0.5)
    layer = mn.nn.GyroBatchNorm(metric, dtype=F64, mean=Exact())
    with mn.nn.watch_statistics(layer) as watch:
        (x,) = batches(AIM, 1)
        layer(x)
    (history,) = watch.history().values()
    torch.testing.assert_close(history.distance[0], metric.dist(metric.origin(dtype=F64), metric.frechet_mean(x)))


# ---- shapes


def test_channels_have_a_column_each() -> None:
    layer = mn.nn.LieBatchNorm(LEM, channels=2, dtype=F64)
    alone = mn.nn.LieBatchNorm(LEM, dtype=F64)
    first, second = batches(LEM, 2)
    with mn.nn.watch_statistics(nn.ModuleDict({"both": layer, "alone": alone})) as watch:
        layer(torch.stack([first, second], 1))
        alone(second)
    history = watch.history()
    assert history["both"].distance.shape == history["both"].variance.shape == (1, 2)
    torch.testing.assert_close(history["both"].distance[:, 1], history["alone"].distance)


def test_an_absent_domain_has_no_statistic() -> None:
    layer = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(LEM, dtype=F64), 2)
    first, second = batches(LEM, 2)
    alone = mn.nn.LieBatchNorm(LEM, dtype=F64)
    with mn.nn.watch_statistics(layer) as watch, mn.nn.watch_statistics(alone) as other:
        layer(first, torch.zeros(12, dtype=torch.long))
        layer.add_domain()
        layer(second, torch.full((12,), 2))
        alone(first)
    history = watch.history()["norm"]
    assert history.distance.isnan().tolist() == [[False, True, True], [True, True, False]]
    assert history.variance.isnan().tolist() == [[False, True, True], [True, True, False]]
    torch.testing.assert_close(history.distance[0, 0], other.history()["LieBatchNorm"].distance[0])


def test_a_product_has_a_variance_per_factor() -> None:
    space = mn.Product(mn.PoincareBall(2), mn.Sphere(2))
    layer = mn.nn.GyroBatchNorm(space, dtype=F64)
    with mn.nn.watch_statistics(layer) as watch:
        layer(space.random_point(9, dtype=F64))
    (history,) = watch.history().values()
    assert history.distance.shape == (1,)
    assert history.variance.shape == history.running_variance.shape == (1, 2)


@pytest.mark.parametrize("policy", [mn.nn.Momentum(0.5, 0.1), mn.nn.Renorm(0.3)])
def test_policies_record_the_batch_mean(policy: Any) -> None:
    plain, layer = mn.nn.LieBatchNorm(LEM, dtype=F64), mn.nn.LieBatchNorm(LEM, statistics=policy, dtype=F64)
    (x,) = batches(LEM, 1)
    with mn.nn.watch_statistics(nn.ModuleDict({"plain": plain, "policy": layer})) as watch:
        plain(x), layer(x)
    history = watch.history()
    torch.testing.assert_close(history["policy"].distance, history["plain"].distance)


# ---- what is not recorded


def test_evaluation_and_frozen_layers_see_no_batch() -> None:
    layer = mn.nn.LieBatchNorm(LEM, dtype=F64)
    (x,) = batches(LEM, 1)
    with mn.nn.watch_statistics(layer) as watch:
        layer.eval()(x)
        layer.train().freeze()(x)
    (history,) = watch.history().values()
    assert [len(column) for column in history] == [0, 0, 0, 0]


def test_a_batch_without_a_finite_sample_is_a_gap() -> None:
    layer = mn.nn.RiemannianBatchNorm(AIM, dtype=F64)
    (x,) = batches(AIM, 1)
    with mn.nn.watch_statistics(layer) as watch:
        layer(torch.full_like(x, torch.nan))
        layer(torch.where(torch.arange(12)[:, None, None] == 3, torch.nan, x))
    (history,) = watch.history().values()
    assert history.distance.isnan().tolist() == history.variance.isnan().tolist() == [True, False]
    expected = affine_invariant(np.eye(3), AIM.frechet_mean(x[torch.arange(12) != 3]).numpy())
    assert float(history.distance[1]) == pytest.approx(expected, rel=1e-3)  # one Newton step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
def test_a_compiled_forward_is_neither_recorded_nor_compiled_anew() -> None:
    layer = mn.nn.LieBatchNorm(LEM, dtype=F64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (x,) = batches(LEM, 1)
    compiled(x)
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    with mn.nn.watch_statistics(layer) as watch:
        compiled(x)
    compiled(x)
    assert counters["stats"]["unique_graphs"] == before
    assert len(watch.history()["LieBatchNorm"].step) == 0
    assert int(layer.num_batches_tracked) == 3


def test_transforms_are_not_recorded() -> None:
    layer = mn.nn.LieBatchNorm(LEM, dtype=F64)
    (x,) = batches(LEM, 1)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters: Any, buffers: Any) -> Tensor:
        return torch.func.functional_call(layer, (parameters, buffers), (x,)).square().sum()

    with mn.nn.watch_statistics(layer) as watch:
        assert torch.func.grad(loss)(parameters, buffers)["log_scale"].detach() != 0
    assert len(watch.history()["LieBatchNorm"].step) == 0


# ---- the model does not notice


def test_outputs_gradients_and_buffers_are_the_same() -> None:
    def network() -> Any:
        torch.manual_seed(0)
        return mn.models.SPDNet([4, 3, 2], 2, norm=mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant))

    x = mn.AffineInvariant(4).random_point(10)
    watched, plain = network(), network()
    with mn.nn.watch_statistics(watched) as watch:
        outputs = [model(x) for model in (watched, plain)]
        for y in outputs:
            y.square().sum().backward()
    assert len(watch.history()) == 2
    assert torch.equal(*outputs)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(watched.parameters(), plain.parameters(), strict=True))
    found, expected = watched.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_not_watched(copied: Callable[[Any], Any]) -> None:
    layer = mn.nn.LieBatchNorm(LEM, dtype=F64)
    (x,) = batches(LEM, 1)
    with mn.nn.watch_statistics(layer) as watch:
        other = copied(layer)
        assert torch.equal(other(x), layer(x))
        layer(x)
        assert len(watch.history()["LieBatchNorm"].step) == 2
        with mn.nn.watch_statistics(other) as second:
            other(x)
        assert len(second.history()["LieBatchNorm"].step) == 1


def test_the_history_outlives_the_watch() -> None:
    layer = mn.nn.LieBatchNorm(LEM, dtype=F64)
    (x,) = batches(LEM, 1)
    watch = mn.nn.watch_statistics(layer)
    layer(x)
    watch.remove()
    watch.remove()
    layer(x)
    assert len(watch.history()["LieBatchNorm"].step) == 1
    assert layer.record is None
    with mn.nn.watch_statistics(layer) as again:
        watch.remove()  # an earlier watch does not end a later one
        layer(x)
    assert len(again.history()["LieBatchNorm"].step) == 1


def test_watching_twice_and_watching_nothing_are_refused() -> None:
    layer = mn.nn.LieBatchNorm(LEM)
    with mn.nn.watch_statistics(layer), pytest.raises(ValueError, match="LieBatchNorm is being watched already"):
        mn.nn.watch_statistics(nn.Sequential(layer)[0])
    with pytest.raises(ValueError, match="no norm in Linear keeps running statistics"):
        mn.nn.watch_statistics(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="keeps running statistics"):
        mn.nn.watch_statistics(mn.nn.LieBatchNorm(LEM, track_running_stats=False))


@pytest.mark.parametrize("name", CASES)
def test_recording_looks_at_no_value(name: str) -> None:
    factory = CASES[name][0]
    layer = factory(device="meta")  # tensors without values: looking at one raises
    with mn.nn.watch_statistics(layer):
        layer(torch.empty(5, *layer.manifold.point_shape, device="meta"))
        (row,) = layer.record.rows
    assert [value.shape for value in row] == [torch.Size()] * 3
    assert all(value.is_meta for value in row)
