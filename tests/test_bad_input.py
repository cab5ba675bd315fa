"""Bad input: each case has a defined behaviour, a message that helps, and leaves the state of a layer alone."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn

DOUBLE = {"dtype": torch.float64}
AIM = mn.AffineInvariant(4)
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "RBN AIM": lambda **k: mn.nn.RiemannianBatchNorm(AIM, **{**DOUBLE, **k}),
    "Lie AIM": lambda **k: mn.nn.LieBatchNorm(AIM, **{**DOUBLE, **k}),
    "Gyro AIM": lambda **k: mn.nn.GyroBatchNorm(AIM, **{**DOUBLE, **k}),
    "Lie LEM": lambda **k: mn.nn.LieBatchNorm(mn.LogEuclidean(4), **{**DOUBLE, **k}),
    "Lie LCM": lambda **k: mn.nn.LieBatchNorm(mn.LogCholesky(4), **{**DOUBLE, **k}),
    "RBN BW": lambda **k: mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(4), **{**DOUBLE, **k}),
    "GBW": lambda **k: mn.nn.BuresWassersteinBatchNorm(4, **{**DOUBLE, **k}),
    "deformed": lambda **k: mn.nn.GyroBatchNorm(mn.PowerDeformed(AIM, 0.5), **{**DOUBLE, **k}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
# these read a singular matrix through a clamped logarithm unless they are asked to look
TOLERANT = ("Lie LEM",)


@pytest.fixture
def x(spd: Callable[..., Tensor]) -> Tensor:
    return spd(4, 6)


@contextmanager
def unchanged(layer: nn.Module) -> Iterator[None]:
    before = copy.deepcopy(layer.state_dict())
    yield
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def average_referenced(n: int, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return EEG-like signals (batch, n, 60) referenced to the average of the channels: rank n - 1."""
    x = torch.randn(batch, n, 60, dtype=dtype)
    return x - x.mean(1, keepdim=True)


# ---- batches that are small, empty or constant


@every_layer
@pytest.mark.parametrize("check", [False, True])
def test_an_empty_batch_comes_back_empty(name: str, check: bool) -> None:
    for channels, shape in ((None, (0, 4, 4)), (3, (0, 3, 4, 4)), (3, (2, 0, 3, 4, 4))):
        layer = LAYERS[name](check_input=check, channels=channels)
        with unchanged(layer):
            y = layer(torch.empty(shape, dtype=torch.float64, requires_grad=True))
            assert y.shape == shape and y.dtype == torch.float64
            y.sum().backward()
        assert layer.eval()(torch.empty(shape, dtype=torch.float64)).shape == shape


@every_layer
def test_one_sample_goes_to_the_bias_with_finite_gradients(name: str, x: Tensor) -> None:
    layer = LAYERS[name](momentum=1.0)
    layer.bias_point = x[1]
    leaf = x[:1].clone().requires_grad_()
    y = layer(leaf)
    assert torch.allclose(y[0], layer.bias_point, rtol=1e-6, atol=1e-8)
    assert torch.allclose(layer.running_mean, x[0], rtol=1e-6) and float(layer.running_var) < 1e-12
    y.sum().backward()
    assert leaf.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())


@every_layer
def test_identical_samples_do_not_amplify_rounding(name: str, x: Tensor) -> None:
    layer = LAYERS[name]()
    leaf = x[:1].expand(6, 4, 4).clone().requires_grad_()
    y = layer(leaf)
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(y, eye.expand_as(y), atol=1e-6)
    (y * torch.randn_like(y)).sum().backward()
    assert float(leaf.grad.abs().max()) < 1e5  # at most 1 / sqrt(eps) times the condition


# ---- values that are not finite


