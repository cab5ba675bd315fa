"""Batch norms that centre at a closed-form midpoint instead of the Frechet mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Diffeo, Lorentz, Manifold, PoincareBall
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn._inputs import PerDomain
from manifoldnorm.nn.batchnorm import RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.learnable import LearnableManifold
from manifoldnorm.stats import Midpoint


class MidpointBatchNorm(RiemannianBatchNorm):
    """`RiemannianBatchNorm` about the midpoint of the batch, on a manifold that has one.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        With a ``midpoint``.
    recenter : bool
        Whether the output is moved so that its midpoint is the bias point exactly, and by ``running_shift`` in
        evaluation; the midpoint is carried along by translations but not kept in place by the scaling.
    **options
        Of `RiemannianBatchNorm`.
    """

    running_shift: Tensor

    def __init__(self, manifold: Any, *, recenter: bool = False, **options: Any) -> None:
        super().__init__(manifold, **{"mean": Midpoint(), **options})
        self.recenter = recenter
        if recenter and self.track_running_stats:
            self.register_buffer("running_shift", self.running_mean.clone())

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Put the running mean and shift at the origin and the running variance at one."""
        super().reset_running_stats()
        if self.recenter and self.track_running_stats:
            self.running_shift.copy_(self.running_mean)

    def _normalize(
        self, manifold: Manifold, chart: Diffeo | None, base: Any, metric_scale: Any, x: Tensor, weights: Any
    ) -> tuple[Tensor, Tensor | None]:
        y, missing = super()._normalize(manifold, chart, base, metric_scale, x, weights)
        if not self.recenter:
            return y, missing
        if isinstance(weights, PerDomain):
            raise ValueError(f"{type(self).__name__}: recenter=True keeps one shift, not one per domain. Leave it out.")
        bias = self._base_bias(manifold, chart, base)
        centred = y if bias is None else base.gyrosub(bias, y)
        if self._from_batch():
            share, valid = self._shares(y, None if missing is None else missing.isfinite(), weights, base)
            shift = base.midpoint(centred, share)
            if self.training and self.track_running_stats:
                self._track_shift(base, shift.detach(), valid)
        else:
            shift = self.running_shift
        centred = base.gyrosub(shift, centred)
        return centred if bias is None else base.gyroadd(bias, centred), missing

    def _track_shift(self, base: Any, shift: Tensor, valid: Tensor | None) -> None:
        finite = shift.sum(-1).isfinite()
        valid = finite if valid is None else valid & finite
        weight = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.clamp_min(1)
        with torch.no_grad():
            new = base.geodesic(self.running_shift, shift, weight)
        self.running_shift.copy_(torch.where(spread(valid, 1), new, self.running_shift))  # type: ignore[arg-type]

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``sizes -> layer``."""
        return NormFactory(cls, manifold, options)

    def extra_repr(self) -> str:
        """Return the options; scale is a standard deviation."""
        return f"{super().extra_repr()}, recenter={self.recenter}"


class PoincareMidpointBatchNorm(MidpointBatchNorm):
    """Batch norm of the Poincare ball about the gyromidpoint, moved to the bias by one parallel transport.

    The variance is that about the midpoint, and the output's variance about the bias is ``scale^2 v / (v + eps)``. Its
    midpoint lies near the bias, or exactly there with ``recenter`` (then the variance is off by the square of the
    shift). Unlike the published layer it keeps running statistics.

    Parameters
    ----------
    d : int or Manifold
        Dimension of the ball of curvature -1, or a geometry with a midpoint.
    recenter : bool
        Whether the midpoint of the output is put on the bias point.
    **options
        Of `RiemannianBatchNorm`; ``route`` defaults to ``"direct"``.

    References
    ----------
    van Spengler, Berkhout and Mettes 2023, "Poincare ResNet".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.PoincareBall(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> layer = mn.nn.PoincareMidpointBatchNorm(3, recenter=True)
    >>> bool(layer.manifold.midpoint(layer(x)).abs().max() < 1e-6)
    True
    """

    def __init__(self, d: int | Manifold | LearnableManifold, *, recenter: bool = False, **options: Any) -> None:
        manifold = PoincareBall(d) if isinstance(d, int) else d
        super().__init__(manifold, recenter=recenter, **{"route": "direct", **options})


class LorentzCentroidBatchNorm(MidpointBatchNorm):
    """Batch norm of the hyperboloid about the Lorentz centroid, moved by parallel transport through the origin.

    Scales by the Frechet variance about the centroid; the published layer divides by the mean distance.

    Parameters
    ----------
    d : int or Manifold
        Dimension of the hyperboloid of curvature -1, or a geometry with a midpoint.
    recenter : bool
        Whether the centroid of the output is put on the bias point.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Bdeir, Schwethelm and Landwehr 2024, "Fully hyperbolic convolutional neural networks for computer vision".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.Lorentz(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.LorentzCentroidBatchNorm(3)(x).shape
    torch.Size([8, 4])
    """

    def __init__(self, d: int | Manifold | LearnableManifold, *, recenter: bool = False, **options: Any) -> None:
        super().__init__(Lorentz(d) if isinstance(d, int) else d, recenter=recenter, **options)
