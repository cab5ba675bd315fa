"""Metrics on positive-definite matrices that are pullbacks: each is a chart and a base."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.manifolds._checks import first_bad
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.charts import (
    AdaptiveLog,
    CholeskyInverse,
    LogCholeskyChart,
    MatrixLog,
    MatrixPower,
    TraceScaling,
)
from manifoldnorm.manifolds.diffeo import Diffeo
from manifoldnorm.manifolds.euclidean import SymmetricMatrices, TriangularMatrices
from manifoldnorm.manifolds.pullback import Pullback
from manifoldnorm.manifolds.spd import AffineInvariant, alpha_bound, check_alpha_beta, check_field, check_size


class LogEuclidean(Pullback):
    """Positive-definite matrices with the log-Euclidean metric: flat in ``log p``.

    ``d(p, q)^2 = alpha |log p - log q|^2 + beta (tr log p - tr log q)^2``: invariant under rotations, inversion and the
    units of the data.

    Parameters
    ----------
    n : int
        Matrix size.
    alpha, beta : float
        Inner product; needs ``alpha > 0`` and ``alpha + n beta > 0``.
    field : {"real", "complex"}
        Symmetric or Hermitian matrices.

    References
    ----------
    Arsigny et al. 2007, "Geometric means in a novel vector space structure on symmetric positive-definite matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.LogEuclidean(2).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(1.4142)
    """

    learnable: ClassVar[dict[str, str]] = {"alpha": "positive"}

    def __init__(self, n: int, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.0, *, field: str = "real") -> None:
        n = check_size("LogEuclidean", n)
        check_field("LogEuclidean", field)
        check_alpha_beta("LogEuclidean", n, alpha, beta)
        plain = not isinstance(alpha, Tensor) and not isinstance(beta, Tensor) and (alpha, beta) == (1, 0)
        chart: Diffeo = MatrixLog() if plain else TraceScaling(alpha, beta) @ MatrixLog()
        config = {"n": n, "alpha": alpha, "beta": beta, "field": field}
        self._setup(config, chart, SymmetricMatrices(n, field))

    beta: float | Tensor

    def lower_bound(self, option: str) -> float:
        """Return, for alpha, ``-n beta`` where that is positive."""
        return alpha_bound(self.point_shape[-1], self.beta) if option == "alpha" else 0.0


class LogCholesky(Pullback):
    """Positive-definite matrices with the log-Cholesky metric: flat in ``strict_lower(L) + log diag(L)``, p = L L^H.

    Needs no eigendecomposition. Depends on the order of channels, and on the units of the data.

    Parameters
    ----------
    n : int
        Matrix size.
    field : {"real", "complex"}
        Symmetric or Hermitian matrices.

    References
    ----------
    Lin 2019, "Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.LogCholesky(2).dist(torch.eye(2), torch.e**2 * torch.eye(2))
    tensor(1.4142)
    """

    def __init__(self, n: int, *, field: str = "real") -> None:
        n = check_size("LogCholesky", n)
        check_field("LogCholesky", field)
        self._setup({"n": n, "field": field}, LogCholeskyChart(), TriangularMatrices(n, field))


class CholeskyRightInvariant(Pullback):
    """Positive-definite matrices with the right-invariant metric of the Cholesky group.

    The affine-invariant metric seen through the group inverse ``L L^T -> L^-1 L^-T``, so that right translations are
    isometries; `compose` is the opposite of the Cholesky product, which makes them left translations here.

    Parameters
    ----------
    n : int
        Matrix size.
    alpha, beta : float
        Inner product of the affine-invariant base.

    References
    ----------
    Chen et al. 2025, "LieBN: batch normalization over Lie groups", section 5.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.CholeskyRightInvariant(2).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(1.4142)
    """

    def __init__(self, n: int, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.0, *, field: str = "real") -> None:
        check_field("CholeskyRightInvariant", field, complex_ok=False)
        config = {"n": n, "alpha": alpha, "beta": beta}
        self._setup(config, CholeskyInverse(), AffineInvariant(n, alpha, beta))


class AdaptiveLogEuclidean(Pullback):
    """A log-Euclidean metric whose logarithm has learnable slopes for small and for large eigenvalues.

    Flat in ``f(log p)`` for a smooth monotone ``f`` with ``f(0) = 0`` and slope ``low`` towards minus and ``high``
    towards plus infinity, one function for every eigenvalue. With ``low = high = 1`` it is the log-Euclidean metric.

    Parameters
    ----------
    n : int
        Matrix size.
    low, high : float
        Positive slopes, learnable through `manifoldnorm.nn.LearnableManifold`.

    References
    ----------
    Idea of adaptive bases: Chen et al. 2024, "Adaptive log-Euclidean metrics for SPD matrix learning", whose weights by
    the index of an eigenvalue are discontinuous at ties.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.AdaptiveLogEuclidean(2, 2.0, 2.0).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(2.8284)
    """

    learnable: ClassVar[dict[str, str]] = {"low": "positive", "high": "positive"}

    def __init__(self, n: int, low: float | Tensor = 1.0, high: float | Tensor = 1.0, *, field: str = "real") -> None:
        n = check_size("AdaptiveLogEuclidean", n)
        check_field("AdaptiveLogEuclidean", field, complex_ok=False)
        given = [slope for slope in (low, high) if not isinstance(slope, Tensor)]
        if not all(0 < slope < math.inf for slope in given):
            raise ValueError(f"AdaptiveLogEuclidean: low={low}, high={high}: both slopes must be positive.")
        self._setup({"n": n, "low": low, "high": high}, AdaptiveLog(low, high), SymmetricMatrices(n))


class PowerDeformed(Pullback):
    """Another metric on positive-definite matrices seen through ``p -> p^power``, distances divided by ``|power|``.

    ``d(p, q) = d_base(p^power, q^power) / |power|``. As ``power`` goes to 0 the affine-invariant metric becomes the
    log-Euclidean one; the log-Euclidean metric does not change.

    The powers are matrices of the input's precision, which bounds useful powers on both sides. Near 0 the relative
    error is ``eps / |power|`` (a fixed power for which that exceeds 1e-3 is an error). For large ones ``p^power`` must
    still be numerically positive definite, ``cond(p)^|power| < 1 / eps``, which `check_point` looks at.

    Parameters
    ----------
    base : Manifold
        A metric on positive-definite matrices.
    power : float or Tensor
        Nonzero, learnable through `manifoldnorm.nn.LearnableManifold` (with its sign kept).

    References
    ----------
    Thanwerdas and Pennec 2022, "The geometry of mixed-Euclidean metrics on symmetric positive definite matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.PowerDeformed(mn.AffineInvariant(2), 0.5).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(1.4142)
    """

    learnable: ClassVar[dict[str, str]] = {"power": "nonzero"}

    def __init__(self, base: Manifold, power: float | Tensor) -> None:
        self._setup({"base": base, "power": power}, MatrixPower(power), base, 1 / (power * power))

    power: float | Tensor

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise as every metric on positive-definite matrices does, and where the power is numerically singular."""
        super().check_point(x, name)
        values = linalg.eigvalsh(x)
        condition = (values[..., -1] / values[..., 0]).log() * torch.as_tensor(self.power).detach().abs()
        where = first_bad(condition > -math.log(x.shape[-1] * torch.finfo(x.dtype).eps))
        if where is not None:
            raise ValueError(
                f"{self}: {name}: the power of {where[0]} is numerically singular (condition "
                f"exp({float(condition.flatten()[where[1]]):.3g})). Use a smaller power, or float64."
            )

    @classmethod
    def of(cls, base: Any, power: float, **options: Any) -> _DeformedFactory:
        """Return a picklable factory ``n -> PowerDeformed(base(n), power)`` for use in norm factories."""
        return _DeformedFactory(base, power, options)


class _DeformedFactory:
    """``sizes -> PowerDeformed(base(*sizes), power)``."""

    def __init__(self, base: Any, power: float, options: dict[str, Any]) -> None:
        self.base, self.power, self.options = base, power, options

    def __call__(self, *sizes: int, **options: Any) -> PowerDeformed:
        return PowerDeformed(self.base(*sizes, **self.options, **options), self.power)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DeformedFactory) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.base, self.power))

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"PowerDeformed.of({getattr(self.base, '__name__', repr(self.base))}, {self.power}{options})"
