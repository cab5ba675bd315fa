"""Matrices with orthonormal columns: the weights of BiMap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.spd import check_field, trace_product


def polar_factor(x: Tensor) -> Tensor:
    """Return the orthonormal polar factor ``x (x^H x)^-1/2`` of tall matrices (..., n, p).

    The scale of x drops out; one Newton step after the root squares away its rounding error.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds.stiefel import polar_factor
    >>> polar_factor(3 * torch.eye(3, 2)).diagonal()
    tensor([1., 1.])
    """
    largest = x.detach().abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    x = x / largest
    y = x @ linalg.inv_sqrtm(x.mH @ x)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return y @ (1.5 * eye - 0.5 * (y.mH @ y))


class Stiefel(Manifold):
    """Matrices (n, p), n >= p, with orthonormal columns and the Euclidean metric ``Re tr(u^H v)``.

    Offers what optimizers need: projections, the polar retraction and transport by projection. The exponential and
    the logarithm are not part of this class yet and raise.

    Parameters
    ----------
    n, p : int
        Rows and columns.
    field : {"real", "complex"}
        Orthonormal or unitary columns.

    References
    ----------
    Absil, Mahony and Sepulchre 2008, "Optimization algorithms on matrix manifolds", section 4.1.1 (polar retraction).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> stiefel = mn.Stiefel(4, 2)
    >>> point = stiefel.random_point(generator=torch.Generator().manual_seed(0))
    >>> bool(stiefel.violation(point) < 1e-6)
    True
    """

    def __init__(self, n: int, p: int, *, field: str = "real") -> None:
        check_field("Stiefel", field)
        if not 1 <= p <= n:
            raise ValueError(f"Stiefel: needs 1 <= p <= n, got n={n}, p={p}. Swap the sizes, or transpose the weight.")
        dim = n * p - p * (p + 1) // 2 if field == "real" else 2 * n * p - p * p
        super().__init__((n, p), dim, {"n": n, "p": p, "field": field}, {"is_complex": field == "complex"})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the first p columns of the identity."""
        return torch.eye(*self.point_shape, dtype=dtype, device=device).expand(*batch, *self.point_shape)

    def _absent(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{self} has no {what}; use retract, vector_transport and project_tangent.")

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Not offered; see `retract`."""
        raise self._absent("closed-form exponential here")

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Not offered."""
        raise self._absent("closed-form logarithm")

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Not offered; see `vector_transport`."""
        raise self._absent("closed-form parallel transport")

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Not offered; see `vector_transport`."""
        raise self._absent("closed-form parallel transport")

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``Re tr(u^H v)``."""
        return trace_product(u.mH, v)

    def project(self, x: Tensor) -> Tensor:
        """Return the polar factor of ``x``."""
        return polar_factor(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v - p sym(p^H v)``."""
        return v - p @ linalg.symmetrize(p.mH @ v)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the projection of ``g``."""
        return self.project_tangent(p, g)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the polar factor of ``p + v``."""
        return polar_factor(p + v)

    def violation(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm of ``x^H x - I``."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.matrix_norm(x.mH @ x - eye)

    def random_tangent(self, p: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a projected normal matrix."""
        return self.project_tangent(p, torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device))

    def random_point(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Return uniformly distributed points."""
        shape = batch + self.point_shape
        if dtype is None and self.is_complex:
            dtype = torch.get_default_dtype().to_complex()
        return polar_factor(torch.randn(shape, generator=generator, dtype=dtype, device=device))
