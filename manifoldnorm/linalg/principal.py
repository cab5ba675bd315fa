"""Principal angles between frames and a base, and what a batch norm does with them, fused: one decomposition each.

A frame with the part ``A`` (p x p) along a base and ``R`` (m x p) off it is ``A = V c Z^T``, ``R = W s Z^T`` with the
cosines c and sines s of the principal angles. To first order it moves by ``N = c W^T dR Z - s V^T dA Z``, of which the
symmetric part sees the differences of angles and the antisymmetric part their sums; the derivatives of everything here
are products with kernels of these two. They are exact at equal and vanishing angles and lose digits only where the sum
of two angles approaches pi. Differentiable once; second derivatives raise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import without_autocast
from manifoldnorm.linalg.spectrum import decompose


class Principal(NamedTuple):
    """Principal angles (..., p) and vectors, without gradient, of the differentiable frame ``along``, ``off``.

    ``left`` holds V (p x p) and ``out`` W (m x p) in columns, ``right`` Z^T in rows. W is 0 or noise where an angle is
    0: nothing depends on it there.
    """

    along: Tensor
    off: Tensor
    angles: Tensor
    left: Tensor
    right: Tensor
    out: Tensor


def principal(along: Tensor, off: Tensor) -> Principal:
    """Return the principal angles and vectors of frames; small angles are read off ``off``, right ones off ``along``.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.principal import principal
    >>> principal(torch.tensor([[-0.6]]), torch.tensor([[0.8]])).angles
    tensor([0.9273])
    """
    return Principal(along, off, *_decompose(along.detach(), off.detach()))


@without_autocast
def _decompose(along: Tensor, off: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    right = decompose(off.mT @ off, name="principal angles").vectors_h.to(off.dtype)
    # columns descend in length, so the factorisation leaves the good ones alone and completes the vanishing ones
    left, triangle = torch.linalg.qr(along @ right.mT)
    cosine = triangle.diagonal(dim1=-2, dim2=-1)
    out = off @ right.mT
    sine = out.square().sum(-2).sqrt()
    left = torch.copysign(torch.ones_like(cosine), cosine).unsqueeze(-2) * left
    out = out / (sine + torch.finfo(sine.dtype).tiny).unsqueeze(-2)
    return torch.atan2(sine, cosine.abs()), left, right, out


def _done(result: Tensor, *sources: Tensor) -> Tensor:
    return no_derivative(HIGHER_ORDER, result, *sources) if torch.is_grad_enabled() else result


def _halves(m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric and the antisymmetric part."""
    return (m + m.mT) / 2, (m - m.mT) / 2


