"""Frechet means: convergence, agreement with pyRiemann, weights, implicit gradients, policies."""

import copy
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import manifoldnorm as mn
from manifoldnorm import stats
from manifoldnorm.stats import Exact, FixedPoint, Karcher, Midpoint, Newton, mean_residual

DECOMPOSITIONS = {"manifoldnorm::eigh", "manifoldnorm::eigvalsh", "aten::_linalg_eigh", "aten::_linalg_svd"}


class CountDecompositions(TorchDispatchMode):
    """Count decompositions of whole batches."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.count = batch, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in DECOMPOSITIONS and args[0].shape[:-2].numel() >= self.batch:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def wishart(batch: int, n: int, samples: int | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(batch, n, samples or 3 * n, dtype=dtype)
    return x @ x.mH / x.shape[-1]


def dispersed(dispersion: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return 32 matrices of size 8: exponentials of symmetric normal matrices times the dispersion (pains 5.6)."""
    noise = torch.randn(32, 8, 8, dtype=dtype)
    return torch.linalg.matrix_exp(dispersion * (noise + noise.mH) / 2)


def conditions(x: Tensor) -> Tensor:
    w = torch.linalg.eigvalsh(x)
    return w[:, -1] / w[:, 0]


def relative_residual(manifold: mn.manifolds.Manifold, mean: Tensor, x: Tensor, weights: Tensor | None = None) -> float:
    """Return the norm of the mean tangent over the spread of the data, largest over groups."""
    scale = manifold.mean_system(mean, x, weights).scale
    return float((mean_residual(manifold, mean, x, weights) / scale).max())


def derivative(f: Callable[[float], Tensor], h: float = 1e-3) -> Tensor:
    """Return the derivative at 0 by a six-point difference: error O(h^6)."""
    return (45 * (f(h) - f(-h)) - 9 * (f(2 * h) - f(-2 * h)) + f(3 * h) - f(-3 * h)) / (60 * h)


AIM, BW = mn.AffineInvariant(8), mn.BuresWasserstein(8)


# ---- convergence


@pytest.mark.parametrize(("dispersion", "low", "high"), [(1.0, 3e2, 2e3), (1.5, 5e3, 5e4), (2.0, 1e5, 2e6)])
@pytest.mark.parametrize("manifold", [AIM, BW], ids=["AIM", "BW"])
def test_mean_converges_where_unit_steps_diverge(
    manifold: mn.manifolds.Manifold, dispersion: float, low: float, high: float
) -> None:
    x = dispersed(dispersion)
    assert low < float(conditions(x).median()) < high
    eps = torch.finfo(x.dtype).eps
    # the residual is attainable up to eps times the condition number of what is decomposed
    attainable = 10 * eps * float(conditions(x).max())
    assert relative_residual(manifold, manifold.frechet_mean(x), x) < attainable
    assert relative_residual(manifold, Exact()(manifold, x), x) < attainable


def test_mean_converges_at_dispersion_three() -> None:
    x = dispersed(3.0)
    assert float(conditions(x).median()) > 1e7
    assert relative_residual(AIM, AIM.frechet_mean(x), x) < 1e-8
    with warnings.catch_warnings():
        # eps times the condition number of L^H x L (1e8 squared) leaves about half of the digits of its root
        warnings.filterwarnings("ignore", message=".*frechet_mean", category=RuntimeWarning)
        mean = BW.frechet_mean(x)
    assert relative_residual(BW, mean, x) < 1e-6


def test_unit_karcher_steps_diverge_on_the_same_data() -> None:
    x = dispersed(1.5)
    assert relative_residual(AIM, Karcher(50)(AIM, x), x) > 1e-3


@pytest.mark.parametrize("manifold", [mn.AffineInvariant(6), mn.BuresWasserstein(6)], ids=["AIM", "BW"])
def test_mean_converges_at_condition_one_million(manifold: mn.manifolds.Manifold, with_spectrum: Callable) -> None:
    x = with_spectrum(torch.logspace(-3, 3, 6), 24)
    assert torch.allclose(conditions(x), torch.tensor(1e6, dtype=x.dtype), rtol=1e-6)
    assert relative_residual(manifold, manifold.frechet_mean(x), x) < 1e-9
    assert relative_residual(manifold, Exact()(manifold, x), x) < 1e-9


def test_mean_converges_in_single_precision() -> None:
    x = wishart(40, 8)
    for manifold in (AIM, BW):
        exact = manifold.frechet_mean(x)
        single = manifold.frechet_mean(x.float())
        assert single.dtype == torch.float32
        assert float((single - exact).abs().max()) < 1e-5 * float(exact.abs().max())


