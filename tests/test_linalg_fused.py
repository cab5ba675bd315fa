"""The fused kernels of the compiled library against the formulas in torch that they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mpmath
import pytest
import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import _fused, kernels
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg.native import kernels as library

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no compiled kernels here: {library()}")

SHAPES = [(1, 1), (3, 2), (8, 3), (9, 5), (17, 8), (40, 20), (5, 33)]
DTYPES = [torch.float64, torch.float32]
FUNCTIONS = {"log": fn.LOG, "exp": fn.EXP, "sqrt": fn.SQRT, "inv_sqrt": fn.INV_SQRT, "power": fn.POWER}


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    torch.manual_seed(0)
    with linalg.backend("auto"):  # whatever the environment says
        yield


def spd(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(batch, n, 2 * n, dtype=torch.float64)
    return (x @ x.mT / n).to(dtype)


def close(a: Tensor, b: Tensor, factor: float = 1.0) -> None:
    n = a.shape[-1]
    scale = float(b.abs().max())
    assert float((a - b).abs().max()) <= factor * 8 * n * torch.finfo(a.dtype).eps * scale


def basis(x: Tensor) -> tuple[Tensor, Tensor]:
    w, u = torch.linalg.eigh(x)
    return w, u.mT.contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_congruence(batch: int, n: int, dtype: torch.dtype) -> None:
    x, k = spd(batch, n, dtype), torch.randn(n, n, dtype=dtype)
    y = _fused.congruence(k, x)
    close(y, k @ x @ k.mT)
    assert torch.equal(y, y.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_rebuild(batch: int, n: int, dtype: torch.dtype) -> None:
    (w, rows), k = basis(spd(batch, n, dtype)), torch.randn(n, n, dtype=dtype)
    close(_fused.rebuild(w, rows), rows.mT @ (w.unsqueeze(-1) * rows))
    coloured = rows @ k.mT
    close(_fused.rebuild(w, rows, k), coloured.mT @ (w.unsqueeze(-1) * coloured))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_adjoint(batch: int, n: int, dtype: torch.dtype, name: str) -> None:
    f = FUNCTIONS[name]
    w, rows = basis(spd(batch, n, dtype) + 0.1 * torch.eye(n, dtype=dtype))
    p = torch.linspace(-1.5, 1.5, batch, dtype=dtype) if name == "power" else None
    g, k, a = torch.randn(batch, n, n, dtype=dtype), torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    out, inner, colour = _fused.adjoint(f, w, p, rows, g, k, a, colour=True)
    symmetric, coloured, white = (g + g.mT) / 2, rows @ k.mT, rows @ a
    product = coloured @ symmetric @ coloured.mT
    close(out, white.mT @ (f.divided(w, p) * product) @ white, 4)
    close(inner, product.diagonal(dim1=-2, dim2=-1), 4)
    value = f.auxiliary(w, p)
    assert colour is not None
    close(colour, 2 * (symmetric @ coloured.mT @ (value.unsqueeze(-1) * rows)).sum(0), 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_cholesky_chart_and_back(batch: int, n: int, dtype: torch.dtype) -> None:
    x, g = spd(batch, n, dtype).requires_grad_(), torch.randn(batch, n, n, dtype=dtype)
    found = {}
    for mode in ("native", "torch"):
        with linalg.backend(mode):
            y = linalg.log_cholesky(x)
            (gx,) = torch.autograd.grad(y, x, g)
            start = y.detach().requires_grad_()
            z = linalg.exp_cholesky(start)
            (gy,) = torch.autograd.grad(z, start, g)
            factor = linalg.cholesky(x)
            (gl,) = torch.autograd.grad(factor, x, g)
        found[mode] = (y, gx, z, gy, factor, gl)
    condition = float(torch.linalg.cond(x.detach().double()).max())
    for ours, theirs in zip(found["native"], found["torch"], strict=True):
        gap, size = float((ours - theirs).detach().abs().max()), float(theirs.detach().abs().max())
        assert gap <= 8 * n * torch.finfo(dtype).eps * condition * size


def test_cholesky_names_the_sample() -> None:
    x = spd(9, 3, torch.float64)
    x[4] = -torch.eye(3)
    with pytest.raises(torch.linalg.LinAlgError, match="sample 4 is not positive definite"):
        linalg.cholesky(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_sandwich(batch: int, n: int, dtype: torch.dtype) -> None:
    a, b, d = (torch.randn(n, n, dtype=dtype) for _ in range(3))
    d, x = d + d.mT, torch.randn(batch, n, n, dtype=dtype)
    close(_fused.sandwich(a, d, b, x), b @ (d * (a @ ((x + x.mT) / 2) @ a.mT)) @ b.mT, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_hessian_of_the_affine_invariant_mean(batch: int, n: int, dtype: torch.dtype) -> None:
    w, rows = basis(spd(batch, n, dtype))
    log, s = w.clamp_min(1e-3).log(), torch.randn(n, n, dtype=dtype)
    s = s + s.mT
    found = {}
    for mode in ("native", "torch"):
        with linalg.backend(mode):
            weights = kernels.hyperbolic_weights(log)
            found[mode] = weights, kernels.sum_of_kernels(s, rows, weights)
    close(found["native"][0], found["torch"][0])
    close(found["native"][1], found["torch"][1], 8)


# ---- a matrix's result depends on nothing but the matrix


def every_operation(x: Tensor, w: Tensor, rows: Tensor, k: Tensor) -> list[Tensor]:
    p = torch.full(w.shape[:-1], 0.3, dtype=x.dtype)
    factor, chart, _ = _fused.cholesky(x, True)
    assert chart is not None
    return [
        _fused.congruence(k, x),
        _fused.rebuild(w, rows, k),
        *_fused.adjoint(fn.POWER, w, p, rows, x + 1, k, k)[:2],
        factor,
        chart,
        _fused.cholesky_adjoint(factor, x, True),
        *_fused.from_chart(x),
        _fused.from_chart_adjoint(factor, x),
        _fused.sandwich(k, k + k.mT, k, x),
        _fused.hyperbolic_weights(w),
    ]


def test_independent_of_batch_mates() -> None:
    x, k = spd(37, 7, torch.float64), torch.randn(7, 7, dtype=torch.float64)
    w, rows = basis(x)
    whole = every_operation(x, w, rows, k)
    for i in (0, 11, 36):
        alone = every_operation(*(t[i : i + 1].clone() for t in (x, w, rows)), k)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(whole, alone, strict=True))


def test_independent_of_threads() -> None:
    x, k = spd(300, 7, torch.float64), torch.randn(7, 7, dtype=torch.float64)
    w, rows = basis(x)
    p = torch.full((300,), 0.3, dtype=torch.float64)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            colour = _fused.adjoint(fn.POWER, w, p, rows, x, k, k, colour=True)[2]
            assert colour is not None
            sums = [colour, _fused.sum_of_kernels(k + k.mT, rows, x)]
            found.append(every_operation(x, w, rows, k) + sums)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- divided differences against high precision


def exact(name: str, a: float, b: float, p: float) -> mpmath.mpf:
    functions: dict[str, tuple[Callable[..., mpmath.mpf], Callable[..., mpmath.mpf]]] = {
        "log": (mpmath.log, lambda x: 1 / x),
        "exp": (mpmath.exp, mpmath.exp),
        "power": (lambda x: x**p, lambda x: p * x ** (p - 1)),
    }
    value, slope = functions[name]
    a, b = mpmath.mpf(a), mpmath.mpf(b)
    return slope(a) if a == b else (value(a) - value(b)) / (a - b)


@pytest.mark.parametrize("name", ["log", "exp", "power"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_divided_differences_within_ten_eps(name: str, dtype: torch.dtype) -> None:
    mpmath.mp.dps = 60
    eps = torch.finfo(dtype).eps
    exponent = 0.3
    scales = (1e-12, 1e-6, 1.0, 1e3) if name != "exp" else (1e-3, 1.0, 5.0)
    gaps = (0.0, eps, 1e-6, 1e-3, 0.1, 0.3, 0.45, 1.0, 3.0, 40.0, 1e6 if name != "exp" else 60.0)
    pairs = [(x, x + gap if name == "exp" else x * (1 + gap)) for x in scales for gap in gaps]
    w = torch.tensor(pairs, dtype=dtype)
    p = torch.full((len(w),), exponent, dtype=dtype) if name == "power" else None
    rows = torch.eye(2, dtype=dtype).expand(len(w), 2, 2)
    found = _fused.adjoint(FUNCTIONS[name], w, p, rows, torch.ones(len(w), 2, 2, dtype=dtype))[0]
    for (a, b), k in zip(w.tolist(), found.tolist(), strict=True):
        for i, j, got in ((a, a, k[0][0]), (a, b, k[1][0]), (b, b, k[1][1])):
            truth = exact(name, i, j, float(p[0]) if p is not None else 0.0)
            assert abs(mpmath.mpf(got) - truth) <= 10 * eps * abs(truth), (a, b)
