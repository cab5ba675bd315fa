"""What the published codes do differently: when the mean stops, where statistics are kept, what the scale is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.manifolds import AffineInvariant, Diffeo, Manifold, TraceScaling, flatten
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.nn.published.geometries import last_chart
from manifoldnorm.stats import MeanPolicy, Weights, spread, weighted_mean


@dataclass(frozen=True)
class EarlyStoppedKarcher(MeanPolicy):
    """Karcher steps from the arithmetic mean that stop before a step whose Frobenius norm is at most a tolerance.

    Quirks: concentrated batches get the arithmetic mean, whatever ``steps``; the norm is over all channels together.

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

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        chart = self.chart
        point = weighted_mean(x if chart is None else chart.inverse(x), weights, 2)
        point = point if chart is None else chart(point)
        for _ in range(self.steps):
            tangent = weighted_mean(manifold.log(spread(point, weights), x), weights, 2)
            plain = manifold.to_origin(point, tangent) if chart is None else chart.pull(point, tangent)
            moves = torch.linalg.vector_norm(plain) > self.tolerance
            point = torch.where(moves, manifold.exp(point, tangent), point)
        return point


class PublishedNorm(ManifoldNorm):
    """What the published SPD norms share, on top of a norm layer.

    Quirks: the running mean is kept in the chart of a pullback metric (in which a learnable chart moves it) and starts
    at the identity matrix there, even where the origin of the chart is 0; the scale ``signed_scale`` may be negative
    and is its own parameter; statistics are detached; the bias is a point, which optimizers move in the
    affine-invariant metric whatever the layer's.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        The geometry.
    **options
        Of the layer; ``grad_through_stats`` and ``bias`` default to the published ones.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> layer = mn.nn.published.LieBNSPDNet(mn.LogEuclidean(2))
    >>> layer.scale = -1.0
    >>> layer.signed_scale.item()
    -1.0
    """

    def __init__(self, manifold: Any, **options: Any) -> None:
        super().__init__(manifold, **{"grad_through_stats": False, "bias": "manifold", **options})
        if self.affine:
            self.signed_scale = nn.Parameter(torch.ones_like(self.log_scale))
            del self.log_scale
            self.affine = False  # for the base class: the scale enters with the move
        if self.bias_kind == "manifold":
            from manifoldnorm._geoopt import manifold_parameter

            field = "complex" if self.manifold.is_complex else "real"
            metric = AffineInvariant(self.manifold.point_shape[-1], field=field)
            self.bias_on_manifold = manifold_parameter(self.bias_on_manifold.detach(), metric)
        self.reset_running_stats()

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean at the identity matrix of the chart and the running variance at one."""
        super().reset_running_stats()
        if self.track_running_stats:
            chart, _, _ = flatten(self.manifold)
            for kind in self.statistics.kinds:
                getattr(self, f"{kind}_mean").copy_(_chart_identity(chart, self.running_mean))

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
        if self.scale is None:
            raise ValueError(f"{type(self).__name__} has no scale.")
        with torch.no_grad():
            self.signed_scale.copy_(torch.as_tensor(value).expand_as(self.signed_scale))

    def _select_move(self, base: Manifold) -> Move:
        move = self._published_move(super()._select_move(base))  # type: ignore[safe-super]

        def scaled(*arguments: Any) -> Moved:
            squared, finish, _ = move(*arguments)
            scale = self.scale
            return Moved(squared, finish if scale is None else lambda factor, bias: finish(factor * scale, bias))

        return scaled

    def _published_move(self, move: Move) -> Move:
        return move

    def _normalize(self, manifold: Manifold, chart: Any, base: Manifold, scale: Any, x: Tensor, weights: Any) -> Any:
        # to the base class the chart's image is the manifold: statistics stay there
        y = x if chart is None else chart(x)
        return super()._normalize(base, None, base, scale, y, weights)

    def _base_bias(self, manifold: Any, chart: Diffeo | None, base: Manifold) -> Tensor | None:
        manifold = self.manifold
        chart, base, _ = flatten(manifold)
        return super()._base_bias(manifold, chart, base)


def _chart_identity(chart: Diffeo | None, like: Tensor) -> Tensor:
    """Return what the identity matrix of the code's chart is in ours, which contains (alpha, beta)."""
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    last = last_chart(chart)
    return last(eye) if isinstance(last, TraceScaling) else eye
