"""The open elliptope of full-rank correlation matrices, and the linear spaces that charts map it onto."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._diagonals import hollow
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.charts_correlation import correlation_from_covariance
from manifoldnorm.manifolds.cone import PositiveDefiniteCone
from manifoldnorm.manifolds.euclidean import _MatrixSpace


class Elliptope(PositiveDefiniteCone):
    """Positive-definite symmetric matrices with unit diagonal as a set."""

    @staticmethod
    def project(x: Tensor) -> Tensor:
        """Return the correlation matrix of the nearest covariance: eigenvalues raised, then unit diagonal."""
        return correlation_from_covariance(PositiveDefiniteCone.project(x))

    @staticmethod
    def project_tangent(p: Tensor, v: Tensor) -> Tensor:
        """Return the symmetric part of ``v`` without its diagonal."""
        return hollow(linalg.symmetrize(v))

    @staticmethod
    def violation(x: Tensor) -> Tensor:
        """Return the cone's violation plus the largest difference of the diagonal from 1."""
        return PositiveDefiniteCone.violation(x) + (x.diagonal(dim1=-2, dim2=-1) - 1).abs().amax(-1)

    @staticmethod
    def check_point(x: Tensor, name: str) -> None:
        """Raise a ValueError for matrices that are no numerically full-rank correlation matrices."""
        PositiveDefiniteCone.check_point(x, name)
        gap = (x.detach().diagonal(dim1=-2, dim2=-1) - 1).abs().amax(-1)
        where = first_bad(gap > 1e3 * torch.finfo(x.dtype).eps)
        if where is not None:
            raise ValueError(
                f"{name}: {where[0]} has a diagonal that differs from 1 by {float(gap.flatten()[where[1]]):.3g}: "
                f"a covariance? Make it a correlation matrix with manifold.project(x)."
            )


class _HollowDimension(_MatrixSpace):
    """A linear space of n x n matrices of dimension n (n - 1) / 2."""

    def __init__(self, n: int) -> None:
        Manifold.__init__(self, (n, n), n * (n - 1) // 2, {"n": n})


class HollowMatrices(_HollowDimension):
    """Flat space of symmetric matrices with zero diagonal and the Frobenius metric.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds.elliptope import HollowMatrices
    >>> HollowMatrices(2).project(torch.ones(2, 2))
    tensor([[0., 1.],
            [1., 0.]])
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the symmetric part without its diagonal."""
        return hollow(linalg.symmetrize(x))


class StrictlyTriangularMatrices(_HollowDimension):
    """Flat space of strictly lower-triangular matrices and the Frobenius metric.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds.elliptope import StrictlyTriangularMatrices
    >>> StrictlyTriangularMatrices(2).project(torch.ones(2, 2))
    tensor([[0., 0.],
            [1., 0.]])
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the strictly lower triangle."""
        return x.tril(-1)


class ZeroRowSumMatrices(_HollowDimension):
    """Flat space of symmetric matrices with zero row sums and the Frobenius metric.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.manifolds.elliptope import ZeroRowSumMatrices
    >>> ZeroRowSumMatrices(2).project(torch.eye(2))
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]])
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the symmetric part, centred in both directions."""
        x = linalg.symmetrize(x)
        rows = x.mean(-1, keepdim=True)
        return x - rows - rows.mT + rows.mean(-2, keepdim=True)
