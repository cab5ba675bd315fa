"""Autograd Functions of decomposed matrices: first and second divided differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._basis import (
    HIGHER_ORDER,
    clamped,
    diagonal,
    from_basis,
    no_derivative,
    rebuild,
    to_basis,
    weigh,
)
from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import real_dtype, symmetrize, without_autocast
from manifoldnorm.linalg._spectral_function import SpectralFunction


class Apply(Function):
    """F = f(A), with backward by first divided differences."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, p: Tensor | None, f: SpectralFunction) -> Tensor:
        return rebuild(uh, f.value(clamped(a, w, f), p)).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, p, f = inputs
        ctx.save_for_backward(a, w, uh, p)
        ctx.f = f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, p = ctx.saved_tensors
        if p is None:
            return call(Vjp, a, w, uh, None, g, ctx.f), None, None, None, None
        grad_a, grad_p = call(Vjp, a, w, uh, p, g, ctx.f)
        return grad_a, None, None, grad_p, None


class Vjp(Function):
    """(A, p, G) -> (U (K o U^H G U) U^H, <G, df/dp (A)>), with backward by second divided differences."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, p: Tensor | None, g: Tensor, f: SpectralFunction) -> Any:
        w, g = clamped(a, w, f), g.to(uh.dtype)
        if f.native is not None and g.shape == uh.shape and _fused.usable(uh, g, real=(w, p)):
            grad_a, inner, _ = _fused.adjoint(f, w, p, uh, g)
        else:
            grad_a, inner = weigh(uh, f.divided(w, p), g)
        if p is None:
            return grad_a.to(a.dtype)
        assert f.parameter is not None
        return grad_a.to(a.dtype), (inner * f.parameter.value(w, p)).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, p, g, f = inputs
        ctx.save_for_backward(a, w, uh, p, g)
        ctx.f = f

    @staticmethod
    @without_autocast
    def backward(ctx: Any, c: Tensor, cp: Tensor | None = None) -> Any:
        a, w, uh, p, g = ctx.saved_tensors
        f = ctx.f

        def done(result: Tensor) -> Tensor:
            return no_derivative(HIGHER_ORDER, result, a, p, g, c, cp)

        w = clamped(a, w, f)
        gh = to_basis(uh, symmetrize(g.to(uh.dtype))).detach()
        ch = to_basis(uh, symmetrize(c.to(uh.dtype))).detach()
        first = f.divided(w, p)
        to_g = first * ch
        second = f.divided2(w, p).to(gh.dtype)
        to_a = torch.einsum("...ikj,...ik,...kj->...ij", second, gh, ch)
        to_a = to_a + torch.einsum("...ikj,...ik,...kj->...ij", second, ch, gh)
        grad_p = None
        if p is not None and cp is not None:
            slope = f.parameter
            q1, k1 = slope.value(w, p), slope.divided(w, p)
            weight = cp.detach()[..., None, None].to(gh.dtype)
            to_g = to_g + weight * torch.diag_embed(q1).to(gh.dtype)
            to_a = to_a + weight * k1 * gh
            mixed = (k1 * (ch.conj() * gh).real if gh.is_complex() else k1 * ch * gh).sum((-2, -1))
            curved = slope.parameter.value(w, p) if slope.parameter is not None else torch.zeros_like(w)
            grad_p = done(mixed + cp.detach() * (diagonal(gh) * curved).sum(-1))
        grad_a = done(symmetrize(from_basis(uh, to_a)).to(a.dtype))
        grad_g = done(from_basis(uh, to_g).to(g.dtype))
        return grad_a, None, None, grad_p, grad_g, None


class SpectralSum(Function):
    """sum_i f(w_i), whose gradient is the matrix f'(A)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, w: Tensor, uh: Tensor, kind: str) -> Tensor:
        log = clamped(a, w, fn.LOG).log()
        return (log.square() if kind == "log2" else log).sum(-1).to(real_dtype(a.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, kind = inputs
        ctx.save_for_backward(a, w, uh)
        ctx.kind = kind

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh = ctx.saved_tensors
        inverse = w.new_full(w.shape[:-1], -1.0)
        if ctx.kind == "log2":
            slope = 2 * call(Apply, a, w, uh, inverse, fn.POWER_LOG)
        else:
            slope = call(Apply, a, w, uh, inverse, fn.POWER)
        return g[..., None, None] * slope, None, None, None


class WeightedApply(Function):
    """sum_i w_i f(A_i) over dimension 0 as one matrix product, with the backward of `Apply` per sample."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, weights: Tensor, f: SpectralFunction) -> Tensor:
        values = f.value(clamped(a, w, f), None) * weights.unsqueeze(-1)
        n = a.shape[-1]
        if a.ndim == 3:
            rows = uh.reshape(-1, n)
            return (rows.mH @ (values.reshape(-1, 1) * rows)).to(a.dtype)
        return rebuild(uh, values).sum(0).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, weights, f = inputs
        ctx.save_for_backward(a, w, uh, weights)
        ctx.f = f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, weights = ctx.saved_tensors
        share = (weights[..., None, None] * g).to(a.dtype)
        grad_a = call(Vjp, a, w, uh, None, share, ctx.f) if ctx.needs_input_grad[0] else None
        grad_w = None
        if ctx.needs_input_grad[3]:
            values = call(Apply, a, w, uh, None, ctx.f)
            product = (g.conj() * values).sum((-2, -1))
            grad_w = (product.real if product.is_complex() else product).to(weights.dtype)
        return grad_a, None, None, grad_w, None
