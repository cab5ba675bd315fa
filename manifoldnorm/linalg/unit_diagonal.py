"""The exponential of a symmetric matrix whose diagonal is chosen so that the result has a unit diagonal."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._basis import rebuild
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._diagonals import hollow, widened, with_unit_diagonal
from manifoldnorm.linalg._precision import check_matrix, without_autocast
from manifoldnorm.linalg.cholesky import cholesky
from manifoldnorm.linalg.spectral import frechet_derivative
from manifoldnorm.linalg.spectrum import Spectrum, decompose

_STEPS = 5
_TRUST = 3.0  # longest step in one entry of d
_NAME = "unit_diagonal_exp"


def _solve(factor: Tensor, b: Tensor) -> Tensor:
    """Return ``H^-1 b`` for vectors b (..., n), H = L L^T."""
    return torch.cholesky_solve(b.unsqueeze(-1), factor).squeeze(-1)


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)


# the Gauss-Lobatto rule of 8 nodes on (0, 1): its nodes below 1/2, their weights, the weight of an end
_NODES = (0.06412992574519594, 0.2041499092834289, 0.39535039104876046)
_WEIGHTS = (0.10535211357175309, 0.1705613462417522, 0.20622939732935197)
_END = 1 / 56


def _approximate_hessian(w: Tensor, uh: Tensor) -> Tensor:
    """Return ``integral exp(t S) o exp((1 - t) S) dt`` by a rule that errs towards more: steps get shorter only."""
    hessian = torch.diag_embed(2 * _END * _diagonal(rebuild(uh, w.exp())))
    for t, weight in zip(_NODES, _WEIGHTS, strict=True):
        hessian = hessian + 2 * weight * rebuild(uh, (t * w).exp()) * rebuild(uh, ((1 - t) * w).exp())
    return hessian


def _exact_hessian(w: Tensor, uh: Tensor) -> Tensor:
    """Return ``H_il = sum_jk U_ij U_lj K_jk U_ik U_lk`` with the divided differences K of the exponential."""
    pairs = uh.mT.unsqueeze(-2) * uh.mT.unsqueeze(-3)  # [i, l, j] = U_ij U_lj
    return (pairs @ fn.EXP.divided(w, None).unsqueeze(-3)).mul_(pairs).sum(-1)


def _newton(exp: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor of the Hessian and the Newton step in d.

    H, the derivative of ``diag exp S`` in d, is the Hessian of the convex ``tr exp S - sum d``. The step solves
    ``log diag exp S = 0``, which is nearly linear, instead of ``diag exp S = 1``, which is not.
    """
    factor = cholesky(hessian, name=_NAME)
    diagonal = _diagonal(exp)
    return factor, _solve(factor, diagonal * diagonal.log())


def _find(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (exp S, d, values and vectors of S, Cholesky factor of H) at the solution, without gradient."""
    row = torch.linalg.vector_norm(y, dim=-1)
    d = -(row + (-2 * row).exp().log1p() - math.log(2))  # - log cosh: exact for n = 2
    for _ in range(_STEPS):
        _, w, uh = decompose(y + torch.diag_embed(d), name=_NAME)
        step = _newton(rebuild(uh, w.exp()), _approximate_hessian(w, uh))[1]
        # the Hessian changes by a factor over a step of length one
        d = d - step * (_TRUST / step.abs().amax(-1, keepdim=True).clamp_min(_TRUST))
    spectrum = decompose(y + torch.diag_embed(d), name=_NAME)
    w, uh = spectrum.values, spectrum.vectors_h
    exp = rebuild(uh, w.exp())
    factor, step = _newton(exp, _exact_hessian(w, uh))
    # the last step changes exp S to first order only: no further decomposition
    exp = exp - frechet_derivative(spectrum, fn.EXP, torch.diag_embed(step))
    return exp, d - step, w, uh, factor


class _UnitDiagonalExp(Function):
    """(exp S, d), S = Y + Diag(d); with ``T = D exp(S)``, ``dd = -H^-1 diag(T[dY])``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, exp: Tensor, d: Tensor, w: Tensor, uh: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return exp.clone(), d.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        y, _, _, w, uh, factor = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, output[1], w, uh, factor)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor | None, gd: Tensor | None) -> Any:
        y, d, w, uh, factor = ctx.saved_tensors
        if g is None and gd is None:
            return (None,) * 6
        spectrum = Spectrum(y + torch.diag_embed(d), w, uh)
        return hollow(_tangent(spectrum, factor, g, gd)), *(None,) * 5


def _tangent(spectrum: Spectrum, factor: Tensor, v: Tensor | None, extra: Tensor | None) -> Tensor:
    """Return ``T[V - Diag(m)]`` with ``m = H^-1 (diag T[V] + extra)``, differentiable in S, V and ``extra``."""
    moved = None if v is None else frechet_derivative(spectrum, fn.EXP, v)
    zero = factor.new_zeros(())
    right = (zero if moved is None else _diagonal(moved)) + (zero if extra is None else extra)
    shift = _solve(factor, right.detach())
    if torch.is_grad_enabled():  # one Newton step on the solved system: its value is 0, its derivative that of m
        image = _diagonal(frechet_derivative(spectrum, fn.EXP, torch.diag_embed(shift)))
        shift = shift + _solve(factor, right - image)
    correction = frechet_derivative(spectrum, fn.EXP, torch.diag_embed(shift))
    return -correction if moved is None else moved - correction


def _solved(y: Tensor) -> tuple[Tensor, Tensor, Spectrum, Tensor]:
    y = check_matrix(y, _NAME)
    y = hollow(widened(y))
    y = (y + y.mT) / 2
    value, shift, w, uh, factor = _find(y.detach())
    exp, d = call(_UnitDiagonalExp, y, value, shift, w, uh, factor)
    return exp, d, Spectrum(y + torch.diag_embed(d), w, uh), factor


@without_autocast
def unit_diagonal_exp(y: Tensor) -> Tensor:
    """Return ``exp(Y + D)`` for symmetric Y (..., n, n), with the diagonal D that makes its diagonal exactly 1.

    The diagonal of Y is ignored. Newton steps, a fixed number, from a start that is exact for n = 2; the result is at
    working precision for rows of Y of norm up to about 9. The gradient is the implicit one, twice differentiable.

    References
    ----------
    Archakov and Hansen 2021, "A new parametrization of correlation matrices".

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.unit_diagonal import unit_diagonal_exp
    >>> unit_diagonal_exp(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))[0]
    tensor([1.0000, 0.7616])
    """
    return with_unit_diagonal(_solved(y)[0]).to(y.dtype)


@without_autocast
def unit_diagonal_exp_derivative(y: Tensor, v: Tensor) -> Tensor:
    """Return the derivative of `unit_diagonal_exp` at Y along V: a self-adjoint map of hollow symmetric matrices.

    Differentiable once more in both.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.unit_diagonal import unit_diagonal_exp_derivative
    >>> unit_diagonal_exp_derivative(torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([[0., 1.],
            [1., 0.]])
    """
    _, _, spectrum, factor = _solved(y)
    return hollow(_tangent(spectrum, factor, hollow(widened(v)), None)).to(v.dtype)
