"""Functions of symmetric and Hermitian matrices, differentiable twice, exact at repeated eigenvalues."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _ops
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import check_matrix, real_dtype, symmetrize, widens, without_autocast
from manifoldnorm.linalg.functions import SpectralFunction


class Spectrum(NamedTuple):
    """A matrix with its decomposition, so that several functions of it share one.

    ``values`` (..., n) ascending and ``vectors_h`` (..., n, n), whose rows are the conjugated eigenvectors, carry no
    gradient: gradients flow through ``matrix`` by divided differences.
    """

    matrix: Tensor
    values: Tensor
    vectors_h: Tensor


def decompose(a: Tensor, *, positive: bool = False, name: str = "decompose") -> Spectrum:
    """Decompose a stack of symmetric or Hermitian matrices once, for use by several spectral functions.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n); the Hermitian part is decomposed.
    positive : bool
        On CPU raise for matrices that are indefinite beyond rounding (elsewhere they become NaN).
    name : str
        What error messages call the caller.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or dtype.
    torch.linalg.LinAlgError
        On CPU, for an indefinite matrix if ``positive``; names the sample and its extreme eigenvalues.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> spectrum = linalg.decompose(torch.diag(torch.tensor([1.0, 4.0])))
    >>> linalg.apply(spectrum, linalg.functions.SQRT)
    tensor([[1., 0.],
            [0., 2.]])
    """
    check_matrix(a, name)
    operator = _ops.eigh_cpu if plain(a) else torch.ops.manifoldnorm.eigh
    values, vectors_h = operator(a.detach(), widens(a), positive, name)
    return Spectrum(a, values, vectors_h)


def _rebuild(vectors_h: Tensor, diagonal: Tensor) -> Tensor:
    """Return U diag(d) U^H."""
    return (vectors_h.mH * diagonal.unsqueeze(-2)) @ vectors_h


def _to_basis(vectors_h: Tensor, g: Tensor) -> Tensor:
    return vectors_h @ g @ vectors_h.mH


def _from_basis(vectors_h: Tensor, g: Tensor) -> Tensor:
    return vectors_h.mH @ g @ vectors_h


def _diagonal(m: Tensor) -> Tensor:
    d = m.diagonal(dim1=-2, dim2=-1)
    return d.real if d.is_complex() else d


def _clamped(a: Tensor, w: Tensor, f: SpectralFunction) -> Tensor:
    return f.clamp(w, torch.finfo(a.dtype).eps)


HIGHER_ORDER = "manifoldnorm.linalg: this derivative is of higher order than is implemented."


class _NoDerivative(Function):
    """Identity whose backward raises ``reason``: marks a result of the sources s, t, ... that has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(reason: str, result: Tensor, s: Any, t: Any, u: Any, v: Any, w: Any) -> Tensor:
        return result.clone()  # a fixed number of sources: Dynamo cannot trace *sources here

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.reason = inputs[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, torch.ops.manifoldnorm.no_derivative(g, ctx.reason), None, None, None, None, None


def _no_derivative(reason: str, result: Tensor, *sources: Tensor | None) -> Tensor:
    return _NoDerivative.apply(reason, result, *sources, *(None,) * (5 - len(sources)))


class _Apply(Function):
    """F = f(A), with backward by first divided differences."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, p: Tensor | None, f: SpectralFunction) -> Tensor:
        return _rebuild(uh, f.value(_clamped(a, w, f), p)).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, p, f = inputs
        ctx.save_for_backward(a, w, uh, p)
        ctx.f = f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, p = ctx.saved_tensors
        if p is None:
            return call(_Vjp, a, w, uh, None, g, ctx.f), None, None, None, None
        grad_a, grad_p = call(_Vjp, a, w, uh, p, g, ctx.f)
        return grad_a, None, None, grad_p, None


class _Vjp(Function):
    """(A, p, G) -> (U (K o U^H G U) U^H, <G, df/dp (A)>), with backward by second divided differences."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, p: Tensor | None, g: Tensor, f: SpectralFunction) -> Any:
        w = _clamped(a, w, f)
        gh = _to_basis(uh, symmetrize(g.to(uh.dtype)))
        grad_a = _from_basis(uh, gh * f.divided(w, p)).to(a.dtype)
        if p is None:
            return grad_a
        assert f.parameter is not None
        return grad_a, (_diagonal(gh) * f.parameter.value(w, p)).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, p, g, f = inputs
        ctx.save_for_backward(a, w, uh, p, g)
        ctx.f = f

    @staticmethod
    @without_autocast
    def backward(ctx: Any, c: Tensor, cp: Tensor | None = None) -> Any:
        a, w, uh, p, g = ctx.saved_tensors
        f = ctx.f

        def done(result: Tensor) -> Tensor:
            return _no_derivative(HIGHER_ORDER, result, a, p, g, c, cp)

        w = _clamped(a, w, f)
        gh = _to_basis(uh, symmetrize(g.to(uh.dtype))).detach()
        ch = _to_basis(uh, symmetrize(c.to(uh.dtype))).detach()
        first = f.divided(w, p)
        to_g = first * ch
        second = f.divided2(w, p).to(gh.dtype)
        to_a = torch.einsum("...ikj,...ik,...kj->...ij", second, gh, ch)
        to_a = to_a + torch.einsum("...ikj,...ik,...kj->...ij", second, ch, gh)
        grad_p = None
        if p is not None and cp is not None:
            slope = f.parameter
            q1, k1 = slope.value(w, p), slope.divided(w, p)
            weight = cp.detach()[..., None, None].to(gh.dtype)
            to_g = to_g + weight * torch.diag_embed(q1).to(gh.dtype)
            to_a = to_a + weight * k1 * gh
            mixed = (k1 * (ch.conj() * gh).real if gh.is_complex() else k1 * ch * gh).sum((-2, -1))
            curved = slope.parameter.value(w, p) if slope.parameter is not None else torch.zeros_like(w)
            grad_p = done(mixed + cp.detach() * (_diagonal(gh) * curved).sum(-1))
        grad_a = done(symmetrize(_from_basis(uh, to_a)).to(a.dtype))
        grad_g = done(_from_basis(uh, to_g).to(g.dtype))
        return grad_a, None, None, grad_p, grad_g, None


class _SpectralSum(Function):
    """sum_i f(w_i), whose gradient is the matrix f'(A)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, w: Tensor, uh: Tensor, kind: str) -> Tensor:
        log = _clamped(a, w, fn.LOG).log()
        return (log.square() if kind == "log2" else log).sum(-1).to(real_dtype(a.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, kind = inputs
        ctx.save_for_backward(a, w, uh)
        ctx.kind = kind

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh = ctx.saved_tensors
        inverse = w.new_full(w.shape[:-1], -1.0)
        if ctx.kind == "log2":
            slope = 2 * call(_Apply, a, w, uh, inverse, fn.POWER_LOG)
        else:
            slope = call(_Apply, a, w, uh, inverse, fn.POWER)
        return g[..., None, None] * slope, None, None, None


class _WeightedApply(Function):
    """sum_i w_i f(A_i) over dimension 0 as one matrix product, with the backward of `_Apply` per sample."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, weights: Tensor, f: SpectralFunction) -> Tensor:
        values = f.value(_clamped(a, w, f), None) * weights.unsqueeze(-1)
        n = a.shape[-1]
        if a.ndim == 3:
            rows = uh.reshape(-1, n)
            return (rows.mH @ (values.reshape(-1, 1) * rows)).to(a.dtype)
        return _rebuild(uh, values).sum(0).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, weights, f = inputs
        ctx.save_for_backward(a, w, uh, weights)
        ctx.f = f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, weights = ctx.saved_tensors
        share = (weights[..., None, None] * g).to(a.dtype)
        grad_a = call(_Vjp, a, w, uh, None, share, ctx.f) if ctx.needs_input_grad[0] else None
        grad_w = None
        if ctx.needs_input_grad[3]:
            values = call(_Apply, a, w, uh, None, ctx.f)
            product = (g.conj() * values).sum((-2, -1))
            grad_w = (product.real if product.is_complex() else product).to(weights.dtype)
        return grad_a, None, None, grad_w, None


def weighted_apply(spectrum: Spectrum, f: SpectralFunction, weights: Tensor | None) -> Tensor:
    """Return the weighted sum over dimension 0 of a function of decomposed matrices (N, ..., n, n).

    Parameters
    ----------
    spectrum : Spectrum
        Of matrices (N, *groups, n, n).
    f : SpectralFunction
        A function without parameter.
    weights : Tensor or None
        (N, *groups); None is uniform, ``1 / N``.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> spectrum = linalg.decompose(torch.stack([torch.eye(2), 4 * torch.eye(2)]))
    >>> linalg.weighted_apply(spectrum, linalg.functions.SQRT, None).diagonal()
    tensor([1.5000, 1.5000])
    """
    a, w, uh = spectrum
    if weights is None:
        weights = w.new_full(w.shape[:-1], 1.0 / max(w.shape[0], 1))
    return call(_WeightedApply, a, w, uh, weights.to(w.dtype), f)


def apply(spectrum: Spectrum, f: SpectralFunction, p: Tensor | float | None = None) -> Tensor:
    """Apply a scalar function to the eigenvalues of a decomposed matrix.

    Parameters
    ----------
    spectrum : Spectrum
        From `decompose`.
    f : SpectralFunction
        One of `manifoldnorm.linalg.functions`.
    p : Tensor or float, optional
        The function's parameter, broadcast against the batch; differentiable.

    Returns
    -------
    Tensor
        ``U f(W) U^H`` (..., n, n), in the dtype of the matrix.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> linalg.apply(linalg.decompose(2 * torch.eye(2)), linalg.functions.POWER, 3.0).diagonal()
    tensor([8., 8.])
    """
    a, w, uh = spectrum
    if p is None:
        return call(_Apply, a, w, uh, None, f)
    p = torch.as_tensor(p, dtype=w.dtype, device=a.device)
    batch = torch.broadcast_shapes(p.shape, w.shape[:-1])
    if batch != w.shape[:-1]:
        a, w, uh = a.expand(batch + a.shape[-2:]), w.expand(batch + w.shape[-1:]), uh.expand(batch + uh.shape[-2:])
    return call(_Apply, a, w, uh, p.expand(batch), f)


def sum_log(spectrum: Spectrum) -> Tensor:
    """Return the sum of the logarithms of the eigenvalues (the log-determinant), differentiable."""
    return call(_SpectralSum, *spectrum, "log")


def sum_log_squared(spectrum: Spectrum) -> Tensor:
    """Return the sum of the squared logarithms of the eigenvalues, differentiable."""
    return call(_SpectralSum, *spectrum, "log2")


def frechet_derivative(spectrum: Spectrum, f: SpectralFunction, v: Tensor, p: Tensor | float | None = None) -> Tensor:
    """Return the directional derivative of ``f(A)`` along the Hermitian matrix ``v``.

    ``D f(A)[V] = U (K o U^H V U) U^H`` with the divided differences K; the map is its own adjoint. Differentiable once.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> linalg.frechet_derivative(linalg.decompose(torch.eye(2)), linalg.functions.EXP, torch.eye(2)).diagonal()
    tensor([2.7183, 2.7183])
    """
    a, w, uh = spectrum
    batch = torch.broadcast_shapes(w.shape[:-1], v.shape[:-2])
    a, w, uh = a.expand(batch + a.shape[-2:]), w.expand(batch + w.shape[-1:]), uh.expand(batch + uh.shape[-2:])
    v = v.expand(batch + v.shape[-2:])
    if p is None:
        return call(_Vjp, a, w, uh, None, v, f)
    p = torch.as_tensor(p, dtype=w.dtype, device=a.device).expand(batch)
    return call(_Vjp, a, w, uh, p, v, f)[0]


def logm(a: Tensor) -> Tensor:
    """Return the logarithm of symmetric (Hermitian) positive-definite matrices.

    Eigenvalues below ``finfo(dtype).eps`` times the largest are raised to it, so that the result is finite for
    semi-definite input.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n), float32, float64, complex64 or complex128.

    Returns
    -------
    Tensor
        Symmetric matrices (..., n, n), in the dtype of the input.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or dtype.
    torch.linalg.LinAlgError
        On CPU, if a matrix is indefinite beyond rounding; names the sample. On other devices it becomes NaN.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.logm(torch.eye(2))
    tensor([[0., 0.],
            [0., 0.]])
    """
    return apply(decompose(a, positive=True, name="logm"), fn.LOG)


def expm(a: Tensor) -> Tensor:
    """Return the exponential of symmetric (Hermitian) matrices (..., n, n).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.expm(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return apply(decompose(a, name="expm"), fn.EXP)


def sqrtm(a: Tensor) -> Tensor:
    """Return the square root of symmetric (Hermitian) positive semi-definite matrices (..., n, n).

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if a matrix is indefinite beyond rounding; names the sample.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.sqrtm(4 * torch.eye(2))
    tensor([[2., 0.],
            [0., 2.]])
    """
    return apply(decompose(a, positive=True, name="sqrtm"), fn.SQRT)


def inv_sqrtm(a: Tensor) -> Tensor:
    """Return the inverse square root of symmetric (Hermitian) positive-definite matrices (..., n, n).

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if a matrix is indefinite beyond rounding; names the sample.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.inv_sqrtm(4 * torch.eye(2))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    return apply(decompose(a, positive=True, name="inv_sqrtm"), fn.INV_SQRT)


def sqrtm_inv_sqrtm(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root and the inverse square root from one decomposition.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> root, inverse = mn.linalg.sqrtm_inv_sqrtm(4 * torch.eye(2))
    >>> float(root[0, 0]), float(inverse[0, 0])
    (2.0, 0.5)
    """
    spectrum = decompose(a, positive=True, name="sqrtm_inv_sqrtm")
    return apply(spectrum, fn.SQRT), apply(spectrum, fn.INV_SQRT)


def powm(a: Tensor, exponent: Tensor | float) -> Tensor:
    """Return real powers of symmetric (Hermitian) positive-definite matrices.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n).
    exponent : Tensor or float
        Broadcast against the batch dimensions of ``a``; gradients flow to it.

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if a matrix is indefinite beyond rounding; names the sample.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.powm(2 * torch.eye(2), torch.tensor([1.0, 2.0]))[:, 0, 0]
    tensor([2., 4.])
    """
    return apply(decompose(a, positive=True, name="powm"), fn.POWER, exponent)


def clamp_eig(a: Tensor, threshold: Tensor | float) -> Tensor:
    """Raise the eigenvalues of symmetric (Hermitian) matrices to at least ``threshold``.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n).
    threshold : Tensor or float
        Absolute, in the units of ``a``, broadcast against the batch; gradients flow to it.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.clamp_eig(torch.diag(torch.tensor([0.0, 2.0])), 0.5).diagonal()
    tensor([0.5000, 2.0000])
    """
    return apply(decompose(a, name="clamp_eig"), fn.CLAMP_MIN, threshold)


class _Eigenvalues(Function):
    """w, whose gradient is U diag(g) U^H."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, w: Tensor, uh: Tensor) -> Tensor:
        return w.to(real_dtype(a.dtype), copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, uh = ctx.saved_tensors
        return _no_derivative(HIGHER_ORDER, _rebuild(uh, g.detach()).to(a.dtype), a, g), None, None


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose symmetric (Hermitian) matrices: ascending eigenvalues (..., n) and eigenvectors (..., n, n) in columns.

    Eigenvalues are differentiable (once); a gradient through the eigenvectors raises. A matrix with a non-finite entry
    gives NaN and leaves the others right.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or dtype.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.eigh(torch.diag(torch.tensor([2.0, 1.0])))[0]
    tensor([1., 2.])
    """
    a, values, vectors_h = decompose(a, name="eigh")
    reason = (
        "linalg.eigh: eigenvectors have no gradient at repeated eigenvalues. "
        "Write the computation with logm, expm, powm, ... or linalg.apply, which are exact there."
    )
    vectors = _no_derivative(reason, vectors_h.mH.to(a.dtype), a)
    return _Eigenvalues.apply(a, values, vectors_h), vectors


def eigvalsh(a: Tensor) -> Tensor:
    """Return the ascending eigenvalues (..., n) of symmetric (Hermitian) matrices, without gradient.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.eigvalsh(torch.diag(torch.tensor([2.0, 1.0])))
    tensor([1., 2.])
    """
    check_matrix(a, "eigvalsh")
    values = torch.ops.manifoldnorm.eigvalsh(a.detach(), widens(a))
    return values.to(real_dtype(a.dtype))


def smallest_below(a: Tensor, limit: float) -> Tensor:
    """Return the smaller of the smallest eigenvalue and a negative ``limit`` (...), without gradient.

    Costs a Cholesky factorisation, and a decomposition only of the matrices that fall below the limit (on CPU).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> linalg.smallest_below(torch.diag_embed(torch.tensor([[0.0, 1.0], [-3.0, 1.0]])), -1.0)
    tensor([-1., -3.])
    """
    check_matrix(a, "smallest_below")
    operator = _ops.smallest_below_cpu if plain(a) else torch.ops.manifoldnorm.smallest_below
    return operator(a.detach(), limit)
