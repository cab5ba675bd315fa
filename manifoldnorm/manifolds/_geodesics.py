"""Geodesics of a kernel metric on symmetric matrices: Hamilton's equations, and shooting for their end point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._implicit import newton_step
from manifoldnorm.linalg.pair_differences import PairFunction, slope
from manifoldnorm.linalg.pair_maps import energy_flow, exp_difference, pair_map

Accuracy = tuple[int, tuple[int, ...]]  # steps, and the substeps that are extrapolated, to an order of the last one
_FINE: Accuracy = (3, (2, 4, 6, 8, 10, 12))
_COARSE: Accuracy = (2, (2, 4, 6))
_ENOUGH = 8.0  # in units of eps: a miss below that is rounding
# shots, their accuracy, and the relative miss with which they may end
_SHOTS = ((8, _COARSE, 1e-8), (5, _FINE, 0.0))
_SMALL_EXPONENT = 0.05
_NOISE = 1e-9


def _slope(state: Tensor, kernel: PairFunction) -> Tensor:
    """Return Hamilton's equations for states (..., 2, n, n) of position and momentum."""
    position, momentum = state.unbind(-3)
    velocity, force = energy_flow(linalg.decompose(position, name="geodesic"), momentum, kernel)
    return torch.stack([velocity, -force], -3)


def _midpoints(state: Tensor, start: Tensor, h: float, counts: tuple[int, ...], kernel: PairFunction) -> list[Tensor]:
    """Return Gragg's midpoint rule for several even numbers of substeps, ascending, all at once.

    Its error is a series in the squared substep.
    """
    step = state.new_tensor([h / count for count in counts]).reshape(-1, *(1,) * state.ndim)
    before, now = state.expand(len(counts), *state.shape), state + step * start
    ends: list[Tensor] = []
    for taken in range(1, counts[-1] + 1):
        move = step * _slope(now, kernel)
        if taken == counts[len(ends)]:
            ends.append((now[0] + before[0] + move[0]) / 2)
            before, now, step, move = before[1:], now[1:], step[1:], move[1:]
        before, now = now, before + 2 * move
    return ends


def flow(position: Tensor, velocity: Tensor, kernel: PairFunction, accuracy: Accuracy = _FINE) -> Tensor:
    """Return where the geodesic from ``position`` with ``velocity`` is at time one.

    Bulirsch and Stoer's extrapolation, with fixed steps and orders; differentiable once.
    """
    momentum = pair_map(linalg.decompose(position, name="geodesic"), velocity, lambda a, b: 1 / kernel(a, b))
    state = torch.stack(torch.broadcast_tensors(position, momentum), -3)
    steps, levels = accuracy
    for _ in range(steps):
        row: list[Tensor] = []
        for i, end in enumerate(_midpoints(state, _slope(state, kernel), 1 / steps, levels, kernel)):
            new = [end]
            for j in range(i):
                ratio = (levels[i] / levels[i - j - 1]) ** 2
                new.append(new[j] + (new[j] - row[j]) / (ratio - 1))
            row = new
        state = row[-1]
    return state.select(-3, 0)


def _basis(n: int, like: Tensor) -> Tensor:
    """Return an orthonormal basis (d, n, n) of the symmetric matrices."""
    i, j = torch.tril_indices(n, n, device=like.device)
    basis = torch.zeros(len(i), n, n, dtype=like.dtype, device=like.device)
    size = (i == j).to(like.dtype).add_(1).div_(2).sqrt_()
    each = torch.arange(len(i), device=like.device)
    basis[each, i, j] = size
    basis[each, j, i] = size
    return basis


