"""Full-rank correlation matrices with the four flat metrics: each is a chart and a flat base."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from manifoldnorm.manifolds.charts import MatrixLog
from manifoldnorm.manifolds.charts_correlation import (
    CorrelationCholesky,
    HollowScaling,
    OffLog,
    RowScaling,
    UnipotentLog,
    ZeroRowSumScaling,
)
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.elliptope import (
    Elliptope,
    HollowMatrices,
    StrictlyTriangularMatrices,
    ZeroRowSumMatrices,
)
from manifoldnorm.manifolds.pullback import Pullback


def check_correlation_size(name: str, n: int) -> None:
    """Raise unless ``n`` is an integer of at least 2."""
    if not isinstance(n, int) or n < 2:
        raise ValueError(f"{name}: n must be an integer of at least 2 (the number of variables), got {n!r}.")


class CorrelationManifold(Pullback):
    """A metric on full-rank correlation matrices (n, n); tangent vectors are symmetric with zero diagonal."""

    @property
    def domain(self) -> type[Elliptope]:
        """The open elliptope."""
        return Elliptope


class CorrelationEuclideanCholesky(CorrelationManifold):
    """Correlation matrices with the Euclidean-Cholesky metric: flat in the unit-diagonal Cholesky factor.

    ``d(p, q) = |strict_lower(D_p^-1 L_p - D_q^-1 L_q)|`` with the Cholesky factors L and their diagonals D. The
    cheapest of the four. Depends on the order of variables.

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
    >>> mn.CorrelationEuclideanCholesky(2).dist(torch.eye(2), c)
    tensor(0.7500)
    """

    def __init__(self, n: int) -> None:
        check_correlation_size("CorrelationEuclideanCholesky", n)
        self._setup({"n": n}, CorrelationCholesky(), StrictlyTriangularMatrices(n))


class CorrelationLogEuclideanCholesky(CorrelationManifold):
    """Correlation matrices with the log-Euclidean-Cholesky metric: flat in ``log(D^-1 L)``.

    L is the Cholesky factor and D its diagonal; the group is that of unit triangular matrices in logarithms. Inversion
    of the factor is an isometry. Depends on the order of variables.

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
    >>> mn.CorrelationLogEuclideanCholesky(2).dist(torch.eye(2), c)
    tensor(0.7500)
    """

    def __init__(self, n: int) -> None:
        check_correlation_size("CorrelationLogEuclideanCholesky", n)
        chart = UnipotentLog() @ CorrelationCholesky()
        self._setup({"n": n}, chart, StrictlyTriangularMatrices(n))


def _scaled(name: str, n: int, scaling: HollowScaling, chart: Diffeo) -> Diffeo:
    """Return the chart followed by the isometry to the Frobenius metric, after a check of its options."""
    options = tuple(vars(scaling).values())
    if any(isinstance(value, Tensor) for value in options):
        return scaling @ chart
    weights = scaling.weights(n)
    if not all(w > 0 for w in weights):
        raise ValueError(
            f"{name}: {', '.join(f'{k}={v}' for k, v in vars(scaling).items())} is no inner product for n={n}: its "
            f"weights on the three invariant spaces are {', '.join(f'{float(w):.4g}' for w in weights)}, and all must "
            f"be positive."
        )
    return chart if options == (1, 0, 0) else scaling @ chart


class CorrelationOffLog(CorrelationManifold):
    """Correlation matrices with the off-log metric: flat in the logarithm without its diagonal.

    With ``Y = off(log p) - off(log q)``, ``d(p, q)^2 = alpha tr Y^2 + beta |Y 1|^2 + gamma (1^T Y 1)^2``. Does not
    depend on the order of variables; inversion followed by normalisation is not an isometry.

    Parameters
    ----------
    n : int
        Matrix size, at least 2.
    alpha, beta, gamma : float
        Inner product; needs ``alpha > 0``, ``2 alpha + (n - 2) beta > 0``, ``alpha + (n - 1)(beta + n gamma) > 0``.

    References
    ----------
    Thanwerdas 2024, "Permutation-invariant log-Euclidean geometries on full-rank correlation matrices"; chart: Archakov
    and Hansen 2021, "A new parametrization of correlation matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.CorrelationOffLog(2).dist(torch.eye(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    tensor(0.7768)
    """

    learnable: ClassVar[dict[str, str]] = {"alpha": "positive"}

    def __init__(
        self, n: int, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.0, gamma: float | Tensor = 0.0
    ) -> None:
        check_correlation_size("CorrelationOffLog", n)
        chart = _scaled("CorrelationOffLog", n, HollowScaling(alpha, beta, gamma), OffLog())
        self._setup({"n": n, "alpha": alpha, "beta": beta, "gamma": gamma}, chart, HollowMatrices(n))


class CorrelationLogScaling(CorrelationManifold):
    """Correlation matrices with the log-scaled metric: flat in the logarithm of the matrix scaled to unit row sums.

    With ``S(p) = log(diag(x) p diag(x))``, x positive such that the row sums of the argument are 1, and
    ``Y = S(p) - S(q)``: ``d(p, q)^2 = alpha tr Y^2 + delta sum_i Y_ii^2 + zeta (tr Y)^2``. Does not depend on the order
    of variables, and inversion followed by normalisation is an isometry: ``S(Cor(p^-1)) = -S(p)``.

    Parameters
    ----------
    n : int
        Matrix size, at least 2.
    alpha, delta, zeta : float
        Inner product; needs ``alpha > 0``, ``n alpha + (n - 2) delta > 0``,
        ``n alpha + (n - 1)(delta + n zeta) > 0``.

    References
    ----------
    Thanwerdas 2024, "Permutation-invariant log-Euclidean geometries on full-rank correlation matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.CorrelationLogScaling(2).dist(torch.eye(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    tensor(1.0986)
    """

    learnable: ClassVar[dict[str, str]] = {"alpha": "positive"}

    def __init__(
        self, n: int, alpha: float | Tensor = 1.0, delta: float | Tensor = 0.0, zeta: float | Tensor = 0.0
    ) -> None:
        check_correlation_size("CorrelationLogScaling", n)
        chart = _scaled("CorrelationLogScaling", n, ZeroRowSumScaling(alpha, delta, zeta), MatrixLog() @ RowScaling())
        self._setup({"n": n, "alpha": alpha, "delta": delta, "zeta": zeta}, chart, ZeroRowSumMatrices(n))
