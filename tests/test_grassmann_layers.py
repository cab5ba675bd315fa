"""FRMap, ReOrth, ProjMap, ProjPool, OrthMap: values, gradients, representatives, bad input."""

import copy
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import FRMap, OrthMap, ProjMap, ProjPool, ReOrth

REAL = torch.float64


def frames(n: int, p: int, *batch: int, dtype: torch.dtype = REAL) -> Tensor:
    return torch.linalg.qr(torch.randn(*batch, n, p, dtype=REAL))[0].to(dtype)


def turns(p: int, *batch: int) -> Tensor:
    """Return orthogonal matrices, of both determinants."""
    turn = frames(p, p, *batch)
    return torch.cat([turn[..., :1] * torch.randn(*batch, 1, 1).sign(), turn[..., 1:]], -1)


def projector(x: Tensor) -> Tensor:
    return x @ x.mT


# ---- FRMap


@pytest.mark.parametrize("parametrization", ["polar", "manifold"])
def test_full_rank_map_is_the_product(parametrization: str) -> None:
    layer, x = FRMap(6, 4, parametrization=parametrization, dtype=REAL), frames(6, 2, 3, 5)
    w = layer.weight
    assert torch.allclose(layer(x), torch.einsum("nm,bcnp->bcmp", w, x), atol=1e-14)
    assert torch.allclose(w.mT @ w, torch.eye(4, dtype=REAL), atol=1e-14)
    assert [tuple(p.shape) for p in layer.parameters()] == [(6, 4)]
    twin = FRMap(6, 4, parametrization=parametrization, dtype=REAL)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))
    layer.weight = frames(6, 4)
    assert not torch.equal(twin(x), layer(x))


def test_full_rank_map_gradients() -> None:
    layer, x = FRMap(5, 3, dtype=REAL), frames(5, 2, 3).requires_grad_()

    def run(x: Tensor, raw: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"raw_weight": raw}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.raw_weight))


@pytest.mark.parametrize(
    ("parametrization", "make"),
    [
        ("polar", lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)),
        ("manifold", lambda p: mn.optim.RiemannianAdam(p, lr=1e-2)),
    ],
)
def test_full_rank_map_stays_orthonormal(parametrization: str, make: Callable) -> None:
    layer, x = FRMap(6, 4, parametrization=parametrization), frames(6, 2, 8, dtype=torch.float32)
    target = ProjMap()(frames(4, 2, 8, dtype=torch.float32))
    optimizer, losses = make(layer.parameters()), []
    for _ in range(100):
        optimizer.zero_grad()
        losses.append((ProjMap()(ReOrth()(layer(x))) - target).square().sum())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert torch.allclose(layer.weight.mT @ layer.weight, torch.eye(4), atol=2e-6)


