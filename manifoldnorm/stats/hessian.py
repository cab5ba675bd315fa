"""Hessians of the mean's objective in a sample's own eigenbasis, and the solve whose backward is a solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg._call import call
from manifoldnorm.linalg._precision import symmetrize
from manifoldnorm.linalg.kernels import each_kernel, sum_of_kernels
from manifoldnorm.stats.conjugate import conjugate_gradients
from manifoldnorm.stats.processes import Processes
from manifoldnorm.stats.reduction import Reduction, over, total
from manifoldnorm.stats.weights import Weights


class Hessian(Protocol):
    """What a manifold's Hessian must offer to the mean policies."""

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual``; its gradient is ``H^-1`` applied to the incoming one (the implicit gradient)."""
        ...

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` unchanged; its gradient is ``H^-1`` applied to the incoming one."""
        ...


class Frame(NamedTuple):
    """Coordinates in which a Hessian is close to the identity: entry by entry in an orthonormal basis.

    With ``Z = V^H Y V`` and K the mean of the samples' kernels, ``H[Y] = V (d o K[d o Z] + T + T^H) V^H`` where
    ``T = a o ((b o Z) C)``. All are (*groups, n, n): the basis V, the real d, a and b, and the Hermitian C.
    """

    basis: Tensor
    outer: Tensor
    left: Tensor
    right: Tensor
    curvature: Tensor


class EigenHessian:
    """``H[S] = sum_i w_i U_i (k_i o U_i^H S U_i) U_i^H`` on Hermitian matrices S (*groups, n, n), or `Frame` around it.

    Parameters
    ----------
    vectors_h : Tensor
        Rows are conjugated eigenvectors, (N, *groups, n, n).
    kernel : callable
        Returns the symmetric weights k_i, (N, *groups, n, n); only called if the Hessian is used.
    weights : Tensor, Reduction or None
        (N, *groups), sum to one over dimension 0; None is uniform. With segments S is (D, *groups, n, n).
    frame : callable, optional
        Returns the frame; only called if the Hessian is used. With a frame H may be indefinite away from the mean: then
        conjugate gradients stop at the first direction of negative curvature, at worst with a unit gradient step.
    """

    def __init__(
        self,
        vectors_h: Tensor,
        kernel: Callable[[], Tensor],
        weights: Weights,
        frame: Callable[[], Frame] | None = None,
    ) -> None:
        self.vectors_h = vectors_h.detach()
        self._kernel, self._weights, self._frame = kernel, weights, frame

    def _parts(self) -> tuple[Any, ...]:
        with torch.no_grad():  # as a decorator it would break a compiled graph
            kernel = self._kernel()
            if self._weights is None:
                kernel = kernel / self.vectors_h.shape[0]
            else:
                shares = self._weights.shares if isinstance(self._weights, Reduction) else self._weights
                kernel = kernel * shares.detach().to(kernel.dtype)[..., None, None]
            frame = (None,) * 5 if self._frame is None else self._frame()
        weights = self._weights if isinstance(self._weights, Reduction) else None
        processes, index = (None, None) if weights is None else (weights.processes, weights.index)
        return processes, self.vectors_h, kernel, index, *frame

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return ``H^-1 residual`` by conjugate gradients, with the implicit gradient."""
        return call(_Solve, residual, steps, backward_steps, *self._parts())

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the implicit gradient."""
        if not (torch.is_grad_enabled() and residual.requires_grad):
            return residual
        return call(_Solve, residual, 0, backward_steps, *self._parts())


def _own_kernels(s: Tensor, uh: Tensor, k: Tensor, index: Tensor | None) -> Tensor:
    """Return what the samples at hand add to K[s]."""
    if uh.ndim == 3 and index is None:
        return sum_of_kernels(s, uh, k)
    # a sum may round the two halves of a symmetric matrix differently, and the kernel is an operator on symmetric ones
    return symmetrize(total(each_kernel(s, uh, k, index), index, s))


def _over_hermitian(processes: Processes | None, own: Tensor) -> Tensor:
    """Return `over` of Hermitian matrices, exactly Hermitian: an all-reduce may sum each entry in another order."""
    if processes is None:
        return own
    both = over(processes, own.real + own.imag if own.is_complex() else own)  # all there is to a Hermitian matrix
    return (torch.complex(both + both.mT, both - both.mT) if own.is_complex() else both + both.mT) / 2


def _framed(s: Tensor, kernels: Callable[[Tensor], Tensor], frame: Frame) -> Tensor:
    half = frame.left * ((frame.right * s) @ frame.curvature)
    return frame.outer * kernels(frame.outer * s) + (half + half.mH)


def _solve(r: Tensor, uh: Tensor, kernels: Callable[[Tensor], Tensor], frame: Frame | None, steps: int) -> Tensor:
    r = r.to(uh.dtype)
    if frame is not None:
        r = frame.basis.mH @ r @ frame.basis
    r = (r + r.mH) * 0.5  # exactly Hermitian throughout: the fused kernel is an operator on such matrices only
    apply = kernels if frame is None else lambda s: _framed(s, kernels, frame)
    x = conjugate_gradients(apply, r, steps, 2, definite=frame is None)
    return x if frame is None else frame.basis @ x @ frame.basis.mH


class _Solve(Function):
    """Forward: ``steps`` of conjugate gradients (0: identity); backward: ``backward_steps`` of them on the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        r: Tensor,
        steps: int,
        backward_steps: int,
        processes: Processes | None,
        uh: Tensor,
        k: Tensor,
        index: Tensor | None,
        basis: Tensor | None,
        outer: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        curvature: Tensor | None,
    ) -> Tensor:
        if not steps:
            return r.clone()
        frame = None if basis is None else Frame(basis, outer, left, right, curvature)  # type: ignore[arg-type]

        def kernels(s: Tensor) -> Tensor:
            return _over_hermitian(processes, _own_kernels(s, uh, k, index))

        return _solve(r, uh, kernels, frame, steps).to(r.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.backward_steps, ctx.processes = inputs[2:4]
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        g = (g + g.mH) * 0.5
        steps = ctx.backward_steps
        return call(_Solve, g, steps, steps, ctx.processes, *ctx.saved_tensors), *(None,) * 11
