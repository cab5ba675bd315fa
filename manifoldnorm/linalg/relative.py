"""Logarithms of the eigenvalues of ``P^-1 Q``, accurate also where both matrices are badly conditioned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import rebuild
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import real_dtype, widens, without_autocast, working_dtype
from manifoldnorm.linalg.cholesky import cholesky, inverse_cholesky
from manifoldnorm.linalg.congruence import congruence
from manifoldnorm.linalg.spectral import logm


def _own_log(p: Tensor, q: Tensor) -> Tensor:
    """Return ``L^-H log(L^-1 Q L^-H) L^-1`` with P = L L^H: differentiable, less accurate than from singular values."""
    _, inverse = inverse_cholesky(p)
    return congruence(inverse.mH, logm(congruence(inverse, q)))


class _SquaredLogs(Function):
    """sum_i log(w_i)^2 over the eigenvalues w of P^-1 Q, given rows of logarithms and ``Z^H P Z = Y^H Q Y = I``.

    The gradients are ``-Z diag(2 log w) Z^H`` in P and ``Y diag(2 log w) Y^H`` in Q.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor, logs: Tensor, zh: Tensor | None, yh: Tensor | None) -> Tensor:
        return logs.square().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        p, q, logs, zh, yh = ctx.saved_tensors
        scale = 2 * g[..., None, None]
        if torch.is_grad_enabled():  # a second derivative is asked for
            return -scale * _own_log(p, q), -scale * _own_log(q, p), None, None, None
        return -scale * rebuild(zh, logs), scale * rebuild(yh, logs), None, None, None


@without_autocast
def sum_squared_logs(p: Tensor, q: Tensor, *, name: str = "sum_squared_logs") -> Tensor:
    """Return the sum of the squared logarithms of the eigenvalues of ``P^-1 Q`` (...), differentiable twice.

    From the singular values of ``L_P^-1 L_Q``, whose relative error is about ``eps sqrt(cond P cond Q)``: no more than
    rounding the matrices themselves can cause. The eigenvalues of ``L_P^-1 Q L_P^-H`` would be wrong once the product
    of the condition numbers exceeds ``1 / eps``.

    Parameters
    ----------
    p, q : Tensor
        Positive-definite matrices (..., n, n), broadcast against each other; single precision is widened on CPU.
    name : str
        What error messages call the caller.

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if a matrix is not positive definite; names the sample.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.relative import sum_squared_logs
    >>> sum_squared_logs(torch.eye(2), torch.e * torch.eye(2))
    tensor(2.)
    """
    dtype, wide = p.dtype, working_dtype(p.dtype, widens(p))
    p, q = p.to(wide), q.to(wide)
    shape = torch.broadcast_shapes(p.shape, q.shape)
    constant = plain(p) and not (torch.is_grad_enabled() and (p.requires_grad or q.requires_grad))
    with torch.no_grad():
        p_factor, q_factor = cholesky(p.detach(), name=name), cholesky(q.detach(), name=name)
        ratio = torch.linalg.solve_triangular(p_factor, q_factor, upper=False).expand(shape)
        finite = ratio.isfinite().flatten(-2).all(-1, keepdim=True)  # the decomposition refuses anything else
        ratio = torch.where(finite[..., None], ratio, torch.eye(shape[-1], dtype=wide, device=p.device))
        if constant:
            values, zh, yh = torch.linalg.svdvals(ratio), None, None
        else:
            left, values, right_h = torch.linalg.svd(ratio)
            zh = torch.linalg.solve_triangular(p_factor, left.mH, upper=False, left=False)
            yh = torch.linalg.solve_triangular(q_factor, right_h, upper=False, left=False)
        floor = (values[..., :1] * torch.finfo(wide).eps).clamp_min(torch.finfo(wide).tiny)
        logs = torch.where(finite, 2 * values.maximum(floor).log(), float("nan"))
    p, q = p.expand(shape), q.expand(shape)
    return call(_SquaredLogs, p, q, logs, zh, yh).to(real_dtype(dtype))


def log_det_ratio(p: Tensor, q: Tensor, *, name: str = "log_det_ratio") -> Tensor:
    """Return ``log det(P^-1 Q)`` (...), differentiable.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.relative import log_det_ratio
    >>> log_det_ratio(torch.eye(2), torch.e * torch.eye(2))
    tensor(2.)
    """
    wide = working_dtype(p.dtype, widens(p))
    halves = (cholesky(t.to(wide), name=name).diagonal(dim1=-2, dim2=-1).real.log().sum(-1) for t in (q, p))
    numerator, denominator = halves
    return (2 * (numerator - denominator)).to(real_dtype(p.dtype))
