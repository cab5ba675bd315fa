"""Batch norms: the four steps written out, options, running statistics, factories, fusion."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm import linalg
from manifoldnorm.stats import Exact, FixedPoint, Karcher, Newton

DOUBLE = {"dtype": torch.float64}
AIM, LEM, LCM, BW = (f(4) for f in (mn.AffineInvariant, mn.LogEuclidean, mn.LogCholesky, mn.BuresWasserstein))
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "RBN AIM": lambda **k: mn.nn.RiemannianBatchNorm(AIM, **DOUBLE, **k),
    "RBN AIM direct": lambda **k: mn.nn.RiemannianBatchNorm(AIM, route="direct", **DOUBLE, **k),
    "Lie AIM": lambda **k: mn.nn.LieBatchNorm(AIM, **DOUBLE, **k),
    "Gyro AIM": lambda **k: mn.nn.GyroBatchNorm(AIM, **DOUBLE, **k),
    "Lie LEM": lambda **k: mn.nn.LieBatchNorm(LEM, **DOUBLE, **k),
    "Gyro LCM": lambda **k: mn.nn.GyroBatchNorm(LCM, **DOUBLE, **k),
    "RBN BW": lambda **k: mn.nn.RiemannianBatchNorm(BW, **DOUBLE, **k),
    "GBW": lambda **k: mn.nn.BuresWassersteinBatchNorm(4, **DOUBLE, **k),
    "GBW power": lambda **k: mn.nn.BuresWassersteinBatchNorm(4, power=0.5, **DOUBLE, **k),
    "CRIM": lambda **k: mn.nn.LieBatchNorm(mn.CholeskyRightInvariant(4), **DOUBLE, **k),
    "adaptive": lambda **k: mn.nn.LieBatchNorm(mn.AdaptiveLogEuclidean(4, 0.5, 2.0), **DOUBLE, **k),
    "deformed": lambda **k: mn.nn.GyroBatchNorm(mn.PowerDeformed(AIM, 0.5), **DOUBLE, **k),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture
def x(spd: Callable[..., Tensor]) -> Tensor:
    return spd(4, 9)


def randomized(layer: nn.Module) -> nn.Module:
    """Move scale and bias away from where they start."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return layer


# ---- the four steps, written out with torch only


def power(a: Tensor, p: float | Tensor) -> Tensor:
    w, u = torch.linalg.eigh((a + a.mH) / 2)
    return (u * (w**p).unsqueeze(-2)) @ u.mH


def matrix_log(a: Tensor) -> Tensor:
    w, u = torch.linalg.eigh((a + a.mH) / 2)
    return (u * w.log().unsqueeze(-2)) @ u.mH


def affine_invariant_mean(x: Tensor) -> Tensor:
    """Iterate the Karcher flow to convergence."""
    m = x.mean(0)
    for _ in range(60):
        root, inverse = power(m, 0.5), power(m, -0.5)
        m = root @ torch.linalg.matrix_exp(matrix_log(inverse @ x @ inverse).mean(0)) @ root
    return m


@pytest.mark.parametrize("move", ["RiemannianBatchNorm", "GyroBatchNorm", "LieBatchNorm"])
def test_affine_invariant_norm_is_whitening_power_colouring(x: Tensor, move: str) -> None:
    layer = getattr(mn.nn, move)(AIM, mean=Exact(), eps=1e-3, **DOUBLE)
    bias = x[0] + 0.5
    layer.bias_point, layer.scale = bias, 1.3
    m = affine_invariant_mean(x)
    variance = matrix_log(power(m, -0.5) @ x @ power(m, -0.5)).square().sum((-2, -1)).mean()
    if move == "LieBatchNorm":
        inverse, colour = torch.linalg.inv(torch.linalg.cholesky(m)), torch.linalg.cholesky(bias)
    else:
        inverse, colour = power(m, -0.5), power(bias, 0.5)
    expected = colour @ power(inverse @ x @ inverse.mT, 1.3 * (variance + 1e-3).rsqrt()) @ colour.mT
    assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(layer.running_var, 0.9 + 0.1 * variance)
    assert torch.allclose(layer.running_mean, power(m, 0.1), rtol=1e-9)  # the geodesic from the identity


