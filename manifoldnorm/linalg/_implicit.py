"""One Newton step from a solution found without gradient: its derivative is the solution's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._basis import HIGHER_ORDER, no_derivative
from manifoldnorm.linalg._call import call


class _NewtonStep(Function):
    """x + J^-1 r with x and J constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, jacobian: Tensor, residual: Tensor) -> Tensor:
        return x + _solve(jacobian, residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (jacobian,) = ctx.saved_tensors
        return None, None, no_derivative(HIGHER_ORDER, _solve(jacobian.mT, g.detach()), g)


def _solve(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1)


def newton_step(x: Tensor, jacobian: Tensor, residual: Tensor) -> Tensor:
    """Return ``x + J^-1 r``, differentiable in r (..., d) once; x (..., d) and J (..., d, d) are constants.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg._implicit import newton_step
    >>> newton_step(torch.zeros(1), 2 * torch.eye(1), torch.ones(1))
    tensor([0.5000])
    """
    return call(_NewtonStep, x.detach(), jacobian.detach(), residual)