@pytest.mark.filterwarnings("ignore:Convergence not reached")  # pyRiemann's, at the tolerance asked for
@pytest.mark.parametrize("dispersion", [0.3, 1.0, 2.0])
def test_means_equal_pyriemann(dispersion: float) -> None:
    pyriemann = pytest.importorskip("pyriemann.utils.mean")
    x = dispersed(dispersion)
    weights = torch.rand(32, dtype=x.dtype) + 0.1
    for manifold, name in ((AIM, "mean_riemann"), (BW, "mean_wasserstein")):
        for w in (None, weights):
            theirs = getattr(pyriemann, name)(
                x.numpy(), tol=1e-12, maxiter=500, sample_weight=None if w is None else w.numpy()
            )
            ours = manifold.frechet_mean(x, w)
            apart = float(manifold.dist(ours, torch.from_numpy(theirs)))
            size = float(manifold.mean_system(ours, x, None).scale)
            assert apart < 1e3 * torch.finfo(x.dtype).eps * float(conditions(x).max()) * size


def test_mean_of_hermitian_matrices() -> None:
    for manifold in (mn.AffineInvariant(8, field="complex"), mn.BuresWasserstein(8, field="complex")):
        x = dispersed(1.5, torch.complex128)
        mean = manifold.frechet_mean(x)
        assert mean.is_complex() and float(mean.imag.abs().max()) > 1e-3
        assert relative_residual(manifold, mean, x) < 1e-10


def test_a_mean_that_did_not_converge_warns_with_its_residual() -> None:
    with pytest.warns(RuntimeWarning, match=r"frechet_mean: relative residual \d\.\d+e.*after 1 steps"):
        AIM.frechet_mean(dispersed(2.0), max_iter=1)


def test_tolerance_stops_early() -> None:
    x = dispersed(1.0)
    with CountDecompositions(32) as loose:
        AIM.frechet_mean(x, tol=1e-2)
    with CountDecompositions(32) as tight:
        AIM.frechet_mean(x)
    assert sum(loose.count.values()) < sum(tight.count.values())


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        AIM.frechet_mean(torch.empty(0, 8, 8))


# ---- decompositions


def test_newton_reaches_1e_8_in_two_decompositions_on_wishart_matrices() -> None:
    x, manifold = wishart(30, 20), mn.AffineInvariant(20)
    with CountDecompositions(30) as mode:
        mean = Newton(2)(manifold, x)
    assert sum(mode.count.values()) == 2
    assert float(manifold.dist(mean, manifold.frechet_mean(x))) < 1e-8
    bures = mn.BuresWasserstein(20)
    assert relative_residual(bures, Newton(2)(bures, x), x) < 1e-8


@pytest.mark.parametrize("manifold", [AIM, BW], ids=["AIM", "BW"])
def test_policies_decompose_the_batch_once_per_step(manifold: mn.manifolds.Manifold) -> None:
    x = wishart(30, 8)
    for policy, expected in ((Newton(1), 1), (Newton(3), 3), (Karcher(2), 2), (Exact(steps=4), 6)):
        with CountDecompositions(30) as mode:
            policy(manifold, x)
        assert sum(mode.count.values()) == expected


def test_newton_gets_closer_with_every_step() -> None:
    for manifold in (AIM, BW):
        x = dispersed(0.7)
        residuals = [relative_residual(manifold, Newton(k)(manifold, x), x) for k in (1, 2, 3)]
        assert residuals[1] < 0.1 * residuals[0] and residuals[2] < 0.1 * residuals[1]


# ---- weights, batches


@pytest.mark.parametrize("manifold", [AIM, BW, mn.LogEuclidean(8), mn.LogCholesky(8)], ids=repr)
def test_weights_are_repetitions_and_zeros_leave_out(manifold: mn.manifolds.Manifold) -> None:
    x = wishart(5, 8)
    weights = torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0], dtype=x.dtype)
    repeated = x[[0, 0, 1, 3, 3, 3, 4]]
    assert torch.allclose(manifold.frechet_mean(x, weights), manifold.frechet_mean(repeated), rtol=1e-10, atol=1e-12)
    mask = torch.tensor([True, True, False, True, False])
    assert torch.allclose(manifold.frechet_mean(x, mask), manifold.frechet_mean(x[mask]), rtol=1e-10, atol=1e-12)


