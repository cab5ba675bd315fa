"""Linear maps ``V -> U (k(w_i + w_j) o U^H V U) U^H``: Lyapunov solves and Bures-Wasserstein transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from manifoldnorm.linalg import _fused
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._basis import HIGHER_ORDER, from_basis, to_basis
from manifoldnorm.linalg._call import call, plain
from manifoldnorm.linalg._precision import symmetrize, without_autocast
from manifoldnorm.linalg.spectrum import Spectrum, decompose


class SumKernel:
    """A function k of the sum of two eigenvalues, ``c x^p``, and its divided difference.

    Both are given as functions with literal numbers: torch.compile(dynamic=True) makes an input of a number that is an
    attribute, and loses it between autograd Functions.

    Parameters
    ----------
    coefficient, power : float
        c and p, for information.
    value : callable
        x -> k(x).
    divided : callable
        (x, y) -> (k(x) - k(y)) / (x - y), in a form without cancellation.
    """

    def __init__(
        self,
        coefficient: float,
        power: float,
        value: Callable[[Tensor], Tensor],
        divided: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.coefficient, self.power = coefficient, power
        self._value, self._divided = value, divided
        self.reciprocal = (coefficient, power) == (1, -1)

    def value(self, x: Tensor) -> Tensor:
        """Return k(x)."""
        return self._value(x)

    def divided(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (k(x) - k(y)) / (x - y)."""
        return self._divided(x, y)


def _of_roots(x: Tensor, y: Tensor) -> Tensor:
    """Return the divided difference of the square root."""
    return 1 / (x.sqrt() + y.sqrt())


def _of_inverse_roots(x: Tensor, y: Tensor) -> Tensor:
    """Return the divided difference of the inverse square root."""
    root_x, root_y = x.sqrt(), y.sqrt()
    return -1 / (root_x * root_y * (root_x + root_y))


_ROOT2, _HALF = 2.0**0.5, 0.5**0.5
LYAPUNOV = SumKernel(1.0, -1.0, lambda x: x.reciprocal(), lambda x, y: -1 / (x * y))
BURES_TO_IDENTITY = SumKernel(
    _ROOT2, -0.5, lambda x: 2.0**0.5 * x.rsqrt(), lambda x, y: 2.0**0.5 * _of_inverse_roots(x, y)
)
BURES_FROM_IDENTITY = SumKernel(_HALF, 0.5, lambda x: 0.5**0.5 * x.sqrt(), lambda x, y: 0.5**0.5 * _of_roots(x, y))
# from the identity, then the Lyapunov solve
BURES_FROM_IDENTITY_SOLVED = SumKernel(
    _HALF, -0.5, lambda x: 0.5**0.5 * x.rsqrt(), lambda x, y: 0.5**0.5 * _of_inverse_roots(x, y)
)


def _grouped(x: Tensor, y: Tensor, like: Tensor, index: Tensor | None) -> Tensor:
    """Return ``X Y`` summed over the leading dimensions that ``like`` does not have, or over segments."""
    extra = x.ndim - like.ndim
    product = x @ y
    if index is not None:
        return torch.zeros(like.shape, dtype=product.dtype, device=product.device).index_add(0, index, product)
    return product.sum(tuple(range(extra))) if extra > 0 else product