def test_log_euclidean_norm_is_euclidean_in_the_logarithm(x: Tensor) -> None:
    layer = mn.nn.LieBatchNorm(LEM, eps=1e-3, **DOUBLE)
    with torch.no_grad():
        layer.bias.copy_(torch.randn(4, 4))
    layer.scale = 0.7
    log = matrix_log(x)
    centred = log - log.mean(0)
    variance = centred.square().sum((-2, -1)).mean()
    bias = (layer.bias + layer.bias.mT) / 2
    expected = torch.linalg.matrix_exp(bias + 0.7 * centred * (variance + 1e-3).rsqrt())
    assert torch.allclose(layer(x), expected, rtol=1e-10)


def test_bures_wasserstein_norm_stays_in_the_tangent_space(x: Tensor) -> None:
    x = torch.eye(4, dtype=x.dtype) + 0.1 * (x - x.mean(0))  # concentrated: inside the domain at scale 0.5
    layer = mn.nn.RiemannianBatchNorm(BW, mean=FixedPoint(50), **DOUBLE)
    layer.scale = 0.5
    m = BW.frechet_mean(x)
    v = BW.to_origin(m, BW.log(m, x))
    variance = (v @ v).diagonal(dim1=-2, dim2=-1).sum(-1).mean() / 4
    step = torch.eye(4, dtype=x.dtype) + 0.5 * (variance + 1e-5).rsqrt() * v / 2
    assert float(torch.linalg.eigvalsh(step).min()) > 0.01
    assert torch.allclose(layer(x), step @ step, rtol=1e-9)


@every_layer
def test_evaluation_uses_the_running_statistics(name: str, x: Tensor) -> None:
    layer = randomized(LAYERS[name](momentum=1.0, mean=Exact()))
    expected = layer(x)
    before = copy.deepcopy(layer.state_dict())
    again = layer.eval()(x)
    # running statistics equal to the batch's: the same map
    assert torch.allclose(again, expected, rtol=1e-7, atol=1e-9)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert torch.allclose(layer(x[:2]), again[:2], rtol=1e-12)


# ---- running statistics


@pytest.mark.parametrize("manifold", [AIM, LEM, LCM, BW], ids=repr)
def test_running_mean_moves_along_the_geodesic(manifold: mn.manifolds.Manifold, spd: Callable[..., Tensor]) -> None:
    layer = mn.nn.RiemannianBatchNorm(manifold, momentum=0.3, **DOUBLE)
    mean, variance = manifold.origin(dtype=torch.float64), torch.tensor(1.0).double()
    for _ in range(3):
        x = spd(4, 9)
        layer(x)
        batch_mean = manifold.default_mean(manifold, x)
        batch_variance = manifold.squared_dist(batch_mean, x).mean()
        mean = manifold.geodesic(mean, batch_mean, 0.3)
        variance = 0.7 * variance + 0.3 * batch_variance
    assert torch.allclose(layer.running_mean, mean, rtol=1e-9)
    assert torch.allclose(layer.running_var, variance, rtol=1e-9)
    assert layer.num_batches_tracked.item() == 3


def test_momentum_none_is_the_cumulative_average(spd: Callable[..., Tensor]) -> None:
    layer = mn.nn.LieBatchNorm(LEM, momentum=None, **DOUBLE)
    logs, variances = [], []
    for _ in range(4):
        log = matrix_log(x := spd(4, 9))
        layer(x)
        logs.append(log.mean(0))
        variances.append((log - log.mean(0)).square().sum((-2, -1)).mean())
        assert torch.allclose(matrix_log(layer.running_mean), torch.stack(logs).mean(0), atol=1e-12)
        assert torch.allclose(layer.running_var, torch.stack(variances).mean())


