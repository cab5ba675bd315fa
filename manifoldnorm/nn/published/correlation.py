"""LieBN on correlation matrices, as its code has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import Diffeo, Manifold, flatten
from manifoldnorm.manifolds.charts_correlation import (
    CorrelationCholesky,
    HollowScaling,
    UnipotentLog,
    correlation_from_factor,
)
from manifoldnorm.manifolds.correlation import (
    CorrelationLogEuclideanCholesky,
    CorrelationLogScaling,
    CorrelationOffLog,
)
from manifoldnorm.manifolds.elliptope import StrictlyTriangularMatrices
from manifoldnorm.manifolds.poly_hyperbolic import PoincareRows
from manifoldnorm.nn.batchnorm import LieBatchNorm
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.nn.published.geometries import last_chart


class UnipotentSeries(UnipotentLog):
    """`UnipotentLog` whose inverse sums the powers below n, also of matrices with a diagonal.

    Quirk: for matrices that are not strictly triangular this is no exponential.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.published.UnipotentSeries().inverse(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    def inverse(self, y: Tensor) -> Tensor:
        """Return ``sum_(0 < k < n) y^k / k!``."""
        term = total = y
        for k in range(2, y.shape[-1]):
            term = term @ y / k
            total = total + term
        return total


class SeriesLogEuclideanCholesky(CorrelationLogEuclideanCholesky):
    """The log-Euclidean-Cholesky metric whose inverse chart is the truncated series, see `UnipotentSeries`.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.published.SeriesLogEuclideanCholesky(3)
    SeriesLogEuclideanCholesky(n=3)
    """

    def __init__(self, n: int) -> None:
        self._setup({"n": n}, UnipotentSeries() @ CorrelationCholesky(), StrictlyTriangularMatrices(n))


def poincare_correlation(rows: list[Tensor]) -> Tensor:
    """Return the correlation matrix whose Cholesky factor has the rows ``(2 y, 1 - |y|^2) / (1 + |y|^2)``.

    Parameters
    ----------
    rows : list of Tensor
        Points of the open unit balls of dimension 1, ..., n - 1, each (*batch, i).

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.nn.published.correlation import poincare_correlation
    >>> poincare_correlation([torch.tensor([0.5])])
    tensor([[1.0000, 0.8000],
            [0.8000, 1.0000]])
    """
    n = len(rows) + 1
    first = torch.zeros_like(rows[0][..., :1].expand(*rows[0].shape[:-1], n))
    lines = [first + torch.eye(n, dtype=first.dtype, device=first.device)[0]]
    for y in rows:
        square = y.square().sum(-1, keepdim=True)
        line = torch.cat([2 * y, 1 - square], -1) / (1 + square)
        lines.append(nn.functional.pad(line, (0, n - line.shape[-1])))
    return correlation_from_factor(torch.stack(lines, -2))


def _lower(w: Tensor) -> Tensor:
    return w.tril(-1)


def _mirrored(w: Tensor) -> Tensor:
    return w.tril(-1) + w.tril(-1).mT


def _bordered(w: Tensor) -> Tensor:
    block = w[..., 1:, :-1].tril()
    block = block + block.tril(-1).mT
    block = torch.cat([block, -block.sum(-2, keepdim=True)], -2)
    return torch.cat([block, -block.sum(-1, keepdim=True)], -1)


class LieBNCor(PublishedNorm, LieBatchNorm):
    """LieBN of the authors' toolbox on correlation matrices.

    Quirks: the running mean is kept in the chart and starts at the identity matrix there, which is no point of the
    chart of a Cholesky metric, so that evaluation is off until it is forgotten; the scale may be negative; the bias is
    either a list of points of Poincare balls, one per row of a Cholesky factor (``poincare_1``, ...), or a free matrix
    of which the lower triangle is used. Gradients flow through the statistics. Not reproduced: tolerances of 1e-6 in
    the solves of the off-log and log-scaled charts.

    Parameters
    ----------
    manifold : Manifold
        `CorrelationEuclideanCholesky`, `SeriesLogEuclideanCholesky`, `CorrelationOffLog` or `CorrelationLogScaling`.
    bias : {"poincare", "trivial"}
        Kind of bias; ``"trivial"`` is the parameter ``free``.
    **options
        Of `LieBatchNorm`.

    References
    ----------
    Code of Chen et al. 2025, "LieBN: batch normalization over Lie groups", ``LieBN/LieBNCor.py``.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.LieBNCor(mn.CorrelationOffLog(3))
    >>> layer(torch.eye(3).expand(4, 3, 3)).shape, layer.poincare_2.shape
    (torch.Size([4, 3, 3]), torch.Size([2]))
    """

    def __init__(self, manifold: Any, *, bias: str = "poincare", **options: Any) -> None:
        if bias not in ("poincare", "trivial"):
            raise ValueError(f"LieBNCor: bias must be 'poincare' or 'trivial', got {bias!r}.")
        super().__init__(manifold, **{"grad_through_stats": True, **options, "bias": False})
        like, groups = self.signed_scale, tuple(self.signed_scale.shape)
        n = self.manifold.point_shape[-1]
        self.rows = tuple(f"poincare_{i}" for i in range(1, n)) if bias == "poincare" else ()
        if self.rows:
            from manifoldnorm._geoopt import geoopt_attribute, manifold_parameter

            ball = geoopt_attribute("PoincareBall")()
            for i, name in enumerate(self.rows, 1):
                self.register_parameter(name, manifold_parameter(like.detach().new_zeros(*groups, i), ball))
        else:
            self.free = nn.Parameter(torch.randn(*groups, n, n, dtype=like.dtype, device=like.device))

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the identity matrix of the code's chart and the running variance at one."""
        LieBatchNorm.reset_running_stats(self)
        if self.track_running_stats:
            eye = torch.eye(self.running_mean.shape[-1], dtype=self.running_mean.dtype, device=self.running_mean.device)
            self.running_mean.copy_(self._from_code(eye))

    @property
    def bias_point(self) -> Tensor:
        """The point of the manifold to which the mean is moved, (C?, n, n)."""
        if self.rows:
            return poincare_correlation([getattr(self, name) for name in self.rows])
        chart, _, _ = flatten(self.manifold)
        assert chart is not None
        return chart.inverse(self._free_bias())

    @bias_point.setter
    def bias_point(self, value: Tensor) -> None:
        if not self.rows:
            raise ValueError("LieBNCor: the trivial bias is a free matrix; assign to layer.free.")
        chart = PoincareRows()
        with torch.no_grad():
            for i, name in enumerate(self.rows, 1):
                getattr(self, name).copy_(chart(value)[..., i, :i])

    def _free_bias(self) -> Tensor:
        kinds: dict[type[Manifold], Callable[[Tensor], Tensor]] = {
            CorrelationOffLog: _mirrored,
            CorrelationLogScaling: _bordered,
        }
        return self._from_code(kinds.get(type(self.manifold), _lower)(self.free))

    def _from_code(self, y: Tensor) -> Tensor:
        """Return our coordinates, which contain the inner product, of those of the code."""
        last = last_chart(flatten(self.manifold)[0])
        return last(y) if isinstance(last, HollowScaling) else y

    def _base_bias(self, manifold: Any, chart: Diffeo | None, base: Manifold) -> Tensor:
        chart, _, _ = flatten(self.manifold)
        assert chart is not None
        return chart(self.bias_point) if self.rows else self._free_bias()
