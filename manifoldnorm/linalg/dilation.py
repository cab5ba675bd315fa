"""Whiten, raise to a power, colour: the affine-invariant norm's path from input to output, from one decomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._basis import HIGHER_ORDER, clamped, diagonal, no_derivative
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize, without_autocast
from manifoldnorm.linalg.congruence import congruence, summed
from manifoldnorm.linalg.spectrum import Spectrum, decompose


class _Dilate(Function):
    """F = K (A X A^H)^t K^H with A X A^H = U W U^H given: both congruences are folded into the eigenvectors.

    With rows P^H = U^H K^H and Q^H = U^H A: dL/dX = Q (k o P^H G P) Q^H with the divided differences k of the power.
    """

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(x: Tensor, a: Tensor, w: Tensor, uh: Tensor, t: Tensor, k: Tensor | None) -> Tensor:
        power = fn.POWER.value(clamped(x, w, fn.POWER), t)
        wide = None if k is None else k.to(uh.dtype)
        if _fits(uh, k) and _fused.usable(uh, wide, real=(power,)):
            return _fused.rebuild(power, uh, wide).to(x.dtype)
        rows = _coloured(uh, k)
        return ((rows.mH * power.unsqueeze(-2)) @ rows).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        x, a, w, uh, t, k = ctx.saved_tensors
        needs_x, needs_a, _, _, needs_t, needs_k = ctx.needs_input_grad

        def done(result: Tensor) -> Tensor:
            return no_derivative(HIGHER_ORDER, result, x, a, g, t, k) if torch.is_grad_enabled() else result

        w, g = clamped(x, w, fn.POWER), g.to(uh.dtype)
        grad_t = grad_k = grad_x = grad_a = None
        left, right = None if k is None else k.to(uh.dtype), a.to(uh.dtype)
        colour = needs_k and k is not None
        if _fits(uh, a) and _fits(uh, k) and _fused.usable(uh, g, left, right, real=(w, t)):
            outer = None if needs_a else right
            single = colour and k.ndim == 2
            grad_x, inner, grad_k = _fused.adjoint(fn.POWER, w, t, uh, g, left, outer, colour=single)
            if left is not None and colour and not single:
                power = _fused.rebuild(fn.POWER.value(w, t), uh)
                grad_k = 2 * summed(symmetrize(g), left @ power, k.ndim - 2)
            if needs_a:  # the gradient in A X A^H is wanted, too
                grad_a = done(2 * summed(grad_x, right @ x.to(uh.dtype), a.ndim - 2)).to(a.dtype)
                grad_x = _fused.congruence(right.mH, grad_x)
            grad_t = done((inner * fn.POWER_LOG.value(w, t)).sum(-1)) if needs_t else None
            grad_k = None if grad_k is None else done(grad_k.to(k.dtype))
            return done(grad_x.to(x.dtype)), grad_a, None, None, grad_t, grad_k
        rows = _coloured(uh, k)
        half = rows @ symmetrize(g)
        inner = half @ rows.mH
        if needs_t:
            grad_t = done((diagonal(inner) * fn.POWER_LOG.value(w, t)).sum(-1))
        if needs_k and k is not None:
            weighted = half * fn.POWER.value(w, t).unsqueeze(-1)
            grad_k = done(2 * summed(weighted, uh, k.ndim - 2)).to(k.dtype)
        if needs_x or needs_a:
            inner = inner.mul_(fn.POWER.divided(w, t))
        if needs_x:
            rows = uh @ a.to(uh.dtype)
            grad_x = done((rows.mH @ inner @ rows).to(x.dtype))
        if needs_a:
            moved = uh.mH @ inner @ uh
            grad_a = done(2 * summed(moved.mH, a.to(uh.dtype) @ x.to(uh.dtype), a.ndim - 2)).to(a.dtype)
        return grad_x, grad_a, None, None, grad_t, grad_k


def _fits(uh: Tensor, m: Tensor | None) -> bool:
    """Return whether a matrix, or several, broadcast against the batch and not beyond it."""
    return m is None or 2 <= m.ndim <= uh.ndim


def _coloured(uh: Tensor, k: Tensor | None) -> Tensor:
    return uh if k is None else uh @ k.to(uh.dtype).mH


def whiten(a: Tensor, x: Tensor, name: str) -> tuple[Spectrum, Callable[[Tensor | float, Tensor | None], Tensor]]:
    """Decompose ``A X A^H`` and return its spectrum with the map ``(t, K) -> K (A X A^H)^t K^H``.

    The map is differentiable once in X, A, t and K; a second derivative raises.

    Parameters
    ----------
    a : Tensor
        Invertible (..., n, n), broadcast against ``x`` from the right.
    x : Tensor
        Positive-definite (N, ..., n, n).
    name : str
        What error messages call the caller.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm import linalg
    >>> _, power = linalg.whiten(0.5 * torch.eye(2), 4 * torch.eye(2)[None], "example")
    >>> power(torch.tensor(3.0), 2 * torch.eye(2))[0].diagonal()
    tensor([4., 4.])
    """
    spectrum = decompose(congruence(a, x), positive=True, name=name)

    def power(t: Tensor | float, k: Tensor | None) -> Tensor:
        exponent = torch.as_tensor(t, dtype=spectrum.values.dtype, device=x.device)
        exponent = exponent.expand(spectrum.values.shape[:-1])
        return call(_Dilate, x, a, spectrum.values, spectrum.vectors_h, exponent, k)

    return spectrum, power
