"""Geodesics of Stiefel manifolds, and their logarithm: a shooting equation with an implicit gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import symmetrize

STEPS, MEMORY, STATIONS = 16, 8, 4


def tangent(p: Tensor, v: Tensor) -> Tensor:
    """Return ``v - p sym(p^H v)``."""
    return v - p @ symmetrize(p.mH @ v)


def _matrix_exp(m: Tensor) -> Tensor:
    """Return the matrix exponential; torch (2.13) takes too low a degree for one small matrix, but not for two."""
    if m.shape[:-2].numel() != 1:
        return torch.linalg.matrix_exp(m)
    return torch.linalg.matrix_exp(torch.stack([m, m]))[0]


def stations(p: Tensor, v: Tensor, count: int) -> list[Tensor]:
    """Return the points at times 1/count, 2/count, ..., 1 of the geodesic from ``p`` with velocity ``v``.

    At time t it is at ``[p, v] exp(t [[a, -s], [1, a]]) [exp(-t a); 0]`` with ``a = p^H v`` and ``s = v^H v``.
    """
    size = p.shape[-1]
    a, s = p.mH @ v / count, v.mH @ v / count
    a, s = (a - a.mH) / 2, s.expand(torch.broadcast_shapes(a.shape, s.shape))
    a = a.expand_as(s)
    eye = torch.eye(size, dtype=a.dtype, device=a.device).expand_as(a) / count
    step = _matrix_exp(torch.cat([torch.cat([a, -s], -1), torch.cat([eye, a], -1)], -2))
    back = _matrix_exp(-a)
    columns = step[..., :size] @ back
    points = []
    for _ in range(count):
        top, bottom = columns.split([size, size], -2)
        points.append(p @ top + v @ bottom)
        columns = step @ columns @ back
    return points


def exp(p: Tensor, v: Tensor) -> Tensor:
    """Return the end of the geodesic from ``p`` with velocity ``v``."""
    return stations(p, v, 1)[0]


def _miss(v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return by how much the geodesic with velocity ``v`` misses ``q``; 0 only for tangent ``v``.

    The gap at the end is carried to ``p`` by projections along the way, which approximates parallel transport.
    """
    flat = tangent(p, v)
    *way, end = stations(p, flat, STATIONS)
    gap = q - end
    for point in [*reversed(way), p]:
        gap = tangent(point, gap)
    return gap - (v - flat)


def anderson(residual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the root near ``x`` of a map close to minus the identity, after a fixed number of accelerated steps.

    Each step takes the combination of the last iterates whose residuals cancel best. The best iterate is returned.
    """
    axes = (-2, -1)
    f = residual(x)
    best, smallest = x, f.abs().square().sum(axes, keepdim=True)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(STEPS):
        move = f
        if steps:
            past, change = torch.stack(steps), torch.stack(changes)
            gram = torch.einsum("i...ab,j...ab->...ij", change.conj(), change).real
            side = torch.einsum("i...ab,...ab->...i", change.conj(), f).real
            scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + torch.finfo(gram.dtype).tiny
            ridge = torch.finfo(gram.dtype).eps * torch.eye(len(steps), dtype=gram.dtype, device=gram.device)
            weights = torch.linalg.solve_ex(gram / scale + ridge, (side / scale[..., 0]).unsqueeze(-1))[0].squeeze(-1)
            move = f - torch.einsum("...i,i...ab->...ab", weights.to(f.dtype), past + change)
        new = x + move
        value = residual(new)
        steps, changes = [*steps, move][-MEMORY:], [*changes, value - f][-MEMORY:]
        x, f = new, value
        size = f.abs().square().sum(axes, keepdim=True)
        better = size < smallest
        best, smallest = torch.where(better, x, best), torch.where(better, size, smallest)
    return best


class _Log(Function):
    """The velocity; backward solves the adjoint of the linearised shooting equation."""

    @staticmethod
    def forward(p: Tensor, q: Tensor) -> Tensor:
        return anderson(lambda v: _miss(v, p, q), tangent(p, q - p))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        with torch.enable_grad():
            p, q, v = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            miss = _miss(v, p, q)

        def pull(m: Tensor) -> Tensor:
            return torch.autograd.grad(miss, v, m, retain_graph=True)[0]

        solved = anderson(lambda m: g + pull(m), g)
        return torch.autograd.grad(miss, (p, q), solved)


def log(p: Tensor, q: Tensor) -> Tensor:
    """Return the tangent vector at ``p`` whose exponential is ``q``, NaN where none was found; differentiable once."""
    shape = torch.broadcast_shapes(p.shape, q.shape)
    v = _Log.apply(p.expand(shape), q.expand(shape))
    with torch.no_grad():
        # frames of single precision meet only up to their rounding, but what is left has no tangent part
        gap, miss = (torch.linalg.matrix_norm(t)[..., None, None] for t in (exp(p, v) - q, _miss(v, p, q)))
        found = (miss <= torch.finfo(gap.dtype).eps ** 0.75) & (gap <= 1e-3)
    return torch.where(found, v, torch.nan)
