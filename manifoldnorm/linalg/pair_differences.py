"""Divided differences of a smooth function of two numbers at all pairs of eigenvalues, without cancellation.

Where arguments are close, Gauss rules of a derivative (Hermite and Genocchi); elsewhere quotients. Derivatives come
from automatic differentiation of the function, which must be elementwise and smooth over distances of about one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._quadrature import gauss_legendre

PairFunction = Callable[[Tensor, Tensor], Tensor]

_CLOSE = 0.5
_NODES, _WEIGHTS = gauss_legendre(6)


def _rule(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of the Gauss rule on (0, 1)."""
    return like.new_tensor(_NODES), like.new_tensor(_WEIGHTS)


def slope(f: PairFunction) -> PairFunction:
    """Return the derivative of an elementwise function in its first argument."""

    def derivative(a: Tensor, b: Tensor) -> Tensor:
        a, b = torch.broadcast_tensors(a, b)
        if not plain(a) or not plain(b):
            value, pull = torch.func.vjp(lambda x: f(x, b), a)[:2]
            return pull(torch.ones_like(value))[0]
        nested = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        with torch.enable_grad():  # a third of the time of the above
            x = a if nested and a.requires_grad else a.detach().requires_grad_()
            value = f(x, b if nested else b.detach())
            if not value.requires_grad:
                return torch.zeros_like(a)
            ones = torch.ones_like(value)
            return torch.autograd.grad(value, x, ones, create_graph=nested, materialize_grads=True)[0]

    return derivative


def _flipped(f: PairFunction) -> PairFunction:
    return lambda a, b: f(b, a)


def _across(f: PairFunction, x: Tensor, z: Tensor, y: Tensor, values: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return ``f[x, z; y]``, the divided difference in the first argument; ``values`` are f(x, y) and f(z, y)."""
    gap = x - z
    close = gap.abs() <= _CLOSE
    short, long = torch.where(close, gap, 0.0), torch.where(close, 1.0, gap)
    t, weights = _rule(gap)
    smooth = slope(f)(z.unsqueeze(-1) + t * short.unsqueeze(-1), y.unsqueeze(-1)) @ weights
    at_x, at_z = values or (f(x, y), f(z, y))
    return torch.where(close, smooth, (at_x - at_z) / long)


def first_differences(f: PairFunction, a: Tensor) -> Tensor:
    """Return ``f[a_i, a_k; a_l]`` (..., i, k, l) for eigenvalues (..., n).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.pair_differences import first_differences
    >>> first_differences(lambda x, y: x * x * y, torch.tensor([1.0, 2.0]))[0, 1]
    tensor([3., 6.])
    """
    values = f(a.unsqueeze(-1), a.unsqueeze(-2))
    values_of = values.unsqueeze(-2), values.unsqueeze(-3)
    return _across(f, a[..., :, None, None], a[..., None, :, None], a[..., None, None, :], values_of)


def mixed_differences(f: PairFunction, a: Tensor) -> Tensor:
    """Return ``f[a_i, a_k; a_m, a_l]`` (..., i, k, m, l) for a symmetric function."""
    i, k = a[..., :, None, None, None], a[..., None, :, None, None]
    m, n = a[..., None, None, :, None], a[..., None, None, None, :]
    gap = m - n
    close = gap.abs() <= _CLOSE
    short, long = torch.where(close, gap, 0.0), torch.where(close, 1.0, gap)
    in_second = _flipped(slope(_flipped(f)))
    t, weights = _rule(a)
    smooth = _across(in_second, i.unsqueeze(-1), k.unsqueeze(-1), n.unsqueeze(-1) + t * short.unsqueeze(-1)) @ weights
    return torch.where(close, smooth, (_across(f, i, k, m) - _across(f, i, k, n)) / long)


def second_differences(f: PairFunction, a: Tensor) -> Tensor:
    """Return ``f[a_i, a_k, a_m; a_l]`` (..., i, k, m, l)."""
    x, z = a[..., :, None, None, None], a[..., None, :, None, None]
    u, y = a[..., None, None, :, None], a[..., None, None, None, :]
    first = first_differences(f, a)
    xz, zu, xu = first[..., :, :, None, :], first[..., None, :, :, :], first[..., :, None, :, :]
    gap_xz, gap_zu, gap_xu = torch.broadcast_tensors(x - z, z - u, x - u)
    widest = torch.maximum(torch.maximum(gap_xz.abs(), gap_zu.abs()), gap_xu.abs())
    lead_xz = gap_xz.abs() == widest
    lead_zu = ~lead_xz & (gap_zu.abs() == widest)
    gap = torch.where(lead_xz, gap_xz, torch.where(lead_zu, gap_zu, gap_xu))
    rise = torch.where(lead_xz, xu - zu, torch.where(lead_zu, xz - xu, xz - zu))
    close = widest <= _CLOSE
    zx, uz = torch.where(close, -gap_xz, 0.0), torch.where(close, -gap_zu, 0.0)
    t, weights = _rule(a)
    far, near = t.repeat_interleave(len(t)), t.repeat(len(t))  # of the triangle 0 < far near < far < 1
    point = x.unsqueeze(-1) + far * (zx.unsqueeze(-1) + near * uz.unsqueeze(-1))
    weight = weights.repeat_interleave(len(t)) * weights.repeat(len(t)) * far
    smooth = slope(slope(f))(point, y.unsqueeze(-1)) @ weight
    return torch.where(close, smooth, rise / torch.where(close, 1.0, gap))
