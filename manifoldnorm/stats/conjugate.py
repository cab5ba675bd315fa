"""Conjugate gradients in a fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], r: Tensor, steps: int, axes: int, *, definite: bool = False
) -> Tensor:
    """Return nearly ``H^-1 r`` for a self-adjoint operator H: no host synchronisation, safe at r = 0.

    Parameters
    ----------
    apply : callable
        ``v -> H v``.
    r : Tensor
        Right-hand sides, vectors in the last ``axes`` dimensions.
    steps : int
        How many.
    axes : int
        Dimensions of one vector.
    definite : bool
        Whether H is known to be positive definite. Otherwise they stop, for each vector, at the first direction of
        negative curvature, at worst with a unit gradient step.
    """
    tiny = torch.finfo(r.dtype).tiny

    def inner(a: Tensor, b: Tensor) -> Tensor:
        product = (a.conj() * b).real if a.is_complex() else a * b
        return product.sum(tuple(range(-axes, 0)), keepdim=True)

    x, direction, square = torch.zeros_like(r), r, inner(r, r)
    convex: Tensor | None = None
    for step in range(steps):
        image = apply(direction)
        curvature = inner(direction, image)
        length = square / (curvature + tiny)
        if not definite:
            convex = curvature > 0 if convex is None else convex & (curvature > 0)
            length = torch.where(convex, length, 0.0 if step else 1.0)
        x = x + length * direction
        if step + 1 == steps:
            break
        r = r - length * image
        new_square = inner(r, r)
        direction = r + new_square / (square + tiny) * direction
        square = new_square
    return x