@every_layer
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_sample_that_is_not_finite_has_no_influence(name: str, value: float, x: Tensor) -> None:
    bad, keep = x.clone(), [0, 1, 3, 4, 5]
    bad[2, 1, 1] = value
    layer, clean = LAYERS[name](), LAYERS[name]()
    weight = torch.randn(6, 4, 4, dtype=torch.float64)
    leaf, leaf_clean = bad.clone().requires_grad_(), x[keep].clone().requires_grad_()
    y, expected = layer(leaf), clean(leaf_clean)
    assert y[2].isnan().all()
    assert torch.allclose(y[keep], expected, rtol=1e-9, atol=1e-11)
    (y[keep] * weight[keep]).sum().backward()
    (expected * weight[keep]).sum().backward()
    assert torch.equal(leaf.grad[2], torch.zeros(4, 4, dtype=torch.float64))
    assert torch.allclose(leaf.grad[keep], leaf_clean.grad, rtol=1e-7, atol=1e-9)
    for p, q in zip(layer.parameters(), clean.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-7, atol=1e-9)
    for k, v in clean.state_dict().items():
        assert torch.allclose(layer.state_dict()[k], v, rtol=1e-9, atol=1e-11)
    assert layer.eval()(bad)[2].isnan().all() and layer(bad)[keep].isfinite().all()


@every_layer
def test_a_bad_channel_leaves_the_others_alone(name: str, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 5, 2)
    bad = x.clone()
    bad[1, 0] = float("nan")
    layer, clean = LAYERS[name](channels=2), LAYERS[name](channels=2)
    y, expected = layer(bad), clean(x)
    assert y[1, 0].isnan().all() and y[1, 1].isfinite().all()
    assert torch.allclose(y[:, 1], expected[:, 1], rtol=1e-9, atol=1e-11)
    all_bad = x.clone()
    all_bad[:, 0] = float("nan")
    before = copy.deepcopy(layer.state_dict())
    layer(all_bad)
    assert torch.equal(layer.running_mean[0], before["running_mean"][0])
    assert torch.equal(layer.running_var[0], before["running_var"][0])
    assert not torch.equal(layer.running_mean[1], before["running_mean"][1])


@every_layer
def test_a_batch_of_bad_samples_changes_nothing(name: str, x: Tensor) -> None:
    layer = LAYERS[name]()
    layer(x)
    with unchanged(layer):
        assert layer(x * float("nan")).isnan().all()
        assert layer(x, torch.zeros(6)).isfinite().all()  # nothing counts
        assert layer(x, torch.full((6,), float("nan"))).isfinite().all()


def test_values_that_overflow_in_the_statistics_do_not_reach_them(x: Tensor) -> None:
    layer = LAYERS["RBN BW"]()
    with unchanged(layer):
        layer(x * (1.7e308 / x.abs().max()))  # finite, but a sum of two is not


@every_layer
def test_under_check_input_a_bad_sample_is_an_error(name: str, x: Tensor) -> None:
    layer = LAYERS[name](check_input=True)
    x[2, 0, 1] = float("nan")
    with unchanged(layer), pytest.raises(ValueError, match=r"BatchNorm input: sample 2 has a NaN or infinite entry"):
        layer(x.requires_grad_())


# ---- matrices that are not positive definite


@every_layer
def test_an_indefinite_sample_is_named(name: str, x: Tensor) -> None:
    bad = x.clone()
    bad[3] -= 2 * torch.linalg.eigvalsh(bad[3])[0] * torch.eye(4)
    low, high = (float(v) for v in torch.linalg.eigvalsh(bad[3])[[0, -1]])
    text = re.escape(f"sample 3 is not positive definite (smallest eigenvalue {low:.3g}, largest {high:.3g})")
    remedy = r"\. Shrink the covariance \(Covariance\(shrinkage=\.\.\.\)\) or use more samples than channels\."
    for check, error in ((True, ValueError), (False, torch.linalg.LinAlgError)):
        layer = LAYERS[name](check_input=check)
        with unchanged(layer), pytest.raises(error, match=f"BatchNorm input: {text}{remedy}"):
            layer(bad.clone().requires_grad_())
        layer.eval()
        with unchanged(layer), pytest.raises(error, match=text):
            layer(bad)


