"""BiMap, ReEig, LogEig, ExpEig, SPDVectorize: values, gradients, orthogonality, units."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.nn import BiMap, ExpEig, LogEig, ReEig, SPDVectorize

REAL, COMPLEX = torch.float64, torch.complex128
FIELDS = {"real": REAL, "complex": COMPLEX}
each_field = pytest.mark.parametrize("field", FIELDS)


def defect(layer: BiMap) -> float:
    w = layer.weight.detach()
    return float(torch.linalg.matrix_norm(w.mH @ w - torch.eye(w.shape[-1], dtype=w.dtype)))


# ---- BiMap


@each_field
@pytest.mark.parametrize("parametrization", ["polar", "manifold"])
def test_bimap_is_the_congruence(field: str, parametrization: str, spd: Callable[..., Tensor]) -> None:
    dtype = FIELDS[field]
    layer, x = BiMap(5, 3, field=field, parametrization=parametrization, dtype=dtype), spd(5, 2, 4, dtype=dtype)
    w = layer.weight
    y = layer(x)
    assert y.shape == (2, 4, 3, 3) and y.dtype == dtype
    assert torch.allclose(y, w.mH @ x @ w, rtol=1e-12, atol=1e-13)
    assert torch.allclose(y, y.mH, atol=1e-12)
    assert float(torch.linalg.eigvalsh(y.detach()).min()) > 0
    assert defect(layer) < 1e-14
    # interlacing: the spectrum of a compression lies within that of the matrix
    assert float(torch.linalg.eigvalsh(y.detach())[..., -1].max()) <= float(torch.linalg.eigvalsh(x)[..., -1].max())


OPTIMIZERS: dict[str, tuple[str, Callable]] = {
    "AdamW": ("polar", lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)),
    "SGD": ("polar", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
    "Adagrad": ("polar", lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1)),
    "RiemannianAdam": ("manifold", lambda p: mn.optim.RiemannianAdam(p, lr=1e-2)),
    "RiemannianSGD": ("manifold", lambda p: mn.optim.RiemannianSGD(p, lr=0.1, momentum=0.9)),
}


@each_field
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bimap_stays_orthonormal_for_a_thousand_steps(name: str, field: str, spd: Callable[..., Tensor]) -> None:
    parametrization, make = OPTIMIZERS[name]
    dtype = FIELDS[field]
    layer, x = BiMap(6, 3, field=field, parametrization=parametrization, dtype=dtype), spd(6, 4, dtype=dtype)
    target = spd(3, 4, dtype=dtype)
    start, optimizer = layer.weight.detach().clone(), make(layer.parameters())
    for _ in range(1000):
        optimizer.zero_grad()
        (layer(x) - target).abs().square().sum().backward()
        optimizer.step()
    assert defect(layer) < 1e-10
    assert float((layer.weight.detach() - start).abs().max()) > 0.05
    assert float(torch.linalg.eigvalsh(layer(x).detach()).min()) > 0


@each_field
def test_weight_decay_alone_does_not_move_the_map(field: str) -> None:
    layer = BiMap(5, 2, field=field, dtype=FIELDS[field])
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(1000):
        optimizer.zero_grad()
        (0 * layer.weight.abs().sum()).backward()
        optimizer.step()
    assert float(layer.raw_weight.detach().abs().max()) < 0.01  # the raw weight decays, its polar factor does not
    assert torch.allclose(layer.weight, before, atol=1e-12)


@each_field
@pytest.mark.parametrize("parametrization", ["polar", "manifold"])
def test_bimap_gradients(field: str, parametrization: str, spd: Callable[..., Tensor]) -> None:
    dtype = FIELDS[field]
    layer = BiMap(4, 3, field=field, parametrization=parametrization, dtype=dtype)
    x = spd(4, 2, dtype=dtype).requires_grad_()
    name = "raw_weight" if parametrization == "polar" else "weight_on_manifold"
    weight = getattr(layer, name).detach().clone().requires_grad_()

    def run(points: Tensor, raw: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {name: raw}, ((points + points.mH) / 2,))

    assert torch.autograd.gradcheck(run, (x, weight))
    if parametrization == "polar":  # the gradient has no part that only scales
        (g,) = torch.autograd.grad(run(x, weight).abs().square().sum(), weight)
        assert abs(float((g.conj() * weight).sum().real.detach())) < 1e-10


@each_field
@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1.0, 1e6, 1e150])
def test_polar_factor_of_any_scale(field: str, scale: float) -> None:
    layer = BiMap(5, 3, field=field, dtype=FIELDS[field])
    expected = layer.weight.detach().clone()
    with torch.no_grad():
        layer.raw_weight.mul_(scale)
    assert torch.allclose(layer.weight, expected, atol=1e-13) and defect(layer) < 1e-14


@each_field
@pytest.mark.parametrize("parametrization", ["polar", "manifold"])
def test_bimap_weight_can_be_assigned(field: str, parametrization: str) -> None:
    dtype = FIELDS[field]
    layer = BiMap(4, 2, field=field, parametrization=parametrization, dtype=dtype)
    w = mn.Stiefel(4, 2, field=field).random_point(dtype=dtype)
    layer.weight = w
    assert torch.allclose(layer.weight, w, atol=1e-14)
    with pytest.raises(ValueError, match=r"BiMap\.weight.*not on the manifold"):
        layer.weight = 2 * w
    layer.reset_parameters()
    assert not torch.allclose(layer.weight, w, atol=1e-3) and defect(layer) < 1e-14


def test_bimap_initial_weights_are_uniform() -> None:
    # the first column of a uniformly distributed frame is uniform on the sphere: mean 0, covariance I / n
    columns = torch.stack([BiMap(3, 2).weight.detach()[:, 0] for _ in range(2000)])
    assert float(columns.mean(0).abs().max()) < 4 / math.sqrt(3 * 2000)
    assert torch.allclose(columns.mT @ columns / 2000, torch.eye(3) / 3, atol=0.03)


def test_bimap_repr_and_state() -> None:
    layer = BiMap(5, 3, dtype=REAL)
    assert repr(layer) == "BiMap(5, 3, field=real, parametrization=polar)"
    assert set(layer.state_dict()) == {"raw_weight"}
    twin = BiMap(5, 3, dtype=REAL)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.weight, layer.weight)
    assert set(BiMap(5, 3, parametrization="manifold").state_dict()) == {"weight_on_manifold"}
    assert BiMap(5, 3, field="complex").weight.dtype == torch.complex64
    assert BiMap(5, 3, field="complex", dtype=REAL).weight.dtype == COMPLEX


# ---- ReEig, LogEig, ExpEig


@each_field
def test_reeig_raises_small_eigenvalues(field: str, with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum([-0.2, 0.0, 0.1, 0.4, 1.0, 2.7], 3, dtype=FIELDS[field])
    w = torch.linalg.eigvalsh(ReEig(0.3, relative=False)(x))
    assert torch.allclose(w, torch.tensor([0.3, 0.3, 0.3, 0.4, 1.0, 2.7]).double().expand(3, 6))
    mean = 4.0 / 6
    w = torch.linalg.eigvalsh(ReEig(0.3)(x))
    assert torch.allclose(w, torch.tensor([0.3 * mean] * 3 + [0.4, 1.0, 2.7]).double().expand(3, 6))
    untouched = with_spectrum([0.5, 1.0, 2.0], 3, dtype=FIELDS[field])
    assert torch.allclose(ReEig(0.1)(untouched), untouched, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_relative_reeig_is_independent_of_units(scale: float, with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum([1e-6, 1e-3, 1.0, 2.0], 5)
    layer = ReEig(1e-2)
    assert torch.allclose(layer(scale * x) / scale, layer(x), rtol=1e-10, atol=1e-14)
    absolute = ReEig(1e-2, relative=False)
    if scale != 1:
        assert not torch.allclose(absolute(scale * x) / scale, absolute(x), rtol=0.1)


@each_field
@pytest.mark.parametrize("relative", [True, False])
def test_reeig_gradients(field: str, relative: bool, with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum([0.05, 0.1, 0.5, 1.0, 2.0], 2, dtype=FIELDS[field]).requires_grad_()
    layer = ReEig(0.3, relative)
    assert torch.autograd.gradcheck(lambda a: layer((a + a.mH) / 2), x)
    assert torch.autograd.gradgradcheck(lambda a: layer((a + a.mH) / 2), x)


@each_field
def test_logeig_and_expeig_are_inverse(field: str, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 2, 3, dtype=FIELDS[field])
    y = LogEig()(x)
    assert torch.allclose(torch.linalg.matrix_exp(y), x, rtol=1e-10, atol=1e-12)
    assert torch.allclose(ExpEig()(y), x, rtol=1e-10, atol=1e-12)
    assert torch.allclose(LogEig()(ExpEig()(y)), y, rtol=1e-10, atol=1e-12)


@each_field
def test_logeig_gradients_at_repeated_eigenvalues(field: str) -> None:
    x = torch.diag_embed(torch.tensor([[1.0, 1, 1], [2, 2, 5]])).to(FIELDS[field]).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: LogEig()((a + a.mH) / 2), x)
    assert torch.autograd.gradcheck(lambda a: ExpEig()((a + a.mH) / 2), x)


# ---- SPDVectorize


@each_field
def test_vectorize_is_an_isometry_onto_real_vectors(field: str) -> None:
    dtype, layer = FIELDS[field], SPDVectorize(4, field=field)
    a, b = (x + x.mH for x in torch.randn(2, 3, 5, 4, 4, dtype=dtype))
    u, v = layer(a), layer(b)
    assert u.shape == (3, 5, layer.out_features) and u.dtype == REAL
    assert layer.out_features == (10 if field == "real" else 16)
    assert torch.allclose((u * v).sum(-1), (a.conj() * b).sum((-2, -1)).real, rtol=1e-12, atol=1e-12)
    assert torch.allclose(layer.inverse(u), a, atol=1e-14)
    assert torch.autograd.gradcheck(layer, a[0, :1].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda w: layer.inverse(w), u[0, :1].clone().requires_grad_())


@each_field
def test_vectorize_inverse_is_right_on_any_vector(field: str) -> None:
    layer = SPDVectorize(3, field=field)
    v = torch.randn(2, layer.out_features, dtype=REAL)
    matrix = layer.inverse(v)
    assert torch.equal(matrix, matrix.mH) and torch.allclose(layer(matrix), v, atol=1e-14)
    single = layer.float()
    assert single(matrix.to(torch.float32 if field == "real" else torch.complex64)).dtype == torch.float32


def test_vectorize_equals_pyriemann_up_to_order(spd: Callable[..., Tensor]) -> None:
    tangent = pytest.importorskip("pyriemann.geometry.tangentspace")
    x = spd(4, 3)
    theirs = torch.from_numpy(tangent.upper(x.numpy()))
    ours = SPDVectorize(4)(x)
    assert torch.allclose(ours.sort(-1).values, theirs.sort(-1).values, rtol=1e-12)


def test_vectorize_keeps_its_precision_through_conversions(spd: Callable[..., Tensor]) -> None:
    x = spd(4, 3)
    assert torch.equal(SPDVectorize(4).half().double()(x), SPDVectorize(4)(x))


def test_buffers_of_vectorize_are_not_saved() -> None:
    assert not SPDVectorize(4).state_dict()
    assert repr(SPDVectorize(4, field="complex")) == "SPDVectorize(4, field=complex)"


# ---- networks and units


def network(dtype: torch.dtype = REAL) -> nn.Module:
    torch.manual_seed(1)
    return mn.models.SPDNet([8, 6, 4], 3, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, REAL])
def test_a_network_on_volts_equals_one_on_microvolts(dtype: torch.dtype) -> None:
    signals = 20 * torch.randn(12, 8, 200, dtype=REAL) * torch.linspace(0.3, 2, 8).double()[:, None]
    results = []
    for unit in (1.0, 1e-6):
        net = network(dtype)
        scores = net(mn.nn.Covariance()(unit * signals).to(dtype))
        scores.square().sum().backward()
        results.append((scores.detach(), net.features[0].raw_weight.grad))
    (volts, gradient), (microvolts, gradient2) = results
    loose = {"rtol": 1e-7, "atol": 1e-9} if dtype == REAL else {"rtol": 2e-3, "atol": 2e-4}
    assert float(volts.std(0).min()) > 1e-2 and float(gradient.abs().max()) > 1e-3
    assert torch.allclose(volts, microvolts, **loose)
    assert torch.allclose(gradient, gradient2, **loose)


@pytest.mark.parametrize("layer", [BiMap(4, 3, dtype=REAL), ReEig(), LogEig(), ExpEig(), SPDVectorize(4)], ids=repr)
def test_layers_survive_copies_and_empty_batches(layer: nn.Module, spd: Callable[..., Tensor]) -> None:
    x = spd(4, 3)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    assert torch.allclose(layer(x.float().double().contiguous())[1], layer(x.float().double()[1]), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
@each_field
def test_layers_compile_without_a_graph_break(field: str, spd: Callable[..., Tensor]) -> None:
    dtype = FIELDS[field]
    x = spd(4, 3, dtype=dtype)
    net = mn.nn.Sequential(
        BiMap(4, 3, field=field, dtype=dtype), ReEig(), ExpEig(), LogEig(), SPDVectorize(3, field=field)
    )
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), net(x), rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(net(x).square().sum(), net[0].raw_weight)
    (got,) = torch.autograd.grad(compiled(x).square().sum(), net[0].raw_weight)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12)
