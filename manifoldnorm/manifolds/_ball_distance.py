"""The distance of the Poincare ball with its gradient in closed form: what embeddings spend their time on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call


def _squares(x: Tensor) -> Tensor:
    # a product is several times faster than a reduction over a short last dimension
    return (x * x) @ x.new_ones(x.shape[-1])


class BallDistance(Function):
    """``(2 / k) asinh(k |p - q| / sqrt((1 - k^2 |p|^2) (1 - k^2 |q|^2)))`` for ``k = sqrt(-curvature)``.

    The gradient is 0 at ``p == q``. Second derivatives are those of ``plain(p, q)``, the same distance by autograd.
    """

    @staticmethod
    def forward(p: Tensor, q: Tensor, curvature: float, plain: Any) -> tuple[Tensor, ...]:
        root, eps = (-curvature) ** 0.5, torch.finfo(p.dtype).eps
        difference = q - p
        gap_p = _squares(p).mul_(curvature).add_(1).clamp_min_(eps)
        gap_q = _squares(q).mul_(curvature).add_(1).clamp_min_(eps)
        product = gap_p * gap_q
        square = _squares(difference).mul_(-curvature).div_(product)
        sine, cosine = square.sqrt(), (1 + square).sqrt_()
        # asinh, in a form that torch evaluates faster
        distance = torch.log1p(sine + square / (1 + cosine)).mul_(2 / root)
        return distance, difference, gap_p, gap_q, product, sine, cosine

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        p, q, ctx.curvature, ctx.plain = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(p, q, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Any) -> Any:
        p, q, difference, gap_p, gap_q, product, sine, cosine = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone differentiates this gradient
            return *torch.autograd.grad(ctx.plain(p, q), (p, q), g, create_graph=True), None, None
        root = (-ctx.curvature) ** 0.5
        slope = g / cosine
        # of equal points the difference is 0, whatever it is multiplied with
        length = (sine * product).clamp_min_(torch.finfo(p.dtype).tiny ** 0.5)
        along = (slope / length).mul_(2 * root).unsqueeze(-1) * difference
        radial = (slope * sine).mul_(2 * root)
        of_q = torch.addcmul(along, (radial / gap_q).unsqueeze(-1), q)
        of_p = (radial / gap_p).sum_to_size(p.shape[:-1]).unsqueeze(-1) * p - along.sum_to_size(p.shape)
        return of_p, of_q.sum_to_size(q.shape), None, None


def ball_distance(p: Tensor, q: Tensor, curvature: float, plain: Any) -> Tensor:
    """Return the distance (*batch) of points in working precision."""
    return call(BallDistance, p, q, curvature, plain)[0]
