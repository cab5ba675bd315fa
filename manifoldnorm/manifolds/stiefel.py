"""Matrices with orthonormal columns: the weights of BiMap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg import functions as fn
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import widens, working_dtype
from manifoldnorm.manifolds import _stiefel_geodesics
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.spd import check_field, trace_product
from manifoldnorm.stats import MeanSystem, Weights


@linalg.without_autocast
def polar_factor(x: Tensor) -> Tensor:
    """Return the orthonormal polar factor ``x (x^H x)^-1/2`` of tall matrices (..., n, p).

    The scale of x drops out; one Newton step after the root squares away its rounding error. Single precision is
    widened on CPU.

    Raises
    ------
    torch.linalg.LinAlgError
        On CPU, if the columns are linearly dependent: there is no polar factor.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds.stiefel import polar_factor
    >>> polar_factor(3 * torch.eye(3, 2)).diagonal()
    tensor([1., 1.])
    """
    largest = x.detach().abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    wide = (x / largest).to(working_dtype(x.dtype, widens(x)))
    spectrum = linalg.decompose(wide.mH @ wide, name="polar factor")
    if plain(wide):
        _check_rank(spectrum.values, x.shape[-1])
    y = wide @ linalg.apply(spectrum, fn.INV_SQRT)
    eye = torch.eye(x.shape[-1], dtype=y.dtype, device=x.device)
    return (y @ (1.5 * eye - 0.5 * (y.mH @ y))).to(x.dtype)


def _check_rank(squares: Tensor, p: int) -> None:
    """Raise if the smallest of the squared singular values (..., p) is rounding error."""
    where = first_bad(squares[..., 0] <= p * torch.finfo(squares.dtype).eps * squares[..., -1])
    if where is not None:
        raise torch.linalg.LinAlgError(
            f"polar factor: the columns of {where[0]} are linearly dependent, so no matrix with orthonormal columns is "
            f"nearest. Draw a new one, e.g. BiMap.reset_parameters()."
        )


class Stiefel(Manifold):
    """Matrices (n, p), n >= p, with orthonormal columns and the Euclidean metric ``Re tr(u^H v)``.

    Geodesics have a closed form (Edelman, Arias and Smith 1998). `log` solves the shooting equation in a fixed number
    of steps; it finds the velocity of every geodesic up to a length of 2, of most up to 3, and returns NaN where it
    finds none. Its gradient is the implicit one. Parallel transport and means are absent.

    Parameters
    ----------
    n, p : int
        Rows and columns.
    field : {"real", "complex"}
        Orthonormal or unitary columns.

    References
    ----------
    Absil, Mahony and Sepulchre 2008, "Optimization algorithms on matrix manifolds", section 4.1.1 (polar retraction);
    Edelman, Arias and Smith 1998, "The geometry of algorithms with orthogonality constraints", eq. (2.42) (geodesics);
    Bryner 2017, "Endpoint geodesics on the Stiefel manifold embedded in Euclidean space" (shooting).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> stiefel = mn.Stiefel(4, 2)
    >>> point = stiefel.random_point(generator=torch.Generator().manual_seed(0))
    >>> bool(stiefel.violation(point) < 1e-6)
    True
    """

    injectivity_radius = 2.0  # up to where `log` is sure to arrive; that of the geometry is pi

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
        return NotImplementedError(f"{self} has no {what} here; it offers exp, log, retract and vector_transport.")

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``[p, v] exp([[a, -s], [1, a]]) [exp(-a); 0]`` with ``a = p^H v``, ``s = v^H v``."""
        return _stiefel_geodesics.exp(p, v)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the velocity of the geodesic from ``p`` to ``q``, NaN where the iteration finds none."""
        return _stiefel_geodesics.log(p, q)

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Not offered: without the Hessian of the squared distance a mean would have no exact gradient."""
        raise self._absent("Frechet means")

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
        return _stiefel_geodesics.tangent(p, v)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the projection of ``g``."""
        return self.project_tangent(p, g)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the polar factor of ``p + v``."""
        return polar_factor(p + v)

    def vector_transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the projection of ``v`` at ``q``."""
        return self.project_tangent(q, v)

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
