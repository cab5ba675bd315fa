"""The open cone of positive-definite matrices: projection and checks shared by every metric on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds._checks import check_finite, first_bad


def identity(
    n: int, is_complex: bool, batch: tuple[int, ...], dtype: torch.dtype | None = None, device: Any = None
) -> Tensor:
    """Return the identity matrix, expanded to ``(*batch, n, n)``."""
    if dtype is None and is_complex:
        dtype = torch.get_default_dtype().to_complex()
    eye = torch.eye(n, dtype=dtype, device=device)
    return eye.expand(*batch, n, n) if batch else eye


class PositiveDefiniteCone:
    """Positive-definite symmetric (Hermitian) matrices as a set."""

    @staticmethod
    def project(x: Tensor) -> Tensor:
        """Return the Hermitian part with eigenvalues raised to ``8 n eps`` times the largest absolute one."""
        spectrum = linalg.decompose(x, name="project")
        top = spectrum.values.abs().amax(-1)
        floor = 8 * x.shape[-1] * torch.finfo(x.dtype).eps * top
        # the zero matrix has no scale of its own
        return linalg.apply(spectrum, linalg.functions.CLAMP_MIN, torch.where(top > 0, floor, 1.0))

    @staticmethod
    def project_tangent(p: Tensor, v: Tensor) -> Tensor:
        """Return the Hermitian part of ``v``."""
        return linalg.symmetrize(v)

    @staticmethod
    def violation(x: Tensor) -> Tensor:
        """Return the relative asymmetry plus how far the smallest eigenvalue lies below 0, relative to the largest."""
        norm = torch.linalg.matrix_norm(x)
        asymmetry = torch.linalg.matrix_norm(x - x.mH) / (norm + torch.finfo(norm.dtype).tiny)
        w, _ = linalg.eigh(x)
        return asymmetry + (-w[..., 0]).clamp_min(0) / w.abs().amax(-1).clamp_min(torch.finfo(w.dtype).tiny)

    @staticmethod
    def check_point(x: Tensor, name: str) -> None:
        """Raise a ValueError for non-finite, asymmetric, indefinite or numerically singular matrices."""
        x = x.detach()
        check_finite(x, 2, name)
        eps = torch.finfo(x.dtype).eps
        norm = torch.linalg.matrix_norm(x)
        asymmetry = torch.linalg.matrix_norm(x - x.mH) / (norm + torch.finfo(norm.dtype).tiny)
        where = first_bad(asymmetry > 1e3 * eps)
        if where is not None:
            raise ValueError(
                f"{name}: {where[0]} is not symmetric (relative asymmetry {float(asymmetry.flatten()[where[1]]):.3g}). "
                f"Symmetrise it: linalg.symmetrize(x)."
            )
        w, _ = linalg.eigh(x)
        low, high = w[..., 0], w[..., -1]
        where = first_bad(low <= x.shape[-1] * eps * high.abs())
        if where is not None:
            small, large = float(low.flatten()[where[1]]), float(high.flatten()[where[1]])
            singular = small > -linalg.INDEFINITE_TOL * x.shape[-1] * eps * abs(large)
            kind = "numerically singular (rank deficient)" if singular else "not positive definite"
            remedy = (
                "Average-referenced EEG has rank n - 1: reduce the rank (drop a channel, or project with "
                "BiMap), or shrink the covariance (Covariance(shrinkage=...))"
                if singular
                else "Shrink the covariance (Covariance(shrinkage=...)) or use more samples than channels"
            )
            raise ValueError(
                f"{name}: {where[0]} is {kind} (smallest eigenvalue {small:.3g}, largest {large:.3g}). {remedy}."
            )
