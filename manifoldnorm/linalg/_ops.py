"""Decompositions as ``torch.library`` operators: failure handling inside, opaque to every tracer.

The operators have no autograd of their own; `spectral` and `cholesky` wrap them in autograd Functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifoldnorm.linalg._precision import native, working_dtype
from manifoldnorm.linalg._slices import in_slices
from manifoldnorm.linalg._tally import record
from manifoldnorm.linalg.native import NOT_CONVERGED, chosen, chosen_on_device

_LIB = torch.library.Library("manifoldnorm", "DEF")
_LIB.define("eigh(Tensor a, bool wide, bool positive, str name) -> (Tensor, Tensor)")
_LIB.define("eigvalsh(Tensor a, bool wide) -> Tensor")
_LIB.define("smallest_below(Tensor a, float limit) -> Tensor")
_LIB.define("lowest_projector(Tensor a, Tensor lowest, float limit) -> Tensor")
_LIB.define("cholesky(Tensor a, bool wide, str name) -> Tensor")
_LIB.define("no_derivative(Tensor g, str reason) -> Tensor")

# how far below zero rounding may push the smallest eigenvalue of a semi-definite matrix, in units of n eps |largest|
INDEFINITE_TOL = 16.0


def sample_index(flat: int, batch_shape: torch.Size) -> str:
    """Return the name under which an error message speaks of one matrix of a batch."""
    if len(batch_shape) == 0:
        return "the matrix"
    index = []
    for size in reversed(batch_shape):
        index.append(flat % size)
        flat //= size
    return f"sample {index[0]}" if len(index) == 1 else f"sample {tuple(reversed(index))}"


def _adjoint(a: Tensor) -> Tensor:
    # never a lazy conjugate: a compiled graph's runtime may mask its dispatch key, and the bit is then ignored
    return torch.conj_physical(a.mT) if a.is_complex() else a.mT


def _hermitian(a: Tensor, wide: bool) -> Tensor:
    a = a.to(working_dtype(a.dtype, wide))
    return torch.add(a, _adjoint(a)).mul_(0.5)


def _finite(a: Tensor) -> Tensor:
    return a.isfinite().flatten(-2).all(-1)


def _rescue_eigh(h: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Second rung of the ladder: leave non-finite matrices out, normalise the scale, decompose in double precision."""
    n = h.shape[-1]
    finite = _finite(h)
    eye = torch.eye(n, dtype=h.dtype, device=h.device)
    safe = torch.where(finite[..., None, None], h, eye)
    scale = safe.abs().flatten(-2).amax(-1).clamp_min(torch.finfo(h.dtype).tiny)
    work = (safe / scale[..., None, None]).to(working_dtype(h.dtype, True))
    try:
        w, u = torch.linalg.eigh(work)
    except torch.linalg.LinAlgError as error:
        raise torch.linalg.LinAlgError(
            f"{name}: the eigendecomposition did not converge even after rescaling, in double precision "
            f"(condition cannot be estimated). Add a multiple of the identity, e.g. Covariance(shrinkage=...)."
        ) from error
    nan = float("nan")
    real = h.abs().dtype
    w = torch.where(finite[..., None], w.to(real) * scale[..., None], nan)
    return w, torch.where(finite[..., None, None], u.to(h.dtype), nan)


