"""Numbers that were once silently wrong: scales, condition numbers, gradients at the edge of a domain, autocast."""

from __future__ import annotations

import copy
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import manifoldnorm as mn
from manifoldnorm import linalg

REAL, COMPLEX = torch.float64, torch.complex128
tracing = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing


# ---- shrinkage far from scale one


@pytest.mark.parametrize("shrinkage", ["oas", "ledoit_wolf"])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-20, 2.0**30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_shrinkage_weight_is_free_of_units(shrinkage: str, scale: float, dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 200, dtype=dtype)
    x[:, 0] = x[:, 1] + 0.1 * x[:, 0]
    x.requires_grad_()
    covariance = mn.nn.Covariance(shrinkage)
    plain, scaled = covariance(x), covariance(x * scale) / scale**2
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(y.abs().square().sum(), x)[0] for y in (plain, scaled)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shrinkage", ["oas", "ledoit_wolf"])
def test_gradients_of_the_shrinkage_weight(shrinkage: str) -> None:
    x = torch.randn(3, 12, dtype=REAL, requires_grad=True)
    assert gradcheck(mn.nn.Covariance(shrinkage), (x,))


# ---- affine-invariant distances of badly conditioned matrices


def oracle(p: Tensor, q: Tensor) -> float:
    with mpmath.workdps(60):
        a, b = (mpmath.matrix(m.double().tolist()) for m in (p, q))
        inverse = mpmath.cholesky(a) ** -1
        values = mpmath.eigsy(inverse * b * inverse.T, eigvals_only=True)
        return float(mpmath.sqrt(sum(mpmath.log(v) ** 2 for v in values)))


@pytest.mark.parametrize(
    ("dtype", "cond", "accuracy"),
    [(torch.float32, 1e5, 3e-7), (torch.float32, 3e6, 3e-7), (REAL, 1e9, 1e-8), (REAL, 1e12, 1e-5)],
)
def test_affine_invariant_distance_of_badly_conditioned_matrices(
    dtype: torch.dtype, cond: float, accuracy: float, with_spectrum: Callable[..., Tensor]
) -> None:
    spectrum = torch.logspace(0, -float(torch.tensor(cond).log10()), 5, dtype=REAL)
    p, q = with_spectrum(spectrum, 2, dtype=dtype)
    expected = oracle(p, q)
    manifold = mn.AffineInvariant(5)
    assert abs(float(manifold.dist(p, q)) / expected - 1) < accuracy
    assert abs(float(manifold.dist(q, p)) / expected - 1) < accuracy
    # with a gradient the decomposition is another one; along q itself d(p, e^t q)^2 grows by 2 log det(p^-1 q)
    p, q = p.double(), q.double().requires_grad_()
    squared = manifold.squared_dist(p, q)
    (gradient,) = torch.autograd.grad(squared, q)
    assert abs(float(squared.detach()) / expected**2 - 1) < 2 * accuracy
    slope = 2 * (torch.linalg.slogdet(q)[1] - torch.linalg.slogdet(p)[1])
    assert abs(float(((gradient * q).sum() - slope).detach())) < 100 * accuracy * expected


@pytest.mark.parametrize(("beta", "dtype"), [(0.0, REAL), (0.3, REAL), (0.3, COMPLEX)])
def test_gradients_of_affine_invariant_distances(beta: float, dtype: torch.dtype) -> None:
    manifold = mn.AffineInvariant(3, 2.0, beta, field="complex" if dtype.is_complex else "real")

    def squared(p: Tensor, q: Tensor) -> Tensor:
        return manifold.squared_dist(linalg.symmetrize(p), linalg.symmetrize(q))

    p, q = manifold.random_point(2, dtype=dtype), manifold.random_point(dtype=dtype)
    assert gradcheck(squared, (p.requires_grad_(), q.requires_grad_()))
    assert gradgradcheck(squared, (p, q))
    # p^-1 q is a multiple of the identity: every singular value repeated
    assert gradcheck(squared, ((3 * q).detach().requires_grad_(), q))
    assert torch.equal(torch.autograd.grad(manifold.dist(q, q), q)[0], torch.zeros_like(q))


@tracing
def test_affine_invariant_distances_under_transforms(spd: Callable[..., Tensor]) -> None:
    manifold = mn.AffineInvariant(3)
    p, q = spd(3, 4).requires_grad_(), spd(3)
    (expected,) = torch.autograd.grad(manifold.squared_dist(p, q).sum(), p)
    mapped = torch.func.vmap(torch.func.grad(lambda p: manifold.squared_dist(p, q)))(p)
    torch.testing.assert_close(mapped, expected)
    compiled = torch.compile(manifold.squared_dist, fullgraph=True)(p, q).sum()
    torch.testing.assert_close(torch.autograd.grad(compiled, p)[0], expected)


