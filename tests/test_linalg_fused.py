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
FIELDS = [*DTYPES, torch.complex128, torch.complex64]
FUNCTIONS = {"log": fn.LOG, "exp": fn.EXP, "sqrt": fn.SQRT, "inv_sqrt": fn.INV_SQRT, "power": fn.POWER}


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    torch.manual_seed(0)
    with linalg.backend("auto"):  # whatever the environment says
        yield


def spd(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(batch, n, 2 * n, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    return (x @ x.mH / n).to(dtype)


def close(a: Tensor, b: Tensor, factor: float = 1.0) -> None:
    n = a.shape[-1]
    scale = float(b.abs().max())
    assert float((a - b).abs().max()) <= factor * 8 * n * torch.finfo(a.dtype).eps * scale


def basis(x: Tensor) -> tuple[Tensor, Tensor]:
    w, u = torch.linalg.eigh(x)
    return w, u.mH.resolve_conj().contiguous()


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_congruence(batch: int, n: int, dtype: torch.dtype) -> None:
    x, k = spd(batch, n, dtype), torch.randn(n, n, dtype=dtype)
    y = _fused.congruence(k, x)
    close(y, k @ x @ k.mH)
    assert torch.equal(y, y.mH)
    close(_fused.congruence(k.mH, x.conj()), k.mH @ x.conj() @ k)
    several = torch.randn(batch, n, n, dtype=dtype)
    close(_fused.congruence(several, x), several @ x @ several.mH)


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_rebuild(batch: int, n: int, dtype: torch.dtype) -> None:
    (w, rows), k = basis(spd(batch, n, dtype)), torch.randn(n, n, dtype=dtype)
    close(_fused.rebuild(w, rows), rows.mH @ (w.unsqueeze(-1) * rows))
    coloured = rows @ k.mH
    close(_fused.rebuild(w, rows, k), coloured.mH @ (w.unsqueeze(-1) * coloured))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_adjoint(batch: int, n: int, dtype: torch.dtype, name: str) -> None:
    f = FUNCTIONS[name]
    w, rows = basis(spd(batch, n, dtype) + 0.1 * torch.eye(n, dtype=dtype))
    p = torch.linspace(-1.5, 1.5, batch, dtype=dtype.to_real()) if name == "power" else None
    g, k, a = torch.randn(batch, n, n, dtype=dtype), torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    out, inner, colour = _fused.adjoint(f, w, p, rows, g, k, a, colour=True)
    symmetric, coloured, white = (g + g.mH) / 2, rows @ k.mH, rows @ a
    product = coloured @ symmetric @ coloured.mH
    close(out, white.mH @ (f.divided(w, p) * product) @ white, 4)
    assert inner.dtype == dtype.to_real()
    close(inner, product.diagonal(dim1=-2, dim2=-1).real, 4)
    value = f.auxiliary(w, p)
    assert colour is not None
    close(colour, 2 * (symmetric @ coloured.mH @ (value.unsqueeze(-1) * rows)).sum(0), 4)


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


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_sandwich(batch: int, n: int, dtype: torch.dtype) -> None:
    a, b, d = (torch.randn(n, n, dtype=t) for t in (dtype, dtype, dtype.to_real()))
    d, x = d + d.mT, torch.randn(batch, n, n, dtype=dtype)
    close(_fused.sandwich(a, d, b, x), b @ (d * (a @ ((x + x.mH) / 2) @ a.mH)) @ b.mH, 8)


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_hessian_of_the_affine_invariant_mean(batch: int, n: int, dtype: torch.dtype) -> None:
    w, rows = basis(spd(batch, n, dtype))
    log, s = w.clamp_min(1e-3).log(), torch.randn(n, n, dtype=dtype)
    s, several = s + s.mH, spd(batch, n, dtype)
    found = {}
    for mode in ("native", "torch"):
        with linalg.backend(mode):
            weights = kernels.hyperbolic_weights(log)
            sums = kernels.sum_of_kernels(s, rows, weights), kernels.each_kernel(several, rows, weights)
            found[mode] = weights, *sums
    close(found["native"][0], found["torch"][0])
    close(found["native"][1], found["torch"][1], 8)
    close(found["native"][2], found["torch"][2], 8)


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("each", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("isa", range(library().best + 1) if not isinstance(library(), str) else [])
def test_the_norm_s_path_and_its_gradients(
    isa: int, each: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whiten, power and colour with every gradient, by the kernels of each instruction set and by torch."""
    monkeypatch.setattr(library(), "best", isa)
    monkeypatch.setattr("manifoldnorm.linalg._precision._WIDER", {})
    n, shape = 6, (13, 6, 6) if each else (6, 6)
    x = spd(13, n, dtype) + 0.5 * torch.eye(n, dtype=dtype)
    a, k = (torch.eye(n, dtype=dtype) + 0.1 * torch.randn(shape, dtype=dtype) for _ in range(2))
    t, g = torch.linspace(0.4, 1.2, 13, dtype=dtype.to_real()), torch.randn(13, n, n, dtype=dtype)
    found = {}
    for mode in ("native", "torch"):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, a, k, t)]
        with linalg.backend(mode):
            _, power = linalg.whiten(leaves[1], leaves[0], "test")
            y = power(leaves[3], leaves[2])
            y = y + linalg.logm(linalg.congruence(leaves[2], leaves[0]))
            found[mode] = y.detach(), *torch.autograd.grad(y, leaves, g)
    for ours, theirs in zip(found["native"], found["torch"], strict=True):
        close(ours, theirs, 60)


# ---- a matrix's result depends on nothing but the matrix


def every_operation(x: Tensor, w: Tensor, rows: Tensor, k: Tensor) -> list[Tensor]:
    p = torch.full(w.shape[:-1], 0.3, dtype=w.dtype)
    weight = (k + k.mH).real.contiguous()
    common = [
        _fused.congruence(k, x),
        _fused.rebuild(w, rows, k),
        *_fused.adjoint(fn.POWER, w, p, rows, x + 1, k, k)[:2],
        _fused.sandwich(k, weight, k, x),
        _fused.each_kernel(x, rows, x.real),
    ]
    if x.is_complex():
        return common
    factor, chart, _ = _fused.cholesky(x, True)
    assert chart is not None
    return [
        *common,
        factor,
        chart,
        _fused.cholesky_adjoint(factor, x, True),
        *_fused.from_chart(x),
        _fused.from_chart_adjoint(factor, x),
        _fused.hyperbolic_weights(w),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_independent_of_batch_mates(dtype: torch.dtype) -> None:
    x, k = spd(37, 7, dtype), torch.randn(7, 7, dtype=dtype)
    w, rows = basis(x)
    whole = every_operation(x, w, rows, k)
    for i in (0, 11, 36):
        alone = every_operation(*(t[i : i + 1].clone() for t in (x, w, rows)), k)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_independent_of_threads(dtype: torch.dtype) -> None:
    x, k = spd(300, 7, dtype), torch.randn(7, 7, dtype=dtype)
    w, rows = basis(x)
    p = torch.full((300,), 0.3, dtype=torch.float64)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            colour = _fused.adjoint(fn.POWER, w, p, rows, x, k, k, colour=True)[2]
            assert colour is not None
            sums = [colour, _fused.sum_of_kernels(k + k.mH, rows, x.real)]
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
