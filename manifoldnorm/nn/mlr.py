"""Multinomial logistic regression on positive-definite matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._precision import widens
from manifoldnorm.manifolds import AffineInvariant, Euclidean, Manifold
from manifoldnorm.manifolds.base import safe_sqrt, spread
from manifoldnorm.manifolds.pullback import Pullback, flatten
from manifoldnorm.nn import _inputs
from manifoldnorm.nn.learnable import LearnableManifold


class SPDMLR(nn.Module):
    r"""Multinomial logistic regression on positive-definite matrices, in the geometry of a metric.

    Score k is ``<log_P X, W>_P`` for a point ``P = P_k`` and the normal ``W = W_k`` at the identity, transported to P;
    equally the gyro form ``<log_e((-)P (+) X), W>_e``. On flat metrics it is a linear layer in the chart, ``|W|`` times
    the signed distance from the hyperplane through P normal to W, and costs one logarithm or Cholesky factor per
    matrix; on the affine-invariant metric ``<log(P^-1/2 X P^-1/2), W>`` takes one decomposition per matrix and class.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        A flat metric (`LogEuclidean`, `LogCholesky`, ...), `AffineInvariant`, or a pullback of it.
    n_outputs : int
        Number of classes.
    bias : {"point", "hyperplane", False}
        Where ``P_k`` lies. ``"point"`` is the published form: any point, the exponential at the identity of the
        parameter ``bias`` (n_outputs, n, n). ``"hyperplane"`` has one number per class, ``bias`` (n_outputs):
        ``P_k = exp_e(-bias_k W_k / |W_k|)``, which on flat metrics describes the same hyperplanes without redundancy.
        ``False`` is the identity, for one decomposition per matrix in every metric.
    device, dtype : optional
        Of the parameters ``weight`` (n_outputs, n, n), of which the symmetric part counts, and ``bias``.

    Raises
    ------
    TypeError
        If the metric is neither flat nor affine-invariant, or complex.

    References
    ----------
    Chen et al. 2024, "Riemannian multinomial logistics regression for SPD neural networks" (flat metrics); Chen et al.
    2024, "RMLR: extending multinomial logistic regression into general geometries"; gyro form: Nguyen and Yang 2023,
    "Building neural networks on matrix manifolds: a gyrovector space approach".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> classifier = mn.nn.SPDMLR(mn.AffineInvariant(4), 3)
    >>> classifier(torch.eye(4).expand(8, 4, 4)).shape
    torch.Size([8, 3])
    """

    def __init__(
        self,
        manifold: Any,
        n_outputs: int,
        *,
        bias: str | bool = "point",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._geometry = _inputs.as_geometry(manifold)
        self.n_outputs, self.bias_kind = n_outputs, "point" if bias is True else bias or ""
        if not isinstance(n_outputs, int) or n_outputs < 1:
            raise ValueError(f"SPDMLR: n_outputs must be a positive integer, got {n_outputs!r}.")
        if self.bias_kind not in ("point", "hyperplane", ""):
            raise ValueError(f"SPDMLR: bias must be 'point', 'hyperplane' or False, got {bias!r}.")
        geometry = self.manifold
        if geometry.is_complex or not _solvable(geometry):
            raise TypeError(
                f"SPDMLR: needs real symmetric matrices and a flat or affine-invariant metric, got {geometry}. Use "
                f"LogEuclidean(n), LogCholesky(n) or AffineInvariant(n)."
            )
        shape = (n_outputs, *geometry.point_shape)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        bias_shape = shape if self.bias_kind == "point" else (n_outputs,)
        self.bias = nn.Parameter(torch.empty(bias_shape, device=device, dtype=dtype)) if self.bias_kind else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw random normals with squares of mean one and put every point at the identity."""
        geometry = self.manifold
        origin = geometry.origin(self.n_outputs, dtype=self.weight.dtype, device=self.weight.device)
        self.weight.copy_(geometry.random_tangent(origin) / geometry.dim**0.5)
        if self.bias is not None:
            self.bias.zero_()

    @property
    def manifold(self) -> Manifold:
        """The metric (of a `LearnableManifold`, at its current options)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    @property
    def bias_point(self) -> Tensor:
        """The points P (n_outputs, n, n); may be assigned with ``bias="point"``."""
        manifold = self.manifold
        tangent = self._tangent(manifold, self._normal(manifold))
        if tangent is None:
            return manifold.origin(self.n_outputs, dtype=self.weight.dtype, device=self.weight.device)
        return manifold.point_from_tangent(tangent)

    @bias_point.setter
    def bias_point(self, value: Tensor) -> None:
        if self.bias is None or self.bias_kind != "point":
            raise ValueError("SPDMLR: only with bias='point' can the points be assigned.")
        self.manifold.check_point(value, "SPDMLR.bias_point")
        with torch.no_grad():
            self.bias.copy_(self.manifold.tangent_from_point(value))

    def _normal(self, manifold: Manifold) -> Tensor:
        origin = manifold.origin(dtype=self.weight.dtype, device=self.weight.device)
        return manifold.project_tangent(origin, self.weight)

    def _tangent(self, manifold: Manifold, normal: Tensor) -> Tensor | None:
        """Return the logarithms at the identity of the points, None for the identity."""
        if self.bias is None:
            return None
        if self.bias_kind == "point":
            return manifold.project_tangent(manifold.origin(dtype=normal.dtype, device=normal.device), self.bias)
        _, base, scale = flatten(manifold)
        pushed = _push(manifold, normal)
        length = safe_sqrt(scale * base.origin_inner(pushed, pushed))
        return spread(-self.bias / torch.where(length > 0, length, 1.0), 2) * normal

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (..., n, n) to scores (..., n_outputs)."""
        manifold = self.manifold
        manifold.check_shape(x, "SPDMLR input")
        _inputs.check_same_kind(self.weight, x, "SPDMLR")
        normal = self._normal(manifold)
        tangent = self._tangent(manifold, normal)
        chart, base, scale = flatten(manifold)
        image = x if chart is None else chart(x)
        at_point = None if tangent is None else _push(manifold, tangent)
        score = _flat_scores if isinstance(base, Euclidean) else _gyro_scores
        return (scale * score(base, image, _push(manifold, normal), at_point)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the geometry and options."""
        learned = isinstance(self._geometry, LearnableManifold)
        shown = f"learnable {self._geometry.template}" if learned else f"{self._geometry}"
        return f"{shown}, n_outputs={self.n_outputs}, bias={self.bias_kind or False!r}"


def _solvable(manifold: Manifold) -> bool:
    """Return whether points are n x n matrices with the identity as origin and a base with a global gyro form."""
    matrices = manifold.origin_kind == "identity" and len(manifold.point_shape) == 2
    return matrices and isinstance(flatten(manifold)[1], (Euclidean, AffineInvariant))


def _push(manifold: Manifold, v: Tensor) -> Tensor:
    """Return the tangent vector at the innermost base's origin that ``v`` at the origin is pushed to."""
    while isinstance(manifold, Pullback):
        v, manifold = manifold.base_tangent(v), manifold.base
    return v


def _flat_scores(base: Manifold, x: Tensor, normal: Tensor, tangent: Tensor | None) -> Tensor:
    """Return ``<x, W> - <log P, W>``, all classes at once: a linear layer."""
    offset = None if tangent is None else -(normal * tangent).sum((-2, -1))
    return nn.functional.linear(x.flatten(-2), normal.flatten(-2), offset)


def _gyro_scores(base: Any, x: Tensor, normal: Tensor, tangent: Tensor | None) -> Tensor:
    """Return ``<log_e((-)P (+) x), W>_e``."""
    if widens(x):  # rounded between two products it would lose as many digits as its condition has
        x, normal, tangent = x.double(), normal.double(), None if tangent is None else tangent.double()
    each = x.unsqueeze(-3)
    if tangent is not None:
        points = base.point_from_tangent(tangent)
        each = base.gyrosub(points, each.expand(*x.shape[:-2], *points.shape))
    return base.origin_inner(base.tangent_from_point(each), normal)