def test_a_matrix_that_is_not_finite_leaves_other_distances_alone(spd: Callable[..., Tensor]) -> None:
    x = spd(3, 3)
    x[1, 0, 0] = float("nan")
    distances = mn.AffineInvariant(3).dist(torch.eye(3, dtype=REAL), x)
    assert distances.isfinite().tolist() == [True, False, True]


# ---- Bures-Wasserstein: steps shrunk into the domain, and units far below one


def test_a_shrunk_step_has_the_gradient_of_its_length() -> None:
    x = torch.ones(30, 1, 1, dtype=REAL)
    x[0], x[1] = 0.01, 1.5
    x.requires_grad_()
    layer = mn.nn.RiemannianBatchNorm(mn.BuresWasserstein(1), dtype=REAL, bias=False, track_running_stats=False)
    y = layer(x)
    y[0].sum().backward()  # on the margin of the domain, wherever the sample was
    assert abs(float(y[0].detach()) - 1e-4) < 1e-12
    assert float(x.grad.abs().max()) < 1e-12  # type: ignore[union-attr]
    assert abs(float(layer.log_scale.grad)) < 1e-12  # type: ignore[arg-type]


@tracing
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_gradients_of_steps_shrunk_into_the_domain(dtype: torch.dtype) -> None:
    manifold = mn.BuresWasserstein(3, field="complex" if dtype.is_complex else "real")
    v = 3 * torch.randn(4, 3, 3, dtype=dtype)
    p = manifold.random_point(dtype=dtype)
    assert float(manifold.injective_fraction(p, linalg.symmetrize(v)).max()) < 1  # type: ignore[union-attr]
    v.requires_grad_()
    for base in (None, p):
        assert gradcheck(lambda v, base=base: manifold.shoot(base, linalg.symmetrize(v)), (v,))

    def loss(v: Tensor) -> Tensor:
        return manifold.shoot(p, linalg.symmetrize(v)).abs().square().sum()

    (expected,) = torch.autograd.grad(loss(v), v)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(v), expected)
    if not dtype.is_complex:
        torch.testing.assert_close(torch.autograd.grad(torch.compile(loss, fullgraph=True)(v), v)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, REAL])
def test_a_step_inside_the_domain_is_left_whole(dtype: torch.dtype) -> None:
    manifold = mn.BuresWasserstein(3)
    p = manifold.random_point(5, dtype=dtype)
    assert manifold.injective_fraction(p, 0.01 * p).tolist() == [1.0] * 5  # type: ignore[union-attr]


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-86, 2.0**60])
def test_bures_wasserstein_in_float32_at_any_scale(scale: float, spd: Callable[..., Tensor]) -> None:
    manifold = mn.BuresWasserstein(4)
    x = (scale * spd(4, 7)).float()
    for operation in (
        lambda x: manifold.dist(x[0], x[1:]),
        lambda x: manifold.log(x[0], x[1:]),
        lambda x: manifold.geodesic(x[0], x[1:], 0.3),
        lambda x: manifold.frechet_mean(x),
        lambda x: mn.stats.Newton(1)(manifold, x),
        lambda x: mn.stats.FixedPoint(1)(manifold, x),
    ):
        got, expected = operation(x), operation(x.double())
        assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    gradients = []
    for y in (x, x.double()):
        y = y.clone().requires_grad_()
        gradients.append(torch.autograd.grad(manifold.dist(y[0], y[1:]).sum(), y)[0])
    assert float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()) < 1e-5


# ---- rectification of matrices without a positive trace


@pytest.mark.parametrize("dtype", [torch.float32, REAL])
def test_rectification_and_logarithm_of_hopeless_matrices(dtype: torch.dtype) -> None:
    negative = torch.diag(torch.tensor([1.0, 0.5, -4.0], dtype=dtype))
    x = torch.stack([torch.zeros(3, 3, dtype=dtype), negative, -torch.eye(3, dtype=dtype)]).requires_grad_()
    y = mn.nn.ReEig()(x)
    assert float(linalg.eigvalsh(y).min()) > 0
    fused = mn.nn.Sequential(mn.nn.ReEig(), mn.nn.LogEig())(x)
    separate = torch.nn.Sequential(mn.nn.ReEig(), mn.nn.LogEig())(x)
    torch.testing.assert_close(fused, separate)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (fused, separate)]
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_the_threshold_of_a_semi_definite_matrix_is_of_its_mean_eigenvalue(
    with_spectrum: Callable[..., Tensor],
) -> None:
    x = with_spectrum([0.0, 0.0, 0.0, 8.0])  # rank one: the closest that the mean eigenvalue comes to the largest entry
    y = mn.nn.ReEig(0.1)(torch.stack([x, torch.diag(torch.tensor([8.0, 0.0, 0.0, 0.0], dtype=REAL))]))
    torch.testing.assert_close(linalg.eigvalsh(y), torch.tensor([0.2, 0.2, 0.2, 8.0], dtype=REAL).expand(2, 4))


