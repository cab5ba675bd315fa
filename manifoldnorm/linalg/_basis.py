"""Products in an eigenbasis, and results that have no further derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import symmetrize
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.linalg.native import chosen_on_device


def rebuild(vectors_h: Tensor, diagonal: Tensor) -> Tensor:
    """Return U diag(d) U^H."""
    if not torch.is_grad_enabled() and _fused.usable(vectors_h, real=(diagonal,)):
        return _fused.rebuild(diagonal, vectors_h)
    return (vectors_h.mH * diagonal.unsqueeze(-2)) @ vectors_h


def to_basis(vectors_h: Tensor, g: Tensor) -> Tensor:
    """Return U^H G U."""
    return vectors_h @ g @ vectors_h.mH


def from_basis(vectors_h: Tensor, g: Tensor) -> Tensor:
    """Return U G U^H."""
    return vectors_h.mH @ g @ vectors_h


def diagonal(m: Tensor) -> Tensor:
    """Return the real diagonal."""
    d = m.diagonal(dim1=-2, dim2=-1)
    return d.real if d.is_complex() else d


def weigh(vectors_h: Tensor, weights: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``U (K o U^H sym(G) U) U^H`` and the real diagonals of ``U^H sym(G) U``."""
    if plain(vectors_h, "cuda") and vectors_h.shape == g.shape:
        kernels = chosen_on_device(vectors_h, decompose=False)
        if kernels is not None:
            return kernels.adjoint(vectors_h, weights.expand_as(g), g)
    gh = to_basis(vectors_h, symmetrize(g))
    inner = diagonal(gh).clone()
    return from_basis(vectors_h, gh.mul_(weights)), inner


def clamped(a: Tensor, w: Tensor, f: SpectralFunction) -> Tensor:
    """Return the eigenvalues at which ``f`` is evaluated for a matrix of the dtype of ``a``."""
    return f.clamp(w, torch.finfo(a.dtype).eps)


HIGHER_ORDER = "manifoldnorm.linalg: this derivative is of higher order than is implemented."


class _NoDerivative(Function):
    """Identity whose backward raises ``reason``: marks a result of the sources s, t, ... that has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(reason: str, result: Tensor, s: Any, t: Any, u: Any, v: Any, w: Any) -> Tensor:
        return result.clone()  # a fixed number of sources: Dynamo cannot trace *sources here

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.reason = inputs[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, torch.ops.manifoldnorm.no_derivative(g, ctx.reason), None, None, None, None, None


def no_derivative(reason: str, result: Tensor, *sources: Tensor | None) -> Tensor:
    """Return ``result``, whose derivative in any of the sources raises ``reason``."""
    return _NoDerivative.apply(reason, result, *sources, *(None,) * (5 - len(sources)))
