"""The Bures-Wasserstein norm with statistics per domain as one operation for each direction.

The formulas are those of `_fused_bures`, with a mean M and a variance for each domain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manifoldnorm import linalg
from manifoldnorm.linalg import _fused
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._ops import cholesky_cpu, eigh_cpu
from manifoldnorm.linalg._program import Declined
from manifoldnorm.linalg.kernels import BURES_FROM_IDENTITY_SOLVED as STEP
from manifoldnorm.linalg.kernels import kernel_gradient
from manifoldnorm.manifolds.bures import DOMAIN_MARGIN
from manifoldnorm.nn._fused_bures import Plan
from manifoldnorm.nn._fused_domains import Domains
from manifoldnorm.stats import Karcher

_NAME = "BuresWasserstein"


def _eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    values, rows = eigh_cpu(x, False, True, _NAME)
    return fn.LOG.clamp(values, torch.finfo(x.dtype).eps), rows


def _sums(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) + values.unsqueeze(-2)


def _check_domain(step: Tensor) -> None:
    """Decline if ``I + S`` has an eigenvalue below the margin: the template shrinks such steps."""
    shifted = step.clone()
    shifted.diagonal(dim1=-2, dim2=-1).add_(1 - DOMAIN_MARGIN)
    if not _fused.cholesky(shifted, False)[2]:
        raise Declined


def run(
    plan: Plan, x: Tensor, log_scale: Tensor | None, tangent: Tensor | None, point: Tensor | None, domains: Domains
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and means and variances (D, ...) without gradient, as `Plan.run`."""
    if tangent is not None:
        point = plan.manifold.point_from_tangent(linalg.symmetrize(tangent))
    outputs: Any = FusedDomains.apply(x, log_scale, point, plan, domains)
    return outputs


def _mean(plan: Plan, x: Tensor, domains: Domains) -> Tensor:
    if not isinstance(plan.mean, Karcher):
        return plan.mean(plan.manifold, x, domains.segments)
    start = plan.mean.before_last(plan.manifold, x, domains.segments)
    factor = cholesky_cpu(start, False, f"{_NAME} mean")
    values, rows = _eigen(_fused.congruence(domains.to_samples(factor.mT), x))
    root = domains.means(_fused.rebuild(values.sqrt(), rows))
    half = torch.linalg.solve_triangular(factor.mT, root, upper=True)
    return half @ half.mT


class FusedDomains(Function):
    """``(I + S) B (I + S)`` at the bias point B, S by each sample's domain; also the means and the variances."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_scale: Tensor | None, bias: Tensor | None, plan: Plan, domains: Domains
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, wide = x.shape[-1], x.double()
        mean = domains.mean_or_running(_mean(plan, wide, domains))
        target = torch.eye(n, dtype=wide.dtype) if bias is None else bias.double()
        both, bases = eigh_cpu(torch.cat([mean, target[None]]), False, True, _NAME)
        if not bool((both[:-1, 0] > 0).all()):
            cholesky_cpu(mean, False, f"{_NAME} mean")  # says what is wrong, where it is more than rounding
        both = fn.LOG.clamp(both, torch.finfo(wide.dtype).eps)
        spectrum, target_spectrum, basis, target_basis = both[:-1], both[-1], bases[:-1], bases[-1]
        factor = spectrum.sqrt().unsqueeze(-1) * basis  # F^T
        each = domains.to_samples(factor)
        values, rows = _eigen(_fused.congruence(each, wide))
        weight = (2 * _sums(spectrum)).sqrt_() / (spectrum.sqrt().unsqueeze(-1) * spectrum.sqrt().unsqueeze(-2))
        root = _fused.rebuild(values.sqrt(), rows)
        root.diagonal(dim1=-2, dim2=-1).sub_(domains.to_samples(spectrum))
        root.mul_(domains.to_samples(weight, each))  # the vectors at the identity, in the basis V
        squares = torch.linalg.vector_norm(root, dim=(-2, -1)).square()
        variance = domains.variance_or_running(domains.means(squares) * (0.25 * plan.metric_scale))
        scale = (variance + plan.eps).rsqrt()
        if log_scale is not None:
            scale = scale * log_scale.exp().to(scale.dtype)
        change = (target_basis @ basis.mT) * scale.sqrt()[:, None, None]
        kernel = STEP.value(_sums(target_spectrum))
        moved = _fused.congruence(domains.to_samples(change, each), root)
        step = kernel * moved
        _check_domain(step)
        step.diagonal(dim1=-2, dim2=-1).add_(1)
        out = _fused.rebuild(target_spectrum, step, target_basis.mT).to(x.dtype)
        ctx.domains, ctx.log_scale, ctx.dtype = domains, log_scale, x.dtype
        ctx.save_for_backward(values, rows, factor, weight, change, kernel, moved, step, target_spectrum, target_basis)
        outputs = mean.to(x.dtype), variance.to(x.dtype)
        ctx.mark_non_differentiable(*outputs)
        return out, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        values, rows, factor, weight, change, kernel, moved, step, target, target_basis = ctx.saved_tensors
        n, domains = g.shape[-1], ctx.domains
        turned = _fused.congruence(target_basis, g.double())
        product = turned @ step
        grad_step = torch.mul(product, target, out=turned)
        grad_step = grad_step + grad_step.mT
        grad_bias = None
        if ctx.needs_input_grad[2]:
            grad = step.view(-1, n).mT @ product.reshape(-1, n) + kernel_gradient(target, grad_step, moved, STEP)
            grad_bias = (target_basis.mT @ grad @ target_basis).to(ctx.dtype)
        grad_step.mul_(kernel)
        grad_log_scale = None
        if ctx.log_scale is not None:
            grad_log_scale = torch.dot(grad_step.view(-1), moved.view(-1)).to(ctx.log_scale.dtype)
        each = domains.to_samples(change.mT.contiguous(), product)
        grad_root = _fused.congruence(each, grad_step).mul_(domains.to_samples(weight, each))
        grad_x = _fused.adjoint(fn.SQRT, values, None, rows, grad_root, None, domains.to_samples(factor, each))[0]
        return grad_x.to(ctx.dtype), grad_log_scale, grad_bias, None, None
