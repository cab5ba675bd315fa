"""Flat spaces: the base of every flat chart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg, stats
from manifoldnorm.manifolds.base import Manifold, spread
from manifoldnorm.manifolds.structures import Gyrogroup, LieGroup


class Euclidean(Manifold, LieGroup, Gyrogroup):
    """Flat space of tensors of a given shape, with the sum of products as metric and addition as group.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.Euclidean(2).dist(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(5.)
    """

    origin_kind = "zero"

    def __init__(self, *shape: int, **config: Any) -> None:
        super().__init__(shape, math.prod(shape), {"shape": shape, **config})

    def replace(self, **changes: Any) -> Euclidean:
        """Return a flat space of another shape."""
        return type(self)(*changes.pop("shape", self.point_shape), **changes)

    def __reduce__(self) -> Any:
        return type(self), self.point_shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.point_shape))})"

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return zeros."""
        return torch.zeros(batch + self.point_shape, dtype=dtype, device=device)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p + v``."""
        return p + v

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``q - p``."""
        return q - p

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of products."""
        product = (u.conj() * v).real if u.is_complex() or v.is_complex() else u * v
        axes = len(self.point_shape)
        return product.sum(tuple(range(-axes, 0))) if axes else product

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def project(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``g``, projected."""
        return self.project(g)

    def violation(self, x: Tensor) -> Tensor:
        """Return the relative distance to the projection."""
        # a reshape, not a flatten: scalars have no axis to flatten
        rows = (*x.shape[: x.ndim - len(self.point_shape)], math.prod(self.point_shape))
        gap = torch.linalg.vector_norm((x - self.project(x)).reshape(rows), dim=-1)
        size = torch.linalg.vector_norm(x.reshape(rows), dim=-1)
        return gap / (size + torch.finfo(x.dtype).tiny)

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared norm and ``t -> t x``."""
        return self.inner(x, x, x), lambda t: spread(t, len(self.point_shape)) * x

    def closed_form_mean(self, x: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the arithmetic mean."""
        return stats.weighted_mean(x, weights, len(self.point_shape))

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x + y``."""
        return x + y

    def inverse(self, x: Tensor) -> Tensor:
        """Return ``-x``."""
        return -x

    def quotient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y - x``."""
        return y - x

    gyroadd = compose
    gyroneg = inverse
    gyrosub = quotient

    def gyroscale(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return ``t x``."""
        return spread(t, len(self.point_shape)) * x

    def gyration(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return ``z``: flat space has no curvature to turn it."""
        return z + torch.zeros_like(x + y)


class _MatrixSpace(Euclidean):
    """A linear space of n x n matrices, real or complex."""

    def __init__(self, n: int, field: str = "real") -> None:
        dim = n * n if field == "complex" else n * (n + 1) // 2
        Manifold.__init__(self, (n, n), dim, {"n": n, "field": field}, {"is_complex": field == "complex"})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        if dtype is None and self.is_complex:
            dtype = torch.get_default_dtype().to_complex()
        return super().origin(*batch, dtype=dtype, device=device)

    replace = Manifold.replace
    __reduce__ = Manifold.__reduce__
    __repr__ = Manifold.__repr__

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return self.project(v)


class SymmetricMatrices(_MatrixSpace):
    """Flat space of symmetric (Hermitian) matrices with the Frobenius metric.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.manifolds.SymmetricMatrices(3).dim
    6
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the Hermitian part."""
        return linalg.symmetrize(x)


class TriangularMatrices(_MatrixSpace):
    """Flat space of lower-triangular matrices (with real diagonal) and the Frobenius metric: the log-Cholesky chart.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.manifolds.TriangularMatrices(2).project(torch.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the lower triangle, with the real part of the diagonal."""
        if not x.is_complex():
            return x.tril()
        return x.tril(-1) + torch.diag_embed(x.diagonal(dim1=-2, dim2=-1).real).to(x.dtype)
