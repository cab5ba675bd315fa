"""Principal angles between frames and a base, and what a batch norm does with them, fused: one decomposition each.

Frames lie here in rows: a frame with the parts ``A`` (p x p) along a base and ``R`` (m x p) off it is the pair of their
transposes, for which products with shared matrices are single large ones. With the cosines c and sines s of the
principal angles ``A = V c Z^T`` and ``R = W s Z^T``. To first order the frame moves by ``N = c W^T dR Z - s V^T dA Z``,
of which the symmetric part sees the differences of angles and the antisymmetric part their sums; the derivatives of
everything here are products with kernels of these two. They are exact at equal and vanishing angles and lose digits
only where the sum of two angles approaches pi. Differentiable once; second derivatives raise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _angles
from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import without_autocast
from manifoldnorm.linalg.spectrum import decompose


class Principal(NamedTuple):
    """Principal angles and vectors, without gradient, of the differentiable frame ``along`` (p x p), ``off`` (p x m).

    ``left`` holds V in columns, ``right`` Z^T in rows; ``W^T = right / sine @ off``. Angles below sqrt(eps) count as
    that much where they are divided by: nothing depends on W there, and the limit is the same.
    """

    along: Tensor
    off: Tensor
    angles: Tensor
    sine: Tensor
    left: Tensor
    right: Tensor

    @property
    def out(self) -> Tensor:
        """The vectors W in rows (p x m)."""
        return (self.right / self.sine.unsqueeze(-1)) @ self.off.detach()

    @property
    def ratio(self) -> Tensor:
        """``theta / sin(theta)``."""
        return self.angles / self.sine


def principal(along: Tensor, off: Tensor) -> Principal:
    """Return the principal angles and vectors of frames in rows.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.principal import principal
    >>> principal(torch.tensor([[-0.6]]), torch.tensor([[0.8]])).angles
    tensor([0.9273])
    """
    constant = off.detach()
    return Principal(along, off, *principal_bases(along.detach().mT, constant @ constant.mT))


@without_autocast
def principal_bases(along: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return angles, their sines, V and Z^T of ``A = V c Z^T`` and ``R^T R = Z s^2 Z^T``, without gradient.

    Small angles are read off the Gram matrix, right ones off ``A``.
    """
    _, squares, right = decompose(gram, name="principal angles")
    right, squares = right.to(gram.dtype), squares.to(gram.dtype)
    if _angles.usable(along, squares, right):
        return _angles.bases(along.mT, squares, right)
    # columns descend in length, so the factorisation leaves the good ones alone and completes the vanishing ones
    left, triangle = torch.linalg.qr(along @ right.mT)
    cosine = triangle.diagonal(dim1=-2, dim2=-1)
    sine = squares.clamp_min(torch.finfo(squares.dtype).eps).sqrt()
    left = torch.copysign(torch.ones_like(cosine), cosine).unsqueeze(-2) * left
    return torch.atan2(sine, cosine.abs()), sine, left, right


def _done(result: Tensor, *sources: Tensor) -> Tensor:
    return no_derivative(HIGHER_ORDER, result, *sources) if torch.is_grad_enabled() else result