# ---- autocast


METRICS = [
    mn.AffineInvariant(4, 2.0, 0.3),
    mn.LogCholesky(4),
    mn.BuresWasserstein(4),
    mn.GeneralizedBuresWasserstein(4, 2 * torch.eye(4)),
    mn.CholeskyRightInvariant(4),
    mn.PowerDeformed(mn.AffineInvariant(4), 0.5),
    mn.Grassmann(5, 2),
    mn.Stiefel(5, 2),
]


@pytest.mark.parametrize("manifold", METRICS, ids=lambda m: type(m).__name__)
def test_autocast_changes_no_operation(manifold: mn.manifolds.Manifold) -> None:
    p, q = manifold.random_point(3), manifold.random_point(3)
    v = 0.1 * manifold.project_tangent(p, torch.randn_like(p))
    operations = {
        "dist": lambda: manifold.dist(p, q),
        "log": lambda: manifold.log(p, q),
        "exp": lambda: manifold.exp(p, v),
        "geodesic": lambda: manifold.geodesic(p, q, 0.3),
        "inner": lambda: manifold.inner(p, v, v),
        "to_origin": lambda: manifold.to_origin(p, v),
        "transport": lambda: manifold.transport(p, q, v),
        "egrad2rgrad": lambda: manifold.egrad2rgrad(p, v),
        "retract": lambda: manifold.retract(p, v),
        "polar": lambda: manifold.polar(p)[1](0.5),
        "frechet_mean": lambda: manifold.frechet_mean(p),
    }
    compared = 0
    for name, operation in operations.items():
        try:
            expected = operation()
        except NotImplementedError:
            continue
        with torch.autocast("cpu", torch.bfloat16):
            got = operation()
        assert torch.equal(got, expected), name
        compared += 1
    assert compared >= 4


def test_autocast_leaves_the_weight_of_bimap_orthonormal() -> None:
    layer = mn.nn.BiMap(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert torch.equal(weight, layer.weight)


SPD, BALL, FRAMES = mn.AffineInvariant(4), mn.PoincareBall(3), mn.Grassmann(4, 2)
EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
HALF = {  # a layer, and the geometry whose points it takes
    "BiMap": (lambda: mn.nn.BiMap(4, 3), SPD),
    "ReEig": (lambda: mn.nn.ReEig(0.5), SPD),
    "LogEig": (lambda: mn.nn.LogEig(), SPD),
    "ExpEig": (lambda: mn.nn.ExpEig(), SPD),
    "SPDVectorize": (lambda: mn.nn.SPDVectorize(4), SPD),
    "ReEig, LogEig": (lambda: mn.nn.Sequential(mn.nn.ReEig(0.5), mn.nn.LogEig()), SPD),
    "Covariance": (lambda: mn.nn.Covariance(), SPD),
    "LieBatchNorm, LogEig": (lambda: mn.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(4)), mn.nn.LogEig()), SPD),
    "RiemannianBatchNorm": (lambda: mn.nn.RiemannianBatchNorm(SPD), SPD),
    "LogCholesky": (lambda: mn.nn.GyroBatchNorm(mn.LogCholesky(4)), SPD),
    "DomainBatchNorm": (lambda: mn.nn.DomainBatchNorm(mn.nn.RiemannianBatchNorm(SPD), 1), SPD),
    "Lift": (lambda: mn.nn.Lift(BALL, 1.0), BALL),
    "Lower": (lambda: mn.nn.Lower(BALL), BALL),
    "HyperbolicLinear": (lambda: mn.nn.HyperbolicLinear(BALL, 4), BALL),
    "HyperbolicMLR": (lambda: mn.nn.HyperbolicMLR(BALL, 4), BALL),
    "HyperbolicActivation": (lambda: mn.nn.HyperbolicActivation(BALL), BALL),
    "HyperbolicResidual": (lambda: mn.nn.HyperbolicResidual(BALL, mn.nn.HyperbolicLinear(BALL, 3)), BALL),
    "GyroBatchNorm": (lambda: mn.nn.GyroBatchNorm(BALL), BALL),
    "ReOrth": (lambda: mn.nn.ReOrth(), FRAMES),
    "FRMap": (lambda: mn.nn.FRMap(4, 3), FRAMES),
    "ProjMap, OrthMap": (lambda: torch.nn.Sequential(mn.nn.ProjMap(), mn.nn.OrthMap(2)), FRAMES),
    "ProjPool": (lambda: mn.nn.ProjPool(2), SPD),
}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", HALF)
def test_autocast_computes_half_precision_in_single(name: str, half: torch.dtype) -> None:
    make, manifold = HALF[name]
    layer = make()
    x = manifold.random_point(6).detach().to(half)
    leaf, single = x.clone().requires_grad_(), x.float().requires_grad_()
    twin = copy.deepcopy(layer)
    with torch.autocast("cpu", half):
        y = layer(leaf)
    want = twin(single)
    assert torch.equal(y, want)  # its dtype is float32 too
    assert y.dtype == torch.float32
    weight = torch.randn_like(want)
    (got,) = torch.autograd.grad((y * weight).sum(), leaf)
    assert torch.equal(got, torch.autograd.grad((want * weight).sum(), single)[0].to(half))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_autocast_lets_operations_mix_half_and_single_precision(half: torch.dtype) -> None:
    p, q = SPD.random_point(3), SPD.random_point(3)
    rounded = p.to(half)
    with torch.autocast("cpu", half):
        got = SPD.dist(rounded, q), SPD.log(q, q=rounded), linalg.logm(rounded), SPD.frechet_mean(rounded)
    want = (SPD.dist(rounded.float(), q), SPD.log(q, rounded.float()), linalg.logm(rounded.float()))
    for ours, theirs in zip(got, (*want, SPD.frechet_mean(rounded.float())), strict=True):
        assert torch.equal(ours, theirs)


