"""Riemannian, Lie-group and gyro batch normalisation: four steps on any manifold."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Diffeo, Manifold, flatten
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _inputs, _paths, moves
from manifoldnorm.nn._affine import Affine
from manifoldnorm.nn._tracking import Tracking, where_enough
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.statistics import Batch, Observed, Statistics
from manifoldnorm.stats import (
    MeanPolicy,
    ToSamples,
    Weights,
    gather,
    masked_weights,
    pooled,
    raw_weights,
    segment,
    weighted_mean,
)
from manifoldnorm.stats.weights import check_weights


class ManifoldNorm(Affine, Tracking, abc.ABC):
    """Shared machinery of the batch norms: centre, scale, bias, running statistics. A subclass chooses the move.

    `DomainBatchNorm` puts its number of domains D in front of the statistics; then an index (N,) of domains comes in
    with the weights, and a domain with fewer than ``min_samples`` in a batch keeps to its running statistics.
    """

    def __init__(
        self,
        manifold: Any,
        *,
        channels: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        mean: MeanPolicy | None = None,
        statistics: Statistics | None = None,
        grad_through_stats: bool = True,
        bias: str | bool = "tangent",
        check_input: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._geometry = _inputs.as_geometry(manifold)
        self.channels, self.eps, self.momentum, self.affine = channels, eps, momentum, affine
        self.track_running_stats, self.grad_through_stats = track_running_stats, grad_through_stats
        _inputs.check_policies(mean, statistics, type(self).__name__)
        self.check_input, self.statistics = check_input, statistics or Batch()
        self.bias_kind = _inputs.bias_kind(bias) if affine else ""
        self._mean_policy = mean
        self._check_options()
        self._allocate(device, dtype)

    # ---- construction

    def _check_options(self) -> None:
        _inputs.check_numbers(self.channels, self.eps, self.momentum, type(self).__name__)
        _, base, _ = flatten(self.manifold)
        self._select_move(base)
        self.statistics.check(self)
        if self._mean_policy is not None:
            self._mean_policy.check(base)

    def _allocate(self, device: Any, dtype: torch.dtype | None) -> None:
        real = (dtype or torch.get_default_dtype()).to_real()
        point_dtype = real.to_complex() if self.manifold.is_complex else real
        groups = () if self.channels is None else (self.channels,)
        origin = self.manifold.origin(*groups, dtype=point_dtype, device=device).detach().clone()
        variances = groups + flatten(self.manifold)[1].variance_shape
        self._allocate_affine(origin, variances, real, device)
        if self.track_running_stats:
            self._allocate_statistics(origin, torch.ones(variances, dtype=real, device=device))

    def reset_parameters(self) -> None:
        """Reset the running statistics, the scale to one and the bias to the origin."""
        self.reset_running_stats()
        self._reset_affine()

    @classmethod
    def of(cls, manifold: Any, **options: Any) -> NormFactory:
        """Return a picklable factory ``sizes -> layer``, which models call with each layer's sizes.

        Options that the manifold's constructor takes go to it, the others to the layer.

        Examples
        --------
        >>> import manifoldnorm as mn
        >>> mn.nn.LieBatchNorm.of(mn.LogEuclidean, momentum=0.05)(4).manifold.point_shape
        (4, 4)
        """
        return NormFactory(cls, manifold, options)

    # ---- forward

    @abc.abstractmethod
    def _select_move(self, base: Manifold) -> moves.Move:
        """Return how points are moved on ``base``, or raise if it lacks the structure."""

    @without_autocast
    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalise a batch.

        Parameters
        ----------
        x : Tensor
            Points (N, ..., C?, *point_shape).
        weights : Tensor, optional
            Non-negative weights or a mask (N, ..., C?) or (N, ...) that enter mean and variance; any scale.

        Returns
        -------
        Tensor
            Points of the same shape; NaN where a sample is not finite (such a sample has weight 0).
        """
        _inputs.check_no_domain(self)
        return self._forward(x, weights)[0]

    @without_autocast
    def forward_in_chart(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Diffeo | None]:
        """Return the output before it leaves the chart of a pullback metric, and that chart (None: no chart).

        For a following layer that would enter the chart again, such as `LogEig` after a log-Euclidean norm.
        """
        _inputs.check_no_domain(self)
        return self._forward(x, weights, leaves=False)

    def _forward(
        self, x: Tensor, weights: Tensor | None, domain: Tensor | None = None, leaves: bool = True
    ) -> tuple[Tensor, Diffeo | None]:
        """Return the output, out of the chart if it ``leaves``, and the chart."""
        manifold = self.manifold
        self._check(manifold, x, weights)
        flat: Tensor
        group_weights: Any
        flat, group_weights = self._flatten(x, weights)
        if domain is not None:
            group_weights = _inputs.PerDomain(_inputs.pool_domain(self, x, domain), group_weights)
        chart, base, metric_scale = flatten(manifold)
        samples = flat.shape[0]
        if samples == 0:
            if not self._from_batch() or self._others() is None:
                return (x if chart is None or leaves else chart(x)), chart
            flat, group_weights = _inputs.one_left_out(flat, group_weights)
        try:
            y = self._whole(manifold, chart, base, metric_scale, flat, group_weights, leaves)
        except torch.linalg.LinAlgError as error:
            _inputs.name_the_sample(manifold, x, error, type(self).__name__)
            raise
        return (y[:0] if samples == 0 else y).reshape(x.shape), chart

    def _whole(
        self,
        manifold: Manifold,
        chart: Diffeo | None,
        base: Manifold,
        metric_scale: float | Tensor,
        x: Tensor,
        weights: Any,
        leaves: bool,
    ) -> Tensor:
        """Return the output in one program, or step by step: into the chart, normalised there, and out again."""
        if chart is not None and self._from_batch() and _inputs.unweighted(weights):
            out = _paths.charted(self, manifold, chart, base, metric_scale, x, weights, leaves)
            if out is not None:
                return out
        y, missing = self._normalize(manifold, chart, base, metric_scale, x, weights)
        if leaves and chart is not None:
            y = chart.inverse(y)
        # NaN enters once the chart is left: through its inverse, bias and scale would get gradients NaN
        return y if missing is None else y + spread(missing, y.ndim - missing.ndim)

    def _normalize(
        self,
        manifold: Manifold,
        chart: Diffeo | None,
        base: Manifold,
        metric_scale: float | Tensor,
        x: Tensor,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        finite = _inputs.finite_samples(manifold, x)
        if finite is not None:
            x = _inputs.origin_where_not(finite, manifold, x)
        y = x if chart is None else chart(x)
        domain = weights.domain if isinstance(weights, _inputs.PerDomain) else None
        from_batch = self._from_batch()
        if from_batch and finite is None and _inputs.unweighted(weights):
            out = _paths.fused(self, manifold, chart, base, metric_scale, y, weights)
            if out is not None:
                return out, None
        seen = self._observe(base, chart, metric_scale, y, finite, weights) if from_batch else None
        mean = self._centre(seen, chart)
        moved = self._moved(base, mean, y, domain)
        variance = self._dispersion(seen, mean, moved.squared)
        factor = (variance + self.eps).rsqrt()
        if self.affine:
            factor = factor * self.log_scale.exp()
        factor = gather(factor, domain)
        bias = self._base_bias(manifold, chart, base)
        if self.check_input:
            _inputs.check_domain(moved, factor, bias, type(self).__name__)
        out = moved.finish(factor, bias)
        _paths.took(self, "template")
        if seen is not None:
            self._follow(seen, mean, variance)
        if finite is None:
            return out, None
        # NaN + anything is NaN: marks the samples that were left out, at no cost backward
        return out, torch.where(finite, 0.0, math.nan).to(out.real.dtype if out.is_complex() else out.dtype)

    def _observe(
        self,
        base: Manifold,
        chart: Diffeo | None,
        metric_scale: float | Tensor,
        y: Tensor,
        finite: Tensor | None,
        weights: Any,
    ) -> Observed:
        """Return the batch with its shares and its mean."""
        share, valid = self._shares(y, finite, weights, base)
        return Observed(base, chart, metric_scale, y, share, self._batch_mean(base, y, share), valid)

    def _shares(self, y: Tensor, finite: Tensor | None, weights: Any, base: Manifold) -> tuple[Weights, Any]:
        """Return each sample's share of the statistics and whether enough count; None for uniform and for certainly."""
        others, alike = self._others(), finite is None and _inputs.unweighted(weights)
        if finite is None:
            if weights is None and others is None:
                return None, None
            finite = torch.ones(y.shape[: y.ndim - len(base.point_shape)], dtype=torch.bool, device=y.device)
        real = y.real.dtype if y.is_complex() else y.dtype
        if not isinstance(weights, _inputs.PerDomain):
            if others is None:
                return masked_weights(finite, weights, real)
            return pooled(raw_weights(finite, weights, real), others)
        raw = raw_weights(finite, weights.weights, real)
        segments, samples = segment(raw, weights.domain, self.running_mean.shape[0], others, alike=alike)
        return segments, samples >= self.min_samples

    def _batch_mean(self, base: Manifold, y: Tensor, share: Any) -> Tensor:
        policy = self._mean_policy or base.default_mean
        if self.grad_through_stats:
            return policy(base, y, share)
        with torch.no_grad():
            return policy(base, y, share)

    def _moved(self, base: Manifold, mean: Tensor, y: Tensor, domain: Tensor | None) -> moves.Moved:
        """Return the samples moved by their mean to the origin."""
        move = self._select_move(base)
        return move(base, mean, y) if domain is None else move(base, mean, y, ToSamples(domain))

    def _dispersion(self, seen: Observed | None, mean: Tensor, squared: Tensor) -> Tensor:
        """Return the variance that scales, given the samples' squared distances from the mean that centred them."""
        if seen is None:
            return self.running_var
        squared = squared if self.grad_through_stats else squared.detach()
        batch = weighted_mean(squared, seen.weights, len(seen.base.variance_shape)) * seen.metric_scale
        variance = self.statistics.variance(self, seen, mean, batch)
        return where_enough(seen.valid, variance, self.running_var) if self.per_domain else variance

    def ends_in(self, chart: type[Diffeo]) -> bool:
        """Return whether the layer's output leaves exactly this chart at the end."""
        return type(flatten(self.manifold)[0]) is chart

    # ---- input

    def _check(self, manifold: Manifold, x: Tensor, weights: Tensor | None) -> None:
        name = type(self).__name__
        _inputs.check_layout(manifold, self.channels, x, name)
        _inputs.check_same_kind(self._own(), x, name)
        if self.check_input:
            manifold.check_point(x, f"{name} input")
            if weights is not None:
                alone = self._from_batch() and self._others() is None  # else other samples may count
                check_weights(weights, weights.sum() if alone and x.numel() else None, name)

    def _flatten(self, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return _inputs.pool(x, weights, len(self.manifold.point_shape), self.channels, type(self).__name__)

    def _own(self) -> Tensor | None:
        for name in ("running_mean", "bias", "bias_on_manifold"):
            own = getattr(self, name, None)
            if own is not None:
                return own
        scale: Any = getattr(self, "log_scale", None)
        complex_points = scale is not None and self.manifold.is_complex
        return scale.to(scale.dtype.to_complex()) if complex_points else scale

    def extra_repr(self) -> str:
        """Return the options; scale is a standard deviation."""
        affine = f"{self.affine}{' (scale: a standard deviation)' if self.affine else ''}"
        geometry = "learnable" if isinstance(self._geometry, nn.Module) else self._geometry
        return (
            f"{geometry}, channels={self.channels}, "
            f"eps={self.eps}, momentum={self.momentum}, affine={affine}, "
            f"track_running_stats={self.track_running_stats}, mean={self._mean_policy or 'default'}, "
            f"{'' if isinstance(self.statistics, Batch) else f'statistics={self.statistics}, '}"
            f"grad_through_stats={self.grad_through_stats}, bias={self.bias_kind or False}"
            f"{'' if self.processes is None else ', synchronised'}"
        )