def _pull(p: Principal, across: Tensor, outside: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``along`` and ``off`` from that of N and, per column, that of the part beyond W.

    ``outside`` (m x p) is multiplied by the ratio of lengths (..., p) that a movement beyond W gets.
    """
    sine, cosine = p.angles.sin().unsqueeze(-1), p.angles.cos().unsqueeze(-1)
    outside = outside * ratio.unsqueeze(-2)
    inside = p.out.mT @ outside
    grad_off = (p.out @ (cosine * across - inside) + outside) @ p.right
    return -p.left @ (sine * across) @ p.right, grad_off


class _SquaredLength(Function):
    """The sum of the squared angles."""

    generate_vmap_rule = True

    @staticmethod
    def forward(along: Tensor, off: Tensor, angles: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        return angles.square().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        along, off, angles, left, right, out = ctx.saved_tensors
        twice = 2 * g.unsqueeze(-1) * angles
        grad_along = left @ ((-twice * angles.sin()).unsqueeze(-1) * right)
        grad_off = out @ ((twice * angles.cos()).unsqueeze(-1) * right)
        return _done(grad_along, along, off, g), _done(grad_off, along, off, g), None, None, None, None


class _Velocity(Function):
    """D = W theta V^T, whose exponential is the frame."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(along: Tensor, off: Tensor, angles: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        return (out * angles.unsqueeze(-2)) @ left.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        p = Principal(*ctx.saved_tensors)
        outside = g @ p.left
        even, odd = _halves(p.out.mT @ outside)
        tiny = torch.finfo(p.angles.dtype).tiny ** 0.5
        minus, plus = _sums(p.angles, tiny)
        across = even * (minus / minus.sin()) + odd * (plus / plus.sin())
        along, off = _pull(p, across, outside, (p.angles + tiny) / (p.angles.sin() + tiny))
        return _done(along, p.along, p.off, g), _done(off, p.along, p.off, g), None, None, None, None


def _sums(angles: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """Return the differences and the sums of angles, moved off 0 by a number that changes nothing else."""
    row, column = angles.unsqueeze(-1), angles.unsqueeze(-2)
    return row - column + tiny, row + column + tiny


class _Dilate(Function):
    """``[V cos(t theta) V^T; W sin(t theta) V^T]``: the exponential of t times the velocity, as a whole frame."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(
        along: Tensor, off: Tensor, angles: Tensor, left: Tensor, right: Tensor, out: Tensor, t: Tensor
    ) -> Tensor:
        turned = (t.unsqueeze(-1) * angles).unsqueeze(-2)
        return torch.cat([left * turned.cos(), out * turned.sin()], -2) @ left.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        *saved, t = ctx.saved_tensors
        p = Principal(*saved)
        turned = t.unsqueeze(-1) * p.angles
        sine, cosine = turned.sin(), turned.cos()
        g = g @ p.left
        size = p.left.shape[-1]
        top, outside = p.left.mT @ g[..., :size, :], g[..., size:, :]
        bottom = p.out.mT @ outside
        horizontal = cosine.unsqueeze(-1) * bottom - sine.unsqueeze(-1) * top
        vertical = cosine.unsqueeze(-1) * top + sine.unsqueeze(-1) * bottom
        grad_t = (p.angles * horizontal.diagonal(dim1=-2, dim2=-1)).sum(-1)
        minus, minus_turn, plus, plus_turn = _ratios(p.angles, t, sine, cosine)
        even, _ = _halves(minus * (horizontal + minus_turn * vertical))
        _, odd = _halves(plus * (horizontal + plus_turn * vertical))
        tiny = torch.finfo(t.dtype).tiny ** 0.5
        ratio = (sine + t.unsqueeze(-1) * tiny) / (p.angles.sin() + tiny)
        along, off = _pull(p, even + odd, outside, ratio)
        sources = (p.along, p.off, ctx.saved_tensors[-1], g)
        return _done(along, *sources), _done(off, *sources), None, None, None, None, _done(grad_t, *sources)


def _ratios(angles: Tensor, t: Tensor, sine: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``sin(t x) / sin x`` and ``tan(t x / 2)`` for the differences and for the sums x of angles."""
    minus, plus = _sums(angles, torch.finfo(angles.dtype).tiny ** 0.5)
    t = t.unsqueeze(-1).unsqueeze(-1)
    s, c = sine.unsqueeze(-1), cosine.unsqueeze(-1)
    product, other = c * c.mT, s * s.mT
    gap = (t * minus).sin()
    total = (t * plus).sin()
    return gap / minus.sin(), gap / (1 + product + other), total / plus.sin(), total / (1 + product - other)


def squared_length(p: Principal) -> Tensor:
    """Return the squared distance from the base, (...)."""
    return call(_SquaredLength, *p)


def velocity(p: Principal) -> Tensor:
    """Return the logarithm (..., m, p) in the frame of the base."""
    return call(_Velocity, *p)


def dilate(p: Principal, t: Tensor | float) -> Tensor:
    """Return the frame at ``t`` times the way from the base, (..., p + m, p); ``t`` (...) may carry a gradient.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.principal import dilate, principal
    >>> dilate(principal(torch.zeros(1, 1), torch.ones(1, 1)), 2.0).T
    tensor([[-1.0000e+00, -8.7423e-08]])
    """
    t = torch.as_tensor(t, dtype=p.angles.dtype, device=p.angles.device)
    shape = torch.broadcast_shapes(t.shape, p.angles.shape[:-1])
    frame = (x.expand(shape + x.shape[-2:]) for x in (p.along, p.off))
    bases = (x.expand(shape + x.shape[-2:]) for x in (p.left, p.right, p.out))
    return call(_Dilate, *frame, p.angles.expand(*shape, -1), *bases, t.expand(shape))
