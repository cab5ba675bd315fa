"""Riemannian, Lie-group and gyro batch normalisation: four steps on any manifold."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Diffeo, Manifold, flatten
from manifoldnorm.nn import _inputs, _running, moves
from manifoldnorm.nn._points import HoldsPoints
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.nn.statistics import Batch
from manifoldnorm.stats import MeanPolicy, masked_weights, weighted_mean


class ManifoldNorm(HoldsPoints, abc.ABC):
    """Shared machinery of the batch norms: centre, scale, bias, running statistics. A subclass chooses the move."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

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
        statistics: Batch | None = None,
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
        self.check_input, self.statistics = check_input, statistics or Batch()
        self.bias_kind = _inputs.bias_kind(bias) if affine else ""
        self._mean_policy = mean
        self._check_options()
        self._allocate(device, dtype)

    # ---- construction

    def _check_options(self) -> None:
        name = type(self).__name__
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"{name}: channels must be None or at least 1, got {self.channels}.")
        if self.eps < 0:
            raise ValueError(f"{name}: eps must not be negative, got {self.eps}.")
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise ValueError(f"{name}: momentum must lie in [0, 1] or be None, got {self.momentum}.")
        _, base, _ = flatten(self.manifold)
        self._select_move(base)
        if self._mean_policy is not None:
            self._mean_policy.check(base)

    def _allocate(self, device: Any, dtype: torch.dtype | None) -> None:
        real = (dtype or torch.get_default_dtype()).to_real()
        point_dtype = real.to_complex() if self.manifold.is_complex else real
        groups = () if self.channels is None else (self.channels,)
        origin = self.manifold.origin(*groups, dtype=point_dtype, device=device).detach().clone()
        if self.affine:
            self.log_scale = nn.Parameter(torch.zeros(groups, dtype=real, device=device))
        if self.bias_kind == "tangent":
            self.bias = nn.Parameter(torch.zeros_like(origin))
        elif self.bias_kind == "manifold":
            from manifoldnorm._geoopt import manifold_parameter

            self.bias_on_manifold = manifold_parameter(origin.clone(), self._geometry)
        if self.track_running_stats:
            self.register_buffer("running_mean", origin)
            self.register_buffer("running_var", torch.ones(groups, dtype=real, device=device))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=device))

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the origin and the running variance at one."""
        if self.track_running_stats:
            like = self.running_mean
            origin = self.manifold.origin(dtype=like.dtype, device=like.device)
            self.running_mean.copy_(origin.expand_as(like))
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the running statistics, the scale to one and the bias to the origin."""
        self.reset_running_stats()
        if self.affine:
            self.log_scale.zero_()
        if self.bias_kind == "tangent":
            self.bias.zero_()
        elif self.bias_kind == "manifold":
            like = self.bias_on_manifold
            self.bias_on_manifold.copy_(self.manifold.origin(dtype=like.dtype, device=like.device).expand_as(like))

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

    # ---- what a user reads and assigns

    @property
    def manifold(self) -> Manifold:
        """The geometry in use (of a `LearnableManifold`, at its current options)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    @property
    def scale(self) -> Tensor | None:
        """The standard deviation of the output, positive, (C?); None without ``affine``."""
        return self.log_scale.exp() if self.affine else None

    @scale.setter
    def scale(self, value: Tensor | float) -> None:
        if not self.affine:
            raise ValueError(f"{type(self).__name__} was built with affine=False and has no scale.")
        value = torch.as_tensor(value, dtype=self.log_scale.dtype, device=self.log_scale.device)
        if bool((value <= 0).any()):
            raise ValueError(f"{type(self).__name__}.scale is a standard deviation and must be positive, got {value}.")
        with torch.no_grad():
            self.log_scale.copy_(value.log().expand_as(self.log_scale))

    @property
    def bias_point(self) -> Tensor | None:
        """The point of the manifold to which the mean is moved, (C?, *point_shape); None without a bias."""
        if self.bias_kind == "tangent":
            manifold = self.manifold
            return manifold.point_from_tangent(self._tangent_bias(manifold))
        return self.bias_on_manifold if self.bias_kind == "manifold" else None

    @bias_point.setter
    def bias_point(self, value: Tensor) -> None:
        manifold = self.manifold
        with torch.no_grad():
            if self.bias_kind == "tangent":
                value = value.to(self.bias)
                manifold.check_point(value, f"{type(self).__name__}.bias_point")
                self.bias.copy_(manifold.tangent_from_point(value).expand_as(self.bias))
            elif self.bias_kind == "manifold":
                value = value.to(self.bias_on_manifold)
                manifold.check_point(value, f"{type(self).__name__}.bias_point")
                self.bias_on_manifold.copy_(value.expand_as(self.bias_on_manifold))
            else:
                raise ValueError(f"{type(self).__name__} was built without a bias.")

    def _tangent_bias(self, manifold: Manifold) -> Tensor:
        origin = manifold.origin(dtype=self.bias.dtype, device=self.bias.device)
        return manifold.project_tangent(origin, self.bias)

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
        y, chart, missing = self._forward(x, weights)
        y = y if chart is None else chart.inverse(y)
        return y if missing is None else y + missing

    @without_autocast
    def forward_in_chart(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Diffeo | None]:
        """Return the output before it leaves the chart of a pullback metric, and that chart (None: no chart).

        For a following layer that would enter the chart again, such as `LogEig` after a log-Euclidean norm.
        """
        y, chart, missing = self._forward(x, weights)
        return y if missing is None else y + missing, chart

    def _forward(self, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Diffeo | None, Tensor | None]:
        """Return the output in the chart, the chart, and NaN to add to the samples left out once the chart is left.

        Not before: a gradient of 0 through the inverse chart of NaN would be NaN, also for bias and scale.
        """
        manifold = self.manifold
        self._check(manifold, x, weights)
        flat, group_weights = self._flatten(x, weights)
        chart, base, metric_scale = flatten(manifold)
        if flat.shape[0] == 0:
            return (x if chart is None else chart(x)), chart, None
        try:
            y, missing = self._normalize(manifold, chart, base, metric_scale, flat, group_weights)
        except torch.linalg.LinAlgError as error:
            _inputs.name_the_sample(manifold, x, error, type(self).__name__)
            raise
        if missing is not None:
            missing = missing.reshape(x.shape[: x.ndim - len(manifold.point_shape)] + (1,) * len(manifold.point_shape))
        return y.reshape(x.shape), chart, missing

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
        from_batch = self.training or not self.track_running_stats
        if from_batch:
            share, any_valid = self._shares(x, finite, weights, base)
            mean = self._batch_mean(base, y, share)
        else:
            mean = self.running_mean if chart is None else chart(self.running_mean)
        moved = self._select_move(base)(base, mean, y)
        squared = moved.squared
        if from_batch:
            variance = weighted_mean(squared if self.grad_through_stats else squared.detach(), share, 0) * metric_scale
        else:
            variance = self.running_var
        factor = (variance + self.eps).rsqrt()
        if self.affine:
            factor = factor * self.log_scale.exp()
        bias = self._base_bias(manifold, chart, base)
        if self.check_input:
            _inputs.check_domain(moved, factor, bias, type(self).__name__)
        out = moved.finish(factor, bias)
        if self.training and self.track_running_stats:
            self._track(base, chart, mean.detach(), variance.detach(), any_valid)
        if finite is None:
            return out, None
        # NaN + anything is NaN: marks the samples that were left out, at no cost backward
        return out, torch.where(finite, 0.0, math.nan).to(out.real.dtype if out.is_complex() else out.dtype)

    def _shares(self, x: Tensor, finite: Tensor | None, weights: Tensor | None, base: Manifold) -> tuple[Any, Any]:
        """Return each sample's share of the statistics and whether any counts; None for uniform and for certainly."""
        if finite is None:
            if weights is None:
                return None, None
            finite = torch.ones(x.shape[: x.ndim - len(base.point_shape)], dtype=torch.bool, device=x.device)
        return masked_weights(finite, weights, x.real.dtype if x.is_complex() else x.dtype)

    def _batch_mean(self, base: Manifold, y: Tensor, share: Tensor) -> Tensor:
        policy = self._mean_policy or base.default_mean
        if self.grad_through_stats:
            return policy(base, y, share)
        with torch.no_grad():
            return policy(base, y, share)

    def _base_bias(self, manifold: Any, chart: Diffeo | None, base: Manifold) -> Tensor | None:
        if self.bias_kind == "tangent":
            v = self._tangent_bias(manifold)
            while manifold is not base:
                v, manifold = manifold.base_tangent(v), manifold.base
            return base.point_from_tangent(v)
        if self.bias_kind == "manifold":
            return self.bias_on_manifold if chart is None else chart(self.bias_on_manifold)
        return None

    _track = _running.update

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
            if weights is not None and bool((weights < 0).any()):
                raise ValueError(f"{name}: weights must not be negative.")

    def _flatten(self, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return _inputs.pool(x, weights, len(self.manifold.point_shape), self.channels, type(self).__name__)

    def _own(self) -> Tensor | None:
        for name in ("running_mean", "bias", "bias_on_manifold"):
            own = getattr(self, name, None)
            if own is not None:
                return own
        return None

    def extra_repr(self) -> str:
        """Return the options; scale is a standard deviation."""
        affine = f"{self.affine}{' (scale: a standard deviation)' if self.affine else ''}"
        geometry = "learnable" if isinstance(self._geometry, nn.Module) else self._geometry
        return (
            f"{geometry}, channels={self.channels}, "
            f"eps={self.eps}, momentum={self.momentum}, affine={affine}, "
            f"track_running_stats={self.track_running_stats}, mean={self._mean_policy or 'default'}, "
            f"grad_through_stats={self.grad_through_stats}, bias={self.bias_kind or False}"
        )