def test_the_message_names_the_layer_and_the_geometry(x: Tensor) -> None:
    layer = mn.nn.LieBatchNorm(mn.LogEuclidean(4), check_input=True, **DOUBLE)
    with pytest.raises(ValueError, match=r"LogEuclidean\(n=4.*LieBatchNorm input: sample \(1, 0\) is not positive"):
        layer(torch.stack([x[:2], -x[:2]]))


@every_layer
def test_an_asymmetric_sample_is_an_error_when_looked_at(name: str, x: Tensor) -> None:
    x[4, 0, 1] += 0.1
    layer = LAYERS[name](check_input=True)
    with unchanged(layer), pytest.raises(ValueError, match=r"sample 4 is not symmetric \(relative asymmetry 0\.0"):
        layer(x)
    assert torch.allclose(LAYERS[name]()(x), LAYERS[name]()((x + x.mT) / 2), rtol=1e-10)  # else symmetrised


@every_layer
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_average_referenced_covariances_are_explained(name: str, scale: float) -> None:
    signals = average_referenced(4, 6) * scale**0.5
    singular = mn.nn.Covariance()(signals)
    assert int(torch.linalg.matrix_rank(singular, hermitian=True).max()) == 3
    layer = LAYERS[name](check_input=True)
    remedy = r"numerically singular.*rank n - 1: reduce the rank.*BiMap.*or shrink the covariance.*shrinkage"
    with unchanged(layer), pytest.raises(ValueError, match=f"sample 0 is {remedy}"):
        layer(singular)
    if name not in TOLERANT and not (name == "deformed" or "BW" in name):
        layer = LAYERS[name]()
        with unchanged(layer), pytest.raises(torch.linalg.LinAlgError, match=remedy):
            layer(singular)


@every_layer
def test_average_referenced_signals_have_two_ways_through(name: str) -> None:
    signals = average_referenced(4, 6)
    shrunk = mn.nn.Covariance(shrinkage="oas", check_input=True)(signals)
    assert LAYERS[name](check_input=True)(shrunk).isfinite().all()
    dropped = mn.nn.Covariance(check_input=True)(signals[:, :3])  # one channel less has full rank
    mn.nn.GyroBatchNorm(mn.AffineInvariant(3), check_input=True, **DOUBLE)(dropped)
    singular = mn.nn.Covariance()(average_referenced(5, 6))
    bimap = mn.nn.BiMap(5, 4, **DOUBLE)
    reduced = bimap(singular)
    spectrum = torch.linalg.eigvalsh(reduced.detach())
    assert float((spectrum[:, 0] / spectrum[:, -1]).min()) > 1e-3
    y = LAYERS[name](check_input=True)(reduced)
    y.sum().backward()
    assert bimap.raw_weight.grad.isfinite().all()


def test_covariance_explains_a_singular_result() -> None:
    layer = mn.nn.Covariance(check_input=True)
    with pytest.raises(ValueError, match=r"Covariance output: sample 0 is numerically singular.*rank n - 1.*shrink"):
        layer(average_referenced(4, 2))
    with pytest.raises(ValueError, match=r"Covariance output \(a window has 3 samples for 4 channels\): sample 0"):
        layer(torch.randn(2, 4, 3))


# ---- shapes, dtypes, options


@every_layer
def test_wrong_shapes(name: str, x: Tensor) -> None:
    layer = LAYERS[name]()
    cases = {
        r"expected shape \(\.\.\., 4, 4\), got \(6, 4, 3\)": x[..., :3],
        r"expected shape \(\.\.\., 4, 4\), got \(6, 3, 3\)": x[:, :3, :3],
        r"expected shape \(\.\.\., 4, 4\), got \(4,\)": x[0, 0],
        r"expected \(N, \.\.\., 4, 4\), got \(4, 4\)\. Add a batch dimension: x\[None\]": x[0],
    }
    for text, bad in cases.items():
        with unchanged(layer), pytest.raises(ValueError, match=text):
            layer(bad)
    with pytest.raises(ValueError, match=r"expected \(N, \.\.\., 3, 4, 4\), got \(6, 4, 4\)"):
        LAYERS[name](channels=3)(x)


