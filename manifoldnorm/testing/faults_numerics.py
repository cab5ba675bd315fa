"""Faults of decompositions, derivatives and mean iterations."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg import _differentials, kernels
from manifoldnorm.linalg import functions as fn
from manifoldnorm.manifolds import bures
from manifoldnorm.nn import norm
from manifoldnorm.stats import EigenHessian, Frame, masked_weights, means, system
from manifoldnorm.testing.mutants import Mutant, swap

_cholesky = importlib.import_module("manifoldnorm.linalg.cholesky")  # the package's attribute is the function
_TRUE_LOG_DIVIDED = fn.Log.divided
_TRUE_SQRT_DIVIDED = fn.Sqrt.divided
_TRUE_POWER_VALUE = fn.Power.value
_TRUE_KERNEL_DIVIDED = kernels.SumKernel.divided


def _zero_on_ties(self: Any, w: Tensor, p: Tensor | None) -> Tensor:
    tied = (w.unsqueeze(-1) - w.unsqueeze(-2)).abs() < 1e-6 * w[..., -1:, None]
    return torch.where(tied, 0.0, _TRUE_LOG_DIVIDED(self, w, p))


def _plain_quotient(self: Any, w: Tensor, p: Tensor | None) -> Tensor:
    f = w.exp()
    return (f.unsqueeze(-1) - f.unsqueeze(-2)) / (w.unsqueeze(-1) - w.unsqueeze(-2))


def _derivative_everywhere(self: Any, w: Tensor, p: Tensor | None) -> Tensor:
    return 0.5 / ((w.unsqueeze(-1) + w.unsqueeze(-2)) / 2).sqrt()


def _no_slope_in_exponent(self: Any, w: Tensor, p: Tensor | None) -> Tensor:
    return _TRUE_POWER_VALUE(self, w, p) * (0.0 if self.logs else 1.0)


def _absolute_floor(self: Any, w: Tensor, eps: float) -> Tensor:
    return w.clamp_min(1e-6)


def _transposed_basis(vectors_h: Tensor, g: Tensor) -> Tensor:
    return vectors_h @ g @ vectors_h.mH


def _identity_solve(self: Any, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
    return residual


def _forward_only_correct(self: Any, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
    return residual + (_TRUE_SOLVE(self, residual.detach(), steps, 0) - residual.detach())


_TRUE_SOLVE = EigenHessian.solve


def _detached_step(manifold: Any, point: Tensor, x: Tensor, weights: Any, cg_steps: int, backward_steps: int) -> Tensor:
    return system.implicit_step(manifold, point, x.detach(), weights, cg_steps, backward_steps)


def _no_karcher_step(self: Any, manifold: Any, x: Tensor, weights: Tensor | None) -> Tensor:
    return manifold.arithmetic_start(x, weights)


def _no_iterations(manifold: Any, x: Tensor, weights: Any, steps: int, cg_steps: int, stop: Any = None) -> Tensor:
    return manifold.mean_start(x, weights)


def _flat_frame(basis: Tensor, outer: Tensor, left: Tensor, right: Tensor, curvature: Tensor) -> Frame:
    return Frame(basis, outer, left, right, torch.zeros_like(curvature))


def _unnormalised(valid: Tensor, weights: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    share, any_valid = masked_weights(valid, weights, dtype)
    return (share if weights is None else share * weights.sum()), any_valid


def _unmasked(valid: Tensor, weights: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    share, any_valid = masked_weights(torch.ones_like(valid), weights, dtype)
    return share, any_valid


NUMERICS_FAULTS = (
    Mutant(
        "divided difference at ties",
        "0 instead of f' where eigenvalues agree",
        "LogEuclidean",
        swap((fn.Log, "divided", _zero_on_ties)),
    ),
    Mutant(
        "divided difference as a quotient",
        "0 / 0 on the diagonal",
        "LogEuclidean",
        swap((fn.Exp, "divided", _plain_quotient)),
    ),
    Mutant(
        "derivative at the midpoint",
        "f'((a + b) / 2) instead of f[a, b]",
        "BuresWasserstein",
        swap((fn.Sqrt, "divided", _derivative_everywhere)),
    ),
    Mutant(
        "missing factor in a derivative",
        "half of f[a, b]",
        "BuresWasserstein",
        swap((fn.Sqrt, "divided", lambda self, w, p: _TRUE_SQRT_DIVIDED(self, w, p) / 2)),
    ),
    Mutant(
        "exponent without gradient",
        "d(w^p)/dp taken as 0",
        "Lie-AffineInvariant-learned-power",
        swap((fn.Power, "value", _no_slope_in_exponent)),
    ),
    Mutant(
        "absolute clamp",
        "eigenvalues below 1e-6 are raised, whatever the units",
        "Riemannian-AffineInvariant",
        swap((fn._Positive, "clamp", _absolute_floor)),
    ),
    Mutant(
        "transposed eigenbasis",
        "gradients leave the eigenbasis by the adjoint",
        "LogEuclidean",
        swap((_differentials, "from_basis", _transposed_basis)),
    ),
    Mutant(
        "Cholesky gradient with a whole diagonal",
        "half of it must go",
        "LogCholesky",
        swap((_cholesky, "_half", lambda g: 1.0)),
    ),
    Mutant(
        "sign of a kernel's derivative",
        "transport differentiates the wrong way",
        "BuresWasserstein",
        swap((kernels.SumKernel, "divided", lambda self, x, y: -_TRUE_KERNEL_DIVIDED(self, x, y))),
    ),
    Mutant(
        "Karcher step missing",
        "the arithmetic mean passes for it",
        "AffineInvariant",
        swap((means.Karcher, "_iterate", _no_karcher_step)),
    ),
    Mutant(
        "mean not iterated",
        "the first guess plus one step",
        "AffineInvariant",
        swap((system, "solve_mean", _no_iterations), (means, "solve_mean", _no_iterations)),
    ),
    Mutant(
        "Hessian taken as the identity",
        "Newton becomes Karcher",
        "AffineInvariant",
        swap((EigenHessian, "solve", _identity_solve)),
    ),
    Mutant(
        "curvature term missing",
        "the Bures-Wasserstein Hessian flat",
        "BuresWasserstein",
        swap((bures, "Frame", _flat_frame)),
        "it vanishes at the mean: only the number of steps to it grows, which benchmarks count",
    ),
    Mutant(
        "implicit gradient missing",
        "the mean's gradient without the Hessian",
        "AffineInvariant",
        swap((EigenHessian, "solve", _forward_only_correct)),
    ),
    Mutant(
        "mean without gradient",
        "samples detached in the last step",
        "Riemannian-AffineInvariant",
        swap((means, "implicit_step", _detached_step)),
    ),
    Mutant(
        "weights not normalised", "their scale enters", "Lie-LogCholesky", swap((norm, "masked_weights", _unnormalised))
    ),
    Mutant(
        "bad samples counted",
        "a non-finite sample keeps its weight",
        "Lie-LogCholesky",
        swap((norm, "masked_weights", _unmasked)),
    ),
)