def test_several_dimensions_and_groups() -> None:
    x = wishart(2 * 5 * 3, 8).reshape(2, 5, 3, 8, 8)
    for manifold in (AIM, BW):
        pooled = manifold.frechet_mean(x, dim=(0, 1))
        kept = manifold.frechet_mean(x, dim=1)
        assert pooled.shape == (3, 8, 8) and kept.shape == (2, 3, 8, 8)
        for c in range(3):
            assert torch.allclose(pooled[c], manifold.frechet_mean(x[:, :, c].flatten(0, 1)), rtol=1e-10, atol=1e-12)
            assert torch.allclose(kept[1, c], manifold.frechet_mean(x[1, :, c]), rtol=1e-10, atol=1e-12)
        assert torch.equal(manifold.frechet_mean(x, dim=-1), manifold.frechet_mean(x, dim=2))


def test_groups_converge_independently() -> None:
    # one hard and one easy group: the hard one is damped on its own
    x = torch.stack([dispersed(2.0), dispersed(0.3)], 1)
    for manifold in (AIM, BW):
        both = manifold.frechet_mean(x)
        for c in range(2):
            assert relative_residual(manifold, both[c], x[:, c]) < 1e-9


def test_variance_is_the_mean_squared_distance() -> None:
    x = wishart(12, 8)
    weights = torch.rand(12, dtype=x.dtype)
    for manifold in (AIM, BW, mn.LogCholesky(8)):
        mean = manifold.frechet_mean(x, weights)
        expected = (weights * manifold.dist(mean, x) ** 2).sum() / weights.sum()
        assert torch.allclose(stats.frechet_variance(manifold, x, weights=weights), expected, rtol=1e-10)
        assert torch.allclose(stats.frechet_variance(manifold, x, mean, weights), expected, rtol=1e-10)


# ---- gradients

GRADIENTS = {
    "AIM": (mn.AffineInvariant(4), torch.float64),
    "AIM complex": (mn.AffineInvariant(4, field="complex"), torch.complex128),
    "BW": (mn.BuresWasserstein(4), torch.float64),
    "BW complex": (mn.BuresWasserstein(4, field="complex"), torch.complex128),
    "GBW": (mn.GeneralizedBuresWasserstein(4, torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.5]).double())), torch.float64),
    "deformed": (mn.PowerDeformed(mn.AffineInvariant(4), 0.5), torch.float64),
    "LEM": (mn.LogEuclidean(4), torch.float64),
}