@every_layer
def test_wrong_dtypes(name: str, x: Tensor) -> None:
    layer = LAYERS[name]()
    cases = {
        r"layer holds torch\.float64 on cpu, the input is torch\.float32 on cpu.*layer\.to\(x\)": x.float(),
        r"is complex; this geometry is real\. Use field='complex'": x.to(torch.complex128),
        r"expected float32 or float64 \(or complex\), got torch\.float16\. Use x\.float\(\)": x.half(),
        r"expected float32 or float64 \(or complex\), got torch\.bfloat16": x.bfloat16(),
        r"expected float32 or float64 \(or complex\), got torch\.int64": x.long(),
    }
    for text, bad in cases.items():
        with unchanged(layer), pytest.raises(TypeError, match=text):
            layer(bad)
    with unchanged(layer), pytest.raises(TypeError, match=r"on cpu, the input is torch\.float64 on meta"):
        layer(x.to("meta"))


def test_real_input_for_a_complex_layer(x: Tensor) -> None:
    layer = mn.nn.GyroBatchNorm(mn.AffineInvariant(4, field="complex"), **DOUBLE)
    with unchanged(layer), pytest.raises(TypeError, match=r"holds torch\.complex128.*the input is torch\.float64"):
        layer(x)


@every_layer
def test_wrong_weights(name: str, x: Tensor) -> None:
    layer = LAYERS[name](check_input=True)
    with unchanged(layer), pytest.raises(ValueError, match=r"weights must have shape \(6,\), got \(5,\)"):
        layer(x, torch.ones(5))
    with unchanged(layer), pytest.raises(ValueError, match=r"weights must not be negative.*sample 0 has -1"):
        layer(x, -torch.ones(6))
    with unchanged(layer), pytest.raises(ValueError, match=r"weights must not be .*NaN.*sample 2 has nan"):
        layer(x, torch.tensor([1.0, 0.0, float("nan"), 1.0, 1.0, 1.0]))
    with unchanged(layer), pytest.raises(ValueError, match="weights must not all be 0"):
        layer(x, torch.zeros(6))
    layer.eval()(x, torch.zeros(6))  # no statistic of the batch: nothing to weigh


def test_wrong_weights_and_dimensions_of_a_frechet_mean() -> None:
    manifold = mn.AffineInvariant(3)
    x = manifold.random_point(7, 2)
    none_in_a_group = torch.ones(7, 2).index_fill(1, torch.tensor(1), 0.0)
    for weights, text in {
        torch.ones(5): r"weights must have shape \(7,\) or \(7, 2\), got \(5,\)",
        torch.ones(7, 2, 3): r"weights must have shape \(7,\) or \(7, 2\), got \(7, 2, 3\)",
        -torch.ones(7): r"weights must not be negative.*sample \(0, 0\) has -1.*weight 0",
        torch.full((7,), float("nan")): r"weights must not be .*NaN.*has nan",
        torch.zeros(7): "weights must not all be 0",
        none_in_a_group: "weights must not all be 0",
    }.items():
        with pytest.raises(ValueError, match=text):
            manifold.frechet_mean(x, weights)
    with pytest.raises(ValueError, match=r"weights must have shape \(7,\), got \(5,\)"):
        manifold.frechet_mean(x[:, 0], torch.ones(5))
    for dim in (2, 3, -3, -4, (0, 2), (0, 0), (1, -1), ()):
        with pytest.raises(ValueError, match=r"dim=.* must name different batch dimensions.*Use 0 to 1, or -2 to -1"):
            manifold.frechet_mean(x, dim=dim)
    with pytest.raises(ValueError, match=r"dim=0 .*Add one: x\[None\]"):
        manifold.frechet_mean(x[0, 0])
    assert torch.equal(manifold.frechet_mean(x, dim=(-2, 1)), manifold.frechet_mean(x, dim=(0, 1)))


