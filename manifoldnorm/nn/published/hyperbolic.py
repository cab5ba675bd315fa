"""Batch norms of hyperbolic space, as their codes have them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Lorentz, Manifold, PoincareBall
from manifoldnorm.manifolds.base import safe_sqrt, spread
from manifoldnorm.nn.batchnorm import GyroBatchNorm, RiemannianBatchNorm
from manifoldnorm.nn.factory import NormFactory
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.stats import Exact, Midpoint


class HyperbolicNorm(ManifoldNorm):
    """What the published hyperbolic norms share: a tangent bias, a multiplier of any sign, gradients everywhere.

    Quirks: the multiplier ``spread`` is a parameter of its own, one at first; what it multiplies depends on the layer.
    The first batch is copied into the running statistics; later the running mean moves by the momentum while the
    running variance averages all batches.

    Parameters
    ----------
    manifold : int or Manifold
        Dimension, or the geometry.
    **options
        Of the norm layer; the mean defaults to a converged one and eps to 1e-6.
    """

    default_geometry: ClassVar[type[PoincareBall] | type[Lorentz]] = PoincareBall
    spread_is_variance: ClassVar[bool] = False

    def __init__(self, manifold: Any, **options: Any) -> None:
        geometry = self.default_geometry(manifold) if isinstance(manifold, int) else manifold
        super().__init__(geometry, **{"eps": 1e-6, "mean": Exact(), **options})
        if self.affine:
            self.spread = nn.Parameter(torch.ones_like(self.log_scale))
            del self.log_scale
            self.affine = False  # for the base class: the multiplier enters with the move

    @classmethod
    def of(cls, manifold: Any = int, **options: Any) -> NormFactory:
        """Return a picklable factory ``d -> layer``."""
        return NormFactory(cls, manifold, options)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the running statistics, the multiplier to one and the bias to the origin."""
        super().reset_parameters()
        if hasattr(self, "spread"):
            self.spread.fill_(1)

    @property
    def scale(self) -> Tensor | None:
        """The factor of the standard deviation of the output, (C?): ``spread`` or its root; None without ``affine``."""
        if not hasattr(self, "spread"):
            return None
        return self.spread.sqrt() if self.spread_is_variance else self.spread

    @scale.setter
    def scale(self, value: Tensor | float) -> None:
        if self.scale is None:
            raise ValueError(f"{type(self).__name__} was built with affine=False and has no scale.")
        value = torch.as_tensor(value, dtype=self.spread.dtype, device=self.spread.device)
        with torch.no_grad():
            self.spread.copy_((value.square() if self.spread_is_variance else value).expand_as(self.spread))

    def _select_move(self, base: Manifold) -> Move:
        move = super()._select_move(base)  # type: ignore[safe-super]

        def scaled(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            squared, finish, _ = move(manifold, mean, x)
            scale = self.scale
            return Moved(squared, finish if scale is None else lambda factor, bias: finish(factor * scale, bias))

        return scaled

    @torch.no_grad()
    def _track(self, base: Any, chart: Any, mean: Tensor, variance: Tensor, valid: Tensor | None) -> None:
        if valid is not None and not bool(valid.all()):
            return
        count = int(self.num_batches_tracked) + 1
        momentum = 1.0 if count == 1 or self.momentum is None else self.momentum
        self.running_mean.copy_(base.geodesic(self.running_mean, mean, momentum))
        self.running_var.lerp_(variance, 1 / count)
        self.num_batches_tracked.fill_(count)


class GyroBNH(HyperbolicNorm, GyroBatchNorm):
    """GyroBN of the Poincare ball.

    Quirks: those of `HyperbolicNorm`; ``spread``, which the code calls a variance, is used as a standard deviation.
    Not reproduced: gradients that flow through the running statistics of earlier batches.

    Parameters
    ----------
    manifold : int or Manifold
        Dimension of the ball, or the geometry.
    **options
        Of `GyroBatchNorm`.

    References
    ----------
    Code of Chen et al. 2025, "Gyrogroup batch normalization" (``GyroBNH.py``).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.GyroBNH(2)
    >>> layer(torch.tensor([[0.5, 0.0], [-0.1, 0.0], [0.0, 0.2]])).shape
    torch.Size([3, 2])
    """


class RBNH(HyperbolicNorm, RiemannianBatchNorm):
    """Riemannian batch norm of hyperbolic space with the differentiable Frechet mean.

    Quirks: those of `HyperbolicNorm`; ``spread`` is a variance. Evaluation centres and scales by the test batch itself,
    with n / (n - 1) of its variance, and takes the coordinates of vectors at the running mean for vectors at the bias.
    Not reproduced: on the hyperboloid those coordinates are not tangent at the bias, and the code leaves the manifold.

    Parameters
    ----------
    manifold : int or Manifold
        Dimension of the ball, or the geometry.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Lou et al. 2020, "Differentiating through the Frechet mean"; code of GyroBN (``RBNH.py``).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.RBNH(2).eval()
    >>> x = torch.tensor([[0.5, 0.0], [-0.1, 0.0], [0.0, 0.2]])
    >>> bool((layer(x)[:2] - layer(x[:2])).abs().max() > 0.1)
    True
    """

    spread_is_variance = True

    def __init__(self, manifold: Any, **options: Any) -> None:
        super().__init__(manifold, **{"route": "direct", **options})

    def _normalize(self, manifold: Any, chart: Any, base: Any, metric_scale: Any, x: Tensor, weights: Any) -> Any:
        if self.training or not self.track_running_stats:
            return super()._normalize(manifold, chart, base, metric_scale, x, weights)
        mean = self._batch_mean(base, x, weights)
        v = base.log(mean, x)
        variance = base.inner(mean, v, v).mean(0) * len(x) / max(len(x) - 1, 1)
        factor = (self.running_var / (variance + self.eps)).sqrt()
        bias = self._base_bias(manifold, chart, base)
        bias = base.origin(dtype=x.dtype, device=x.device) if bias is None else bias
        return base.exp(bias, spread(factor, 1) * base.transport(mean, self.running_mean, v)), None


class PoincareMidpointBN(HyperbolicNorm, RiemannianBatchNorm):
    """Batch norm of Poincare ResNet, and of hypll, about the gyromidpoint.

    Quirks: there are no running statistics, evaluation uses the batch; ``spread`` is a variance; the output's mean is
    off the bias. In Poincare ResNet input and output are tangent vectors at the origin.

    Parameters
    ----------
    manifold : int or Manifold
        Dimension of the ball, or the geometry.
    tangent : bool
        Whether input and output are tangent vectors at the origin (Poincare ResNet) or points (hypll).
    **options
        Of `RiemannianBatchNorm`; ``mean=Exact()`` is the codes' option of a Frechet mean.

    References
    ----------
    Code of van Spengler et al. 2023, "Poincare ResNet", and of 2023, "HypLL".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.PoincareMidpointBN(2)
    >>> layer(torch.tensor([[0.5, 0.0], [-0.5, 0.0]])).abs().max()
    tensor(0.5000, grad_fn=...)
    """

    spread_is_variance = True

    def __init__(self, manifold: Any, *, tangent: bool = True, **options: Any) -> None:
        defaults = {"route": "direct", "mean": Midpoint(), "track_running_stats": False}
        super().__init__(manifold, **{**defaults, **options})
        self.tangent = tangent

    @without_autocast
    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalise a batch of tangent vectors at the origin, or of points."""
        if not self.tangent:
            return super().forward(x, weights)
        manifold = self.manifold
        return manifold.tangent_from_point(super().forward(manifold.point_from_tangent(x), weights))


class LorentzCentroidBN(HyperbolicNorm, RiemannianBatchNorm):
    """Batch norm of fully hyperbolic convolutional networks, about the Lorentz centroid.

    Quirks: divides by the mean distance plus eps, so that ``spread`` becomes the mean distance from the bias; the
    running mean is the weighted centroid of its old value and the batch's. From the description of the code: there are
    no golden numbers of this layer.

    Parameters
    ----------
    manifold : int or Manifold
        Dimension of the hyperboloid, or the geometry.
    **options
        Of `RiemannianBatchNorm`.

    References
    ----------
    Code of Bdeir et al. 2024, "Fully hyperbolic convolutional neural networks for computer vision" (LorentzBatchNorm).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer, m = mn.nn.published.LorentzCentroidBN(2), mn.Lorentz(2)
    >>> y = layer(m.lift(torch.tensor([[0.5, 0.0], [-0.1, 0.0], [0.0, 0.2]])))
    >>> m.dist(m.origin(), y).mean()
    tensor(1.0000, grad_fn=...)
    """

    default_geometry = Lorentz

    def __init__(self, manifold: Any, **options: Any) -> None:
        super().__init__(manifold, **{"eps": 1e-5, "mean": Midpoint(), **options})

    def _select_move(self, base: Manifold) -> Move:
        move = RiemannianBatchNorm._select_move(self, base)

        def unsquared(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            squared, finish, _ = move(manifold, mean, x)
            scale = 1.0 if self.scale is None else self.scale
            # the base class hands over (mean distance + eps)^-1/2
            return Moved(safe_sqrt(squared), lambda factor, bias: finish(factor.square() * scale, bias))

        return unsquared

    @torch.no_grad()
    def _track(self, base: Any, chart: Any, mean: Tensor, variance: Tensor, valid: Tensor | None) -> None:
        if valid is not None and not bool(valid.all()):
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        share = torch.tensor([1 - momentum, momentum], dtype=mean.dtype, device=mean.device)
        share = share.reshape(2, *(1,) * variance.ndim).expand(2, *variance.shape)
        self.running_mean.copy_(base.midpoint(torch.stack([self.running_mean, mean]), share))
        self.running_var.lerp_(variance, momentum)