# ---- ReOrth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_re_orth_is_qr_with_a_positive_diagonal(dtype: torch.dtype) -> None:
    x = torch.randn(50, 6, 3, dtype=dtype)
    q = ReOrth()(x)
    eps = torch.finfo(dtype).eps
    assert q.dtype == dtype
    assert torch.allclose(q.mT @ q, torch.eye(3, dtype=dtype), atol=8 * eps)
    r = q.mT @ x
    assert r.tril(-1).abs().max() < 30 * eps and r.diagonal(dim1=-2, dim2=-1).min() > 0
    assert torch.allclose(q @ r, x, atol=30 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_re_orth_of_nearly_dependent_columns_in_mpmath(dtype: torch.dtype) -> None:
    x = torch.randn(6, 3, dtype=dtype)
    x[:, 1] = x[:, 0] + 1e-4 * x[:, 1]
    with mpmath.workdps(40):
        q, r = mpmath.qr(mpmath.matrix(x.double().tolist()), mode="skinny")
        rows = [[float(q[i, j] * mpmath.sign(r[j, j])) for j in range(3)] for i in range(6)]
    expected = torch.tensor(rows, dtype=REAL)
    # one rounding in double precision magnified by the condition of 1e4, and that of the result
    error = 1e6 * torch.finfo(REAL).eps + 2 * torch.finfo(dtype).eps
    assert (ReOrth()(x) - expected).abs().max() < error


def test_re_orth_has_the_right_derivatives() -> None:
    x = torch.randn(3, 5, 2, dtype=REAL, requires_grad=True)
    assert torch.autograd.gradcheck(ReOrth(), (x,))
    assert torch.autograd.gradgradcheck(ReOrth(), (x,))
    one = frames(5, 2, 3).requires_grad_()  # already orthonormal: R is the identity
    assert torch.autograd.gradcheck(ReOrth(), (one,))


def test_re_orth_spans_what_its_input_spans_whatever_the_frame() -> None:
    x, y = torch.randn(4, 6, 3, dtype=REAL), torch.randn(4, 6, 3, dtype=REAL)
    for mixing in (turns(3, 4), torch.randn(4, 3, 3, dtype=REAL) + 3 * torch.eye(3, dtype=REAL)):
        assert torch.allclose(projector(ReOrth()(x @ mixing)), projector(ReOrth()(x)), atol=1e-12)
        # the gradient of a function of the subspace, in the two frames, is one covector: G M^T of the other's G
        one, other = x.clone().requires_grad_(), (x @ mixing).requires_grad_()
        (projector(ReOrth()(one)) * projector(y)).sum().backward()
        (projector(ReOrth()(other)) * projector(y)).sum().backward()
        assert torch.allclose(other.grad @ mixing.mT, one.grad, atol=1e-10)


# ---- ProjMap and ProjPool


def test_projectors() -> None:
    x = frames(6, 2, 4).requires_grad_()
    p = ProjMap()(x)
    assert torch.allclose(p @ p, p, atol=1e-14) and torch.allclose(p, p.mT, atol=0)
    assert torch.allclose(ProjMap()(x @ turns(2, 4)), p, atol=1e-14)
    assert torch.allclose(p, mn.Grassmann(6, 2).to_projector(x))
    assert torch.autograd.gradcheck(ProjMap(), (x,))


def test_pooling_averages_blocks_and_channels() -> None:
    x = ProjMap()(frames(6, 2, 3, 4))
    mean = torch.kron(torch.eye(3, dtype=REAL), torch.full((1, 2), 0.5, dtype=REAL))
    assert torch.allclose(ProjPool(2)(x), mean @ x @ mean.T, atol=1e-15)
    assert torch.allclose(ProjPool(2)(x), torch.nn.functional.avg_pool2d(x, 2), atol=1e-15)
    assert torch.allclose(ProjPool(across=2)(x)[:, 1], (x[:, 2] + x[:, 3]) / 2, atol=1e-15)
    assert torch.allclose(ProjPool(2, across=4)(x)[:, 0], mean @ x.mean(1) @ mean.T, atol=1e-15)
    assert torch.equal(ProjPool()(x), x) and ProjPool(3)(x[0, 0]).shape == (2, 2)
    assert torch.linalg.eigvalsh(ProjPool(2, across=2)(x)).min() > -1e-15


def test_pooling_and_eigenspace_are_the_chordal_mean() -> None:
    manifold = mn.Grassmann(6, 2)
    x = manifold.random_point(3, 5, dtype=REAL)
    pooled = OrthMap(2)(ProjPool(across=5)(ProjMap()(x)))[:, 0]
    for i in range(3):
        assert torch.allclose(projector(pooled[i]), projector(manifold.arithmetic_start(x[i], None)), atol=1e-12)


# ---- OrthMap


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenspace_is_the_dominant_one(dtype: torch.dtype, with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum([-5.0, 0.1, 1.0, 2.0, 3.0], 20, dtype=dtype)
    u = OrthMap(2)(x)
    eps = torch.finfo(dtype).eps
    assert u.shape == (20, 5, 2) and u.dtype == dtype
    assert torch.allclose(u.mT @ u, torch.eye(2, dtype=dtype), atol=4 * eps)
    assert torch.allclose(torch.linalg.eigvalsh(u.mT @ x @ u), torch.tensor([2.0, 3.0], dtype=dtype), atol=30 * eps)
    assert (projector(u) @ x - x @ projector(u)).abs().max() < 30 * eps
    y = frames(7, 2, 4, dtype=dtype)
    assert torch.allclose(projector(OrthMap(2)(ProjMap()(y))), projector(y), atol=20 * eps)


def spread_of(x: Tensor) -> Tensor:
    """Return a function of the subspace only."""
    return projector(OrthMap(2)((x + x.mT) / 2))


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 1.0, 1.5, 2.0, 3.0],
        [1.0, 1.0, 1.0, 2.0, 2.0],  # both sides of the gap repeat: a projector
        [0.0, 0.0, 0.0, 1.0, 1.0],
        [-3.0, -3.0, 0.0, 1.0, 1.0 + 1e-13],
    ],
)
def test_eigenspace_has_the_gradient_of_its_projector(values: list, with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum(values, 2).requires_grad_()
    assert torch.autograd.gradcheck(spread_of, (x,))


def test_eigenspace_has_the_gradient_that_power_series_have(with_spectrum: Callable[..., Tensor]) -> None:
    """The projector as the sign function of the shifted matrix, by an iteration that torch differentiates."""
    x = with_spectrum([0.2, 0.7, 1.0, 2.0, 3.5], 3).requires_grad_()
    weights = torch.randn(3, 5, 5, dtype=REAL)

    def signed(x: Tensor) -> Tensor:
        eye = torch.eye(5, dtype=REAL)
        y = (x - 1.5 * eye) / 4
        for _ in range(40):
            y = 1.5 * y - 0.5 * y @ y @ y
        return (y + eye) / 2

    assert torch.allclose(spread_of(x), signed(x), atol=1e-12)
    (got,) = torch.autograd.grad((weights * projector(OrthMap(2)(x))).sum(), x)  # of the symmetric part
    (expected,) = torch.autograd.grad((weights * signed((x + x.mT) / 2)).sum(), x)
    assert torch.allclose(got, expected, atol=1e-10)


def test_eigenspace_does_not_turn_in_itself(with_spectrum: Callable[..., Tensor]) -> None:
    x = with_spectrum([0.1, 1.0, 1.5, 2.0, 3.0]).requires_grad_()
    u = OrthMap(2)(x)
    (vertical,) = torch.autograd.grad((u * (u.detach() @ torch.randn(2, 2, dtype=REAL))).sum(), x)
    assert vertical.abs().max() < 1e-13


def test_eigenspace_without_a_gap_has_a_finite_gradient_and_second_derivatives_raise() -> None:
    x = torch.eye(4, requires_grad=True)
    assert torch.autograd.grad(spread_of(x).sum(), x)[0].isfinite().all()
    zero = torch.zeros(4, 4, requires_grad=True)
    assert torch.autograd.grad(spread_of(zero).sum(), zero)[0].isfinite().all()
    y = torch.diag(torch.arange(4.0)).requires_grad_()
    (g,) = torch.autograd.grad(spread_of(y)[0, 1], y, create_graph=True)
    with pytest.raises(RuntimeError, match="higher order"):
        g.sum().backward()


# ---- all together


def network() -> mn.nn.Sequential:
    return mn.nn.Sequential(
        FRMap(8, 6, dtype=REAL),
        ReOrth(),
        mn.nn.GyroBatchNorm(mn.Grassmann(6, 2), dtype=REAL),
        ProjMap(),
        ProjPool(2),
        OrthMap(2),
        ProjMap(),
    )


def test_network_does_not_see_which_frames_represent_the_subspaces() -> None:
    net, x, weights = network(), frames(8, 2, 10), torch.randn(10, 3, 3, dtype=REAL)
    turn = turns(2, 10)
    one, other = x.clone().requires_grad_(), (x @ turn).requires_grad_()
    y, z = net(one), net(other)
    assert torch.allclose(y, z, atol=1e-11)
    (grad,) = torch.autograd.grad((y * weights).sum(), one)
    (turned,) = torch.autograd.grad((z * weights).sum(), other)
    assert torch.allclose(grad @ turn, turned, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
def test_network_compiles_in_one_graph() -> None:
    net, x = network().eval(), frames(8, 2, 10)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), net(x), atol=1e-11)
    grads = torch.func.vmap(torch.func.grad(lambda x: net[3:](x).square().sum()))(frames(6, 2, 10))
    assert grads.isfinite().all()