def test_layers_of_networks_check_shapes_and_dtypes(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"BiMap: expected matrices \(\.\.\., 3, 3\), got \(6, 4, 4\)"):
        mn.nn.BiMap(3, 2)(x)
    with pytest.raises(TypeError, match=r"BiMap: the weight is torch\.float32, the input torch\.float64"):
        mn.nn.BiMap(4, 2)(x)
    with pytest.raises(ValueError, match=r"BiMap: out_features=5 exceeds in_features=4: the output would be singular"):
        mn.nn.BiMap(4, 5)
    with pytest.raises(ValueError, match=r"BiMap: out_features must be a positive integer, got 2\.5"):
        mn.nn.BiMap(4, 2.5)
    with pytest.raises(ValueError, match="parametrization must be 'polar' or 'manifold'"):
        mn.nn.BiMap(4, 2, parametrization="householder")
    for layer in (mn.nn.ReEig(), mn.nn.LogEig(), mn.nn.ExpEig(), mn.nn.SPDVectorize(4)):
        with pytest.raises(ValueError, match=type(layer).__name__ + ": expected matrices"):
            layer(x[..., :3])
    for layer in (mn.nn.ReEig(), mn.nn.LogEig(), mn.nn.ExpEig()):
        with pytest.raises(TypeError, match=type(layer).__name__ + r": expected a float32.*got torch\.float16"):
            layer(x.half())
    with pytest.raises(ValueError, match="ReEig: threshold must be positive"):
        mn.nn.ReEig(0.0)
    with pytest.raises(torch.linalg.LinAlgError, match="LogEig: sample 0 is not positive definite"):
        mn.nn.LogEig()(-x)


def test_covariance_checks_its_signals() -> None:
    x = torch.randn(2, 4, 50)
    bad = x.clone()
    bad[1, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="Covariance input: sample 1 has a NaN or infinite entry"):
        mn.nn.Covariance(check_input=True)(bad)
    with pytest.raises(TypeError, match=r"expected floating-point or complex signals, got torch\.int64"):
        mn.nn.Covariance()(x.long())
    with pytest.raises(ValueError, match=r"with at least 60 time samples, got \(2, 4, 50\)"):
        mn.nn.Covariance(window=60)(x)
    with pytest.raises(ValueError, match="with at least 69 time samples"):
        mn.nn.Covariance(window=60, embed=10)(x)
    for options, text in (
        ({"shrinkage": 1.5}, r"shrinkage must lie in \[0, 1\]"),
        ({"shrinkage": "magic"}, r"must be a number or one of \['ledoit_wolf', 'oas'\], got 'magic'"),
        ({"window": 0}, "window must be at least 1"),
        ({"hop": -1}, "hop must be at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            mn.nn.Covariance(**options)


def test_geometries_refuse_bad_sizes() -> None:
    for make in (mn.AffineInvariant, mn.LogEuclidean, mn.LogCholesky, mn.BuresWasserstein, mn.AdaptiveLogEuclidean):
        with pytest.raises(ValueError, match="n must be a positive integer"):
            make(0)
        with pytest.raises(ValueError, match="field"):
            make(3, field="quaternion")
    for make in (mn.CholeskyRightInvariant, mn.AdaptiveLogEuclidean, mn.GeneralizedBuresWasserstein):
        with pytest.raises(ValueError, match="is real only"):
            make(3, field="complex")
    with pytest.raises(ValueError, match="beta > -alpha / n"):
        mn.LogEuclidean(4, 1.0, -0.5)
    with pytest.raises(ValueError, match=r"metric must have shape \(3, 3\), got \(2, 2\)"):
        mn.GeneralizedBuresWasserstein(3, torch.eye(2))
    with pytest.raises(ValueError, match="power must not be 0"):
        mn.PowerDeformed(AIM, 0.0)


def test_manifolds_are_immutable_and_short_in_print() -> None:
    with pytest.raises(AttributeError, match=r"AffineInvariant is immutable; use manifold\.replace\(n=\.\.\.\)"):
        AIM.n = 5
    metric = mn.GeneralizedBuresWasserstein(20, torch.eye(20))
    assert len(repr(metric)) < 100 and "shape (20, 20)" in repr(metric)