def raise_indefinite(w: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise if an ascending spectrum ``w`` is negative beyond rounding of a matrix of ``dtype``."""
    if w.numel() == 0 or float(w[..., 0].min()) > 0:
        return
    tolerance = INDEFINITE_TOL * w.shape[-1] * torch.finfo(dtype).eps
    low, high = w[..., 0], w[..., -1].abs()
    bad = (low < -tolerance * high) | (w[..., -1] < 0)
    if not bool(bad.any()):
        return
    first = int(bad.flatten().to(torch.uint8).argmax())
    raise torch.linalg.LinAlgError(
        f"{name}: {sample_index(first, bad.shape)} is not positive definite (smallest eigenvalue "
        f"{float(low.flatten()[first]):.3g}, largest {float(w[..., -1].flatten()[first]):.3g}). "
        f"Shrink the covariance (Covariance(shrinkage=...)) or use more samples than channels."
    )


def _eigh_torch(a: Tensor, wide: bool, name: str) -> tuple[Tensor, Tensor]:
    """First two rungs of the ladder with torch's solver: values and rows of conjugated eigenvectors."""
    h = _hermitian(a, wide)
    try:
        w, u = torch.linalg.eigh(h)
        broken = not math.isfinite(float(w.sum()))
    except torch.linalg.LinAlgError:
        broken = True
    if broken:
        w, u = _rescue_eigh(h, name)
    return w, _adjoint(u)


def _eigh_solver(a: Tensor, wide: bool, name: str) -> tuple[Tensor, Tensor]:
    """Decompose with the compiled kernels where they are chosen, with torch's solver elsewhere and where they fail."""
    dtype = working_dtype(a.dtype, wide)
    kernels = chosen(a, dtype)
    if kernels is None:
        return _eigh_torch(a, wide, name)
    w, uh, status = kernels.eigen(a, dtype, vectors=True)
    assert uh is not None
    if status is not None:
        failed = status == NOT_CONVERGED
        w[failed], uh[failed] = _eigh_torch(a[failed], wide, name)
    return w, uh


def eigh_cpu(a: Tensor, wide: bool, positive: bool, name: str) -> tuple[Tensor, Tensor]:
    """Decompose on CPU, with the retry ladder and errors that name the sample."""
    record("eigh", a)
    w, uh = _eigh_solver(a, wide and not native(), name)
    if positive:
        raise_indefinite(w, a.dtype, name)
    dtype = working_dtype(a.dtype, wide)
    return w.to(dtype.to_real()), uh.to(dtype).contiguous()


def _eigh_device(a: Tensor, wide: bool, positive: bool, name: str) -> tuple[Tensor, Tensor]:
    kernels = chosen_on_device(a)
    if kernels is not None:
        w, uh = kernels.eigen(a.to(working_dtype(a.dtype, wide)), vectors=True)
    else:
        h = _hermitian(a, wide)
        finite = _finite(h)
        eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
        w, u = in_slices(torch.linalg.eigh, torch.where(finite[..., None, None], h, eye))
        w, uh = w.masked_fill(~finite[..., None], float("nan")), _adjoint(u).contiguous()
    if positive:
        tolerance = INDEFINITE_TOL * a.shape[-1] * torch.finfo(a.dtype).eps
        bad = (w[..., :1] < -tolerance * w[..., -1:].abs()) | (w[..., -1:] < 0)
        w = w.masked_fill(bad, float("nan"))
    return w, uh


def _eigh_fake(a: Tensor, wide: bool, positive: bool, name: str) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(a.dtype, wide)
    return a.new_empty(a.shape[:-1], dtype=dtype.to_real()), a.new_empty(a.shape, dtype=dtype)


def _eigvalsh_cpu(a: Tensor, wide: bool) -> Tensor:
    record("eigvalsh", a)
    dtype = working_dtype(a.dtype, wide and not native())
    kernels = chosen(a, dtype)
    if kernels is None:
        return _eigvalsh(a, wide)
    w, _, status = kernels.eigen(a, dtype, vectors=False)
    if status is not None:
        failed = status == NOT_CONVERGED
        w[failed] = _eigvalsh(a[failed], wide).to(w.dtype)
    return w.to(working_dtype(a.dtype, wide).to_real())


def _eigvalsh(a: Tensor, wide: bool) -> Tensor:
    h = _hermitian(a, wide and not native())
    finite = _finite(h)
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    (w,) = in_slices(lambda a: (torch.linalg.eigvalsh(a),), torch.where(finite[..., None, None], h, eye))
    w = w.masked_fill(~finite[..., None], float("nan"))
    return w.to(working_dtype(a.dtype, wide).to_real())


def _eigvalsh_device(a: Tensor, wide: bool) -> Tensor:
    kernels = chosen_on_device(a)
    if kernels is None:
        return _eigvalsh(a, wide)
    return kernels.eigen(a.to(working_dtype(a.dtype, wide)), vectors=False)[0]


def _eigvalsh_fake(a: Tensor, wide: bool) -> Tensor:
    return _eigh_fake(a, wide, False, "")[0]


def smallest_below_cpu(a: Tensor, limit: float) -> Tensor:
    """Return min(limit, smallest eigenvalue), decomposing only matrices that a Cholesky factorisation cannot clear."""
    h = _hermitian(a, False)
    result = h.abs().new_full(h.shape[:-2], limit)
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    below = (torch.linalg.cholesky_ex(h - limit * eye)[1] > 0) & _finite(h)
    if bool(below.any()):
        result[below] = _eigvalsh_cpu(h[below], False)[..., 0].clamp_max(limit)
    return result


def lowest_projector_cpu(a: Tensor, lowest: Tensor, limit: float) -> Tensor:
    """Return v v^H of the smallest eigenvalue where that is below the limit, 0 elsewhere."""
    result = torch.zeros_like(a)
    below = lowest < limit
    if bool(below.any()):
        row = _eigh_solver(a[below], False, "lowest_projector")[1][..., :1, :]
        result[below] = _adjoint(row) @ row
    return result


def _lowest_projector_device(a: Tensor, lowest: Tensor, limit: float) -> Tensor:
    row = _eigh_device(a, False, False, "lowest_projector")[1][..., :1, :]
    return torch.where((lowest < limit)[..., None, None], _adjoint(row) @ row, 0.0)


def _smallest_below_device(a: Tensor, limit: float) -> Tensor:
    return _eigvalsh_device(a, False)[..., 0].clamp_max(limit)


def _smallest_below_fake(a: Tensor, limit: float) -> Tensor:
    return a.new_empty(a.shape[:-2], dtype=a.dtype.to_real())


def cholesky_cpu(a: Tensor, wide: bool, name: str) -> Tensor:
    """Factorise on CPU, with errors that name the sample."""
    record("cholesky", a)
    h = _hermitian(a, wide and not native())
    factor, info = torch.linalg.cholesky_ex(h)
    if bool(info.any()):
        finite = _finite(h)
        failed = (info > 0) & finite
        if bool(failed.any()):
            first = int(failed.flatten().to(torch.uint8).argmax())
            w = torch.linalg.eigvalsh(h.flatten(0, -3)[first] if h.ndim > 2 else h)
            raise torch.linalg.LinAlgError(
                f"{name}: {sample_index(first, failed.shape)} is not positive definite (smallest eigenvalue "
                f"{float(w[0]):.3g}, largest {float(w[-1]):.3g}). "
                f"Shrink the covariance (Covariance(shrinkage=...)) or use more samples than channels."
            )
        factor = torch.where(finite[..., None, None], factor, float("nan"))
    return factor.to(working_dtype(a.dtype, wide)).contiguous()


def _cholesky_device(a: Tensor, wide: bool, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(_hermitian(a, wide))
    return factor.masked_fill((info != 0)[..., None, None], float("nan")).contiguous()


def _cholesky_fake(a: Tensor, wide: bool, name: str) -> Tensor:
    return a.new_empty(a.shape, dtype=working_dtype(a.dtype, wide))


def _no_derivative(g: Tensor, reason: str) -> Tensor:
    """Raise when it runs, not when a tracer looks at it: compilers trace backward passes that never run."""
    raise NotImplementedError(reason)


_LIB.impl("eigh", eigh_cpu, "CPU")
_LIB.impl("eigh", _eigh_device, "CUDA")
_LIB.impl("eigvalsh", _eigvalsh_cpu, "CPU")
_LIB.impl("eigvalsh", _eigvalsh_device, "CUDA")
_LIB.impl("smallest_below", smallest_below_cpu, "CPU")
_LIB.impl("smallest_below", _smallest_below_device, "CUDA")
_LIB.impl("lowest_projector", lowest_projector_cpu, "CPU")
_LIB.impl("lowest_projector", _lowest_projector_device, "CUDA")
_LIB.impl("cholesky", cholesky_cpu, "CPU")
_LIB.impl("cholesky", _cholesky_device, "CUDA")
_LIB.impl("no_derivative", _no_derivative, "CPU")
_LIB.impl("no_derivative", _no_derivative, "CUDA")
torch.library.register_fake("manifoldnorm::no_derivative", lambda g, reason: torch.empty_like(g), lib=_LIB)
torch.library.register_fake("manifoldnorm::eigh", _eigh_fake, lib=_LIB)
torch.library.register_fake("manifoldnorm::eigvalsh", _eigvalsh_fake, lib=_LIB)
torch.library.register_fake("manifoldnorm::smallest_below", _smallest_below_fake, lib=_LIB)
torch.library.register_fake("manifoldnorm::lowest_projector", lambda a, lowest, limit: torch.empty_like(a), lib=_LIB)
torch.library.register_fake("manifoldnorm::cholesky", _cholesky_fake, lib=_LIB)


def _eigh_vmap(info, in_dims, a, wide, positive, name):  # type: ignore[no-untyped-def]
    return torch.ops.manifoldnorm.eigh(a.movedim(in_dims[0], 0), wide, positive, name), (0, 0)


def _eigvalsh_vmap(info, in_dims, a, wide):  # type: ignore[no-untyped-def]
    return torch.ops.manifoldnorm.eigvalsh(a.movedim(in_dims[0], 0), wide), 0


def _smallest_below_vmap(info, in_dims, a, limit):  # type: ignore[no-untyped-def]
    return torch.ops.manifoldnorm.smallest_below(a.movedim(in_dims[0], 0), limit), 0


def _lowest_projector_vmap(info, in_dims, a, lowest, limit):  # type: ignore[no-untyped-def]
    a, lowest = (t.movedim(d, 0) if d is not None else t for t, d in zip((a, lowest), in_dims, strict=False))
    shape = torch.broadcast_shapes(a.shape[:-2], lowest.shape)
    return torch.ops.manifoldnorm.lowest_projector(a.expand(shape + a.shape[-2:]), lowest.expand(shape), limit), 0


def _cholesky_vmap(info, in_dims, a, wide, name):  # type: ignore[no-untyped-def]
    return torch.ops.manifoldnorm.cholesky(a.movedim(in_dims[0], 0), wide, name), 0


def _no_derivative_vmap(info, in_dims, g, reason):  # type: ignore[no-untyped-def]
    raise NotImplementedError(reason)


torch.library.register_vmap("manifoldnorm::eigh", _eigh_vmap, lib=_LIB)
torch.library.register_vmap("manifoldnorm::no_derivative", _no_derivative_vmap, lib=_LIB)
torch.library.register_vmap("manifoldnorm::eigvalsh", _eigvalsh_vmap, lib=_LIB)
torch.library.register_vmap("manifoldnorm::smallest_below", _smallest_below_vmap, lib=_LIB)
torch.library.register_vmap("manifoldnorm::lowest_projector", _lowest_projector_vmap, lib=_LIB)
torch.library.register_vmap("manifoldnorm::cholesky", _cholesky_vmap, lib=_LIB)
