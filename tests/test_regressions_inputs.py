"""Input that was once accepted without a word, or refused without a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm import linalg
from manifoldnorm.nn import _inputs

REAL = torch.float64
tracing = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing


# ---- geometries


def test_sizes_are_integers_of_any_kind_but_truth_values() -> None:
    assert mn.AffineInvariant(np.int64(3)) == mn.AffineInvariant(3)
    assert type(mn.LogCholesky(np.int32(3)).point_shape[0]) is int
    with pytest.raises(ValueError, match="positive integer"):
        mn.AffineInvariant(True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mn.AffineInvariant(3, float("nan")),
        lambda: mn.LogEuclidean(3, 1.0, float("nan")),
        lambda: mn.AffineInvariant(3, float("inf")),
        lambda: mn.AdaptiveLogEuclidean(3, 1.0, float("nan")),
        lambda: mn.AdaptiveLogEuclidean(3, -1.0, -1.0),
        lambda: mn.PowerDeformed(mn.AffineInvariant(3), float("nan")),
        lambda: mn.PowerDeformed(mn.AffineInvariant(3), float("inf")),
        lambda: mn.GeneralizedBuresWasserstein(3, -torch.eye(3)),
        lambda: mn.GeneralizedBuresWasserstein(2, torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
    ],
)
def test_options_that_are_no_metric(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"no inner product|must be positive|power must not be|metric: the matrix"):
        make()


@pytest.mark.parametrize(
    "manifold", [mn.AffineInvariant(3), mn.LogCholesky(3), mn.BuresWasserstein(3), mn.Euclidean(3)]
)
def test_points_of_another_shape_or_of_two_dtypes(manifold: mn.manifolds.Manifold) -> None:
    p = manifold.random_point()
    larger = torch.nn.functional.pad(p, (0, 1) * p.ndim)
    for operation in (manifold.dist, manifold.squared_dist, manifold.log, manifold.exp, manifold.to_origin):
        with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 3"):
            operation(larger, larger)
        with pytest.raises(TypeError, match=r"dtypes torch.float32, torch.float64\. Convert one of them"):
            operation(p, p.double())
    with pytest.raises(TypeError, match="dtypes"):
        manifold.geodesic(p, p.double(), 0.5)
    assert manifold.geodesic(p, p, torch.tensor(0.5, dtype=REAL)).shape == p.shape  # a time is not a point


def test_a_distance_to_a_matrix_that_is_not_finite_is_not_zero() -> None:
    p = torch.full((3,), float("nan"))
    assert mn.Euclidean(3).dist(p, torch.zeros(3)).isnan()


def test_powers_out_of_the_range_of_a_precision(
    spd: Callable[..., Tensor], with_spectrum: Callable[..., Tensor]
) -> None:
    x = spd(3, 2, dtype=torch.float32)
    tiny = mn.PowerDeformed(mn.AffineInvariant(3), 1e-6)
    with pytest.raises(ValueError, match=r"identity to within the rounding of torch\.float32"):
        tiny.dist(x[0], x[1])
    assert abs(float(tiny.dist(*x.double()) / mn.LogEuclidean(3).dist(*x.double())) - 1) < 1e-5
    huge = mn.PowerDeformed(mn.AffineInvariant(3), 20.0)
    with pytest.raises(ValueError, match="power of sample 1 is numerically singular"):
        huge.check_point(torch.stack([torch.eye(3, dtype=REAL), with_spectrum([1.0, 3.0, 10.0])]))


# ---- learned options


@pytest.mark.parametrize("geometry", [mn.AffineInvariant, mn.LogEuclidean])
def test_a_learned_alpha_stays_above_its_bound(geometry: Callable[..., mn.manifolds.Manifold]) -> None:
    module = mn.nn.LearnableManifold(geometry(4, 1.0, -0.2), ("alpha",), dtype=REAL)
    assert abs(float(module().alpha.detach()) - 1) < 1e-12  # type: ignore[attr-defined]
    with torch.no_grad():
        module.raw_alpha.fill_(-50.0)
    x = geometry(4, 1.0, -0.2).random_point(5, dtype=REAL)
    assert 0.8 < float(module().alpha.detach()) < 0.8 + 1e-5  # type: ignore[attr-defined]
    assert float(module().squared_dist(x[0], x[1:]).detach().min()) > 0
    plain = mn.nn.LearnableManifold(geometry(4), ("alpha",), dtype=REAL)
    assert set(plain.state_dict()) == set(module.state_dict()) == {"raw_alpha", "sign_alpha"}


def test_learning_what_a_geometry_does_not_have() -> None:
    with pytest.raises(ValueError, match="has no geometry 'base' in it"):
        mn.nn.LearnableManifold(mn.AffineInvariant(3), ("base.alpha",))
    with pytest.raises(ValueError, match="outside its open range"):
        mn.nn.LearnableManifold(mn.AffineInvariant(3, torch.tensor(0.0)), ("alpha",))


# ---- layers and networks


def test_a_layer_where_a_factory_is_needed() -> None:
    with pytest.raises(TypeError, match=r"RiemannianBatchNorm.of\(AffineInvariant\)"):
        mn.nn.RiemannianBatchNorm(3)
    with pytest.raises(TypeError, match="give it a factory"):
        mn.models.SPDNet([5, 3], 2, norm=mn.nn.LieBatchNorm)
    layer = mn.nn.LieBatchNorm(mn.LogCholesky(3))
    for norm, message in (
        (layer, r"norm is a layer already \(LieBatchNorm\).*e\.g\. norm=LieBatchNorm\.of\(LogCholesky\)"),
        (nn.Identity(), r"norm is a layer already \(Identity\).*e\.g\. norm=LieBatchNorm\.of\(LogEuclidean\)"),
        (mn.LogCholesky(3), r"norm is a geometry \(LogCholesky\).*RiemannianBatchNorm\.of\(LogCholesky\)"),
        (mn.LogCholesky, r"norm is a geometry \(LogCholesky\).*RiemannianBatchNorm\.of\(LogCholesky\)"),
        (nn.BatchNorm1d, r"norm must be None or a factory.*LieBatchNorm\.of\(LogEuclidean\), got BatchNorm1d"),
        ("rbn", r"norm must be None or a factory.*got 'rbn'"),
    ):
        for name, make in (
            ("SPDNet", lambda norm: mn.models.SPDNet([5, 3], 2, norm=norm)),
            ("SSVEPNet", lambda norm: mn.models.SSVEPNet(3, 2, norm=norm)),
            ("GrassmannNet", lambda norm: mn.models.GrassmannNet([5, 4], 2, 3, norm=norm)),
            ("DomainBatchNorm.of", lambda norm: mn.nn.DomainBatchNorm.of(norm, 3)),
        ):
            with pytest.raises(TypeError, match=rf"^{name}: {message}"):
                make(norm)
    with pytest.raises(
        TypeError, match=r"^LieBatchNorm\.of: pass a geometry's class.*not an instance, got LogCholesky"
    ):
        mn.nn.LieBatchNorm.of(mn.LogCholesky(3))


def test_sizes_that_grow_or_do_not_match_the_data() -> None:
    cases: list[tuple[type[Exception], str, object]] = [
        (ValueError, r"sizes \[8, 4, 6\] grow from 4 to 6 at position 2.*stay or fall", [8, 4, 6]),
        (ValueError, r"sizes\[1\] must be a positive integer, got 4\.5", [8, 4.5]),
        (ValueError, r"sizes\[1\] must be a positive integer, got 0", [8, 0]),
        (TypeError, r"sizes must be a sequence of integers, input first, e\.g\. \[8, 6, 4\], got 8", 8),
        (TypeError, r"sizes must be a sequence of integers.*got '84'", "84"),
    ]
    for kind, message, sizes in cases:
        with pytest.raises(kind, match=f"^SPDNet: {message}"):
            mn.models.SPDNet(sizes, 2)
        with pytest.raises(kind, match=f"^GrassmannNet: {message}"):
            mn.models.GrassmannNet(sizes, 2, 2)
    for outputs in (0, "5", 2.5):
        with pytest.raises(ValueError, match="SPDNet: n_outputs must be a positive integer, got"):
            mn.models.SPDNet([8, 4], outputs)
    net = mn.models.SPDNet([8, 4], 2)
    with pytest.raises(
        ValueError, match=r"expected matrices \(N, 8, 8\), got \(3, 7, 7\).*for these data give 7 first"
    ):
        net(torch.eye(7).expand(3, 7, 7))
    with pytest.raises(ValueError, match=r"got one matrix\. Add a batch dimension: x\[None\]"):
        net(torch.eye(8))
    with pytest.raises(
        TypeError, match=r"the weight is torch\.float32, the input torch\.float64\..*model\.to\(x\.dtype\)"
    ):
        net(torch.eye(8).double()[None])
    with pytest.raises(TypeError, match=r"the input torch\.complex64\. Build the network with field='complex'"):
        net(torch.eye(8, dtype=torch.complex64)[None])
    with pytest.raises(ValueError, match=r"SSVEPNet: expected signals \(N, 3, time\), got \(2, 4, 60\)"):
        mn.models.SSVEPNet(3, 2)(torch.randn(2, 4, 60))


LAYERS = {
    "SPDNet": lambda: mn.models.SPDNet([4, 3], 2),
    "SSVEPNet": lambda: mn.models.SSVEPNet(4, 2),
    "norm": lambda: mn.nn.LieBatchNorm(mn.LogEuclidean(4)),
    "DomainBatchNorm": lambda: mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(4)), 1),
    "BiMap": lambda: mn.nn.BiMap(4, 3),
    "ReEig": mn.nn.ReEig,
    "LogEig": mn.nn.LogEig,
    "ExpEig": mn.nn.ExpEig,
    "SPDVectorize": lambda: mn.nn.SPDVectorize(4),
    "SPDMLR": lambda: mn.nn.SPDMLR(mn.LogEuclidean(4), 3),
    "Covariance": mn.nn.Covariance,
    "FRMap": lambda: mn.nn.FRMap(4, 3),
    "ReOrth": mn.nn.ReOrth,
    "dist": lambda: lambda x: mn.LogCholesky(4).dist(x, x),
    "frechet_mean": lambda: mn.AffineInvariant(4).frechet_mean,
    "check_point": lambda: mn.AffineInvariant(4).check_point,
    "logm": lambda: linalg.logm,
}


@pytest.mark.parametrize("name", LAYERS)
def test_arrays_of_numpy_are_refused_with_the_remedy(name: str) -> None:
    layer = LAYERS[name]()
    x = np.eye(4)[None].repeat(5, 0)
    expected = (
        r"expected a torch\.Tensor, got numpy\.ndarray of shape \(5, 4, 4\) and dtype float64\. Convert it, e\.g\. "
    )
    with pytest.raises(TypeError, match=expected + r"torch\.as_tensor\(x, dtype=torch\.float32\)"):
        layer(x)
    if isinstance(layer, nn.Module):
        with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got list\. Convert it"):
            layer([1.0, 2.0])


def test_options_of_another_type() -> None:
    for options, message in (
        ({"channels": 1.5}, r"channels must be None or at least 1 and whole, got 1\.5"),
        ({"momentum": "0.1"}, r"momentum must lie in \[0, 1\] or be None, got '0\.1'"),
        ({"eps": None}, "eps must not be negative, a finite number, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            mn.nn.LieBatchNorm(mn.LogEuclidean(3), **options)
    layer = mn.nn.LieBatchNorm(mn.LogEuclidean(3))
    with pytest.raises(TypeError, match=r"LieBatchNorm: bias_point: expected a torch\.Tensor, got numpy\.ndarray"):
        layer.bias_point = np.eye(3)


def test_weights_of_numpy_are_refused() -> None:
    x, layer = torch.eye(3).expand(4, 3, 3), mn.nn.LieBatchNorm(mn.LogEuclidean(3))
    with pytest.raises(TypeError, match=r"LieBatchNorm: weights: expected a torch\.Tensor, got numpy\.ndarray"):
        layer(x, np.ones(4))


def test_a_real_norm_in_a_complex_network() -> None:
    with pytest.raises(ValueError, match=r"is real only.*BuresWassersteinBatchNorm.of\(BuresWasserstein\)"):
        mn.models.SPDNet([5, 3], 2, norm=mn.nn.BuresWassersteinBatchNorm.of(), field="complex")
    norm = mn.nn.BuresWassersteinBatchNorm.of(mn.BuresWasserstein)
    net = mn.models.SPDNet([5, 3], 2, norm=norm, field="complex")
    assert net(torch.eye(5, dtype=torch.complex64).expand(4, 5, 5)).shape == (4, 2)


def test_policies_are_objects() -> None:
    with pytest.raises(TypeError, match=r"mean must be a policy of manifoldnorm.stats, such as Exact\(\)"):
        _inputs.check_policies("exact", None, "RiemannianBatchNorm")
    with pytest.raises(TypeError, match=r"statistics must be a policy of manifoldnorm.nn, such as Batch\(\)"):
        _inputs.check_policies(None, "anything", "RiemannianBatchNorm")


def test_a_norm_of_numbers() -> None:
    layer = mn.nn.RiemannianBatchNorm(mn.Euclidean())
    x = torch.randn(64)
    plain = nn.BatchNorm1d(1)
    torch.testing.assert_close(layer(x), plain(x[:, None])[:, 0])
    x[5] = float("nan")
    assert layer(x).isnan().sum() == 1


def test_an_empty_batch_leaves_the_statistics_of_a_network_alone() -> None:
    net = mn.models.SSVEPNet(3, 2, spatial=6, temporal=5, features=3, kernel=4)
    net(torch.randn(4, 3, 30))
    before = copy.deepcopy(net.state_dict())
    assert net(torch.randn(0, 3, 30)).shape == (0, 2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_hop_needs_a_window() -> None:
    with pytest.raises(ValueError, match="hop=5 needs a window"):
        mn.nn.Covariance(hop=5)


def test_nothing_that_would_run_is_fused_away(spd: Callable[..., Tensor]) -> None:
    net = mn.nn.Sequential(mn.nn.ReEig(), mn.nn.LogEig())
    x = spd(3, 2)
    net[0].forward = lambda x: 2 * x
    torch.testing.assert_close(net(x), linalg.logm(2 * x))
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        mn.nn.Sequential(mn.nn.ReEig(), mn.nn.LogEig())(x)
    finally:
        handle.remove()
    assert [type(module).__name__ for module in seen] == ["ReEig", "LogEig", "Sequential"]


# ---- points on manifolds for optimizers


def test_manifold_parameters_are_points() -> None:
    for manifold in ("AIM", mn.AffineInvariant):
        with pytest.raises(TypeError, match=r"manifold must be a geometry, e\.g\. AffineInvariant\(8\), got"):
            mn.optim.ManifoldParameter(torch.eye(3), manifold)
    with pytest.raises(TypeError, match=r"ManifoldParameter: expected a torch\.Tensor, got numpy\.ndarray"):
        mn.optim.ManifoldParameter(np.eye(3), mn.AffineInvariant(3))
    with pytest.raises(ValueError, match="not positive definite"):
        mn.optim.ManifoldParameter(-torch.eye(3), mn.AffineInvariant(3))
    with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 3, 3\), got \(4, 4\)"):
        mn.optim.ManifoldParameter(torch.eye(4), mn.AffineInvariant(3))


# ---- tracing


@tracing
@pytest.mark.parametrize("manifold", [None, mn.LogEuclidean(3), mn.AffineInvariant(3), mn.BuresWasserstein(3)], ids=str)
def test_compiles_with_dynamic_shapes(manifold: mn.manifolds.Manifold | None, spd: Callable[..., Tensor]) -> None:
    torch._dynamo.reset()
    if manifold is None:
        function: Callable[[Tensor], Tensor] = lambda v: linalg.expm(linalg.logm(v))  # noqa: E731
    else:
        function = mn.nn.RiemannianBatchNorm(manifold, dtype=REAL, track_running_stats=False)
    compiled = torch.compile(function, dynamic=True, backend="aot_eager")
    for size in (5, 7):
        x = spd(3, size).requires_grad_()
        gradients = [torch.autograd.grad(f(x).pow(3).sum(), x)[0] for f in (compiled, function)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_weights_belong_to_the_averaged_dimension() -> None:
    x = torch.tensor([[1.0, 2.0], [4.0, 8.0]])[:, :, None, None]
    mean = mn.LogEuclidean(1).frechet_mean(x, torch.tensor([3.0, 1.0]), dim=1)
    assert torch.allclose(mean.flatten().log2(), torch.tensor([0.25, 2.25]))