@every_layer
def test_without_running_statistics_evaluation_uses_the_batch(name: str, x: Tensor) -> None:
    layer = LAYERS[name](track_running_stats=False)
    assert not list(layer.buffers()) or all("running" not in n for n, _ in layer.named_buffers())
    trained = layer(x)
    assert torch.equal(layer.eval()(x), trained)
    layer.reset_running_stats()


@every_layer
def test_reset_returns_to_the_start(name: str, x: Tensor) -> None:
    layer = LAYERS[name]()
    start = copy.deepcopy(layer.state_dict())
    layer(x)
    layer.scale, layer.bias_point = 2.0, x[0]
    assert not torch.equal(layer.state_dict()["running_mean"], start["running_mean"])
    layer.reset_parameters()
    assert all(torch.allclose(v, start[k], atol=1e-12) for k, v in layer.state_dict().items())


def test_buffers_are_updated_in_place(x: Tensor) -> None:
    layer = LAYERS["Gyro AIM"]()
    before = {k: (v.data_ptr(), v.shape) for k, v in layer.named_buffers()}
    layer(x)
    assert {k: (v.data_ptr(), v.shape) for k, v in layer.named_buffers()} == before
    assert set(before) == {"running_mean", "running_var", "num_batches_tracked"}


# ---- shapes


@every_layer
def test_channels_are_separate_layers(name: str, spd: Callable[..., Tensor]) -> None:
    x, layer = spd(4, 9, 3), LAYERS[name](channels=3)
    y = layer(x)
    assert layer.running_mean.shape == (3, 4, 4) and layer.running_var.shape == layer.scale.shape == (3,)
    assert layer.bias_point.shape == (3, 4, 4)
    for c in range(3):
        single = LAYERS[name]()
        assert torch.allclose(y[:, c], single(x[:, c]), rtol=1e-9, atol=1e-11)
        assert torch.allclose(layer.running_mean[c], single.running_mean, rtol=1e-9, atol=1e-11)
    layer.eval()
    assert torch.allclose(layer(x[:2])[1], layer(x[1:2])[0], rtol=1e-12)


@every_layer
def test_leading_dimensions_are_pooled(name: str, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 3, 5)
    assert torch.allclose(LAYERS[name]()(x), LAYERS[name]()(x.flatten(0, 1)).reshape(x.shape), rtol=1e-12)
    channels = spd(4, 3, 5, 2)
    a, b = LAYERS[name](channels=2)(channels), LAYERS[name](channels=2)(channels.flatten(0, 1))
    assert torch.allclose(a.flatten(0, 1), b, rtol=1e-12)


def test_non_contiguous_and_asymmetric_by_rounding(x: Tensor) -> None:
    layer = LAYERS["Gyro AIM"](track_running_stats=False)
    expected = layer(x)
    strided = torch.stack([x, x], -1).movedim(-1, 0)[1]
    assert not strided.is_contiguous()
    assert torch.allclose(layer(strided), expected, rtol=1e-12)
    assert torch.allclose(layer(x + 1e-15 * torch.randn_like(x)), expected, rtol=1e-10)


# ---- weights


@every_layer
def test_weights_are_repetitions(name: str, x: Tensor) -> None:
    counts = torch.tensor([2, 0, 1, 1, 3, 1, 0, 1, 1])
    weighted, repeated = LAYERS[name](mean=Exact()), LAYERS[name](mean=Exact())
    y = weighted(x, 7.0 * counts.double())  # any scale
    expected = repeated(x.repeat_interleave(counts, 0))
    assert torch.allclose(y[counts > 0], expected[counts.cumsum(0)[counts > 0] - 1], rtol=1e-8, atol=1e-10)
    assert torch.allclose(weighted.running_mean, repeated.running_mean, rtol=1e-8, atol=1e-10)
    assert torch.allclose(weighted.running_var, repeated.running_var, rtol=1e-8)
    assert y[counts == 0].isfinite().all()  # left out of the statistics, normalised all the same


