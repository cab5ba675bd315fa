"""What the published codes do differently, as parts: geometries, a mean policy, and where statistics are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm import linalg
from manifoldnorm.linalg.functions import SpectralFunction
from manifoldnorm.manifolds import (
    AffineInvariant,
    Diffeo,
    LogCholeskyChart,
    Manifold,
    MatrixLog,
    Pullback,
    SymmetricMatrices,
    TraceScaling,
    TriangularMatrices,
    flatten,
)
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn.moves import Finish, Move
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.stats import MeanPolicy, weighted_mean


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


class IndexWeights(Diffeo):
    """Multiply the eigenvalues of symmetric matrices by weights that go by index: forward largest first.

    Quirk: `inverse` divides by the same weights smallest first, so it is the inverse only if all weights are equal.

    Parameters
    ----------
    weights : Tensor
        (n,), nonzero; may carry a gradient.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, p: Tensor) -> Tensor:
        """Return the matrix with the largest eigenvalue multiplied by the first weight, and so on."""
        return _by_index(p, self.weights.flip(0))

    def inverse(self, y: Tensor) -> Tensor:
        """Return the matrix with the smallest eigenvalue divided by the first weight, and so on."""
        return _by_index(y, 1 / self.weights)


def _by_index(s: Tensor, weights: Tensor) -> Tensor:
    spectrum = linalg.decompose(s)
    terms = [linalg.apply(spectrum, _Slot(k), weights[k]) for k in range(s.shape[-1])]
    return torch.stack(terms).sum(0)


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

    learnable = {"weights": "real"}

    def __init__(self, n: int, weights: Tensor | None = None) -> None:
        weights = torch.ones(n) if weights is None else weights
        if weights.shape != (n,):
            raise ValueError(f"IndexedLogEuclidean: weights must have shape ({n},), got {tuple(weights.shape)}.")
        self._setup({"n": n, "weights": weights}, IndexWeights(weights) @ MatrixLog(), SymmetricMatrices(n))


@dataclass(frozen=True)
class EarlyStoppedKarcher(MeanPolicy):
    """Karcher steps from the arithmetic mean that stop before a step whose Frobenius norm is at most a tolerance.

    Quirk: concentrated batches get the arithmetic mean, whatever ``steps``.

    Parameters
    ----------
    steps : int
        Largest number of steps.
    tolerance : float
        Absolute, in the whitened tangent space; with a ``chart``, of the plain tangent matrix.
    chart : Diffeo, optional
        From the coordinates in which the code takes the arithmetic mean and the norm, where these are not the base's:
        `manifoldnorm.manifolds.CholeskyInverse` for the right-invariant metric.

    References
    ----------
    Code of Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN toolbox).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.stack([torch.eye(2), 1.1 * torch.eye(2)])
    >>> mn.nn.published.EarlyStoppedKarcher()(mn.AffineInvariant(2), x).diagonal()
    tensor([1.0500, 1.0500])
    """

    steps: int = 1
    tolerance: float = 0.1
    chart: Diffeo | None = None

    def _iterate(self, manifold: Any, x: Tensor, weights: Tensor | None) -> Tensor:
        chart = self.chart
        point = weighted_mean(x if chart is None else chart.inverse(x), weights, 2)
        point = point if chart is None else chart(point)
        for _ in range(self.steps):
            tangent = weighted_mean(manifold.log(point, x), weights, 2)
            plain = manifold.to_origin(point, tangent) if chart is None else chart.pull(point, tangent)
            moves = torch.linalg.matrix_norm(plain) > self.tolerance
            point = torch.where(spread(moves, 2), manifold.exp(point, tangent), point)  # type: ignore[arg-type]
        return point


class PublishedNorm(ManifoldNorm):
    """What the published SPD norms share, on top of a norm layer.

    Quirks: the running mean is kept in the chart of a pullback metric (in which a learnable chart moves it) and starts
    at the identity matrix there, even where the origin of the chart is 0; the scale ``signed_scale`` may be negative
    and is its own parameter; statistics are detached; the bias is a point of the manifold.
    """

    def __init__(self, manifold: Any, **options: Any) -> None:
        super().__init__(manifold, **{"grad_through_stats": False, "bias": "manifold", **options})
        if self.affine:
            self.signed_scale = nn.Parameter(torch.ones_like(self.log_scale))
            del self.log_scale
            self.affine = False  # for the base class: the scale enters with the move
        self.reset_running_stats()

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the identity matrix of the chart and the running variance at one."""
        super().reset_running_stats()
        if self.track_running_stats:
            chart, _, _ = flatten(self.manifold)
            self.running_mean.copy_(_chart_identity(chart, self.running_mean))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the running statistics, the scale to one and the bias to the origin."""
        super().reset_parameters()
        if hasattr(self, "signed_scale"):
            self.signed_scale.fill_(1)

    @property
    def scale(self) -> Tensor | None:
        """The factor of the standard deviation, of any sign, (C?); None without ``affine``."""
        return self.signed_scale if hasattr(self, "signed_scale") else None

    @scale.setter
    def scale(self, value: Tensor | float) -> None:
        with torch.no_grad():
            self.signed_scale.copy_(torch.as_tensor(value).expand_as(self.signed_scale))

    def _select_move(self, base: Manifold) -> Move:
        move = self._published_move(super()._select_move(base))  # type: ignore[safe-super]

        def scaled(manifold: Any, mean: Tensor, x: Tensor) -> tuple[Tensor, Finish]:
            squared, finish = move(manifold, mean, x)
            scale = self.scale
            return squared, finish if scale is None else lambda factor, bias: finish(factor * scale, bias)

        return scaled

    def _published_move(self, move: Move) -> Move:
        return move

    def _normalize(self, manifold: Manifold, chart: Any, base: Manifold, scale: Any, x: Tensor, weights: Any) -> Tensor:
        # to the base class the chart's image is the manifold: statistics stay there
        y = x if chart is None else chart(x)
        return super()._normalize(base, None, base, scale, y, weights)

    def _base_bias(self, manifold: Any, chart: Diffeo | None, base: Manifold) -> Tensor | None:
        manifold = self.manifold
        chart, base, _ = flatten(manifold)
        return super()._base_bias(manifold, chart, base)


def last_chart(chart: Diffeo | None) -> Diffeo | None:
    """Return the chart that a composition ends with."""
    while chart is not None and hasattr(chart, "outer"):
        chart = chart.outer
    return chart


def _chart_identity(chart: Diffeo | None, like: Tensor) -> Tensor:
    """Return what the identity matrix of the code's chart is in ours, which contains (alpha, beta)."""
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    last = last_chart(chart)
    return last(eye) if isinstance(last, TraceScaling) else eye
