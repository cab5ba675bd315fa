"""The Bures-Wasserstein norm as one operation for each direction, on CPU, where no gradient enters the statistics.

With ``M = V g V^T`` the mean, ``F = V g^1/2`` and ``C = (F^T X F)^1/2``, a sample's logarithm at M, moved to the
identity, is ``V (W o (C - g)) V^T`` with ``W_ij^2 = 2 (g_i + g_j) / (g_i g_j)``. In the eigenbasis of the bias point
the step of the exponential is a product entry by entry, too; all else are congruences by single matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._ops import cholesky_cpu, eigh_cpu
from manifoldnorm.linalg.kernels import BURES_FROM_IDENTITY_SOLVED as STEP
from manifoldnorm.linalg.kernels import kernel_gradient
from manifoldnorm.manifolds import BuresWasserstein
from manifoldnorm.manifolds.bures import DOMAIN_MARGIN
from manifoldnorm.stats import Karcher, MeanPolicy

_NAME = "BuresWasserstein"


class LeavesDomain(Exception):
    """Some scaled step must be shrunk: the template does that."""


@dataclass(frozen=True)
class Plan:
    """What does not change with the batch: the geometry, how the mean is found, the variance's factor and its eps."""

    manifold: BuresWasserstein
    mean: MeanPolicy
    metric_scale: float
    eps: float

    takes_tangent: ClassVar[bool] = False

    def run(
        self, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and the variance without gradient; the bias is a point."""
        outputs: Any = FusedBures.apply(x, log_scale, point, self)
        return outputs


def _eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    values, rows = eigh_cpu(x, False, True, _NAME)
    return fn.LOG.clamp(values, torch.finfo(x.dtype).eps), rows


def _mean(plan: Plan, x: Tensor) -> Tensor:
    """Return the mean; a fixed-point step from P = L L^T is ``L^-T C C L^-1`` with C the mean of ``(L^T X L)^1/2``."""
    if not isinstance(plan.mean, Karcher):
        return plan.mean(plan.manifold, x)
    start = plan.mean.before_last(plan.manifold, x, None)
    factor = cholesky_cpu(start, False, f"{_NAME} mean")
    values, rows = _eigen(_fused.congruence(factor.mT, x))
    root = _fused.sum_of_functions(values.sqrt() / x.shape[0], rows)
    half = torch.linalg.solve_triangular(factor.mT, root, upper=True)
    return half @ half.mT


def _sums(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) + values.unsqueeze(-2)


class FusedBures(Function):
    """``(I + S) B (I + S)`` at the bias point B; also the mean and the variance, for the buffers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, wide = x.shape[-1], x.double()
        mean = _mean(plan, wide)
        target = torch.eye(n, dtype=wide.dtype) if bias is None else bias.double()
        both, (basis, target_basis) = eigh_cpu(torch.stack([mean, target]), False, True, _NAME)
        if not float(both[0, 0]) > 0:
            cholesky_cpu(mean, False, f"{_NAME} mean")  # says what is wrong, where it is more than rounding
        spectrum, target_spectrum = fn.LOG.clamp(both, torch.finfo(wide.dtype).eps)
        factor = spectrum.sqrt().unsqueeze(-1) * basis  # F^T
        values, rows = _eigen(_fused.congruence(factor, wide))
        weight = (2 * _sums(spectrum)).sqrt_() / (spectrum.sqrt().unsqueeze(-1) * spectrum.sqrt())
        root = _fused.rebuild(values.sqrt(), rows)
        root.diagonal(dim1=-2, dim2=-1).sub_(spectrum)
        root.mul_(weight)  # the vectors at the identity, in the basis V
        variance = float(root.square().sum()) * 0.25 * plan.metric_scale / x.shape[0]
        scale = 1 / math.sqrt(variance + plan.eps)
        if log_scale is not None:
            scale *= math.exp(float(log_scale))
        change = target_basis @ basis.mT
        kernel = STEP.value(_sums(target_spectrum))
        moved = _fused.congruence(change, root).mul_(scale)
        step = kernel * moved
        _check_domain(step)
        step.diagonal(dim1=-2, dim2=-1).add_(1)
        out = _fused.rebuild(target_spectrum, step, target_basis.mT).to(x.dtype)
        ctx.plan, ctx.scale, ctx.log_scale, ctx.dtype = plan, scale, log_scale, x.dtype
        ctx.save_for_backward(values, rows, factor, weight, change, kernel, moved, step, target_spectrum, target_basis)
        outputs = mean.to(x.dtype), torch.tensor(variance, dtype=x.dtype)
        ctx.mark_non_differentiable(*outputs)
        return out, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        values, rows, factor, weight, change, kernel, moved, step, target, target_basis = ctx.saved_tensors
        n = g.shape[-1]
        turned = _fused.congruence(target_basis, g.double())
        product = turned @ step
        grad_step = product * target
        grad_step = grad_step + grad_step.mT
        grad_bias = None
        if ctx.needs_input_grad[2]:
            grad = step.view(-1, n).mT @ product.reshape(-1, n) + kernel_gradient(target, grad_step, moved, STEP)
            grad_bias = (target_basis.mT @ grad @ target_basis).to(ctx.dtype)
        grad_step.mul_(kernel)
        grad_scale = float((grad_step * moved).sum())
        grad_root = _fused.congruence(change.mT, grad_step.mul_(ctx.scale)).mul_(weight)
        grad_x = _fused.adjoint(fn.SQRT, values, None, rows, grad_root, None, factor)[0]
        grad_log_scale = None if ctx.log_scale is None else torch.full_like(ctx.log_scale, grad_scale)
        return grad_x.to(ctx.dtype), grad_log_scale, grad_bias, None


def _check_domain(step: Tensor) -> None:
    """Raise if ``I + S`` has an eigenvalue below the margin."""
    shifted = step.clone()
    shifted.diagonal(dim1=-2, dim2=-1).add_(1 - DOMAIN_MARGIN)
    if not _fused.cholesky(shifted, False)[2]:
        raise LeavesDomain