class _Kernel(Function):
    """Y = U (k o U^H V U) U^H; self-adjoint in V, gradient in A by divided differences of k."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, v: Tensor, k: SumKernel, index: Tensor | None) -> Tensor:
        w = fn.LOG.clamp(w, torch.finfo(a.dtype).eps)
        kernel = k.value(w.unsqueeze(-1) + w.unsqueeze(-2))
        wide = v.to(uh.dtype)
        if index is not None:
            kernel, uh = kernel.index_select(0, index), uh.index_select(0, index)
            if not torch.is_grad_enabled() and _fused.usable(uh, wide, real=(kernel,)):
                return _fused.each_kernel(symmetrize(wide), uh, kernel).to(v.dtype)
        if uh.ndim == 2 and v.ndim > 2 and not torch.is_grad_enabled() and _fused.usable(uh, wide, real=(kernel,)):
            return _fused.sandwich(uh, kernel, uh.mH, wide).to(v.dtype)
        return from_basis(uh, kernel * to_basis(uh, symmetrize(wide))).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, w, uh, v, k, index = inputs
        ctx.save_for_backward(a, w, uh, v, index, output)
        ctx.k = k

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> Any:
        a, w, uh, v, index, y = ctx.saved_tensors
        grad_v = call(_Kernel, a, w, uh, g, ctx.k, index)
        if not ctx.needs_input_grad[0]:
            return None, None, None, grad_v, None, None
        if ctx.k.reciprocal:
            # A Y + Y A = V: the adjoint solve is all that the gradient in A needs, to any order
            grad_a = symmetrize(_grouped(grad_v, y, a, index)) * -2
        else:
            grad_a = call(_KernelGrad, a, w, uh, v, g, ctx.k, index)
        return grad_a, None, None, grad_v, None, None


def _to_basis(uh: Tensor, g: Tensor) -> Tensor:
    """Return U^H G U for Hermitian G, without gradient."""
    fits = (uh.ndim == 2 or uh.shape == g.shape) and not torch.is_grad_enabled()
    return _fused.congruence(uh, g) if fits and _fused.usable(g, uh) else to_basis(uh, g)


class _KernelGrad(Function):
    """Gradient of <G, Y> in A: M + M^H, M_il = sum_j k[w_i + w_j, w_l + w_j] G_ij V_jl in the eigenbasis."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, w: Tensor, uh: Tensor, v: Tensor, g: Tensor, k: SumKernel, index: Tensor | None) -> Tensor:
        w = fn.LOG.clamp(w, torch.finfo(a.dtype).eps)
        each = uh if index is None else uh.index_select(0, index)
        gh, vh = (_to_basis(each, symmetrize(t.to(uh.dtype))) for t in (g, v))
        inner = kernel_gradient(w, gh, vh, k) if index is None else _segment_gradients(w, gh, vh, k, index)
        return from_basis(uh, inner).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Any:
        return torch.ops.manifoldnorm.no_derivative(c, HIGHER_ORDER), *(None,) * 6


_CHUNK = 16  # samples of one segment that are summed in one matrix product


