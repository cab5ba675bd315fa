"""Geometries that only published codes have."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from manifoldnorm import linalg
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.manifolds import (
    AffineInvariant,
    Diffeo,
    LogCholeskyChart,
    MatrixLog,
    Pullback,
    SymmetricMatrices,
    TraceScaling,
    TriangularMatrices,
)


class TracedLogCholesky(Pullback):
    """The log-Cholesky metric with an (alpha, beta) inner product on its chart.

    Quirk: the trace of the log-Cholesky chart is not invariant under rotations, so this is not one of the
    O(n)-invariant metrics that alpha and beta stand for elsewhere; later versions of the code dropped it.

    Parameters
    ----------
    n : int
        Matrix size.
    alpha, beta : float
        Weights of the squared norm and of the squared trace of the chart.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN_SPDNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> metric = mn.nn.published.TracedLogCholesky(2, alpha=1.0, beta=0.5)
    >>> metric.squared_dist(torch.eye(2), torch.e**2 * torch.eye(2))
    tensor(4.)
    """

    def __init__(self, n: int, alpha: float = 1.0, beta: float = 0.0) -> None:
        config = {"n": n, "alpha": alpha, "beta": beta}
        self._setup(config, TraceScaling(alpha, beta) @ LogCholeskyChart(), TriangularMatrices(n))


class Float32AffineInvariant(AffineInvariant):
    """The affine-invariant metric whose geodesics are evaluated at a time rounded to single precision.

    Quirk: the code of SPDNN makes a float32 tensor of the momentum, which moves running means by 1e-9.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> double = torch.eye(2, dtype=torch.float64)
    >>> point = mn.nn.published.Float32AffineInvariant(2).geodesic(double, torch.e * double, 0.1)
    >>> print(f"{point[0, 0].log():.12f}")
    0.100000001490
    """

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return the geodesic at ``t`` in float32."""
        return super().geodesic(p, q, torch.as_tensor(t, dtype=torch.float32, device=p.device).to(p.real.dtype))


class _Slot(SpectralFunction):
    """``p w`` on the eigenvalue with one index, 0 on the others."""

    def __init__(self, index: int, slope: bool = False) -> None:
        self.index, self.slope = index, slope
        self.parameter = None if slope else _Slot(index, slope=True)

    def value(self, w: Tensor, p: Tensor | None) -> Tensor:
        assert p is not None
        kept = torch.zeros_like(w)
        kept[..., self.index] = w[..., self.index] if self.slope else w[..., self.index] * p
        return kept

    def divided(self, w: Tensor, p: Tensor | None) -> Tensor:
        assert p is not None
        value, half = self.value(w, p), torch.zeros_like(w)
        half[..., self.index] = p / 2
        gap = w.unsqueeze(-1) - w.unsqueeze(-2)
        rise = value.unsqueeze(-1) - value.unsqueeze(-2)
        # the limit on ties if all weights are equal; otherwise there is none
        return torch.where(gap == 0, half.unsqueeze(-1) + half.unsqueeze(-2), rise / torch.where(gap == 0, 1.0, gap))

    def taylor(self, m: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("IndexWeights: only first derivatives are implemented.")


class IndexWeights(Diffeo):
    """Multiply the eigenvalues of symmetric matrices by weights that go by index: forward largest first.

    Quirk: `inverse` divides by the same weights smallest first, so it is the inverse only if all weights are equal.

    Parameters
    ----------
    weights : Tensor
        (n,), nonzero; may carry a gradient.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> chart = mn.nn.published.IndexWeights(torch.tensor([2.0, 1.0]))
    >>> chart(torch.diag(torch.tensor([3.0, 5.0]))).diagonal()
    tensor([ 3., 10.])
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, p: Tensor) -> Tensor:
        """Return the matrix with the largest eigenvalue multiplied by the first weight, and so on."""
        return _by_index(p, self.weights.flip(0))

    def inverse(self, y: Tensor) -> Tensor:
        """Return the matrix with the smallest eigenvalue divided by the first weight, and so on."""
        return _by_index(y, 1 / self.weights)

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the differential of the forward map."""
        return _differential(p, self.weights.flip(0), v)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the differential of `inverse`."""
        return _differential(y, 1 / self.weights, w)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return `pull`, which is self-adjoint."""
        return self.pull(y, g)


def _by_index(s: Tensor, weights: Tensor) -> Tensor:
    spectrum = linalg.decompose(s)
    return torch.stack([linalg.apply(spectrum, _Slot(k), weights[k]) for k in range(s.shape[-1])]).sum(0)


def _differential(s: Tensor, weights: Tensor, v: Tensor) -> Tensor:
    spectrum = linalg.decompose(s)
    return torch.stack([linalg.frechet_derivative(spectrum, _Slot(k), v, weights[k]) for k in range(s.shape[-1])]).sum(
        0
    )


class IndexedLogEuclidean(Pullback):
    """The adaptive log-Euclidean metric with one weight per index of the sorted eigenvalues.

    Quirks: the map jumps where eigenvalues cross; the logarithm pairs the weights with the eigenvalues in descending,
    the exponential in ascending order, so for unequal weights this is no pullback metric; weights may be negative.

    Parameters
    ----------
    n : int
        Matrix size.
    weights : Tensor, optional
        (n,), default ones; learnable as ``raw_weights`` of `manifoldnorm.nn.LearnableManifold`.

    References
    ----------
    Code of Chen et al. 2024, "Adaptive log-Euclidean metrics for SPD matrix learning".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> metric = mn.nn.published.IndexedLogEuclidean(2, torch.tensor([2.0, 1.0]))
    >>> metric.chart.inverse(metric.chart(torch.diag(torch.tensor([1.0, torch.e])))).diagonal().log()
    tensor([0., 2.])
    """

    learnable: ClassVar[dict[str, str]] = {"weights": "real"}

    def __init__(self, n: int, weights: Tensor | None = None) -> None:
        weights = torch.ones(n) if weights is None else weights
        if weights.shape != (n,):
            raise ValueError(f"IndexedLogEuclidean: weights must have shape ({n},), got {tuple(weights.shape)}.")
        self._setup({"n": n, "weights": weights}, IndexWeights(weights) @ MatrixLog(), SymmetricMatrices(n))


def last_chart(chart: Diffeo | None) -> Diffeo | None:
    """Return the chart that a composition ends with."""
    while chart is not None and hasattr(chart, "outer"):
        chart = chart.outer
    return chart
