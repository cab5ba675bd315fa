"""Orthonormal frames from tall matrices and from symmetric ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._ops import sample_index
from manifoldnorm.linalg._precision import widens, without_autocast, working_dtype
from manifoldnorm.linalg.spectrum import decompose


@without_autocast
def orthonormalize(x: Tensor) -> Tensor:
    """Return the factor Q of ``X = Q R`` with a positive diagonal of R, for real tall matrices (..., n, p).

    The sign makes Q a smooth function of X. Differentiable to any order; single precision is widened on CPU.

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if the columns are linearly dependent: Q would be arbitrary. Names the sample.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.subspaces import orthonormalize
    >>> orthonormalize(torch.tensor([[3.0], [4.0]]))
    tensor([[0.6000],
            [0.8000]])
    """
    q, r = torch.linalg.qr(x.to(working_dtype(x.dtype, widens(x))))
    diagonal = r.diagonal(dim1=-2, dim2=-1).detach()
    if plain(x) and x.numel():
        _check_rank(diagonal.abs(), torch.linalg.vector_norm(r.detach(), dim=-2).amax(-1), x)
    return (q * torch.copysign(torch.ones_like(diagonal), diagonal).unsqueeze(-2)).to(x.dtype)


def _check_rank(diagonal: Tensor, longest: Tensor, x: Tensor) -> None:
    """Raise if what a column adds to those before it is rounding error of the longest one."""
    bad = (diagonal <= x.shape[-2] * torch.finfo(x.dtype).eps * longest.unsqueeze(-1)).any(-1).flatten()
    if bool(bad.any()):
        where = sample_index(int(bad.nonzero()[0, 0]), x.shape[:-2])
        raise torch.linalg.LinAlgError(
            f"orthonormalize: the columns of {where} are linearly dependent: they span a smaller space. Leave the "
            f"sample out, or use fewer columns."
        )


class _Eigenspace(Function):
    """U, whose movement is that of its span: dU = V (V^T dA U / (w_U - w_V)) with the other eigenvectors V."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, w: Tensor, uh: Tensor, p: int) -> Tensor:
        return uh[..., uh.shape[-1] - p :, :].mT.to(a.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, p = inputs
        ctx.save_for_backward(a, w, uh)
        ctx.p = p

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh = ctx.saved_tensors
        rest = uh.shape[-1] - ctx.p
        others, own = uh[..., :rest, :], uh[..., rest:, :]
        # of order one unless the eigenspace is not unique; there the gradient is bounded by the rounding of a
        size = w.abs().amax(-1)[..., None, None]
        floor = torch.finfo(a.dtype).eps * torch.where(size == 0, 1.0, size)
        gap = (w[..., None, rest:] - w[..., :rest, None]).maximum(floor)
        half = others.mT @ ((others @ g.detach().to(w.dtype)) / gap) @ own
        return no_derivative(HIGHER_ORDER, ((half + half.mT) / 2).to(a.dtype), a, g), None, None, None


def dominant_eigenspace(a: Tensor, p: int) -> Tensor:
    """Return an orthonormal frame (..., n, p) of the eigenvectors of the p largest eigenvalues of symmetric ``a``.

    The frame is one of many: use functions of its span. Their gradient is exact, also at repeated eigenvalues on either
    side of the gap between the p-th and the next, and grows as one over that gap, where the span ceases to be unique
    (it is bounded at a gap of eps). The frame counts as moving with its span only, never turning in it. Differentiable
    once; higher derivatives raise.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.subspaces import dominant_eigenspace
    >>> frame = dominant_eigenspace(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2)
    >>> (frame @ frame.mT).diagonal()
    tensor([0., 1., 1.])
    """
    if not 0 < p < a.shape[-1]:
        raise ValueError(f"dominant_eigenspace: p must lie between 1 and {a.shape[-1] - 1}, got {p!r}.")
    return call(_Eigenspace, *decompose(a, name="dominant_eigenspace"), p)
