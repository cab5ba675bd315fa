"""Polar decomposition of the square blocks of frames, accurate for small principal angles and for right ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import from_basis, to_basis
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize, without_autocast
from manifoldnorm.linalg.principal import principal_bases
from manifoldnorm.linalg.spectrum import Spectrum, decompose


class _SkewLyapunov(Function):
    """X with C X + X C = T for a decomposed positive C; self-adjoint in T.

    Sums of two eigenvalues are kept above sqrt(eps), which bounds the gradient where two angles are right.
    """

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(c: Tensor, w: Tensor, uh: Tensor, t: Tensor) -> Tensor:
        sums = (w.unsqueeze(-1) + w.unsqueeze(-2)).clamp_min(torch.finfo(w.dtype).eps ** 0.5)
        return from_basis(uh, to_basis(uh, t) / sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        c, w, uh, _ = inputs
        ctx.save_for_backward(c, w, uh, output)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        c, w, uh, x = ctx.saved_tensors
        solved = call(_SkewLyapunov, c, w, uh, g)
        grad_c = -symmetrize(solved @ x.mT + solved.mT @ x) if ctx.needs_input_grad[0] else None
        return grad_c, None, None, solved


class _Factor(Function):
    """The orthogonal factor O of A = C O, from the eigenvectors of C (columns v) and of its right twin (rows zh)."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, v: Tensor, zh: Tensor) -> Tensor:
        return v @ zh

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, v, _ = inputs
        ctx.save_for_backward(a, w, v, output)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, v, factor = ctx.saved_tensors
        turn = g @ factor.mT
        cosine = symmetrize(a @ factor.mT)
        return call(_SkewLyapunov, cosine, w, v.mT, turn - turn.mT) @ factor, None, None, None


def _aligned(a: Tensor, cosine: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return left vectors for which ``left @ right`` is the orthogonal factor also of frames a little off the manifold.

    There the factorisation behind ``left`` depends on the basis; the skew part of ``V^T A Z`` tells by how much.
    """
    rest = left.mT @ a @ right.mT
    sums = (cosine.unsqueeze(-1) + cosine.unsqueeze(-2)).clamp_min(torch.finfo(a.dtype).eps ** 0.5)
    half = (rest - rest.mT) / (2 * sums)
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return left @ torch.linalg.solve_ex(eye - half, eye + half)[0]


def polar(a: Tensor, residual: Tensor) -> tuple[Spectrum, Tensor]:
    """Return the polar decomposition ``A = C O`` of one block of frames, with the spectrum of C.

    Parameters
    ----------
    a : Tensor
        Square (..., p, p).
    residual : Tensor
        The rest of the frames (..., m, p): ``A^T A + R^T R = I``. Small angles are read off it, right ones off ``a``.

    Returns
    -------
    tuple
        The `Spectrum` of the symmetric C, whose eigenvalues are the cosines of the principal angles, and the
        orthogonal O. Both are differentiable twice. Where C is singular O completes it: the frames' geodesic is then
        not unique, O is one choice, and its gradient is bounded by ``eps^-1/2``.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.polar import polar
    >>> cosine, factor = polar(torch.tensor([[-0.6]]), torch.tensor([[0.8]]))
    >>> cosine.matrix, factor
    (tensor([[0.6000]]), tensor([[-1.]]))
    """
    constant, off = a.detach(), residual.detach()
    angles, _, left, right = principal_bases(constant, off.mT @ off)
    cosine = angles.cos()
    left = _aligned(constant, cosine, left, right)
    factor = call(_Factor, a, cosine, left, right)
    return Spectrum(symmetrize(a @ factor.mT), cosine, left.mT), factor


@torch.no_grad()
def nearest_rotation(x: Tensor) -> Tensor:
    """Return the rotation nearest to square matrices (..., n, n) in the Frobenius norm, without gradient.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.polar import nearest_rotation
    >>> nearest_rotation(torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    scale = x.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    right = decompose((x / scale).mT @ (x / scale), name="nearest_rotation").vectors_h.to(x.dtype).flip(-2)
    left, triangle = torch.linalg.qr(x / scale @ right.mT)
    signs = torch.copysign(torch.ones_like(triangle[..., 0]), triangle.diagonal(dim1=-2, dim2=-1))
    turn = torch.linalg.det(left) * torch.linalg.det(right) * signs.prod(-1)
    signs = torch.cat([signs[..., :-1], signs[..., -1:] * turn.sign().unsqueeze(-1)], -1)
    return (left * signs.unsqueeze(-2)) @ right