def test_weights_per_channel_and_masks(spd: Callable[..., Tensor]) -> None:
    x, mask = spd(4, 6, 2), torch.rand(6, 2) > 0.4
    mask[0] = True
    layer = LAYERS["Gyro AIM"](channels=2, mean=Exact())
    layer(x, mask)
    for c in range(2):
        single = LAYERS["Gyro AIM"](mean=Exact())
        single(x[mask[:, c], c])
        assert torch.allclose(layer.running_mean[c], single.running_mean, rtol=1e-9)
    shared = LAYERS["Gyro AIM"](channels=2)
    assert torch.allclose(shared(x, mask[:, 0]), LAYERS["Gyro AIM"](channels=2)(x, mask[:, :1].expand(6, 2)))


# ---- parameters


@every_layer
@pytest.mark.parametrize("bias", ["tangent", "manifold"])
def test_bias_point_and_scale_can_be_assigned(name: str, bias: str, x: Tensor) -> None:
    layer = LAYERS[name](bias=bias, mean=Exact())
    layer.bias_point, layer.scale = x[3], 0.2
    assert torch.allclose(layer.bias_point, x[3], rtol=1e-10, atol=1e-12) and torch.allclose(
        layer.scale, torch.tensor(0.2).double()
    )
    y = layer(x)
    assert torch.allclose(layer.manifold.frechet_mean(y), x[3], rtol=1e-6, atol=1e-8)
    key = "bias" if bias == "tangent" else "bias_on_manifold"
    assert key in layer.state_dict() and "log_scale" in layer.state_dict()


def test_bad_scale_and_bias_are_refused(x: Tensor) -> None:
    layer = LAYERS["Gyro AIM"]()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"GyroBatchNorm\.scale is a standard deviation and must be positive"):
        layer.scale = -1.0
    with pytest.raises(ValueError, match=r"GyroBatchNorm\.bias_point.*not positive definite"):
        layer.bias_point = -x[0]
    with pytest.raises(ValueError, match=r"GyroBatchNorm\.bias_point.*expected shape"):
        layer.bias_point = torch.eye(3)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    plain = LAYERS["Gyro AIM"](affine=False)
    with pytest.raises(ValueError, match="affine=False and has no scale"):
        plain.scale = 1.0
    with pytest.raises(ValueError, match="without a bias"):
        plain.bias_point = x[0]


@every_layer
def test_without_affine_and_without_bias(name: str, x: Tensor) -> None:
    layer = LAYERS[name](affine=False)
    assert layer.scale is None and layer.bias_point is None
    assert not [n for n, _ in layer.named_parameters() if not n.startswith("_geometry")]
    full = LAYERS[name]()
    assert torch.allclose(layer(x), full(x), rtol=1e-9, atol=1e-11)  # scale 1, bias at the origin
    unbiased = LAYERS[name](bias=False)
    assert unbiased.bias_point is None and torch.equal(unbiased.scale, torch.ones((), dtype=torch.float64))
    assert torch.allclose(unbiased(x), layer(x), rtol=1e-12)


@every_layer
@pytest.mark.parametrize("bias", ["tangent", "manifold"])
def test_every_parameter_learns(name: str, bias: str, x: Tensor) -> None:
    layer = randomized(LAYERS[name](bias=bias)) if bias == "tangent" else LAYERS[name](bias=bias)
    loss = (layer(x) * torch.randn_like(x)).sum()
    loss.backward()
    gradients = {n: p.grad for n, p in layer.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 1e-8 for g in gradients.values())


