"""Covariance: scikit-learn's estimators, windows, embeddings, complex signals."""

import pytest
import torch
from torch import Tensor

from manifoldnorm.nn import Covariance

REAL, COMPLEX = torch.float64, torch.complex128


def signals(*shape: int, dtype: torch.dtype = REAL) -> Tensor:
    """Return correlated signals with a mean and different powers."""
    n = shape[-2]
    mixing = torch.eye(n, dtype=dtype) + 0.3 * torch.randn(n, n, dtype=dtype)
    return mixing @ torch.randn(*shape, dtype=dtype) * torch.linspace(0.5, 3, n).to(dtype)[:, None] + 1.5


# ---- plain


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("unbiased", [False, True])
def test_sample_covariance(dtype: torch.dtype, unbiased: bool) -> None:
    x = signals(3, 2, 5, 40, dtype=dtype)
    c = Covariance(unbiased=unbiased)(x)
    assert c.shape == (3, 2, 5, 5) and c.dtype == dtype and torch.equal(c, c.mH)
    for i in range(3):
        assert torch.allclose(c[i, 1], torch.cov(x[i, 1], correction=int(unbiased)), rtol=1e-12, atol=1e-13)


def test_without_centring_the_mean_counts() -> None:
    x = signals(2, 4, 30)
    assert torch.allclose(Covariance(center=False)(x), x @ x.mT / 30, rtol=1e-12)
    assert not torch.allclose(Covariance(center=False)(x), Covariance()(x), rtol=0.1)


def test_trace_normalisation_sets_the_mean_eigenvalue_to_one() -> None:
    x = signals(4, 5, 60)
    c = Covariance(normalize_trace=True)(x)
    plain = Covariance()(x)
    assert torch.allclose(c.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((4,), 5.0, dtype=REAL))
    assert torch.allclose(c, 5 * plain / plain.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None], rtol=1e-12)
    assert torch.allclose(Covariance(normalize_trace=True)(1e-6 * x), c, rtol=1e-10)


# ---- shrinkage


@pytest.mark.parametrize(("channels", "time"), [(5, 200), (5, 12), (12, 8), (20, 400), (1, 30)])
@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_shrinkage_equals_scikit_learn(name: str, channels: int, time: int) -> None:
    sklearn = pytest.importorskip("sklearn.covariance")
    estimate = getattr(sklearn, name)
    x = signals(4, channels, time)
    ours, centred = Covariance(name)(x), Covariance(name, center=False)(x)
    for i in range(4):
        theirs, _ = estimate(x[i].T.numpy())
        assert torch.allclose(ours[i], torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)
        theirs, _ = estimate(x[i].T.numpy(), assume_centered=True)
        assert torch.allclose(centred[i], torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)


def test_fixed_shrinkage() -> None:
    sklearn = pytest.importorskip("sklearn.covariance")
    x = signals(2, 5, 30)
    ours = Covariance(0.2)(x)
    for i in range(2):
        theirs = sklearn.shrunk_covariance(torch.cov(x[i], correction=0).numpy(), 0.2)
        assert torch.allclose(ours[i], torch.from_numpy(theirs), rtol=1e-12)
    assert torch.equal(Covariance(0.0)(x), Covariance()(x))
    eye = torch.eye(5, dtype=REAL) * Covariance()(x).diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    assert torch.allclose(Covariance(1.0)(x), eye, rtol=1e-12, atol=1e-14)


def test_shrinkage_keeps_the_trace_and_unbiased_scales_the_result() -> None:
    x = signals(3, 5, 20)
    for shrinkage in ("ledoit_wolf", "oas", 0.3):
        for unbiased in (False, True):
            c, plain = Covariance(shrinkage, unbiased=unbiased)(x), Covariance(unbiased=unbiased)(x)
            trace = plain.diagonal(dim1=-2, dim2=-1).sum(-1)
            assert torch.allclose(c.diagonal(dim1=-2, dim2=-1).sum(-1), trace, rtol=1e-12)
        assert torch.allclose(c, Covariance(shrinkage)(x) * 20 / 19, rtol=1e-12)


@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_shrinkage_makes_few_samples_positive_definite(name: str) -> None:
    x = signals(6, 10, 5)
    w = torch.linalg.eigvalsh(Covariance(name, check_input=True)(x))
    assert float((w[:, 0] / w[:, -1]).min()) > 1e-4
    constant = torch.ones(2, 3, 10, dtype=REAL)
    assert Covariance(name)(constant).isfinite().all()