def test_networks_train_under_autocast() -> None:
    features, signals = torch.randn(4, 6), torch.randn(4, 4, 50)
    lifted = torch.nn.Sequential(torch.nn.Linear(6, 3), mn.nn.Lift(BALL, 1.0))
    covariances = torch.nn.Sequential(
        torch.nn.Conv1d(4, 4, 3), mn.nn.Covariance(), mn.nn.LieBatchNorm(mn.LogEuclidean(4)), mn.nn.LogEig()
    )
    graph = mn.models.HyperbolicGraphNet(6, [4, 3], 2, norm=mn.nn.GyroBatchNorm)
    for network, inputs in ((lifted, (features,)), (covariances, (signals,)), (graph, (features, EDGES))):
        with torch.autocast("cpu", torch.bfloat16):
            y = network(*inputs)
        assert y.dtype == torch.float32
        y.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients and all(g.isfinite().all() for g in gradients)
        torch.testing.assert_close(y, network(*inputs), rtol=0.2, atol=0.2)  # the Euclidean layers' precision


def test_half_precision_is_refused_without_autocast() -> None:
    x = torch.eye(4).expand(3, 4, 4).bfloat16()
    for layer in (mn.nn.LogEig(), mn.nn.RiemannianBatchNorm(SPD), mn.nn.BiMap(4, 3)):
        with pytest.raises(TypeError, match=r"torch\.bfloat16"):
            layer(x)
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="bfloat16"):
        SPD.dist(x, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's own, about how it traces autograd Functions
def test_autocast_compiles() -> None:
    torch._dynamo.reset()
    network = torch.nn.Sequential(torch.nn.Linear(6, 3), mn.nn.Lift(BALL, 1.0))
    fast, x = torch.compile(network, fullgraph=True, backend="aot_eager"), torch.randn(8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = fast(x), network(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    got.sum().backward()
    assert network[0].weight.grad.abs().sum() > 0


# ---- BiMap


def test_bimap_takes_the_symmetric_part(spd: Callable[..., Tensor]) -> None:
    layer = mn.nn.BiMap(4, 3, dtype=REAL)
    x = torch.randn(5, 4, 4, dtype=REAL)
    torch.testing.assert_close(layer(x), layer(linalg.symmetrize(x)))


def test_bimap_of_a_badly_conditioned_raw_weight_is_orthonormal() -> None:
    layer = mn.nn.BiMap(6, 2)
    with torch.no_grad():
        layer.raw_weight[:, 1] = layer.raw_weight[:, 0] + 1e-3 * layer.raw_weight[:, 1]
    assert float(layer.stiefel.violation(layer.weight.detach())) < 1e-6


@pytest.mark.parametrize("columns", ["zero", "equal"])
def test_bimap_without_a_polar_factor_is_an_error(columns: str) -> None:
    layer = mn.nn.BiMap(4, 2)
    with torch.no_grad():
        layer.raw_weight.copy_(torch.zeros(4, 2) if columns == "zero" else layer.raw_weight[:, :1].expand(4, 2))
    with pytest.raises(torch.linalg.LinAlgError, match="columns of the matrix are linearly dependent"):
        layer(torch.eye(4)[None])
