"""Layers of hyperbolic networks: independent formulas, isometries, limits, golden numbers, gradients, bad input."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn.hyperbolic.conv import concatenation_factor

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "gyro"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")
MODELS = [mn.PoincareBall, mn.Lorentz, mn.Klein]
CURVATURES = [-1.0, -0.3, -2.5]
F64 = torch.float64


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(manifold: Any, *batch: int, radius: float = 1.5, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    origin = manifold.origin(*batch, dtype=dtype)
    return manifold.exp(origin, radius / manifold.dim**0.5 * manifold.random_tangent(origin, _generator(seed)))


def _fill(layer: torch.nn.Module, seed: int = 1) -> Any:
    """Draw every parameter, biases too: what holds at the initial values only is no law."""
    generator = _generator(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            if not hasattr(parameter, "manifold"):
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return layer


# name -> layer of a manifold of dimension 3, in double precision
LAYERS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "linear": lambda m: mn.nn.HyperbolicLinear(m, 4, dtype=F64),
    "linear gyro": lambda m: mn.nn.HyperbolicLinear(m, 4, bias="gyro", dtype=F64),
    "linear no bias": lambda m: mn.nn.HyperbolicLinear(m, 4, bias=False, dtype=F64),
    "busemann linear": lambda m: mn.nn.BusemannLinear(m, 4, dtype=F64),
    "busemann linear gyro": lambda m: mn.nn.BusemannLinear(m, 4, bias="gyro", activation=torch.tanh, dtype=F64),
    "mlr": lambda m: mn.nn.HyperbolicMLR(m, 5, dtype=F64),
    "busemann mlr": lambda m: mn.nn.BusemannMLR(m, 5, dtype=F64),
    "activation": lambda m: mn.nn.HyperbolicActivation(m, torch.tanh),
    "residual": lambda m: mn.nn.HyperbolicResidual(
        m, mn.nn.HyperbolicLinear(m, 3, dtype=F64), mn.nn.HyperbolicLinear(m, 3, dtype=F64), dtype=F64
    ),
}


def _to_ball(manifold: Any, x: Tensor) -> Tensor:
    return x if isinstance(manifold, mn.PoincareBall) else manifold.to_poincare(x)


def _from_ball(manifold: Any, x: Tensor) -> Tensor:
    ball = mn.PoincareBall(x.shape[-1], manifold.curvature)
    name = {"Lorentz": "to_lorentz", "Klein": "to_klein"}.get(type(manifold).__name__)
    return x if name is None else getattr(ball, name)(x)


# ---- independent formulas


def _mp_ball(point: list[Any], k: Any) -> tuple[Any, Any]:
    norm2 = sum(c * c for c in point)
    return norm2, 2 / (1 + k * norm2)


def _mp_hnnpp(x: list[Any], z: list[Any], r: Any, k: Any) -> Any:
    """HNN++ equation (6): unidirectional score in the ball."""
    root = mp.sqrt(-k)
    _, conformal = _mp_ball(x, k)
    norm = mp.sqrt(sum(c * c for c in z))
    inner = sum(a * b for a, b in zip(x, z, strict=True)) / norm
    angle = 2 * root * r
    return 2 * norm / root * mp.asinh(root * conformal * inner * mp.cosh(angle) - (conformal - 1) * mp.sinh(angle))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_mlr_is_the_form_of_hnnpp_to_50_digits(curvature: float) -> None:
    mp.mp.dps = 50
    ball = mn.PoincareBall(3, curvature)
    layer = _fill(mn.nn.HyperbolicMLR(ball, 4, dtype=F64))
    for radius in (1e-6, 0.5, 3.0, 12.0):
        x = _points(ball, 3, radius=radius)
        scores = layer(x).detach()
        for i, j in itertools.product(range(3), range(4)):
            z = [mp.mpf(w.item()) / 2 for w in layer.weight[j]]
            exact = _mp_hnnpp([mp.mpf(c.item()) for c in x[i]], z, -mp.mpf(layer.bias[j].item()) / 2, mp.mpf(curvature))
            # the conformal factor is known to eps over 1 - c |x|^2, and enters through a logarithm
            gap = 1 + curvature * x[i].square().sum().item()
            gain = layer.weight[j].detach().norm().item() / math.sqrt(-curvature)
            assert abs(float(exact) - scores[i, j].item()) < 4 * torch.finfo(F64).eps * (gain / gap + abs(float(exact)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_score_is_gain_times_signed_distance_from_the_hyperplane(model: Any, curvature: float) -> None:
    """The distance is found by minimising over the hyperplane, whose points geodesics at its foot span."""
    manifold = model(2, curvature)
    layer = _fill(mn.nn.HyperbolicMLR(manifold, 1, dtype=F64))
    x = _points(manifold, 5)
    weight, bias = layer.weight[0].detach(), layer.bias[0].detach()
    gain = weight.norm()
    normal = weight / gain
    space, frame = manifold._open(torch.stack([-bias * normal, torch.stack([-normal[1], normal[0]])]))
    foot = manifold._leave(space, space.exp(frame[:1]), F64)
    along = manifold._unframe(space, manifold._enter(space, foot), frame[1:])
    times = torch.linspace(-6, 6, 20001, dtype=F64)[:, None]
    line = manifold.exp(foot, times * along)
    nearest = manifold.dist(line[:, None], x).amin(0)
    signed = layer(x)[:, 0] / gain
    torch.testing.assert_close(signed.abs(), nearest, atol=1e-6, rtol=1e-6)
    beyond = manifold.exp(foot, manifold._unframe(space, manifold._enter(space, foot), 0.5 * normal[None]))
    torch.testing.assert_close(layer(beyond)[0, 0] / gain, torch.tensor(0.5, dtype=F64))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_busemann_score_is_the_limit_of_distances_along_the_ray(model: Any, curvature: float) -> None:
    manifold = model(3, curvature)
    layer = _fill(mn.nn.BusemannMLR(manifold, 2, dtype=F64))
    x = _points(manifold, 5, radius=1.0)
    weight = layer.weight.detach()
    lorentz, time = mn.Lorentz(3, curvature), 9.0 / math.sqrt(-curvature)
    ray = lorentz.exp(
        lorentz.origin(dtype=F64), time * torch.nn.functional.pad(weight / weight.norm(dim=1, keepdim=True), (1, 0))
    )
    on_sheet = lorentz.project(x) if isinstance(manifold, mn.Lorentz) else manifold.to_lorentz(x)
    busemann = lorentz.dist(on_sheet[:, None], ray) - time
    torch.testing.assert_close(layer(x), layer.bias - weight.norm(dim=1) * busemann, atol=2e-6, rtol=0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_output_of_the_linear_layer_has_the_scores_as_distances_from_coordinate_hyperplanes(
    model: Any, curvature: float
) -> None:
    manifold = model(3, curvature)
    for kind, scores in ((mn.nn.HyperbolicLinear, mn.nn.HyperbolicMLR), (mn.nn.BusemannLinear, mn.nn.BusemannMLR)):
        layer = _fill(kind(manifold, 4, dtype=F64))
        classifier = scores(manifold, 4, dtype=F64)
        classifier.load_state_dict(layer.state_dict())
        x = _points(manifold, 6)
        coordinates = mn.nn.HyperbolicMLR(layer.out_geometry, 4, bias=False, dtype=F64)
        with torch.no_grad():
            coordinates.weight.copy_(torch.eye(4))
        torch.testing.assert_close(coordinates(layer(x)), classifier(x), atol=1e-12, rtol=1e-12)


@needs_golden
def test_golden_numbers_of_hypll() -> None:
    golden = np.load(GOLDEN / "poincare_midpoint_bn.npz")
    x, z, r, scores, y = (torch.from_numpy(golden[k]) for k in ("X1", "fc_Z", "fc_r", "mlr_Y", "fc_Y"))
    state = {"weight": 2 * z.mT, "bias": -2 * r}
    linear = mn.nn.HyperbolicLinear(mn.PoincareBall(3), 4, dtype=F64)
    linear.load_state_dict(state)
    torch.testing.assert_close(linear(x).detach(), y, atol=1e-13, rtol=0)
    classifier = mn.nn.HyperbolicMLR(mn.PoincareBall(3), 4, dtype=F64)
    classifier.load_state_dict(state)
    torch.testing.assert_close(classifier(x).detach(), scores, atol=1e-13, rtol=0)


# ---- isometries and models


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("model", [mn.Lorentz, mn.Klein])
def test_models_agree_under_the_isometry(name: str, curvature: float, model: Any) -> None:
    ball, other = mn.PoincareBall(3, curvature), model(3, curvature)
    first = _fill(LAYERS[name](ball))
    second = LAYERS[name](other)
    second.load_state_dict(first.state_dict())
    x = _points(ball, 7, radius=2.0)
    want, got = first(x), second(_from_ball(other, x))
    got = got if "mlr" in name else _to_ball(getattr(second, "out_manifold", other), got)
    torch.testing.assert_close(got, want, atol=2e-12, rtol=2e-12)


def test_convolutions_agree_on_ball_and_hyperboloid() -> None:
    ball, lorentz = mn.PoincareBall(3, -0.7), mn.Lorentz(3, -0.7)
    first = _fill(mn.nn.PoincareConv2d(ball, 4, (3, 2), stride=(2, 1), padding=1, dtype=F64))
    second = mn.nn.PoincareConv2d(lorentz, 4, (3, 2), stride=(2, 1), padding=1, dtype=F64)
    second.load_state_dict(first.state_dict())
    x = _points(ball, 2, 5, 6)
    got = second.out_manifold.to_poincare(second(ball.to_lorentz(x)))
    torch.testing.assert_close(got, first(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [mn.nn.HyperbolicMLR, mn.nn.BusemannMLR])
@pytest.mark.parametrize("model", MODELS)
def test_rotations_move_hyperplanes_and_points_together(kind: Any, model: Any) -> None:
    manifold = model(3, -0.6)
    layer = _fill(kind(manifold, 4, dtype=F64))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=_generator(5), dtype=F64)).Q
    x = _points(manifold, 6)
    turned = torch.cat([x[:, :1], x[:, 1:] @ turn.mT], 1) if model is mn.Lorentz else x @ turn.mT
    want = layer(x)
    with torch.no_grad():
        layer.weight.copy_(layer.weight @ turn.mT)
    torch.testing.assert_close(layer(turned), want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_translations_along_the_normal_move_hyperplanes_and_points_together(model: Any) -> None:
    manifold = model(3, -0.6)
    layer = _fill(mn.nn.HyperbolicMLR(manifold, 1, dtype=F64))
    x, step = _points(manifold, 6), 0.8
    space, frame = manifold._open(step * layer.weight.detach() / layer.weight.detach().norm())
    moved = manifold.gyroadd(manifold._leave(space, space.exp(frame), F64), x)
    want = layer(x)
    with torch.no_grad():
        layer.bias.sub_(step)
    torch.testing.assert_close(layer(moved), want, atol=1e-12, rtol=1e-12)


def test_square_orthogonal_weight_is_a_rotation() -> None:
    ball = mn.PoincareBall(4, -1.7)
    layer = mn.nn.HyperbolicLinear(ball, 4, dtype=F64)
    x = _points(ball, 6, radius=3.0)
    torch.testing.assert_close(layer(x), x @ layer.weight.mT, atol=1e-13, rtol=1e-13)


# ---- limits and identities


@pytest.mark.parametrize("model", MODELS)
def test_curvature_zero_is_the_euclidean_layer(model: Any) -> None:
    manifold = model(3, -1e-12)
    u = torch.randn(6, 3, generator=_generator(), dtype=F64)
    lift = mn.nn.Lift(manifold)
    x = lift(u / 2 if model is mn.PoincareBall else u)  # normal coordinates u: the ball's metric is 4 at the origin
    with torch.no_grad():
        for kind in (mn.nn.HyperbolicMLR, mn.nn.HyperbolicLinear):
            layer = _fill(kind(manifold, 4, dtype=F64))
            flat = u @ layer.weight.mT + layer.weight.norm(dim=1) * layer.bias
            got = layer(x)
            if kind is mn.nn.HyperbolicLinear:
                got = mn.nn.Lower(layer.out_manifold)(got) * (2 if model is mn.PoincareBall else 1)
            torch.testing.assert_close(got, flat, atol=1e-7, rtol=1e-7)
        layer = _fill(mn.nn.BusemannMLR(manifold, 4, dtype=F64))
        flat = u @ layer.weight.mT + layer.bias
        # the Busemann function differs from the linear one by the order sqrt(-K)
        torch.testing.assert_close(layer(x), flat, atol=1e-5, rtol=0)


def test_convolution_at_curvature_zero_is_torchs() -> None:
    ball = mn.PoincareBall(3, -1e-12)
    layer = _fill(mn.nn.PoincareConv2d(ball, 4, 3, stride=2, padding=1, dtype=F64))
    u = torch.randn(2, 3, 6, 5, generator=_generator(), dtype=F64)
    x = mn.nn.from_channels_first(u / 2, ball)
    with torch.no_grad():
        bias = layer.weight.flatten(1).norm(dim=1) * layer.bias
        flat = torch.nn.functional.conv2d(layer.factor * u, layer.weight, bias, stride=2, padding=1)
        got = 2 * mn.nn.Lower(layer.out_manifold)(layer(x)).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, flat, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (F64, 2e-15)])
def test_identity_initialisation_is_the_identity(model: Any, dtype: torch.dtype, tolerance: float) -> None:
    manifold = model(5, -1.3)
    x = _points(manifold, 3, 4, 4, radius=2.0, dtype=dtype)
    linear = mn.nn.HyperbolicLinear(manifold, 5, init="identity", dtype=dtype)
    convolution = mn.nn.PoincareConv2d(manifold, 5, 1, dtype=dtype)
    residual = mn.nn.HyperbolicResidual(manifold, mn.nn.HyperbolicLinear(manifold, 5, dtype=dtype), dtype=dtype)
    for layer in (linear, convolution, residual):
        torch.testing.assert_close(layer(x).detach(), x, atol=tolerance, rtol=8 * tolerance)


def test_identity_convolution_is_the_centre_to_first_order() -> None:
    ball = mn.PoincareBall(4)
    layer = mn.nn.PoincareConv2d(ball, 4, 3, padding=1, dtype=F64)
    error = []
    for radius in (1e-2, 1e-3):
        x = _points(ball, 2, 6, 6, radius=radius)
        error.append(((layer(x) - x).abs().max() / x.abs().max()).item())
    assert error[0] < 1e-4 and error[1] < 0.02 * error[0]


def test_convolution_is_concatenation_then_the_linear_layer() -> None:
    """Each patch by hand: logarithms, beta factors, one point of 9 d dimensions, the layer of that dimension."""
    ball = mn.PoincareBall(3, -0.8)
    layer = _fill(mn.nn.PoincareConv2d(ball, 4, 3, dtype=F64))
    x = _points(ball, 2, 5, 4)
    joint = mn.PoincareBall(27, -0.8)
    linear = mn.nn.HyperbolicLinear(joint, 4, dtype=F64)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.permute(0, 2, 3, 1).flatten(1))
        linear.bias.copy_(layer.bias)
    factor = scipy.special.beta(27 / 2, 0.5) / scipy.special.beta(3 / 2, 0.5)
    assert concatenation_factor(3, 9) == pytest.approx(factor, rel=1e-13)
    tangent = ball.log(ball.origin(dtype=F64), x) * factor
    for row, column in itertools.product(range(3), range(2)):
        patch = tangent[:, row : row + 3, column : column + 3].flatten(1)
        point = joint.exp(joint.origin(dtype=F64), patch)
        torch.testing.assert_close(layer(x)[:, row, column], linear(point), atol=1e-13, rtol=1e-12)


# ---- lift and lower


@pytest.mark.parametrize(
    "manifold",
    [mn.PoincareBall(3, -2.0), mn.Lorentz(3), mn.Sphere(3), mn.AffineInvariant(3), mn.Euclidean(3)],
    ids=repr,
)
def test_lower_inverts_lift_and_clip_bounds_the_distance(manifold: Any) -> None:
    shape = (3,) if isinstance(manifold, mn.Sphere | mn.Lorentz) else manifold.point_shape
    u = 0.4 * torch.randn(6, *shape, generator=_generator(), dtype=F64)
    if len(shape) == 2:
        u = (u + u.mT) / 2
    torch.testing.assert_close(mn.nn.Lower(manifold)(mn.nn.Lift(manifold)(u)), u, atol=1e-12, rtol=1e-12)
    far = mn.nn.Lift(manifold, clip=0.7)(torch.cat([10 * u, 1e-3 * u]))
    distance = manifold.dist(manifold.origin(dtype=F64), far)
    torch.testing.assert_close(distance[:6], torch.full((6,), 0.7, dtype=F64))
    torch.testing.assert_close(far[6:], mn.nn.Lift(manifold)(1e-3 * u))


def test_lift_has_finite_gradients_at_zero() -> None:
    for manifold in (mn.PoincareBall(3), mn.Lorentz(3)):
        u = torch.zeros(2, 3, requires_grad=True)
        mn.nn.Lower(manifold, clip=0.5)(mn.nn.Lift(manifold, clip=0.5)(u)).sum().backward()
        torch.testing.assert_close(u.grad, torch.ones(2, 3))


# ---- gradients and precision


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("model", [mn.PoincareBall, mn.Lorentz])
def test_gradients_of_input_parameters_and_curvature(name: str, model: Any) -> None:
    geometry = mn.nn.LearnableManifold(model(3, -0.8), "curvature", dtype=F64)
    layer = _fill(LAYERS[name](geometry))
    names = [key for key, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    tangent = (0.5 * torch.randn(3, 3, generator=_generator(), dtype=F64)).requires_grad_()

    def run(u: Tensor, *parameters: Tensor) -> Tensor:
        out = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (lift(u),))
        return out[..., 1:] if model is mn.Lorentz and "mlr" not in name else out

    lift = mn.nn.Lift(model(3, -0.8))
    assert torch.autograd.gradcheck(run, (tangent, *values), atol=1e-7)


def test_gradients_of_the_convolution() -> None:
    ball = mn.PoincareBall(2, -0.8)
    layer = _fill(mn.nn.PoincareConv2d(ball, 2, 2, padding=1, dtype=F64))
    x = _points(ball, 1, 2, 2).requires_grad_()
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-7)


@pytest.mark.parametrize("name", [*LAYERS, "conv"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_origin_and_boundary_have_finite_values_and_gradients(name: str, model: Any, dtype: torch.dtype) -> None:
    manifold = model(3)
    layer = mn.nn.PoincareConv2d(manifold, 3, 3, padding=1) if name == "conv" else LAYERS[name](manifold)
    layer = _fill(layer.to(dtype))
    direction = torch.nn.functional.normalize(torch.randn(4, 3, generator=_generator(), dtype=dtype), dim=1)
    space, frame = manifold._open(torch.tensor([0.0, 1e-12, 8.0, 60.0], dtype=dtype)[:, None] * direction)
    x = manifold._leave(space, space.exp(frame), dtype).detach().requires_grad_()
    y = layer(x.reshape(1, 2, 2, -1) if name == "conv" else x)
    y.sum().backward()
    assert y.dtype == dtype and bool(y.isfinite().all())
    assert all(bool(t.grad.isfinite().all()) for t in (x, *layer.parameters()))
    if "mlr" not in name:
        getattr(layer, "out_manifold", manifold).check_point(y.detach())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "activation"])
def test_zero_weights_have_finite_gradients(name: str) -> None:
    layer = LAYERS[name](mn.PoincareBall(3))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    layer(_points(mn.PoincareBall(3), 4)).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("model", [mn.PoincareBall, mn.Lorentz])
def test_single_precision_rounds_once(name: str, model: Any) -> None:
    manifold = model(3)
    double = _fill(LAYERS[name](manifold))
    single = copy.deepcopy(double).float()
    exact = copy.deepcopy(single).double()
    x = _points(manifold, 50, radius=2.0, dtype=torch.float32)
    want = exact(x.double())
    torch.testing.assert_close(single(x).double(), want, atol=2e-7, rtol=2e-7 * (8 if name == "residual" else 1))


def test_layers_trace_whole() -> None:
    ball = mn.PoincareBall(3)
    net = torch.nn.Sequential(
        mn.nn.Lift(ball, clip=1.0),
        mn.nn.HyperbolicLinear(ball, 3),
        mn.nn.HyperbolicActivation(ball),
        mn.nn.BusemannMLR(ball, 2),
    )
    x = torch.randn(5, 3, generator=_generator())
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))


# ---- sharing a geometry


def test_one_learnable_curvature_through_embedding_norm_and_classifier() -> None:
    geometry = mn.nn.LearnableManifold(mn.PoincareBall(3), "curvature")
    table = mn.nn.HyperbolicEmbedding(9, geometry, normalize=mn.nn.GyroBatchNorm)
    linear = mn.nn.HyperbolicLinear(geometry, 5)
    classifier = mn.nn.HyperbolicMLR(linear.out_geometry, 2)
    net = copy.deepcopy(torch.nn.ModuleList([table, linear, classifier]))
    curvatures = [p for name, p in net.named_parameters() if name.endswith("raw_curvature")]
    assert len(curvatures) == 1
    scores = net[2](net[1](net[0](torch.arange(9))))
    scores.square().sum().backward()
    assert curvatures[0].grad is not None and float(curvatures[0].grad) != 0
    with torch.no_grad():
        curvatures[0].fill_(math.log(0.25))
    assert all(m.manifold.curvature.item() == pytest.approx(-0.25) for m in net)
    assert net[0].norm.manifold.curvature.item() == pytest.approx(-0.25)
    double = net.double()
    assert double[2](double[1](double[0](torch.arange(9)))).dtype == F64


# ---- the embedding


def test_points_stay_on_a_manifold_whose_curvature_is_learned() -> None:
    geometry = mn.nn.LearnableManifold(mn.PoincareBall(3), "curvature", dtype=F64)
    table = mn.nn.HyperbolicEmbedding(30, geometry, radius=3.0, dtype=F64)
    with torch.no_grad():
        geometry.raw_curvature.fill_(math.log(4.0))  # half of the former ball
    x = table(torch.arange(30))
    mn.PoincareBall(3, -4.0).check_point(x.detach())
    x.sum().backward()
    assert bool(table.weight.grad.isfinite().all())


@pytest.mark.parametrize("model", [mn.PoincareBall, mn.Lorentz])
def test_embedding_trains_on_the_manifold_with_dense_and_sparse_gradients(model: Any) -> None:
    torch.manual_seed(0)
    manifold = model(3, -0.5)
    index, target = torch.tensor([[0, 1], [4, 1]]), torch.tensor([1.0, 3.0])
    for sparse in (False, True):
        table = mn.nn.HyperbolicEmbedding(6, manifold, sparse=sparse, radius=0.5, dtype=F64)
        before = table.weight.detach().clone()
        kind = mn.optim.SparseRiemannianAdam if sparse else mn.optim.RiemannianAdam
        optimizer = kind(table.parameters(), lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            x = table(index)
            ((manifold.dist(x[:, 0], x[:, 1]) - target) ** 2).sum().backward()
            assert table.weight.grad.is_sparse == sparse
            optimizer.step()
        manifold.check_point(table.weight.detach())
        x = table(index).detach()
        torch.testing.assert_close(manifold.dist(x[:, 0], x[:, 1]), target.double(), atol=1e-2, rtol=0)
        untouched = [2, 3, 5]
        torch.testing.assert_close(table.weight.detach()[untouched], before[untouched], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "norm",
    [
        mn.nn.GyroBatchNorm.of(mn.PoincareBall, curvature=-0.5),
        mn.nn.RiemannianBatchNorm,
        mn.nn.PoincareMidpointBatchNorm,
        mn.nn.GyroBatchNorm(mn.PoincareBall(3, -0.5), dtype=F64),
    ],
    ids=["factory", "class", "midpoint", "layer"],
)
def test_embedding_normalises_what_is_looked_up_in_training_and_by_running_statistics_in_evaluation(norm: Any) -> None:
    ball = mn.PoincareBall(3, -0.5)
    table = mn.nn.HyperbolicEmbedding(20, ball, normalize=norm, radius=2.0, dtype=F64)
    x = table(torch.arange(20)).detach()
    variance = ball.squared_dist(ball.origin(dtype=F64), x).mean()
    torch.testing.assert_close(variance, torch.tensor(1.0, dtype=F64), atol=1e-3, rtol=0)
    for _ in range(200):
        table(torch.arange(20))
    table.eval()
    alone = table(torch.tensor([7]))
    torch.testing.assert_close(alone[0], table.table()[7], atol=1e-14, rtol=0)
    torch.testing.assert_close(alone[0].detach(), x[7], atol=1e-3, rtol=1e-3)


def test_statistics_are_those_of_the_table_or_of_the_batch() -> None:
    ball, index = mn.PoincareBall(3), torch.tensor([[0, 1, 1], [2, 1, 0]])
    torch.manual_seed(0)
    table = mn.nn.HyperbolicEmbedding(20, ball, normalize=mn.nn.GyroBatchNorm, radius=1.0, dtype=F64)
    norm = mn.nn.GyroBatchNorm(ball, dtype=F64)
    points = table.weight.detach()
    torch.testing.assert_close(table(index), norm(points)[index])
    table.statistics = "batch"
    torch.testing.assert_close(table(index), norm(points[index]))
    with pytest.raises(ValueError, match="Use statistics='batch'"):
        mn.nn.HyperbolicEmbedding(20, ball, normalize=mn.nn.GyroBatchNorm, sparse=True)
    with pytest.raises(ValueError, match="must be 'table' or 'batch'"):
        mn.nn.HyperbolicEmbedding(20, ball, statistics="running")


def test_embedding_keeps_its_points_through_state_and_copies() -> None:
    table = mn.nn.HyperbolicEmbedding(5, mn.Lorentz(2), normalize=mn.nn.GyroBatchNorm)
    other = mn.nn.HyperbolicEmbedding(5, mn.Lorentz(2), normalize=mn.nn.GyroBatchNorm)
    other.load_state_dict(copy.deepcopy(table.state_dict()), assign=True)
    assert hasattr(other.weight, "manifold") and hasattr(copy.deepcopy(other).double().weight, "manifold")
    torch.testing.assert_close(other.weight.detach(), table.weight.detach())
    other.reset_parameters()
    assert not torch.equal(other.weight, table.weight)
    radius = mn.nn.HyperbolicEmbedding(4000, mn.Lorentz(3), radius=0.7).radii()
    assert radius.square().mean().sqrt().item() == pytest.approx(0.7, rel=0.05)


# ---- bad input


def test_errors_name_argument_cause_and_remedy() -> None:
    ball = mn.PoincareBall(3)
    with pytest.raises(TypeError, match=r"HyperbolicLinear: needs hyperbolic space, got Sphere.*PoincareBall"):
        mn.nn.HyperbolicLinear(mn.Sphere(3), 2)
    with pytest.raises(TypeError, match="K < 0"):
        mn.nn.HyperbolicMLR(mn.Stereographic(3, 1.0), 2)
    with pytest.raises(TypeError, match="pass an instance"):
        mn.nn.HyperbolicMLR(mn.PoincareBall, 2)
    with pytest.raises(ValueError, match="out_features must be a positive integer, got 0"):
        mn.nn.HyperbolicLinear(ball, 0)
    with pytest.raises(ValueError, match="bias must be 'hyperplane', 'gyro'"):
        mn.nn.HyperbolicLinear(ball, 2, bias="tangent")
    with pytest.raises(ValueError, match="init must be one of 'orthogonal'"):
        mn.nn.HyperbolicLinear(ball, 2, init="xavier")
    with pytest.raises(ValueError, match=r"HyperbolicLinear input: expected shape \(..., 3\), got \(4, 2\)"):
        mn.nn.HyperbolicLinear(ball, 2)(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="time coordinate first"):
        mn.nn.HyperbolicMLR(mn.Lorentz(3), 2)(torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"holds torch.float32 on cpu, the input is torch.float64"):
        mn.nn.HyperbolicMLR(ball, 2)(torch.zeros(4, 3, dtype=F64))
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 3\), got \(8, 8, 3\)"):
        mn.nn.PoincareConv2d(ball, 2)(torch.zeros(8, 8, 3))
    with pytest.raises(ValueError, match=r"from_channels_first: expected \(N, d, H, W\)"):
        mn.nn.from_channels_first(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="clip must be a positive distance"):
        mn.nn.Lift(ball, clip=0)
    with pytest.raises(ValueError, match=r"points are on PoincareBall\(d=3, curvature=-1.0\), the norm on .*-2"):
        mn.nn.HyperbolicEmbedding(4, ball, normalize=mn.nn.GyroBatchNorm.of(mn.PoincareBall, curvature=-2.0))
    with pytest.raises(TypeError, match="index must hold integers"):
        mn.nn.HyperbolicEmbedding(4, ball)(torch.zeros(2))
    with pytest.raises(ValueError, match="radius must be positive"):
        mn.nn.HyperbolicEmbedding(4, ball, radius=0.0)


def test_empty_batch_and_a_sample_that_is_not_finite() -> None:
    ball = mn.PoincareBall(3)
    layer = mn.nn.HyperbolicLinear(ball, 2)
    assert layer(torch.zeros(0, 3)).shape == (0, 2)
    x = _points(ball, 3, dtype=torch.float32)
    alone = layer(x).detach()
    x[1, 0] = math.nan
    y = layer(x).detach()
    assert bool(y[1].isnan().all())
    torch.testing.assert_close(y[[0, 2]], alone[[0, 2]])


# ---- compiled embeddings


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about how it traces autograd Functions
@pytest.mark.parametrize(
    "options",
    [
        {"normalize": mn.nn.GyroBatchNorm},
        {"normalize": mn.nn.GyroBatchNorm, "statistics": "batch", "sparse": True},
        {"sparse": True},
    ],
    ids=["table", "batch", "bare"],
)
def test_embeddings_compile_whole(options: dict[str, Any]) -> None:
    table = mn.nn.HyperbolicEmbedding(9, mn.PoincareBall(3), dtype=F64, **options)
    twin, index = copy.deepcopy(table), torch.tensor([3, 1, 3, 7])
    torch._dynamo.reset()
    fast = torch.compile(twin, fullgraph=True, backend="aot_eager")
    got, want = fast(index), table(index)
    torch.testing.assert_close(got, want)
    for points in (got, want):
        points.square().sum().backward()
    assert table.weight.grad.is_sparse == twin.weight.grad.is_sparse == options.get("sparse", False)
    torch.testing.assert_close(twin.weight.grad.to_dense(), table.weight.grad.to_dense())


# ---- the distance that embeddings are trained with


@pytest.mark.parametrize("curvature", CURVATURES)
def test_distance_of_the_ball_equals_the_derived_one_with_its_gradients(curvature: float) -> None:
    ball = mn.PoincareBall(3, curvature)
    p, q = _points(ball, 4, 1, seed=1).requires_grad_(), _points(ball, 4, 6, radius=4.0, seed=2).requires_grad_()
    with torch.no_grad():
        q[0, 0] = p[0, 0]
        q[1, 0] = p[1, 0] + 1e-9
    weight = torch.randn(4, 6, generator=_generator(), dtype=F64)
    got, want = ball.dist(p, q), mn.manifolds.Manifold.dist(ball, p, q)
    torch.testing.assert_close(got, want, atol=1e-15, rtol=1e-12)
    for a, b in zip(*(torch.autograd.grad((d * weight).sum(), (p, q)) for d in (got, want)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)
    assert bool((torch.autograd.grad(ball.dist(p, q)[0, 0], q)[0] == 0).all())
    apart = (_points(ball, 3, 1, seed=3).requires_grad_(), _points(ball, 2, seed=4)[:, None, None].requires_grad_())
    assert torch.autograd.gradcheck(ball.dist, apart) and torch.autograd.gradgradcheck(ball.dist, apart)
    torch.testing.assert_close(torch.func.vmap(ball.dist)(p, q), want)
    single = ball.dist(p.detach().float(), q.detach().float())
    torch.testing.assert_close(single.double(), ball.dist(p.detach().float().double(), q.detach().float().double()))
    far = torch.tensor([[0.9999999, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64) / math.sqrt(-curvature)
    far = ball.project(far).requires_grad_()
    ball.dist(far[:1], far).sum().backward()
    assert bool(far.grad.isfinite().all())
