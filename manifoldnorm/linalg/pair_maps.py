"""Linear maps ``V -> U (f(w_i, w_j) o U^T V U) U^T`` for a function of two eigenvalues, and their energy's flow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import HIGHER_ORDER, from_basis, no_derivative, to_basis
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize, without_autocast
from manifoldnorm.linalg.pair_differences import (
    PairFunction,
    first_differences,
    mixed_differences,
    second_differences,
)
from manifoldnorm.linalg.spectrum import Spectrum

_SERIES = tuple(1 / math.factorial(2 * k + 1) for k in range(9, -1, -1))


def sinhc(z: Tensor) -> Tensor:
    """Return ``sinh(z) / z``, smooth at 0.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.pair_maps import sinhc
    >>> sinhc(torch.tensor([0.0, 2.0]))
    tensor([1.0000, 1.8134])
    """
    square = z * z
    small = square < 1
    near, far = torch.where(small, square, 0.0), torch.where(small, 1.0, z)
    series = torch.full_like(near, _SERIES[0])
    for coefficient in _SERIES[1:]:
        series = series * near + coefficient
    return torch.where(small, series, far.sinh() / far)


def exp_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the divided difference of the exponential, the logarithmic mean of ``e^a`` and ``e^b``."""
    return ((a + b) / 2).exp() * sinhc((a - b) / 2)


def _values(f: PairFunction, w: Tensor) -> Tensor:
    return f(w.unsqueeze(-1), w.unsqueeze(-2))


class _PairMap(Function):
    """Y = U (f o U^T V U) U^T; self-adjoint in V. dA: M + M^T, ``M_il = sum_j f[w_i, w_l; w_j] G_ij V_jl``."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, v: Tensor, f: PairFunction) -> Tensor:
        return from_basis(uh, _values(f, w) * to_basis(uh, symmetrize(v.to(uh.dtype)))).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.f = inputs[4]

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, v = ctx.saved_tensors
        grad_v = call(_PairMap, a, w, uh, g, ctx.f)
        gh, vh = (to_basis(uh, symmetrize(t.detach().to(uh.dtype))) for t in (g, v))
        m = torch.einsum("...ilj,...ij,...jl->...il", first_differences(ctx.f, w), gh, vh)
        grad_a = no_derivative(HIGHER_ORDER, (2 * symmetrize(from_basis(uh, m))).to(a.dtype), a, g, v)
        return grad_a, None, None, grad_v, None


def pair_map(spectrum: Spectrum, v: Tensor, f: PairFunction) -> Tensor:
    """Apply ``V -> U (f(w_i, w_j) o U^T V U) U^T`` to the symmetric part of real ``v`` (..., n, n).

    Differentiable in the matrix once, in ``v`` to any order where the matrix is constant.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> from manifoldnorm.linalg.pair_maps import pair_map
    >>> spectrum = linalg.decompose(torch.diag(torch.tensor([1.0, 2.0])))
    >>> pair_map(spectrum, torch.ones(2, 2), lambda a, b: a * b)
    tensor([[1., 2.],
            [2., 4.]])
    """
    a, w, uh = spectrum
    batch = torch.broadcast_shapes(w.shape[:-1], v.shape[:-2])
    a, w, uh = a.expand(batch + a.shape[-2:]), w.expand(batch + w.shape[-1:]), uh.expand(batch + uh.shape[-2:])
    return call(_PairMap, a, w, uh, v.expand(batch + v.shape[-2:]), f)


class _Flow(Function):
    """(dH/dQ, dH/dA) of ``H = <Q, Y(Q)> / 2`` with Y as in `_PairMap`; the backward is the Hessian of H.

    In the eigenbasis, with ``E = dA``, ``F = dQ``:
    ``d(dH/dQ) = f o F + T + T^T``, ``T_il = sum_k f[i, k; l] E_ik Q_kl``;
    ``d(dH/dA) = sum_j f[i, l; j] (F_ij Q_jl + Q_ij F_jl) + R + R^T + Z``,
    ``R_ab = sum_ml f[a, b, m; l] Q_al Q_ml E_bm``, ``Z_ab = sum_ml f[a, b; m, l] Q_al Q_bm E_ml``.
    """

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, q: Tensor, f: PairFunction) -> tuple[Tensor, Tensor]:
        qh = to_basis(uh, q)
        force = torch.einsum("...ilj,...ij,...jl->...il", first_differences(f, w), qh, qh)
        return from_basis(uh, _values(f, w) * qh), from_basis(uh, force)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.f = inputs[4]

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g_velocity: Tensor, g_force: Tensor) -> Any:
        a, w, uh, q = ctx.saved_tensors
        f = ctx.f
        along_q, along_a, qh = (to_basis(uh, symmetrize(t.detach())) for t in (g_velocity, g_force, q))
        first = first_differences(f, w)
        t = torch.einsum("...ikl,...ik,...kl->...il", first, along_a, qh)
        to_q = _values(f, w) * along_q + t + t.mT
        s = torch.einsum("...ilj,...ij,...jl->...il", first, along_q, qh)
        r = torch.einsum("...abml,...al,...ml,...bm->...ab", second_differences(f, w), qh, qh, along_a)
        z = torch.einsum("...abml,...al,...bm,...ml->...ab", mixed_differences(f, w), qh, qh, along_a)
        to_a = s + s.mT + r + r.mT + z
        grads = (no_derivative(HIGHER_ORDER, from_basis(uh, x), a, q, g_velocity, g_force) for x in (to_a, to_q))
        grad_a, grad_q = grads
        return grad_a, None, None, grad_q, None


def energy_flow(spectrum: Spectrum, q: Tensor, f: PairFunction) -> tuple[Tensor, Tensor]:
    """Return the derivatives of ``H = <Q, pair_map(A, Q)> / 2`` in the symmetric Q and in A, (..., n, n) both.

    Differentiable once; the gradient takes memory of order n^4 per matrix.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> from manifoldnorm.linalg.pair_maps import energy_flow
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> energy_flow(linalg.decompose(2 * eye), eye, lambda a, b: a * b)[1].diagonal()
    tensor([2., 2.], dtype=torch.float64)
    """
    a, w, uh = spectrum
    return call(_Flow, a, w, uh, symmetrize(q), f)
