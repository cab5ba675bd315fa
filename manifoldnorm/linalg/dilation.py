"""Whiten, raise to a power, colour: the affine-invariant norm's path from input to output, from one decomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._basis import HIGHER_ORDER, clamped, diagonal, no_derivative
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import congruence, symmetrize, without_autocast
from manifoldnorm.linalg.spectrum import Spectrum, decompose


def _total(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """Return ``sum left^H right`` over the batch dimensions before the last ``groups`` ones."""
    n = left.shape[-1]
    if groups == 0:
        return left.reshape(-1, n).mH @ right.reshape(-1, n)
    product = left.mH @ right
    return product.sum(tuple(range(product.ndim - 2 - groups)))


class _Dilate(Function):
    """F = K (A X A^H)^t K^H with A X A^H = U W U^H given: both congruences are folded into the eigenvectors.

    With rows P^H = U^H K^H and Q^H = U^H A: dL/dX = Q (k o P^H G P) Q^H with the divided differences k of the power.
    """

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(x: Tensor, a: Tensor, w: Tensor, uh: Tensor, t: Tensor, k: Tensor | None) -> tuple[Tensor, Tensor]:
        power = fn.POWER.value(clamped(x, w, fn.POWER), t)
        rows = uh.clone() if k is None else uh @ k.to(uh.dtype).mH
        return ((rows.mH * power.unsqueeze(-2)) @ rows).to(x.dtype), rows

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor, _: Any) -> Any:
        x, a, w, uh, t, k, rows = ctx.saved_tensors
        needs_x, needs_a, _, _, needs_t, needs_k = ctx.needs_input_grad

        def done(result: Tensor) -> Tensor:
            return no_derivative(HIGHER_ORDER, result, x, a, g, t, k) if torch.is_grad_enabled() else result

        w = clamped(x, w, fn.POWER)
        half = rows @ symmetrize(g.to(uh.dtype))
        inner = half @ rows.mH
        grad_t = grad_k = grad_x = grad_a = None
        if needs_t:
            grad_t = done((diagonal(inner) * fn.POWER_LOG.value(w, t)).sum(-1))
        if needs_k and k is not None:
            weighted = half * fn.POWER.value(w, t).unsqueeze(-1)
            grad_k = done(2 * _total(weighted, uh, k.ndim - 2)).to(k.dtype)
        if needs_x or needs_a:
            inner = inner.mul_(fn.POWER.divided(w, t))
        if needs_x:
            rows = uh @ a.to(uh.dtype)
            grad_x = done((rows.mH @ inner @ rows).to(x.dtype))
        if needs_a:
            moved = uh.mH @ inner @ uh
            grad_a = done(2 * _total(moved.mH, a.to(uh.dtype) @ x.to(uh.dtype), a.ndim - 2)).to(a.dtype)
        return grad_x, grad_a, None, None, grad_t, grad_k


def whiten(a: Tensor, x: Tensor, name: str) -> tuple[Spectrum, Callable[[Tensor, Tensor | None], Tensor]]:
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
        exponent = torch.as_tensor(t, device=x.device).to(spectrum.values.dtype)
        exponent = exponent.expand(spectrum.values.shape[:-1])
        return call(_Dilate, x, a, spectrum.values, spectrum.vectors_h, exponent, k)[0]

    return spectrum, power
