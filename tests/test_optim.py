"""The bridge to geoopt: its optimizers solve Frechet means on every geometry and train layers."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.optim import ManifoldParameter, RiemannianAdam, RiemannianSGD, from_geoopt, no_decay_groups, to_geoopt

REAL = torch.float64
METRIC = torch.tensor([[2.0, 0.3, 0.0, 0.0], [0.3, 1.0, 0.2, 0.0], [0.0, 0.2, 0.7, 0.1], [0.0, 0.0, 0.1, 1.5]]).double()
GEOMETRIES: dict[str, mn.manifolds.Manifold] = {
    "AffineInvariant": mn.AffineInvariant(4),
    "AffineInvariant(alpha, beta)": mn.AffineInvariant(4, 2.0, 0.3),
    "AffineInvariant complex": mn.AffineInvariant(4, field="complex"),
    "LogEuclidean": mn.LogEuclidean(4),
    "LogEuclidean complex": mn.LogEuclidean(4, field="complex"),
    "LogCholesky": mn.LogCholesky(4),
    "LogCholesky complex": mn.LogCholesky(4, field="complex"),
    "BuresWasserstein": mn.BuresWasserstein(4),
    "BuresWasserstein complex": mn.BuresWasserstein(4, field="complex"),
    "GeneralizedBuresWasserstein": mn.GeneralizedBuresWasserstein(4, METRIC),
    "CholeskyRightInvariant": mn.CholeskyRightInvariant(4),
    "AdaptiveLogEuclidean": mn.AdaptiveLogEuclidean(4, 0.6, 1.5),
    "PowerDeformed AIM": mn.PowerDeformed(mn.AffineInvariant(4), 0.5),
    "PowerDeformed LCM": mn.PowerDeformed(mn.LogCholesky(4), -0.7),
    "PowerDeformed BW": mn.PowerDeformed(mn.BuresWasserstein(4), 0.5),
    "Euclidean": mn.Euclidean(4, 4),
}
# optimizer, steps, decay of the learning rate per step, accuracy
OPTIMIZERS: dict[str, tuple[Callable, int, float, float]] = {
    "RiemannianSGD": (lambda p: RiemannianSGD(p, lr=0.5), 100, 1.0, 1e-7),
    "RiemannianSGD momentum": (lambda p: RiemannianSGD(p, lr=0.15, momentum=0.6), 140, 1.0, 1e-7),
    # a short memory of squared gradients, so that early large ones do not stall it
    "RiemannianAdam": (lambda p: RiemannianAdam(p, lr=0.3, betas=(0.9, 0.9)), 250, 0.97, 1e-3),
}


def solve(name: str, point: nn.Parameter, loss: Callable[[], Tensor]) -> float:
    """Minimise and return the accuracy to expect."""
    make, steps, decay, accuracy = OPTIMIZERS[name]
    search = make([point])
    schedule = torch.optim.lr_scheduler.ExponentialLR(search, decay)
    for _ in range(steps):
        search.zero_grad()
        loss().backward()
        search.step()
        schedule.step()
    return accuracy


def cloud(manifold: mn.manifolds.Manifold) -> Tensor:
    dtype = torch.complex128 if manifold.is_complex else REAL
    if isinstance(manifold, mn.Euclidean):
        return torch.randn(6, 4, 4, dtype=dtype)
    x = torch.randn(6, 4, 12, dtype=dtype)
    return x @ x.mH / 12 + 0.1 * torch.eye(4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_optimizers_find_the_frechet_mean(name: str, optimizer: str) -> None:
    manifold = GEOMETRIES[name]
    x = cloud(manifold)
    expected = manifold.frechet_mean(x)
    point = ManifoldParameter(x[0].clone(), manifold)
    # half the mean squared distance has a Hessian near the identity: unit steps would nearly suffice
    accuracy = solve(optimizer, point, lambda: manifold.squared_dist(point, x).mean() / 2)
    found = point.detach()
    scale = float(manifold.squared_dist(expected, x).mean().sqrt())
    assert float(manifold.dist(found, expected)) < accuracy * scale
    assert float(manifold.violation(found)) < 1e-10
    assert type(point).__name__ == "ManifoldParameter"


@pytest.mark.parametrize("field", ["real", "complex"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_find_dominant_subspaces_on_stiefel(field: str, optimizer: str) -> None:
    dtype = REAL if field == "real" else torch.complex128
    manifold = mn.Stiefel(6, 2, field=field)
    u = manifold.random_point(dtype=dtype)
    a = torch.eye(6, dtype=dtype) + 2 * u @ u.mH
    point = ManifoldParameter(manifold.random_point(dtype=dtype), manifold)
    accuracy = solve(optimizer, point, lambda: -(point.mH @ a @ point).diagonal().real.sum() / 4)
    w = point.detach()
    assert float(torch.linalg.matrix_norm(w @ w.mH - u @ u.mH)) < accuracy  # the subspace of u
    assert float(manifold.violation(w)) < 1e-12


@pytest.mark.parametrize("make", [RiemannianAdam, RiemannianSGD], ids=["Adam", "SGD"])
def test_squared_distance_from_the_identity(make: Callable) -> None:
    # pains 5.7: the gradient at P = I is that of a matrix with equal eigenvalues
    for manifold in (mn.AffineInvariant(4), mn.LogEuclidean(4), mn.BuresWasserstein(4), mn.LogCholesky(4)):
        target = cloud(manifold)[0]
        point = ManifoldParameter(torch.eye(4, dtype=REAL), manifold)
        search = make([point], lr=0.1)
        first = None
        for _ in range(60):
            search.zero_grad()
            loss = manifold.dist(target, point) ** 2
            loss.backward()
            assert point.grad.isfinite().all()
            search.step()
            first = loss.item() if first is None else first
        assert loss.item() < 1e-2 * first
    point = ManifoldParameter(torch.eye(4, dtype=REAL), mn.AffineInvariant(4))
    (mn.AffineInvariant(4).dist(torch.eye(4, dtype=REAL), point)).backward()
    assert torch.equal(point.grad, torch.zeros(4, 4, dtype=REAL))


@pytest.mark.parametrize("make", [RiemannianAdam, RiemannianSGD], ids=["Adam", "SGD"])
@pytest.mark.parametrize("field", ["real", "complex"])
def test_bimap_and_bias_on_the_manifold_train_together(make: Callable, field: str) -> None:
    dtype = REAL if field == "real" else torch.complex128
    x = torch.randn(24, 5, 20, dtype=dtype)
    labels = torch.arange(24) % 2
    x[labels == 1, 0] *= 3
    x = x @ x.mH / 20
    net = mn.nn.Sequential(
        mn.nn.BiMap(5, 3, field=field, parametrization="manifold", dtype=dtype),
        mn.nn.GyroBatchNorm(mn.AffineInvariant(3, field=field), bias="manifold", dtype=dtype),
        mn.nn.LogEig(),
        mn.nn.SPDVectorize(3, field=field),
        nn.Linear(6 if field == "real" else 9, 2, dtype=REAL),
    )
    start = [p.detach().clone() for p in net.parameters()]
    search = make(net.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        search.zero_grad()
        loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        search.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(not torch.allclose(p, q) for p, q in zip(net.parameters(), start, strict=True))
    assert float(mn.Stiefel(5, 3, field=field).violation(net[0].weight.detach())) < 1e-12
    bias = net[1].bias_on_manifold.detach()
    assert float(torch.linalg.eigvalsh(bias)[0]) > 0 and torch.allclose(bias, bias.mH, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["AffineInvariant", "LogCholesky", "BuresWasserstein", "GeneralizedBuresWasserstein", "PowerDeformed AIM"]
)
def test_a_bias_on_the_manifold_learns_the_mean_of_its_targets(name: str) -> None:
    manifold = GEOMETRIES[name]
    x, target = cloud(manifold), cloud(manifold)[0]
    layer = mn.nn.RiemannianBatchNorm(manifold, bias="manifold", mean=mn.stats.Exact(), dtype=REAL)
    layer.log_scale.requires_grad_(False)
    layer.scale = 0.1
    search = RiemannianSGD([layer.bias_on_manifold], lr=0.3)
    for _ in range(60):
        search.zero_grad()
        (manifold.squared_dist(layer(x), target).mean() / 2).backward()
        search.step()
    # the output's mean is the bias: the best one is close to the target
    assert float(manifold.dist(layer.bias_point.detach(), target)) < 0.02


def test_states_of_the_optimizer_follow_a_checkpoint() -> None:
    manifold = mn.AffineInvariant(4)
    x = cloud(manifold)

    def run(steps: int, point: nn.Parameter, search: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            search.zero_grad()
            manifold.squared_dist(point, x).mean().backward()
            search.step()

    point = ManifoldParameter(x[0].clone(), manifold)
    search = RiemannianAdam([point], lr=0.05)
    run(5, point, search)
    twin = ManifoldParameter(point.detach().clone(), manifold)
    other = RiemannianAdam([twin], lr=0.05)
    other.load_state_dict(copy.deepcopy(search.state_dict()))
    run(5, point, search)
    run(5, twin, other)
    # not bit for bit: torch turns the step count of a loaded Adam into single precision
    assert torch.allclose(point, twin, rtol=0, atol=1e-5)


# ---- the adapter


@pytest.mark.parametrize("name", GEOMETRIES)
def test_round_trip_and_adapter_operations(name: str) -> None:
    manifold = GEOMETRIES[name]
    adapter = to_geoopt(manifold)
    assert from_geoopt(adapter) == manifold
    for twin in (pickle.loads(pickle.dumps(adapter)), copy.deepcopy(adapter)):
        if "metric" not in repr(manifold):
            assert from_geoopt(twin) == manifold
    x = cloud(manifold)
    p, q = x[0], x[1]
    v = manifold.log(p, q)
    assert torch.allclose(adapter.expmap(p, v), q, rtol=1e-8, atol=1e-10)
    assert torch.allclose(adapter.logmap(p, q), v)
    assert torch.allclose(adapter.dist(p, q), manifold.dist(p, q))
    assert adapter.dist(x, q, keepdim=True).shape == (6, 1, 1)
    assert torch.allclose(adapter.inner(p, v), manifold.squared_dist(p, q), rtol=1e-8)
    assert adapter.inner(p, v, v, keepdim=True).shape == (1, 1)
    assert adapter.check_point_on_manifold(p, explain=True) == (True, None)
    assert adapter.check_vector_on_tangent(p, v)
    assert adapter.random(3, 4, 4, dtype=x.dtype).shape == (3, 4, 4)
    origin = adapter.origin(4, 4, dtype=x.dtype)
    assert torch.allclose(origin, manifold.origin(dtype=x.dtype))
    moved = adapter.transp(p, q, v)
    assert torch.allclose(moved, manifold.project_tangent(q, moved), atol=1e-12)
    if not isinstance(manifold, mn.Euclidean):
        assert not adapter.check_point_on_manifold(-p)


@pytest.mark.filterwarnings("ignore:SPDMetric.LEM is not fully implemented")  # geoopt's own
def test_geoopt_geometries_have_equivalents() -> None:
    geoopt = pytest.importorskip("geoopt")
    manifolds = geoopt.manifolds
    assert from_geoopt(manifolds.SymmetricPositiveDefinite("AIM"), 5) == mn.AffineInvariant(5)
    assert from_geoopt(manifolds.SymmetricPositiveDefinite("LEM"), 5) == mn.LogEuclidean(5)
    assert from_geoopt(manifolds.EuclideanStiefel(), 5, 2) == mn.Stiefel(5, 2)
    assert from_geoopt(manifolds.Euclidean(), 5, 2) == mn.Euclidean(5, 2)
    with pytest.raises(TypeError, match=r"leaves its sizes open; pass them: from_geoopt\(manifold, 20\)"):
        from_geoopt(manifolds.SymmetricPositiveDefinite("AIM"))
    with pytest.raises(TypeError, match="BirkhoffPolytope has no equivalent here; known: "):
        from_geoopt(manifolds.BirkhoffPolytope(), 3)
    assert from_geoopt(manifolds.Sphere(), 3) == mn.Sphere(3)
    assert from_geoopt(manifolds.Lorentz(k=2.0), 3) == mn.Lorentz(3, -0.5)
    assert from_geoopt(manifolds.PoincareBall(c=0.5), 3).curvature == pytest.approx(-0.5)  # geoopt inverts a softplus
    assert from_geoopt(manifolds.Stereographic(k=-0.5), 3).curvature == pytest.approx(-0.5)
    x = cloud(mn.AffineInvariant(4))
    theirs, ours = manifolds.SymmetricPositiveDefinite("AIM"), mn.AffineInvariant(4)
    assert torch.allclose(theirs.dist(x[0], x[1]), ours.dist(x[0], x[1]), rtol=1e-8)


def test_geoopt_parameters_of_existing_models_train_unchanged() -> None:
    geoopt = pytest.importorskip("geoopt")
    theirs = geoopt.manifolds.SymmetricPositiveDefinite("AIM")
    manifold = mn.AffineInvariant(4)
    x = cloud(manifold)
    point = ManifoldParameter(x[0].clone(), theirs)
    search = RiemannianSGD([point], lr=0.5)
    for _ in range(40):
        search.zero_grad()
        (manifold.squared_dist(point, x).mean() / 2).backward()
        search.step()
    assert float(manifold.dist(point.detach(), manifold.frechet_mean(x))) < 1e-6


def test_a_product_of_geoopt_takes_the_adapter() -> None:
    geoopt = pytest.importorskip("geoopt")
    product = geoopt.manifolds.ProductManifold((to_geoopt(mn.AffineInvariant(2)), (2, 2)), (geoopt.Euclidean(), 3))
    point = product.pack_point(2 * torch.eye(2), torch.ones(3))
    assert torch.allclose(product.take_submanifold_value(point, 0), 2 * torch.eye(2))
    assert product.dist(point, point).abs().max() < 1e-5


def test_a_broken_geoopt_disables_only_this_bridge() -> None:
    code = (
        "import sys, torch\nsys.modules['geoopt'] = None\n"
        "import manifoldnorm as mn\n"
        "x = torch.eye(3).expand(4, 3, 3)\n"
        "print(mn.nn.GyroBatchNorm(mn.AffineInvariant(3))(x).shape)\n"
        "try:\n    mn.nn.GyroBatchNorm(mn.AffineInvariant(3), bias='manifold')\n"
        "except ImportError as error:\n    print('ImportError')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:2] == ["torch.Size([4, 3, 3])", "ImportError"], done.stderr


@pytest.mark.parametrize("amsgrad", [False, True])
def test_second_moments_of_complex_points_are_real(amsgrad: bool) -> None:
    manifold = mn.AffineInvariant(4, field="complex")
    x = cloud(manifold)
    point = ManifoldParameter(x[0].clone(), manifold)
    search = RiemannianAdam([point], lr=0.1, amsgrad=amsgrad)
    start = float(manifold.dist(point.detach(), manifold.frechet_mean(x)))
    for _ in range(60):
        search.zero_grad()
        manifold.squared_dist(point, x).mean().backward()
        search.step()
    assert float(manifold.dist(point.detach(), manifold.frechet_mean(x))) < 0.1 * start
    moments = [value for key, value in search.state[point].items() if key.endswith("_sq")]
    assert len(moments) == 1 + amsgrad and all(value.dtype == REAL for value in moments)


# ---- weight decay


def test_no_decay_groups_split_by_meaning() -> None:
    net = nn.ModuleDict(
        {
            "bimap": mn.nn.BiMap(4, 3),
            "tangent": mn.nn.GyroBatchNorm(mn.AffineInvariant(3)),
            "point": mn.nn.GyroBatchNorm(mn.AffineInvariant(3), bias="manifold"),
            "metric": mn.nn.BuresWassersteinBatchNorm(3),
            "stiefel": mn.nn.BiMap(4, 3, parametrization="manifold"),
            "linear": nn.Linear(3, 2),
        }
    )
    names = {id(p): name for name, p in net.named_parameters()}
    decay, plain = (sorted(names[id(p)] for p in group["params"]) for group in no_decay_groups(net, 0.3))
    assert [g["weight_decay"] for g in no_decay_groups(net, 0.3)] == [0.3, 0.0]
    assert "linear.weight" in decay
    for name in ("tangent.log_scale", "tangent.bias", "point.bias_on_manifold", "stiefel.weight_on_manifold",
                 "linear.bias"):  # fmt: skip
        assert name in plain
    assert all(name in plain for name in names.values() if "raw_metric" in name)
    assert len(decay) + len(plain) == len(names)


def test_weight_decay_pulls_a_tangent_bias_to_the_identity() -> None:
    layer = mn.nn.GyroBatchNorm(mn.AffineInvariant(3), dtype=REAL)
    layer.bias_point = 5 * torch.eye(3, dtype=REAL)
    search = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        search.zero_grad()
        (0 * layer.bias_point.sum()).backward()
        search.step()
    assert torch.allclose(layer.bias_point, torch.eye(3, dtype=REAL), atol=1e-6)


@pytest.mark.parametrize("revive", ["load_state_dict", "pickle"])
def test_a_resumed_adam_goes_on_bit_for_bit(revive: str) -> None:
    ball, target = mn.PoincareBall(3), torch.tensor([0.3, -0.2, 0.5])
    parameter = ManifoldParameter(torch.full((3,), 0.1), ball)
    search = RiemannianAdam([parameter], lr=0.05)

    def steps(x: Tensor, by: torch.optim.Optimizer) -> None:
        for _ in range(4):
            by.zero_grad()
            ball.squared_dist(x, target).backward()
            by.step()

    steps(parameter, search)
    if revive == "pickle":
        resumed = pickle.loads(pickle.dumps(search))
        (twin,) = resumed.param_groups[0]["params"]
    else:
        twin = ManifoldParameter(parameter.detach().clone(), ball)
        resumed = RiemannianAdam([twin], lr=0.05)
        resumed.load_state_dict(copy.deepcopy(search.state_dict()))
    assert type(resumed.state[twin]["step"]) is int
    steps(parameter, search)
    steps(twin, resumed)
    assert torch.equal(parameter, twin) and resumed.state[twin]["step"] == 8