def _coordinates(a: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("...ij,dij->...d", a, basis)


def _straightening(p: Tensor, kernel: PairFunction) -> tuple[Tensor, Tensor]:
    """Return c and m (*batch, 1, 1) such that ``exp(c (s - m)) / c`` makes commuting geodesics from p nearly straight.

    Exactly straight for a homogeneous kernel: c is half the rate at which ``kernel(a, a)`` falls.
    """
    centre = p.diagonal(dim1=-2, dim2=-1).mean(-1)
    rate = slope(lambda a, _: kernel(a, a).log() / -2)(centre, centre)
    # 0 would be the logarithm itself, which a small exponent resembles without dividing rounding errors by zero
    rate = torch.where(rate.abs() < _SMALL_EXPONENT, _SMALL_EXPONENT, rate)
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    return rate[..., None, None], centre[..., None, None] * eye


def _broyden(p: Tensor, q: Tensor, kernel: PairFunction) -> Tensor:
    """Return the velocity from p to q: Broyden's method from the straight line in a power chart, best iterate."""
    basis = _basis(p.shape[-1], p)
    rate, shift = _straightening(p, kernel)

    def chart(s: Tensor) -> Tensor:
        return linalg.expm(rate * (s - shift)) / rate

    at_p = linalg.decompose(rate * (p - shift), name="log")

    def velocity(w: Tensor) -> Tensor:
        """Return the vector that the chart pushes to the one with coordinates w."""
        pushed = torch.einsum("...d,dij->...ij", w, basis)
        return pair_map(at_p, pushed, lambda a, b: 1 / exp_difference(a, b))

    target = chart(q)
    w = _coordinates(target - chart(p), basis)
    inverse = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device).expand(*w.shape, w.shape[-1])
    size = 1 + target.square().sum((-2, -1)).sqrt()
    for shots, accuracy, tolerance in _SHOTS:

        def miss(w: Tensor, accuracy: Accuracy = accuracy) -> Tensor:
            return _coordinates(target - chart(flow(p, velocity(w), kernel, accuracy)), basis)

        near = size * max(tolerance, _ENOUGH * torch.finfo(w.dtype).eps)
        w, inverse = _iterate(miss, w, inverse, shots, near)
    return velocity(w)


def _iterate(
    miss: Callable[[Tensor], Tensor], w: Tensor, inverse: Tensor, shots: int, near: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the best of Broyden's iterates (..., d) for ``miss(w) = 0``, and his inverse Jacobian (..., d, d).

    Where looking at values costs nothing, they end when all samples miss by less than ``near`` (...).
    """
    residual = miss(w)
    best, least = w, residual.square().sum(-1, keepdim=True)
    limit = near.square().unsqueeze(-1)
    for _ in range(shots):
        if plain(least) and bool((least <= limit).all()):
            break
        step = (inverse @ residual.unsqueeze(-1)).squeeze(-1)
        w = w + step
        new = miss(w)
        image = (inverse @ (residual - new).unsqueeze(-1)).squeeze(-1)
        row = (step.unsqueeze(-2) @ inverse).squeeze(-2)
        curvature = (step * image).sum(-1, keepdim=True)
        # a step of the size of rounding errors teaches nothing
        sound = (step.square().sum(-1, keepdim=True) > _NOISE**2 * w.square().sum(-1, keepdim=True)) & (curvature != 0)
        change = torch.where(sound, (step - image) / torch.where(sound, curvature, 1.0), 0.0)
        inverse = inverse + change.unsqueeze(-1) * row.unsqueeze(-2)
        residual = new
        size = residual.square().sum(-1, keepdim=True)
        better = size < least
        best, least = torch.where(better, w, best), torch.where(better, size, least)
    return best, inverse


def _jacobian(p: Tensor, v: Tensor, basis: Tensor, kernel: PairFunction) -> Tensor:
    """Return the derivative (..., d, d) of the flow in the velocity, in coordinates: d vector-Jacobian products."""
    shape = (*v.shape[:-2], *basis.shape)
    base = p.unsqueeze(-3).expand(shape)
    rows = torch.func.vjp(lambda w: flow(base, w, kernel), v.unsqueeze(-3).expand(shape))[1](basis.expand(shape))[0]
    return _coordinates(rows, basis)


def shoot_at(p: Tensor, q: Tensor, kernel: PairFunction) -> Tensor:
    """Return the velocity at ``p`` of the geodesic that is at ``q`` at time one, with the implicit gradient."""
    p, q = torch.broadcast_tensors(p, q)
    basis = _basis(p.shape[-1], p)
    fixed = p.detach()
    velocity = _broyden(fixed, q.detach(), kernel).detach()
    if not (torch.is_grad_enabled() and (p.requires_grad or q.requires_grad)):
        return velocity
    jacobian = _jacobian(fixed, velocity, basis, kernel).detach()
    residual = _coordinates(q - flow(p, velocity, kernel), basis)
    return torch.einsum("...d,dij->...ij", newton_step(_coordinates(velocity, basis), jacobian, residual), basis)