def _pull(
    p: Principal, across: Tensor, inside: Tensor, ratio: Tensor, outside: Tensor, source: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``along`` and ``off`` from that of N and, per column, that of the part beyond W.

    The latter is ``outside @ source`` (p x m), of which ``inside`` is the part along W, times the ``ratio`` of lengths
    that a movement beyond W gets.
    """
    sine, cosine = p.sine.unsqueeze(-1), p.angles.cos().unsqueeze(-1)
    turned = p.right.mT @ (cosine * across - inside * ratio.unsqueeze(-2)).mT
    within = (turned / p.sine.unsqueeze(-2)) @ p.right @ p.off
    beyond = (p.right.mT * ratio.unsqueeze(-2)) @ outside @ source
    return -p.right.mT @ (sine * across).mT @ p.left.mT, within + beyond


class _SquaredLength(Function):
    """The sum of the squared angles."""

    generate_vmap_rule = True

    @staticmethod
    def forward(along: Tensor, off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor) -> Tensor:
        # what of an angle is only the floor of its sine does not count
        length = angles.square() - torch.where(sine <= torch.finfo(sine.dtype).eps ** 0.5, angles.square(), 0.0)
        return length.sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        along, off, angles, sine, left, right = ctx.saved_tensors
        if _angles.usable(off, angles, left, g):
            found = _angles.square_backward(off, angles, sine, left, right, g)
            return *(_done(grad, along, off, g) for grad in found), None, None, None, None
        twice = (2 * g.unsqueeze(-1) * angles / sine).unsqueeze(-1)
        grad_along = (right * -twice * sine.unsqueeze(-1).square()).mT @ left.mT
        grad_off = (right.mT @ (twice * angles.cos().unsqueeze(-1) * right)) @ off
        return _done(grad_along, along, off, g), _done(grad_off, along, off, g), None, None, None, None


class _Velocity(Function):
    """``D^T = V theta W^T`` (p x m), whose exponential is the frame."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(along: Tensor, off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if _angles.usable(off, angles, left):
            return _angles.shoot(off, angles, sine, left, right, None)
        return (left * (angles / sine).unsqueeze(-2)) @ right @ off

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        p = Principal(*ctx.saved_tensors)
        if _angles.usable(p.off, p.angles, p.left, g):
            found = _angles.velocity_backward(p.off, p.angles, p.sine, p.left, p.right, g)
            return *(_done(grad, p.along, p.off, g) for grad in found), None, None, None, None
        inside = (p.right / p.sine.unsqueeze(-1)) @ (p.off @ g.mT) @ p.left
        minus, plus = _sums(p.angles)
        minus, plus = minus / minus.sin(), plus / plus.sin()
        across = ((minus + plus) * inside + (minus - plus) * inside.mT) / 2
        along, off = _pull(p, across, inside, p.ratio, p.left.mT, g)
        return _done(along, p.along, p.off, g), _done(off, p.along, p.off, g), None, None, None, None


def _sums(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences and the sums of angles, moved off 0 by a number that changes nothing else."""
    tiny = torch.finfo(angles.dtype).tiny ** 0.5
    row, column = angles.unsqueeze(-1), angles.unsqueeze(-2)
    return row - column + tiny, row + column


class _Dilate(Function):
    """``[V cos(t theta) V^T, V sin(t theta) W^T]``: the exponential of t times the velocity, as a whole frame."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(
        along: Tensor, off: Tensor, angles: Tensor, sine: Tensor, left: Tensor, right: Tensor, t: Tensor
    ) -> Tensor:
        if _angles.usable(off, angles, left, t):
            return _angles.shoot(off, angles, sine, left, right, t)
        turned = t.unsqueeze(-1) * angles
        bottom = (left * (turned.sin() / sine).unsqueeze(-2)) @ right @ off
        return torch.cat([(left * turned.cos().unsqueeze(-2)) @ left.mT, bottom], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        *saved, t = ctx.saved_tensors
        p = Principal(*saved)
        sources = (p.along, p.off, t, g)
        if _angles.usable(p.off, p.angles, p.left, t, g):
            along, off, grad_t = _angles.dilate_backward(p.off, p.angles, p.sine, p.left, p.right, t, g)
            return _done(along, *sources), _done(off, *sources), None, None, None, None, _done(grad_t, *sources)
        turned = t.unsqueeze(-1) * p.angles
        sine, cosine = turned.sin(), turned.cos()
        size = p.left.shape[-1]
        source = g[..., size:]
        top = p.left.mT @ g[..., :size].mT @ p.left
        bottom = (p.right / p.sine.unsqueeze(-1)) @ (p.off @ source.mT) @ p.left
        horizontal = cosine.unsqueeze(-1) * bottom - sine.unsqueeze(-1) * top
        vertical = cosine.unsqueeze(-1) * top + sine.unsqueeze(-1) * bottom
        grad_t = (p.angles * horizontal.diagonal(dim1=-2, dim2=-1)).sum(-1)
        minus, minus_turn, plus, plus_turn = _ratios(p.angles, t, sine, cosine)
        even = minus * (horizontal + minus_turn * vertical)
        odd = plus * (horizontal + plus_turn * vertical)
        across = (even + even.mT + odd - odd.mT) / 2
        along, off = _pull(p, across, bottom, sine / p.sine, p.left.mT, source)
        return _done(along, *sources), _done(off, *sources), None, None, None, None, _done(grad_t, *sources)


def _ratios(angles: Tensor, t: Tensor, sine: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``sin(t x) / sin x`` and ``tan(t x / 2)`` for the differences and for the sums x of angles."""
    minus, plus = _sums(angles)
    t = t.unsqueeze(-1).unsqueeze(-1)
    s, c = sine.unsqueeze(-1), cosine.unsqueeze(-1)
    product, other = c * c.mT, s * s.mT
    gap, total = (t * minus).sin(), (t * plus).sin()
    return gap / minus.sin(), gap / (1 + product + other), total / plus.sin(), total / (1 + product - other)


def squared_length(p: Principal) -> Tensor:
    """Return the squared distance from the base, (...)."""
    return call(_SquaredLength, *p)


def velocity(p: Principal) -> Tensor:
    """Return the logarithm in rows (..., p, m)."""
    return call(_Velocity, *p)


def dilate(p: Principal, t: Tensor | float) -> Tensor:
    """Return the frame in rows (..., p, p + m) at ``t`` times the way; ``t`` (...) may carry a gradient.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.principal import dilate, principal
    >>> dilate(principal(torch.tensor([[0.6]]), torch.tensor([[0.8]])), 2.0)
    tensor([[-0.2800,  0.9600]])
    """
    t = torch.as_tensor(t, dtype=p.angles.dtype, device=p.angles.device)
    shape = torch.broadcast_shapes(t.shape, p.angles.shape[:-1])
    if shape == p.angles.shape[:-1]:
        return call(_Dilate, *p, t.expand(shape))
    along, off, left, right = (x.expand(shape + x.shape[-2:]) for x in (p.along, p.off, p.left, p.right))
    angles, sine = (x.expand(*shape, -1) for x in (p.angles, p.sine))
    return call(_Dilate, along, off, angles, sine, left, right, t.expand(shape))