def _segment_gradients(w: Tensor, g: Tensor, v: Tensor, k: SumKernel, index: Tensor) -> Tensor:
    """Return `kernel_gradient` for the eigenvalues (D, n) of each segment and its samples among G and V (N, n, n)."""
    if not plain(index):
        each = kernel_gradient(w.index_select(0, index), g, v, k)
        return each.new_zeros((*w.shape, w.shape[-1])).index_add(0, index, each)
    # chunks of samples in one matrix product each: n^3 numbers for every sample would be the most costly part
    counts = torch.bincount(index, minlength=len(w))
    chunks = (counts + _CHUNK - 1) // _CHUNK
    order = index.argsort(stable=True)
    segment = index[order]
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[segment]
    place = ((chunks.cumsum(0) - chunks)[segment] + rank // _CHUNK, rank % _CHUNK)
    owner = torch.arange(len(w)).repeat_interleave(chunks)

    def packed(t: Tensor) -> Tensor:
        return t.new_zeros((len(owner), _CHUNK, *t.shape[1:])).index_put_(place, t[order])

    product = packed(g).conj().movedim(1, -1) @ packed(v).movedim(1, -2)
    zeros = product.new_zeros((len(w), *product.shape[1:]))
    return _weigh(w, zeros.index_add_(0, owner, product), k)


def kernel_gradient(w: Tensor, g: Tensor, v: Tensor, k: SumKernel) -> Tensor:
    """Return, in the eigenbasis, the gradient of ``<G, k(w_i + w_j) o V>`` in the matrix, summed over leading samples.

    ``w`` are its eigenvalues (..., n), ``g`` and ``v`` Hermitian (batch, ..., n, n) in its eigenbasis.
    """
    batch = v.ndim - w.ndim - 1  # leading dimensions that v has beyond the matrix
    if batch > 0:
        g, v = g.flatten(0, batch - 1), v.flatten(0, batch - 1)
        # G_ij V_jl with j in front: G is Hermitian, so its row j is what stands there
        product = g.conj().movedim(0, -1) @ v.movedim(0, -2)
    else:
        product = g.mT.unsqueeze(-1) * v.unsqueeze(-2)
    return _weigh(w, product, k)


def _weigh(w: Tensor, product: Tensor, k: SumKernel) -> Tensor:
    """Return M + M^H, M_il the sum over j of ``k[w_i + w_j, w_l + w_j]`` times the product [j, i, l]."""
    total = w.unsqueeze(-1) + w.unsqueeze(-2)
    m = (k.divided(total.unsqueeze(-1), total.unsqueeze(-2)) * product).sum(-3)
    return m + m.mH


def apply_kernel(spectrum: Spectrum, v: Tensor, k: SumKernel, index: Tensor | None = None) -> Tensor:
    """Apply ``V -> U (k(w_i + w_j) o U^H V U) U^H`` to the Hermitian part of ``v`` (..., n, n).

    ``v`` may have leading dimensions that the matrix lacks; or ``index`` (N,) says which of the matrices (D, n, n) is
    that of each v (N, n, n). Differentiable in both, and twice for `LYAPUNOV`.
    """
    a, w, uh = spectrum
    return call(_Kernel, a, w, uh, v, k, index)


def lyapunov(a: Tensor, q: Tensor) -> Tensor:
    """Solve ``A X + X A = Q`` for positive-definite ``a`` and the Hermitian part of ``q``, both (..., n, n).

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if a matrix of ``a`` is indefinite beyond rounding; names the sample.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.linalg.lyapunov(torch.eye(2), torch.eye(2)).diagonal()
    tensor([0.5000, 0.5000])
    """
    shape = torch.broadcast_shapes(a.shape, q.shape)
    spectrum = decompose(a, positive=True, name="lyapunov")
    spectrum = Spectrum(*(t.expand(shape[:-2] + t.shape[a.ndim - 2 :]) for t in spectrum))
    return apply_kernel(spectrum, q.expand(shape), LYAPUNOV)


def sum_of_kernels(s: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum_i U_i (W_i o (U_i^H S U_i)) U_i^H`` for one Hermitian S, without gradient.

    Parameters
    ----------
    s : Tensor
        (n, n).
    rows, weights : Tensor
        Conjugated eigenvectors as rows and symmetric weights, both (N, n, n).
    """
    if _fused.usable(rows, s, real=(weights,)):
        return _fused.sum_of_kernels(s, rows, weights)
    stacked = rows.reshape(-1, s.shape[-1])  # both outer products are single large matrix products
    rotated = (stacked @ s).reshape(rows.shape) @ rows.mH
    return stacked.mH @ ((weights * rotated) @ rows).reshape(stacked.shape)


def each_kernel(s: Tensor, rows: Tensor, weights: Tensor, index: Tensor | None = None) -> Tensor:
    """Return the terms of `sum_of_kernels`, with Hermitian matrices S that broadcast against them, without gradient.

    An ``index`` (N,) says which of the matrices S (D, n, n) is that of each term.
    """
    fits = index is None or (rows.ndim == 3 and not rows.is_complex())
    if fits and _fused.usable(rows, s, real=(weights,)):
        return _fused.each_kernel(s, rows, weights, index)
    s = s if index is None else s.index_select(0, index)
    return rows.mH @ (weights * (rows @ s @ rows.mH)) @ rows


def hyperbolic_weights(log: Tensor) -> Tensor:
    """Return ``d coth d`` with ``d_ij = (l_i - l_j) / 2`` for every row of logarithms (..., n), without gradient.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.kernels import hyperbolic_weights
    >>> hyperbolic_weights(torch.tensor([0.0, 2.0]))
    tensor([[1.0000, 1.3130],
            [1.3130, 1.0000]])
    """
    if log.ndim > 1 and _fused.usable(log):
        return _fused.hyperbolic_weights(log)
    gap = ((log.unsqueeze(-1) - log.unsqueeze(-2)) * 0.5).abs_()
    tiny = torch.finfo(gap.dtype).tiny
    return (gap + tiny) / gap.tanh().add_(tiny)
