"""The adjoint of the derivative of a matrix function (Daleckii-Krein) in one kernel: four products in registers."""

from __future__ import annotations

from manifoldnorm.linalg.gpu._triton import jit, tl


@jit
def product(a, b):
    """Return A B in the precision of its factors."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@jit(do_not_specialize=["n"])
def adjoint_kernel(rows, weights, gradients, out, inner, n, N: tl.constexpr):
    """Store ``U (K o U^T sym(G) U) U^T`` and the diagonal of ``U^T sym(G) U`` of one matrix, for rows U^T."""
    which = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, N)[:, None]
    j = tl.arange(0, N)[None, :]
    inside = (i < n) & (j < n)
    start = which * n * n
    u = tl.load(rows + start + i * n + j, mask=inside, other=0.0)
    g = tl.load(gradients + start + i * n + j, mask=inside, other=0.0)
    g = 0.5 * (g + tl.load(gradients + start + j * n + i, mask=inside, other=0.0))
    turned = product(product(u, g), tl.trans(u))
    tl.store(inner + which * n + tl.arange(0, N), tl.sum(tl.where(i == j, turned, 0.0), 1), mask=tl.arange(0, N) < n)
    turned *= tl.load(weights + start + i * n + j, mask=inside, other=0.0)
    tl.store(out + start + i * n + j, product(product(tl.trans(u), turned), u), mask=inside)
