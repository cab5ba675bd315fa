"""Functions of symmetric and Hermitian matrices, differentiable twice, exact at repeated eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._differentials import Apply, SpectralSum, Vjp, WeightedApply
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.linalg.spectrum import Spectrum, decompose


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
    return call(WeightedApply, a, w, uh, weights.to(w.dtype), f)


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
        return call(Apply, a, w, uh, None, f)
    p = torch.as_tensor(p, dtype=w.dtype, device=a.device)
    batch = torch.broadcast_shapes(p.shape, w.shape[:-1])
    if batch != w.shape[:-1]:
        a, w, uh = a.expand(batch + a.shape[-2:]), w.expand(batch + w.shape[-1:]), uh.expand(batch + uh.shape[-2:])
    return call(Apply, a, w, uh, p.expand(batch), f)


def sum_log(spectrum: Spectrum) -> Tensor:
    """Return the sum of the logarithms of the eigenvalues (the log-determinant), differentiable."""
    return call(SpectralSum, *spectrum, "log")


def sum_log_squared(spectrum: Spectrum) -> Tensor:
    """Return the sum of the squared logarithms of the eigenvalues, differentiable."""
    return call(SpectralSum, *spectrum, "log2")


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
        return call(Vjp, a, w, uh, None, v, f)
    p = torch.as_tensor(p, dtype=w.dtype, device=a.device).expand(batch)
    return call(Vjp, a, w, uh, p, v, f)[0]


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