def test_bad_input_says_what_is_wrong() -> None:
    x = frames(6, 2, 4)
    with pytest.raises(ValueError, match="exceeds in_features"):
        FRMap(4, 6)
    with pytest.raises(ValueError, match=r"FRMap: expected real matrices \(\.\.\., 5, p\)"):
        FRMap(5, 4, dtype=REAL)(x)
    with pytest.raises(ValueError, match="cannot hold"):
        FRMap(6, 1, dtype=REAL)(x)
    with pytest.raises(TypeError, match="float32"):
        FRMap(6, 4)(x)
    with pytest.raises(TypeError, match="complex"):
        ProjMap()(x.to(torch.complex128))
    flat = x.clone()
    flat[2, :, 1] = 3 * flat[2, :, 0]
    with pytest.raises(torch.linalg.LinAlgError, match="sample 2"):
        ReOrth()(flat)
    with pytest.raises(ValueError, match="ReOrth"):
        ReOrth()(x.mT)
    with pytest.raises(ValueError, match="no proper eigenspace"):
        OrthMap(2)(torch.eye(2))
    with pytest.raises(ValueError, match="positive"):
        OrthMap(0)
    with pytest.raises(ValueError, match="OrthMap"):
        OrthMap(2)(x)
    for pool in (ProjPool(4), ProjPool(across=3)):
        with pytest.raises(ValueError, match="does not divide"):
            pool(ProjMap()(x))
    with pytest.raises(ValueError, match="positive"):
        ProjPool(0)


@pytest.mark.parametrize(
    "layer", [FRMap(6, 4, dtype=REAL), ReOrth(), ProjMap(), torch.nn.Sequential(ProjMap(), OrthMap(2))]
)
def test_empty_batches_and_one_bad_sample(layer: torch.nn.Module) -> None:
    x = frames(6, 2, 4)
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    bad = x.clone()
    bad[1] = torch.nan
    y = layer(bad)
    assert y[1].isnan().all()
    assert torch.equal(ProjMap()(y)[2:], ProjMap()(layer(x))[2:])