def test_grad_through_stats_false_detaches_mean_and_variance(x: Tensor) -> None:
    frozen = LAYERS["Gyro AIM"](grad_through_stats=False, momentum=1.0)
    through = LAYERS["Gyro AIM"]()
    weight = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    (detached,) = torch.autograd.grad((frozen(leaf) * weight).sum(), leaf)
    # with momentum 1 the layer in evaluation is the same map with constant statistics
    (expected,) = torch.autograd.grad((frozen.eval()(leaf) * weight).sum(), leaf)
    (full,) = torch.autograd.grad((through(leaf) * weight).sum(), leaf)
    assert torch.allclose(detached, expected, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(detached, full, rtol=1e-2)


# ---- options


def test_routes() -> None:
    generator = torch.Generator().manual_seed(0)
    x = AIM.random_point(9, generator=generator, dtype=torch.float64)
    origin, direct = (mn.nn.RiemannianBatchNorm(AIM, route=r, mean=Exact(), **DOUBLE) for r in ("origin", "direct"))
    for layer in (origin, direct):
        layer.bias_point = x[1]
    gyro = mn.nn.GyroBatchNorm(AIM, mean=Exact(), **DOUBLE)
    gyro.bias_point = x[1]
    assert torch.allclose(origin(x), gyro(x), rtol=1e-12)
    y = direct(x)
    assert not torch.allclose(y, origin(x), rtol=1e-3)  # holonomy
    m, b = AIM.frechet_mean(x), x[1]
    factor = (AIM.squared_dist(m, x).mean() + 1e-5).rsqrt()
    assert torch.allclose(y, AIM.exp(b, factor * AIM.transport(m, b, AIM.log(m, x))), rtol=1e-9)
    for layer in (origin, direct):
        layer.bias_point = torch.eye(4)
    assert torch.allclose(direct(x), origin(x), rtol=1e-9)  # from the mean to the origin there is one way


def test_direct_route_needs_transport() -> None:
    with pytest.raises(ValueError, match=r"route='direct' needs parallel transport.*BuresWasserstein"):
        mn.nn.RiemannianBatchNorm(BW, route="direct")
    with pytest.raises(ValueError, match="route must be 'origin' or 'direct', got 'scenic'"):
        mn.nn.RiemannianBatchNorm(AIM, route="scenic")


def test_missing_structures_raise_when_built() -> None:
    with pytest.raises(ValueError, match=r"LieBatchNorm: BuresWasserstein.* is not a Lie group"):
        mn.nn.LieBatchNorm(BW)
    with pytest.raises(ValueError, match=r"GyroBatchNorm: BuresWasserstein.* is not a gyrogroup"):
        mn.nn.GyroBatchNorm(BW)
    with pytest.raises(ValueError, match="is not a gyrogroup"):
        mn.nn.GyroBatchNorm(mn.GeneralizedBuresWasserstein(4))
    with pytest.raises(ValueError, match="no closed form"):
        mn.nn.RiemannianBatchNorm(mn.GeneralizedBuresWasserstein(4), route="direct")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be None or at least 1"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\] or be None"),
        ({"bias": "euclidean"}, "bias must be 'tangent', 'manifold' or False"),
    ],
)
def test_bad_options_raise_when_built(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mn.nn.GyroBatchNorm(AIM, **options)


def test_a_class_instead_of_a_manifold_is_explained() -> None:
    with pytest.raises(TypeError, match=r"pass an instance, e\.g\. AffineInvariant\(20\), not the class"):
        mn.nn.GyroBatchNorm(mn.AffineInvariant)


def test_geoopt_manifolds_are_taken(x: Tensor) -> None:
    geometry = mn.optim.to_geoopt(AIM)
    assert mn.nn.GyroBatchNorm(geometry).manifold == AIM


@pytest.mark.parametrize("policy", [Karcher(1), Newton(2), Exact()], ids=repr)
def test_mean_policies_are_used(policy: mn.stats.MeanPolicy, x: Tensor) -> None:
    layer = LAYERS["Gyro AIM"](mean=policy, momentum=1.0)
    layer(x)
    assert torch.allclose(layer.running_mean, policy(AIM, x), rtol=1e-9)
    assert type(policy).__name__ in repr(layer)


def test_layers_are_not_euclidean_batch_norms() -> None:
    for make in LAYERS.values():
        assert not isinstance(make(), nn.modules.batchnorm._BatchNorm)


@every_layer
def test_dtype_and_precision(name: str, x: Tensor) -> None:
    double = LAYERS[name]()
    single = copy.deepcopy(double).float()
    y, expected = single(x.float()), double(x)
    assert y.dtype == torch.float32
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(single.eval()(x.float()).double(), double.eval()(x), rtol=1e-4, atol=1e-5)


COMPLEX = {
    "AIM": mn.AffineInvariant(4, field="complex"),
    "LEM": mn.LogEuclidean(4, field="complex"),
    "LCM": mn.LogCholesky(4, field="complex"),
    "BW": mn.BuresWasserstein(4, field="complex"),
    "deformed": mn.PowerDeformed(mn.AffineInvariant(4, field="complex"), 0.5),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_hermitian_matrices(name: str, spd: Callable[..., Tensor]) -> None:
    z = spd(4, 9, dtype=torch.complex128)
    manifold = COMPLEX[name]
    layer = mn.nn.RiemannianBatchNorm(manifold, mean=Exact(), dtype=torch.complex128)
    layer.bias_point, layer.scale = z[0], 0.3
    assert layer.running_mean.dtype == torch.complex128 and layer.running_var.dtype == torch.float64
    y = layer(z)
    assert torch.allclose(manifold.frechet_mean(y), z[0], rtol=1e-7, atol=1e-9)
    assert float(y.detach().imag.abs().max()) > 1e-3
    y.real.square().sum().backward()
    assert layer.bias.grad.is_complex() and layer.log_scale.grad.isfinite()
    # the real dtype means the same
    assert mn.nn.RiemannianBatchNorm(manifold, dtype=torch.float64).bias.dtype == torch.complex128


def test_real_matrices_in_a_complex_layer_agree_with_the_real_layer(x: Tensor) -> None:
    real, hermitian = mn.nn.GyroBatchNorm(AIM, **DOUBLE), mn.nn.GyroBatchNorm(COMPLEX["AIM"], **DOUBLE)
    assert torch.allclose(hermitian(x.to(torch.complex128)).real, real(x), rtol=1e-10)


# ---- Bures-Wasserstein: the domain of the exponential


def test_steps_are_shrunk_into_the_domain_and_named_under_check_input(spd: Callable[..., Tensor]) -> None:
    x = torch.linalg.matrix_exp(1.5 * (lambda a: (a + a.mT) / 2)(torch.randn(9, 4, 4, dtype=torch.float64)))
    layer = mn.nn.RiemannianBatchNorm(BW, **DOUBLE)
    layer.scale = 6.0
    y = layer(x)
    assert float(torch.linalg.eigvalsh(y.detach()).min()) > 0
    strict = mn.nn.RiemannianBatchNorm(BW, check_input=True, **DOUBLE)
    strict.scale = 6.0
    before = copy.deepcopy(strict.state_dict())
    with pytest.raises(ValueError, match=r"RiemannianBatchNorm: sample \d leaves the domain of the exponential map"):
        strict(x)
    assert all(torch.equal(v, before[k]) for k, v in strict.state_dict().items())
    strict.scale = 1e-2
    strict(x)


# ---- learnable metric


def test_bures_wasserstein_layer_learns_its_metric(x: Tensor) -> None:
    layer = mn.nn.BuresWassersteinBatchNorm(4, **DOUBLE)
    assert isinstance(layer.manifold, mn.GeneralizedBuresWasserstein)
    assert any("raw_metric" in n for n, _ in layer.named_parameters())
    (layer(x) * torch.randn_like(x)).sum().backward()
    grads = [p.grad for n, p in layer.named_parameters() if "raw_metric" in n]
    assert grads[0].abs().max() > 1e-6
    fixed = mn.nn.BuresWassersteinBatchNorm(4, learn_metric=False, **DOUBLE)
    assert not any("raw" in n for n, _ in fixed.named_parameters())
    assert torch.allclose(fixed(x), mn.nn.RiemannianBatchNorm(BW, **DOUBLE)(x), rtol=1e-10)
    deformed = mn.nn.BuresWassersteinBatchNorm(4, power=0.5, learn_metric=False, **DOUBLE)
    assert deformed.manifold == mn.PowerDeformed(mn.GeneralizedBuresWasserstein(4), 0.5)
    assert mn.nn.BuresWassersteinBatchNorm(BW).manifold == BW


# ---- repr and factories


@every_layer
def test_repr_has_the_options(name: str) -> None:
    text = repr(LAYERS[name](channels=2, momentum=None, eps=1e-3))
    assert "channels=2" in text and "momentum=None" in text and "eps=0.001" in text and "affine=True" in text
    assert "\n(" not in nn.Sequential(LAYERS[name]()).__repr__()


def test_repr_says_what_users_trip_over() -> None:
    assert "depends on the order of channels" in repr(mn.nn.LieBatchNorm(AIM))
    assert "depends on the order of channels" in repr(mn.nn.LieBatchNorm(mn.PowerDeformed(AIM, 0.5)))
    assert "order of channels" not in repr(mn.nn.LieBatchNorm(LEM))
    assert "scale: a standard deviation" in repr(mn.nn.GyroBatchNorm(AIM))


def test_factories_are_values() -> None:
    factory = mn.nn.LieBatchNorm.of(mn.LogEuclidean, momentum=0.05, alpha=2.0)
    layer = factory(5, dtype=torch.float64)
    assert layer.momentum == 0.05 and layer.manifold == mn.LogEuclidean(5, alpha=2.0)
    assert layer.running_mean.dtype == torch.float64
    twin = pickle.loads(pickle.dumps(factory))
    assert twin == factory == copy.deepcopy(factory) and hash(twin) == hash(factory)
    assert factory != mn.nn.LieBatchNorm.of(mn.LogEuclidean, momentum=0.1, alpha=2.0)
    assert factory != mn.nn.GyroBatchNorm.of(mn.LogEuclidean, momentum=0.05, alpha=2.0)
    assert repr(factory) == "LieBatchNorm.of(LogEuclidean, momentum=0.05, alpha=2.0)"


def test_factories_of_every_kind_survive_pickling() -> None:
    factories = [
        mn.nn.BuresWassersteinBatchNorm.of(power=0.5),
        mn.nn.GyroBatchNorm.of(mn.PowerDeformed.of(mn.AffineInvariant, 0.5), mean=Exact()),
        mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant, route="direct"),
    ]
    for factory in factories:
        twin = pickle.loads(pickle.dumps(factory))
        assert twin == factory and repr(twin) == repr(factory)
        assert twin(4).manifold.point_shape == (4, 4)
    assert factories[1](4, field="complex").manifold.is_complex


def test_factories_survive_scikit_learn_clone() -> None:
    base = pytest.importorskip("sklearn.base")

    class Estimator(base.BaseEstimator):
        def __init__(self, norm: object = None) -> None:
            self.norm = norm

    estimator = Estimator(mn.nn.LieBatchNorm.of(mn.LogEuclidean, momentum=0.05))
    assert base.clone(estimator).norm == estimator.norm


# ---- fusion


def fused_and_not(layers: list[nn.Module], x: Tensor) -> list[tuple[Tensor, list[Tensor], dict[str, Tensor]]]:
    results = []
    for container in (mn.nn.Sequential, nn.Sequential):
        net = container(*copy.deepcopy(layers))
        leaf = x.clone().requires_grad_()
        y = net(leaf)
        torch.manual_seed(3)
        (y * torch.randn_like(y)).sum().backward()
        results.append((y.detach(), [leaf.grad, *(p.grad for p in net.parameters())], net.state_dict()))
    return results


FUSED = {
    "norm": lambda: [mn.nn.LieBatchNorm(LEM, **DOUBLE), mn.nn.LogEig()],
    "norm with channels": lambda: [mn.nn.GyroBatchNorm(LEM, channels=3, **DOUBLE), mn.nn.LogEig()],
    "ReEig": lambda: [mn.nn.ReEig(0.4), mn.nn.LogEig()],
    "ReEig absolute": lambda: [mn.nn.ReEig(0.4, relative=False), mn.nn.LogEig()],
    "all": lambda: [mn.nn.BiMap(4, 3, **DOUBLE), mn.nn.ReEig(0.4), mn.nn.LogEig(), mn.nn.ExpEig(), mn.nn.LogEig()],
}


@pytest.mark.parametrize("name", FUSED)
def test_fusion_changes_neither_values_nor_gradients(name: str, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 9, 3) if "channels" in name else spd(4, 9)
    layers = FUSED[name]()
    (y, grads, state), (y2, grads2, state2) = fused_and_not(layers, x)
    assert torch.allclose(y, y2, rtol=1e-9, atol=1e-11)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(grads, grads2, strict=True))
    assert all(torch.allclose(v, state2[k]) for k, v in state.items())


