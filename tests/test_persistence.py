"""States: saving, loading, copying, moving and resuming, with both kinds of bias and learnable geometries."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.optim import RiemannianSGD

DOUBLE = {"dtype": torch.float64}


def learnable() -> mn.nn.LearnableManifold:
    return mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(4), 0.5), ("power",), **DOUBLE)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "RBN AIM": lambda **k: mn.nn.RiemannianBatchNorm(mn.AffineInvariant(4), **{**DOUBLE, **k}),
    "Lie LEM": lambda **k: mn.nn.LieBatchNorm(mn.LogEuclidean(4), momentum=None, **{**DOUBLE, **k}),
    "Lie LCM": lambda **k: mn.nn.LieBatchNorm(mn.LogCholesky(4), channels=2, **{**DOUBLE, **k}),
    "RBN BW": lambda **k: mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(4), **{**DOUBLE, **k}),
    "GBW": lambda **k: mn.nn.BuresWassersteinBatchNorm(4, **{**DOUBLE, **k}),
    "GBW power": lambda **k: mn.nn.BuresWassersteinBatchNorm(4, power=0.5, **{**DOUBLE, **k}),
    "learned power": lambda **k: mn.nn.GyroBatchNorm(learnable(), **{**DOUBLE, **k}),
}
BIASES = ["tangent", "manifold"]
every_layer = pytest.mark.parametrize("name", LAYERS)
each_bias = pytest.mark.parametrize("bias", BIASES)


def batches(layer: nn.Module, count: int) -> list[Tensor]:
    shape = (9,) if layer.channels is None else (9, layer.channels)
    noise = torch.randn(count, *shape, 4, 12, dtype=torch.float64)
    return list(noise @ noise.mT / 12 + 0.1 * torch.eye(4))


def optimizer(layer: nn.Module) -> torch.optim.Optimizer:
    if hasattr(layer, "bias_on_manifold"):
        return RiemannianSGD(layer.parameters(), lr=1e-2, momentum=0.9)
    return torch.optim.AdamW(layer.parameters(), lr=1e-2)


def train(layer: nn.Module, search: torch.optim.Optimizer, data: list[Tensor]) -> list[float]:
    losses = []
    target = torch.diag(torch.tensor([2.0, 1.0, 0.5, 3.0], dtype=torch.float64))
    for x in data:
        search.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        search.step()
        losses.append(loss.item())
    return losses


def same_state(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- round trips


@every_layer
@each_bias
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_state_loads_strictly_after_any_number_of_steps(name: str, bias: str, steps: int) -> None:
    layer, twin = LAYERS[name](bias=bias), LAYERS[name](bias=bias)
    train(layer, optimizer(layer), batches(layer, steps))
    missing = twin.load_state_dict(through_a_file(layer.state_dict()), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    x = batches(layer, 1)[0]
    assert same_state(layer, twin) and torch.equal(layer.eval()(x), twin.eval()(x))
    assert torch.equal(layer.train()(x), twin.train()(x)) and same_state(layer, twin)


@every_layer
@each_bias
def test_training_resumes_from_a_checkpoint_with_identical_results(name: str, bias: str) -> None:
    layer = LAYERS[name](bias=bias)
    data = batches(layer, 10)
    search = optimizer(layer)
    train(layer, search, data[:5])
    checkpoint = {"layer": copy.deepcopy(layer.state_dict()), "search": copy.deepcopy(search.state_dict())}
    expected = train(layer, search, data[5:])

    checkpoint = through_a_file(checkpoint)
    twin = LAYERS[name](bias=bias)
    twin.load_state_dict(checkpoint["layer"])
    resumed = optimizer(twin)
    resumed.load_state_dict(checkpoint["search"])
    assert train(twin, resumed, data[5:]) == expected
    assert same_state(layer, twin)


@every_layer
def test_the_wrong_kind_of_bias_fails_strictly(name: str) -> None:
    for bias, other in (BIASES, BIASES[::-1]):
        with pytest.raises(RuntimeError, match=r"(?s)Missing key.*bias.*Unexpected key.*bias"):
            LAYERS[name](bias=bias).load_state_dict(LAYERS[name](bias=other).state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        LAYERS[name](bias=False).load_state_dict(LAYERS[name]().state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        mn.nn.GyroBatchNorm(mn.AffineInvariant(5)).load_state_dict(LAYERS["RBN AIM"]().state_dict())


@every_layer
@each_bias
def test_loading_by_assignment_keeps_the_manifold(name: str, bias: str) -> None:
    layer, twin = LAYERS[name](bias=bias), LAYERS[name](bias=bias)
    train(layer, optimizer(layer), batches(layer, 3))
    twin.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    kinds = [{n: type(p).__name__ for n, p in module.named_parameters()} for module in (layer, twin)]
    assert kinds[0] == kinds[1] and same_state(layer, twin)
    data = batches(layer, 2)
    twin_losses = train(twin, optimizer(twin), data)
    assert twin_losses == train(layer, optimizer(layer), data)
    if bias == "manifold":
        assert repr(twin.bias_on_manifold.manifold.geometry) == repr(twin.manifold)


def test_bimap_loaded_by_assignment_stays_on_its_manifold() -> None:
    layer, twin = (mn.nn.BiMap(4, 2, parametrization="manifold", **DOUBLE) for _ in range(2))
    twin.load_state_dict(layer.state_dict(), assign=True)
    assert type(twin.weight_on_manifold) is type(layer.weight_on_manifold)
    assert torch.equal(twin.weight, layer.weight)


@every_layer
@each_bias
@pytest.mark.parametrize("revive", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(name: str, bias: str, revive: Callable) -> None:
    layer = LAYERS[name](bias=bias)
    train(layer, optimizer(layer), batches(layer, 2))
    twin = revive(layer)
    assert same_state(layer, twin) and repr(layer) == repr(twin)
    data = batches(layer, 3)
    assert train(twin, optimizer(twin), data) == train(copy.deepcopy(layer), optimizer(copy.deepcopy(layer)), []) + (
        losses := train(layer, optimizer(layer), data)
    )
    assert losses and same_state(layer, twin)
    train(twin, optimizer(twin), data[:1])
    assert not same_state(layer, twin)


@every_layer
@each_bias
def test_dtype_moves_everything(name: str, bias: str) -> None:
    layer = LAYERS[name](bias=bias)
    train(layer, optimizer(layer), batches(layer, 2))
    x = batches(layer, 1)[0]
    expected = layer.eval()(x)
    single = copy.deepcopy(layer).to(torch.float32)
    assert {p.dtype for p in single.state_dict().values()} <= {torch.float32, torch.int64}
    assert torch.allclose(single(x.float()).double(), expected, rtol=1e-4, atol=1e-5)
    double = single.double()
    assert torch.allclose(double(x), expected, rtol=1e-4, atol=1e-5)
    if bias == "manifold":
        assert type(double.bias_on_manifold).__name__ == "ManifoldParameter"
    assert double.manifold.point_shape == (4, 4)


@every_layer
def test_meta_device(name: str) -> None:
    layer = LAYERS[name](device="meta")
    assert all(v.is_meta for n, v in layer.state_dict().items() if "power" not in n)  # a geometry of its own device
    layer = layer.to_empty(device="cpu")
    source = LAYERS[name]()
    source(batches(source, 1)[0])
    layer.load_state_dict(source.state_dict())
    assert same_state(layer, source)
    x = batches(source, 1)[0]
    assert torch.equal(layer.eval()(x), source.eval()(x))


def test_points_of_a_manifold_survive_the_meta_device() -> None:
    net = nn.Sequential(
        mn.nn.BiMap(4, 3, parametrization="manifold", **DOUBLE),
        mn.nn.GyroBatchNorm(mn.AffineInvariant(3), bias="manifold", **DOUBLE),
        mn.nn.published.LieBNSPDNet(mn.AffineInvariant(3), **DOUBLE),
    )
    kinds = {name: (type(p).__name__, repr(getattr(p, "manifold", None))) for name, p in net.named_parameters()}
    geometries = [p.manifold.geometry for p in net.parameters() if hasattr(p, "manifold")]
    assert len(geometries) == 3
    moved = copy.deepcopy(net).to("meta").to_empty(device="cpu")
    moved.load_state_dict(net.state_dict())
    assigned = copy.deepcopy(net)
    assigned.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    for other in (moved, assigned, copy.deepcopy(net).float()):
        assert {n: (type(p).__name__, repr(getattr(p, "manifold", None))) for n, p in other.named_parameters()} == kinds
        assert [p.manifold.geometry for p in other.parameters() if hasattr(p, "manifold")] == geometries
    assert same_state(moved, net) and same_state(assigned, net)


def test_state_keys_are_the_contract() -> None:
    keys = {"log_scale", "running_mean", "running_var", "num_batches_tracked"}
    assert set(LAYERS["RBN AIM"]().state_dict()) == keys | {"bias"}
    assert set(LAYERS["RBN AIM"](bias="manifold").state_dict()) == keys | {"bias_on_manifold"}
    assert set(LAYERS["RBN AIM"](bias=False).state_dict()) == keys
    assert set(LAYERS["RBN AIM"](affine=False).state_dict()) == keys - {"log_scale"}
    assert set(LAYERS["RBN AIM"](track_running_stats=False).state_dict()) == {"log_scale", "bias"}


def test_complex_layers_round_trip() -> None:
    manifold = mn.AffineInvariant(4, field="complex")
    for bias in BIASES:
        layer, twin = (mn.nn.GyroBatchNorm(manifold, bias=bias, dtype=torch.complex128) for _ in range(2))
        z = torch.randn(9, 4, 12, dtype=torch.complex128)
        layer(z @ z.mH)
        twin.load_state_dict(through_a_file(layer.state_dict()))
        assert same_state(layer, twin)


# ---- whole networks


@pytest.mark.parametrize("bias", BIASES)
def test_a_network_round_trips(bias: str) -> None:
    def build() -> nn.Module:
        norm = mn.nn.LieBatchNorm.of(mn.LogEuclidean, bias=bias)
        return mn.models.SPDNet([6, 4], 2, norm=norm, parametrization="manifold", **DOUBLE)

    x = torch.randn(8, 6, 20, dtype=torch.float64)
    x, net, twin = x @ x.mT / 20, build(), build()
    net(x)
    twin.load_state_dict(through_a_file(net.state_dict()))
    assert torch.equal(net.eval()(x), twin.eval()(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "SPDNet": (lambda: mn.models.SPDNet([4, 3], 2, norm=None), lambda: mn.LogEuclidean(4).random_point(5)),
    "SPDNet, learned metric": (
        lambda: mn.models.SPDNet([4, 3], 2, norm=mn.nn.BuresWassersteinBatchNorm.of()),
        lambda: mn.LogEuclidean(4).random_point(5),
    ),
    "GrassmannNet": (
        lambda: mn.models.GrassmannNet([8, 6], 2, 3, norm=mn.nn.GyroBatchNorm),
        lambda: mn.Grassmann(8, 2).random_point(5),
    ),
    "SSVEPNet": (
        lambda: mn.models.SSVEPNet(8, 5, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean)),
        lambda: torch.randn(4, 8, 125),
    ),
}


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_models_built_on_the_meta_device_work_once_loaded(name: str, assign: bool) -> None:
    make, data = MODELS[name]
    model, x = make().eval(), data()
    with torch.device("meta"):
        twin = make().eval()
    assert all(t.is_meta for t in (*twin.parameters(), *twin.buffers()))
    if assign:
        twin.load_state_dict(model.state_dict(), assign=True)
    else:
        twin.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_averaged_models_with_buffers(name: str) -> None:
    make, data = MODELS[name]
    model, x = make().eval(), data()
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(model)
    assert torch.equal(averaged.eval()(x), model(x))


def test_learnable_geometries_on_the_meta_device() -> None:
    with torch.device("meta"):
        geometry = mn.nn.LearnableManifold(mn.PoincareBall(3, -2.0), ("curvature",))
    assert all(t.is_meta for t in geometry.state_dict().values())
    geometry.load_state_dict(
        mn.nn.LearnableManifold(mn.PoincareBall(3, -2.0), ("curvature",)).state_dict(), assign=True
    )
    torch.testing.assert_close(geometry().curvature, torch.tensor(-2.0), check_device=True)


def test_vectorize_traces() -> None:
    layer, x = mn.nn.SPDVectorize(3), mn.LogEuclidean(3).random_point(2)
    traced = torch.export.export(layer, (x,)).module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(x), layer(x)) and torch.equal(compiled(x), layer(x))
    assert not layer.state_dict() and not list(layer.buffers())
