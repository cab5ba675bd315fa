"""Eigenvalues and eigenvectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _ops
from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative, rebuild
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import check_matrix, real_dtype, widens, without_autocast
from manifoldnorm.linalg.native import backend as solver
from manifoldnorm.linalg.spectrum import decompose


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
        return no_derivative(HIGHER_ORDER, rebuild(uh, g.detach()).to(a.dtype), a, g), None, None


def eigh(a: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Decompose symmetric (Hermitian) matrices: ascending eigenvalues (..., n) and eigenvectors (..., n, n) in columns.

    Eigenvalues are differentiable (once); a gradient through the eigenvectors raises. A matrix with a non-finite entry
    gives NaN and leaves the others right.

    Parameters
    ----------
    a : Tensor
        Matrices (..., n, n), of which the symmetric part counts.
    backend : str, optional
        The solver for this call, as in `linalg.backend`; a compiled function is called, not traced, with it.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape, dtype or backend.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.eigh(torch.diag(torch.tensor([2.0, 1.0])))[0]
    tensor([1., 2.])
    """
    if backend is not None:
        with solver(backend):
            return eigh(a)
    a, values, vectors_h = decompose(a, name="eigh")
    if plain(a) and not (a.requires_grad and torch.is_grad_enabled()):
        return values.to(real_dtype(a.dtype)), vectors_h.mH.to(a.dtype)
    reason = (
        "linalg.eigh: eigenvectors have no gradient at repeated eigenvalues. "
        "Write the computation with logm, expm, powm, ... or linalg.apply, which are exact there."
    )
    vectors = no_derivative(reason, vectors_h.mH.to(a.dtype), a)
    return _Eigenvalues.apply(a, values, vectors_h), vectors


def eigvalsh(a: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the ascending eigenvalues (..., n) of symmetric (Hermitian) matrices, without gradient.

    ``backend`` is the solver for this call, as in `eigh`; the eigenvalues of `eigh` have a gradient.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.eigvalsh(torch.diag(torch.tensor([2.0, 1.0])))
    tensor([1., 2.])
    """
    if backend is not None:
        with solver(backend):
            return eigvalsh(a)
    a = check_matrix(a, "eigvalsh")
    values = torch.ops.manifoldnorm.eigvalsh(a.detach(), widens(a))
    return values.to(real_dtype(a.dtype))


class _SmallestBelow(Function):
    """min(limit, smallest eigenvalue), whose gradient is v v^H of that eigenvalue, 0 where the limit is smaller."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, limit: float) -> Tensor:
        operator = _ops.smallest_below_cpu if plain(a) else torch.ops.manifoldnorm.smallest_below
        return operator(a.detach(), limit)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.limit = inputs[1]

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, lowest = ctx.saved_tensors
        if plain(lowest) and not bool((lowest < ctx.limit).any()):
            return None, None  # on CPU the answer is at hand, and nearly always this one
        operator = _ops.lowest_projector_cpu if plain(a) else torch.ops.manifoldnorm.lowest_projector
        grad = g[..., None, None] * operator(a.detach(), lowest.detach(), ctx.limit)
        return no_derivative(HIGHER_ORDER, grad, a, g) if torch.is_grad_enabled() else grad, None


def smallest_below(a: Tensor, limit: float) -> Tensor:
    """Return the smaller of the smallest eigenvalue and a negative ``limit`` (...).

    Costs a Cholesky factorisation, and a decomposition only of the matrices that fall below the limit (on CPU).
    Differentiable once: the gradient is ``v v^H`` for a unit eigenvector of the smallest eigenvalue; where that is
    repeated, of one of them, which is a subgradient. Where the limit is the smaller one it is 0.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> linalg.smallest_below(torch.diag_embed(torch.tensor([[0.0, 1.0], [-3.0, 1.0]])), -1.0)
    tensor([-1., -3.])
    """
    a = check_matrix(a, "smallest_below")
    return call(_SmallestBelow, a, limit)