def decompositions(net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    calls = []
    original = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a, *k: calls.append(a.shape) or original(a, *k))
    with mn.linalg.backend("torch"):
        net(x)
    monkeypatch.undo()
    return sum(shape[:-2].numel() >= 9 for shape in calls)


class DoubledReEig(mn.nn.ReEig):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnNorm(mn.nn.LieBatchNorm):
    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        return 2 * super().forward(x, weights)


class OwnLog(mn.nn.LogEig):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_fusion_saves_a_decomposition_and_skips_subclasses(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (mn.nn.ReEig(), mn.nn.LieBatchNorm(LEM, **DOUBLE)):
        fused, plain = mn.nn.Sequential(first, mn.nn.LogEig()), nn.Sequential(first, mn.nn.LogEig())
        assert decompositions(fused, x, monkeypatch) == 1 < decompositions(plain, x, monkeypatch)
    for layers in (
        [DoubledReEig(), mn.nn.LogEig()],
        [OwnNorm(LEM, **DOUBLE), mn.nn.LogEig()],
        [mn.nn.ReEig(), OwnLog()],
    ):
        (y, *_), (y2, *_) = fused_and_not(layers, x)
        assert torch.equal(y, y2)


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_full_backward_pre_hook"]  # fmt: skip


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("first", ["ReEig", "norm"])
def test_hooked_layers_are_not_fused(register: str, position: int, first: str, x: Tensor) -> None:
    layer = mn.nn.ReEig() if first == "ReEig" else mn.nn.LieBatchNorm(LEM, **DOUBLE)
    net, seen = mn.nn.Sequential(layer, mn.nn.LogEig()), []
    getattr(net[position], register)(lambda *args: seen.append(len(args)))
    net(x.clone().requires_grad_()).sum().backward()
    assert len(seen) == 1


def test_sequential_is_a_torch_sequential(x: Tensor) -> None:
    net = mn.nn.Sequential(mn.nn.ReEig(), mn.nn.LogEig())
    assert isinstance(net, nn.Sequential) and len(net) == 2 and isinstance(net[1], mn.nn.LogEig)
    assert torch.equal(mn.nn.Sequential()(x), x)
    assert torch.allclose(net(x), linalg.logm(x), rtol=1e-9, atol=1e-12)