def gradient_error(mean: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: Tensor, exact: Callable) -> float:
    """Return how far the gradient of ``mean`` in samples and weights is from finite differences of ``exact``."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    target = torch.randn(x.shape[1:], dtype=x.dtype)
    (mean(x, weights) * target.conj()).real.sum().backward()
    step = torch.randn_like(x)
    step, shift = step + step.mH, torch.randn_like(weights)
    at, around = x.detach(), weights.detach()
    in_x = derivative(lambda t: (exact(at + t * step, around) * target.conj()).real.sum())
    in_w = derivative(lambda t: (exact(at, around + t * shift) * target.conj()).real.sum())
    got_x, got_w = (x.grad * step.conj()).real.sum(), (weights.grad * shift).sum()
    return max(abs(float((got_x - in_x) / in_x)), abs(float((got_w - in_w) / in_w)))


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("groups", [(), (2,)], ids=["one", "grouped"])
def test_implicit_gradient_is_the_finite_difference(name: str, groups: tuple[int, ...]) -> None:
    manifold, dtype = GRADIENTS[name]
    x = wishart(6 * (2 if groups else 1), 4, 20, dtype).reshape(6, *groups, 4, 4)
    weights = torch.rand(6, *groups, dtype=torch.float64) + 0.5

    def exact(points: Tensor, share: Tensor) -> Tensor:
        return manifold.frechet_mean(points, share)

    def policy(points: Tensor, share: Tensor) -> Tensor:
        return Exact(steps=8, cg_steps=20, backward_steps=40)(manifold, points, share / share.sum(0))

    assert gradient_error(exact, x, weights, exact) < 1e-8
    assert gradient_error(policy, x, weights, exact) < 1e-8


@pytest.mark.parametrize("manifold", [mn.AffineInvariant(4), mn.BuresWasserstein(4)], ids=["AIM", "BW"])
def test_surrogate_gradient_error_shrinks_with_the_residual(manifold: mn.manifolds.Manifold) -> None:
    noise = torch.randn(8, 4, 4, dtype=torch.float64)
    noise = (noise + noise.mH) / 2

    def exact(points: Tensor, share: Tensor) -> Tensor:
        return manifold.frechet_mean(points, share)

    residuals, errors = [], []
    for spread in (0.8, 0.4, 0.2, 0.1):
        x, weights = torch.linalg.matrix_exp(spread * noise), torch.ones(8, dtype=torch.float64)
        policy = Newton(1, cg_steps=12, backward_steps=24)
        residuals.append(relative_residual(manifold, policy(manifold, x), x))
        torch.manual_seed(0)
        errors.append(gradient_error(lambda p, w, f=policy: f(manifold, p, w / w.sum()), x, weights, exact))
    assert all(b < 0.5 * a for a, b in pairwise(residuals))
    assert all(b < 0.7 * a for a, b in pairwise(errors))
    assert errors[-1] < 1e-2 * errors[0]


def test_gradient_of_the_mean_is_finite_at_identical_samples() -> None:
    for manifold in (AIM, BW):
        x = torch.eye(8, dtype=torch.float64).expand(5, 8, 8).clone().requires_grad_()
        manifold.frechet_mean(x).diagonal().sum().backward()
        assert torch.allclose(x.grad, torch.eye(8, dtype=torch.float64) / 5, atol=1e-12)


# ---- policies as values


@pytest.mark.parametrize("policy", [Exact(), Newton(2), Karcher(3), FixedPoint(2), Midpoint()], ids=repr)
def test_policies_are_values(policy: stats.MeanPolicy) -> None:
    twin = pickle.loads(pickle.dumps(policy))
    assert twin == policy == copy.deepcopy(policy) and hash(twin) == hash(policy)
    assert repr(policy).startswith(type(policy).__name__)
    with pytest.raises(AttributeError):
        policy.steps = 5
    assert Newton(1) != Newton(2) and Karcher(1) != FixedPoint(1)


def test_impossible_policies_raise_when_a_layer_is_built() -> None:
    with pytest.raises(ValueError, match=r"Midpoint: AffineInvariant.*no closed-form midpoint"):
        mn.nn.RiemannianBatchNorm(AIM, mean=Midpoint())
    with pytest.raises(ValueError, match=r"FixedPoint: AffineInvariant.*no fixed-point iteration"):
        mn.nn.RiemannianBatchNorm(AIM, mean=FixedPoint())
    with pytest.raises(ValueError, match=r"Newton: .*no Hessian"):
        Newton().check(mn.Stiefel(4, 2))
    mn.nn.RiemannianBatchNorm(BW, mean=FixedPoint())
    mn.nn.RiemannianBatchNorm(mn.GeneralizedBuresWasserstein(8), mean=FixedPoint())
    mn.nn.RiemannianBatchNorm(mn.PowerDeformed(BW, 0.5), mean=Newton())


def test_default_means() -> None:
    assert AIM.default_mean == BW.default_mean == Newton(1)
    assert mn.PowerDeformed(AIM, 0.5).default_mean == Newton(1)


@pytest.mark.parametrize("policy", [Karcher(1), Newton(1), Exact(), FixedPoint(2)], ids=repr)
def test_flat_metrics_use_the_closed_form_whatever_the_policy(policy: stats.MeanPolicy) -> None:
    x, manifold = wishart(7, 8), mn.LogEuclidean(8)
    expected = torch.linalg.matrix_exp(mn.linalg.logm(x).mean(0))
    assert torch.allclose(policy(manifold, x), expected, rtol=1e-10)


def test_fixed_point_is_the_published_iteration() -> None:
    x = wishart(9, 8)
    p = x.mean(0)
    for steps in (1, 2, 5):
        root, inverse = mn.linalg.sqrtm_inv_sqrtm(p)
        inner = mn.linalg.sqrtm(root @ x @ root).mean(0)
        p = inverse @ inner @ inner @ inverse
        if steps == 1:
            assert torch.allclose(FixedPoint(1)(BW, x), p, rtol=1e-12, atol=1e-13)


def test_karcher_is_the_published_iteration() -> None:
    x = wishart(9, 8)
    root, inverse = mn.linalg.sqrtm_inv_sqrtm(x.mean(0))
    tangent = mn.linalg.logm(inverse @ x @ inverse).mean(0)
    assert torch.allclose(Karcher(1)(AIM, x), root @ mn.linalg.expm(tangent) @ root, rtol=1e-12, atol=1e-13)


# ---- no host synchronisation


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
@pytest.mark.parametrize("manifold", [AIM, BW], ids=["AIM", "BW"])
@pytest.mark.parametrize("policy", [Exact(steps=1, cg_steps=3, backward_steps=3), Newton(1)], ids=["Exact", "Newton"])
def test_policies_compile_without_a_graph_break(manifold: mn.manifolds.Manifold, policy: stats.MeanPolicy) -> None:
    x = wishart(6, 8).requires_grad_()

    def step(points: Tensor) -> Tensor:
        return policy(manifold, points)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(step(x).square().sum(), x)
    y = compiled(x)
    (got,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.allclose(y, step(x), rtol=1e-12)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12)
