"""Correlation matrices as products of hyperbolic spaces, one for each row of the Cholesky factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._diagonals import hollow
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.charts_correlation import correlation_from_factor
from manifoldnorm.manifolds.correlation import CorrelationManifold, check_correlation_size
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.stereographic import PoincareBall
from manifoldnorm.manifolds.structures import Finish, Gyrogroup, Spread, same
from manifoldnorm.stats import MeanPolicy, MeanSystem, Reduction, Weights


class PoincareRows(Diffeo):
    """Row i of the Cholesky factor, a point of a hemisphere, as a point ``L_ij / (1 + L_ii)``, j < i, of a ball.

    Onto strictly lower-triangular matrices: row i has i entries, the rest is 0.
    """

    image_of: ClassVar[dict[str, str]] = {"identity": "zero"}

    def __call__(self, p: Tensor) -> Tensor:
        """Return the balls' points, row by row."""
        factor = linalg.cholesky(p)
        return factor.tril(-1) / (1 + factor.diagonal(dim1=-2, dim2=-1).unsqueeze(-1))

    def inverse(self, y: Tensor) -> Tensor:
        """Return the correlation matrix whose factor has the rows ``(2 y, 1 - |y|^2) / (1 + |y|^2)``."""
        return correlation_from_factor(self._factor(y))

    @staticmethod
    def _factor(y: Tensor) -> Tensor:
        square = y.square().sum(-1)
        return (2 * y + torch.diag_embed(1 - square)) / (1 + square).unsqueeze(-1)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``(dL_ij - y_ij dL_ii) / (1 + L_ii)``, ``dL = L half(L^-1 v L^-T)``."""
        factor, inverse = linalg.inverse_cholesky(p)
        d = factor @ linalg.half_lower(inverse @ linalg.symmetrize(v) @ inverse.mT)
        height = 1 + factor.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return (d - factor / height * d.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).tril(-1) / height

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return ``dL L^T + L dL^T``."""
        factor, height = self._factor(y), 1 + y.square().sum(-1, keepdim=True)
        rise = 2 * (y * w).sum(-1)
        d = (2 * w - torch.diag_embed(rise) - factor * rise.unsqueeze(-1)) / height
        product = d @ factor.mT
        return hollow(product + product.mT)

    def push_identity(self, v: Tensor) -> Tensor:
        """Return half of the strict lower part."""
        return v.tril(-1) / 2


class HyperbolicRows(Manifold, Gyrogroup):
    """Strictly lower-triangular matrices whose rows are points of Poincare balls of curvature -1, row i of dimension i.

    A ball of dimension i is a totally geodesic subspace of a larger one, so that all rows are points of one ball.

    Parameters
    ----------
    n : int
        Matrix size.
    """

    origin_kind = "zero"
    has_hessian = True
    ball: PoincareBall

    def __init__(self, n: int) -> None:
        super().__init__((n, n), n * (n - 1) // 2, {"n": n}, {"ball": PoincareBall(n)})

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return zeros."""
        return torch.zeros(*batch, *self.point_shape, dtype=dtype, device=device)

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the rows' exponentials."""
        return self.ball.exp(p, v)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the rows' logarithms."""
        return self.ball.log(p, q)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of the rows' inner products."""
        return self.ball.inner(p, u, v).sum(-1)

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the sum of the rows' squared distances."""
        return self.ball.squared_dist(p, q).sum(-1)

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the rows' transports."""
        return self.ball.to_origin(p, v)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the rows' transports."""
        return self.ball.from_origin(p, v)

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the rows' transports."""
        return self.ball.transport(p, q, v)

    def project(self, x: Tensor) -> Tensor:
        """Return the strictly lower triangle, its rows pulled back into the balls."""
        return self.ball.project(x.tril(-1))

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the strictly lower triangle."""
        return v.tril(-1)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the rows' gradients."""
        return self.ball.egrad2rgrad(p, g.tril(-1))

    def violation(self, x: Tensor) -> Tensor:
        """Return the largest violation of a row plus the largest entry on or above the diagonal."""
        return self.ball.violation(x).amax(-1) + x.triu().abs().amax((-2, -1))

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the sum of the rows' squared distances and the dilation of all of them."""
        squared, dilate = self.ball.polar(x)
        return squared.sum(-1), lambda t: dilate(_per_row(t))

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return the rows' geodesics."""
        return self.ball.geodesic(p, q, _per_row(t))

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return the rows' `shoot`."""
        return self.ball.shoot(p, v)

    def random_tangent(self, p: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return tangent vectors with standard normal coordinates."""
        return self.ball.random_tangent(p, generator).tril(-1)

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the rows' gyrosums."""
        return self.ball.gyroadd(x, y)

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return ``-x``."""
        return -x

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the rows' gyrosubtractions."""
        return self.ball.gyrosub(x, y)

    def gyration(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the rows' gyrations."""
        return self.ball.gyration(x, y, z)

    def gyro_dilation(self, center: Tensor, x: Tensor, spread: Spread = same) -> tuple[Tensor, Finish]:
        """Move, scale and move back all rows."""
        squared, finish = self.ball.gyro_dilation(center, x, spread)
        return squared.sum(-1), lambda t, bias: finish(_per_row(t), bias)  # type: ignore[arg-type]

    # ---- means

    @property
    def default_mean(self) -> MeanPolicy:
        """The ball's."""
        return self.ball.default_mean

    def mean_start(self, x: Tensor, weights: Weights) -> Tensor:
        """Return the rows' gyromidpoints."""
        return self.ball.mean_start(x, _row_weights(weights))

    def midpoint(self, x: Tensor, weights: Weights = None) -> Tensor:
        """Return the rows' gyromidpoints."""
        return self.ball.midpoint(x, _row_weights(weights))

    def mean_system(self, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
        """Return the rows' systems, which are independent."""
        system = self.ball.mean_system(p, x, _row_weights(weights))
        cost = system.cost.sum(-1)
        return MeanSystem(system.residual, system.hessian, cost, 1 + cost.sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return the rows' steps."""
        return self.ball.mean_step(p, direction)


def _per_row(t: Tensor | float) -> Tensor | float:
    return t.unsqueeze(-1) if isinstance(t, Tensor) else t


def _row_weights(weights: Weights) -> Weights:
    """Return weights that broadcast against rows; a reduction does by itself."""
    return weights if weights is None or isinstance(weights, Reduction) else weights.unsqueeze(-1)


class CorrelationPolyHyperbolic(CorrelationManifold):
    """Correlation matrices as a product of hyperbolic spaces: row i of the Cholesky factor is a point of dimension i.

    ``d(p, q)^2 = sum_i arcosh((1 - <k_i, k_i'>) / (L_ii L_ii'))^2`` with the rows k_i of the strictly lower parts of
    the Cholesky factors L and L': k_i is a point of the Klein ball of curvature -1. A gyrogroup: Einstein addition row
    by row. Negatively curved; depends on the order of variables. Norm layers have one variance for all rows.

    Parameters
    ----------
    n : int
        Matrix size, at least 2.

    References
    ----------
    Thanwerdas and Pennec 2022, "Theoretically and computationally convenient geometries on full-rank correlation
    matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> c = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    >>> mn.CorrelationPolyHyperbolic(2).dist(torch.eye(2), c)
    tensor(0.6931)
    """

    def __init__(self, n: int) -> None:
        check_correlation_size("CorrelationPolyHyperbolic", n)
        self._setup({"n": n}, PoincareRows(), HyperbolicRows(n))
