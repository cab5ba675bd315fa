"""O(n)-invariant metrics on positive-definite matrices that weigh every pair of eigenvalues by a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._diagonals import widened
from manifoldnorm.linalg.pair_maps import pair_map
from manifoldnorm.manifolds._geodesics import flow, shoot_at
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.charts import MatrixLog
from manifoldnorm.manifolds.kernels import CustomKernel, SpectralKernel
from manifoldnorm.manifolds.pullback import Pullback
from manifoldnorm.manifolds.spd import check_size, trace_product


class LogKernelSpace(Manifold):
    """Symmetric matrices with a kernel metric: a kernel metric on positive-definite ones in matrix logarithms.

    In this chart no geodesic leaves the space, and a change of units is a translation by a multiple of the identity.

    Parameters
    ----------
    n : int
        Matrix size.
    kernel : SpectralKernel
        Used through its ``in_logarithms``.
    """

    origin_kind = "zero"
    kernel: SpectralKernel

    def __init__(self, n: int, kernel: SpectralKernel) -> None:
        super().__init__((n, n), n * (n + 1) // 2, {"n": n, "kernel": kernel})

    def _map(self, p: Tensor, v: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply ``V -> U (f(kernel) o U^T V U) U^T`` in the eigenbasis of ``p``."""
        kernel = self.kernel.in_logarithms
        spectrum = linalg.decompose(widened(p), name="kernel metric")
        return pair_map(spectrum, widened(v), lambda a, b: f(kernel(a, b))).to(v.dtype)

    def _at_origin(self, like: Tensor) -> Tensor:
        zero = like.new_zeros(())
        return self.kernel.in_logarithms(zero, zero)

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return zeros."""
        return torch.zeros(*batch, *self.point_shape, dtype=dtype, device=device)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the end of the geodesic, by Hamilton's equations."""
        return flow(widened(p), widened(linalg.symmetrize(v)), self.kernel.in_logarithms).to(p.dtype)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the velocity of the geodesic, by shooting."""
        return shoot_at(widened(p), widened(q), self.kernel.in_logarithms).to(p.dtype)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``sum_ij U_ij V_ij / kernel`` in the eigenbasis of ``p``."""
        return trace_product(linalg.symmetrize(u), self._map(p, v, torch.reciprocal))

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return entries scaled to constant length: diagonal matrices are flat, and signs keep entries apart."""
        scale = self._at_origin(p)
        return self._map(p, v, lambda k: (scale.to(k.dtype) / k).sqrt())

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the inverse of `to_origin`."""
        scale = self._at_origin(p)
        return self._map(p, v, lambda k: (k / scale.to(k.dtype)).sqrt())

    def project(self, x: Tensor) -> Tensor:
        """Return the symmetric part."""
        return linalg.symmetrize(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the symmetric part."""
        return linalg.symmetrize(v)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return ``kernel o g`` in the eigenbasis of ``p``."""
        return self._map(p, g, lambda k: k)

    def violation(self, x: Tensor) -> Tensor:
        """Return the relative asymmetry."""
        size = torch.linalg.matrix_norm(x)
        return torch.linalg.matrix_norm(x - x.mT) / (size + torch.finfo(x.dtype).tiny)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``p + v``."""
        return p + v

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return ``v``: defined for every vector, unlike ``exp``."""
        return v

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return ``p``."""
        return p

    def origin_inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Return a multiple of ``tr(u v)``."""
        return trace_product(u, v) / self._at_origin(u)


class KernelMetric(Pullback):
    r"""Positive-definite matrices with the metric ``sum_ij V_ij^2 / phi(w_i, w_j)``, V and w in the eigenbasis.

    It is invariant under rotations. The affine-invariant (``phi = x y``), log-Euclidean, Bures-Wasserstein
    (``phi = 2 (x + y)``) and power-Euclidean metrics are of this kind; where the kernel knows a closed form, geodesics,
    distances and means are those of it. Elsewhere `exp` integrates Hamilton's equations in matrix logarithms (fixed
    steps, order 12) and `log` shoots, both differentiable once; gradients take memory of order ``n^4`` per matrix, and
    distances of a few units are the limit. Transport is closed between a point and the origin. The exponential need
    not be defined for every vector.

    Parameters
    ----------
    n : int
        Matrix size.
    kernel : SpectralKernel or callable
        A symmetric positive function phi of two eigenvalues; a plain function must be elementwise, and smooth.
    closed_form : bool
        Whether to use the kernel's closed form; the solver otherwise.

    References
    ----------
    Thanwerdas and Pennec 2023, "O(n)-invariant Riemannian metrics on SPD matrices"; Hiai and Petz 2009, "Riemannian
    metrics on positive definite matrices related to means".

    Examples
    --------
    A kernel from a mean, here the harmonic one, without closed form:

    >>> import torch, manifoldnorm as mn
    >>> metric = mn.KernelMetric(2, lambda x, y: 2 * x * y / (x + y))
    >>> p, q = torch.eye(2, dtype=torch.float64), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    >>> metric.exp(p, metric.log(p, q))
    tensor([[2.0000, 0.5000],
            [0.5000, 1.0000]], dtype=torch.float64)
    """

    kernel: SpectralKernel

    def __init__(
        self, n: int, kernel: SpectralKernel | Callable[[Tensor, Tensor], Tensor], *, closed_form: bool = True
    ) -> None:
        check_size("KernelMetric", n)
        config = {"n": n, "kernel": kernel, "closed_form": closed_form}
        self._setup_kernel(config, n, kernel if isinstance(kernel, SpectralKernel) else CustomKernel(kernel))

    def _setup_kernel(self, config: dict[str, Any], n: int, kernel: SpectralKernel) -> None:
        closed = kernel.closed_form(n) if config["closed_form"] else None
        self._setup(config, *(closed or (MatrixLog(), LogKernelSpace(n, kernel), 1.0)))
        object.__setattr__(self, "kernel", kernel)

    def cometric(self, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return ``sum_ij phi(w_i, w_j) A_ij B_ij``, the inner product (*batch) of two Euclidean gradients at ``p``."""
        return trace_product(linalg.symmetrize(a), self.egrad2rgrad(p, b))

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return a step in the chart: no solver."""
        return self.chart.inverse(self.base.retract(self.chart(p), self.chart.push(p, v)))

    def random_point(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Return the matrix exponential of random symmetric matrices of norm about 1."""
        origin = self.origin(*batch, dtype=dtype, device=device)
        return linalg.expm(self.random_tangent(origin, generator) / math.sqrt(self.dim))