@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_shrinkage_does_not_depend_on_units_and_rotations(name: str) -> None:
    x = signals(3, 4, 25)
    c, q = Covariance(name)(x), torch.linalg.qr(torch.randn(4, 4, dtype=REAL))[0]
    assert torch.allclose(Covariance(name)(1e-6 * x), 1e-12 * c, rtol=1e-10, atol=0)
    assert torch.allclose(Covariance(name)(q @ x), q @ c @ q.mT, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_complex_shrinkage_is_between_and_invariant_under_unitaries(name: str) -> None:
    x = signals(3, 4, 9, dtype=COMPLEX)
    c, plain = Covariance(name)(x), Covariance()(x)
    level = plain.diagonal(dim1=-2, dim2=-1).real.mean(-1)[:, None, None] * torch.eye(4)
    weight = ((plain - c).abs().sum((-2, -1)) / (plain - level).abs().sum((-2, -1)))[:, None, None]
    assert float(weight.min()) > 0 and float(weight.max()) <= 1
    assert torch.allclose(c, (1 - weight) * plain + weight * level, rtol=1e-10, atol=1e-12)
    u = torch.linalg.qr(torch.randn(4, 4, dtype=COMPLEX))[0]
    assert torch.allclose(Covariance(name)(u @ x), u @ c @ u.mH, rtol=1e-10, atol=1e-12)


def test_complex_ledoit_wolf_is_the_mean_squared_error_estimate() -> None:
    # weight = min(1, b / d): b = mean over time of |x x^H - C|^2 / t, d = |C - mu I|^2
    x = signals(4, 9, dtype=COMPLEX)
    x = x - x.mean(-1, keepdim=True)
    plain = x @ x.mH / 9
    mu = plain.diagonal().real.mean()
    spread = sum((torch.outer(x[:, t], x[:, t].conj()) - plain).abs().square().sum() for t in range(9)) / 9**2
    distance = (plain - mu * torch.eye(4)).abs().square().sum()
    weight = min(1.0, float(spread / distance))
    expected = (1 - weight) * plain + weight * mu * torch.eye(4)
    assert torch.allclose(Covariance("ledoit_wolf")(x), expected, rtol=1e-12)


# ---- windows


@pytest.mark.parametrize(("window", "hop", "count"), [(10, None, 5), (10, 5, 9), (20, 7, 5), (50, 1, 1)])
def test_windows(window: int, hop: int | None, count: int) -> None:
    x = signals(2, 3, 4, 50)
    c = Covariance(window=window, hop=hop)(x)
    assert c.shape == (2, 3, count, 4, 4)
    for k in range(count):
        start = k * (hop or window)
        assert torch.allclose(c[:, :, k], Covariance()(x[..., start : start + window]), rtol=1e-12)


def test_embedding_stacks_delayed_copies() -> None:
    x = signals(2, 3, 30)
    c = Covariance(embed=4)(x)
    delayed = torch.cat([x[:, i : i + 1, k : k + 27] for i in range(3) for k in range(4)], 1)
    assert c.shape == (2, 12, 12)
    assert torch.allclose(c, Covariance()(delayed), rtol=1e-12)


def test_radar_windows_of_one_complex_signal() -> None:
    x = signals(2, 1, 300, dtype=COMPLEX)
    c = Covariance("oas", embed=20, window=100, hop=50)(x)
    assert c.shape == (2, 4, 20, 20)
    assert float(torch.linalg.eigvalsh(c)[..., 0].min()) > 0


# ---- as a layer


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("options", [{}, {"shrinkage": "oas"}, {"shrinkage": "ledoit_wolf", "normalize_trace": True}])
def test_gradients(dtype: torch.dtype, options: dict) -> None:
    x = signals(2, 3, 8, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(Covariance(**options), x)


def test_non_contiguous_empty_and_single_precision() -> None:
    x = signals(3, 4, 50)
    layer = Covariance("oas", window=20, hop=10)
    assert torch.allclose(layer(x.mT.contiguous().mT), layer(x), rtol=1e-12, atol=1e-14)
    assert layer(x[:0]).shape == (0, 4, 4, 4)
    assert layer(x.float()).dtype == torch.float32
    assert torch.allclose(layer(x.float()).double(), layer(x), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(x.float())
    assert torch.equal(inside, layer(x.float()))


def test_repr_and_no_state() -> None:
    layer = Covariance("oas", window=20, hop=10)
    assert not layer.state_dict()
    assert repr(layer).startswith("Covariance(shrinkage=oas, center=True, normalize_trace=False, window=20, hop=10")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing code
def test_compiles_without_a_graph_break() -> None:
    x = signals(3, 4, 50)
    layer = Covariance("ledoit_wolf", window=20, hop=10, normalize_trace=True)
    assert torch.allclose(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x), rtol=1e-12)
