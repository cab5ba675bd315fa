"""Generalised Bures-Wasserstein batch norm, as its code has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn.bures import BuresWassersteinBatchNorm
from manifoldnorm.nn.moves import Move, Moved
from manifoldnorm.nn.published.base import PublishedNorm
from manifoldnorm.stats import FixedPoint


class GBWBN(PublishedNorm, BuresWassersteinBatchNorm):
    """Generalised Bures-Wasserstein batch norm of the authors' SPDNet code.

    Quirks: the variance is taken about the identity before centring, so the output's variance is not the scale's
    square; tangent vectors pass twice through Exp and Log at the identity, which replaces negative eigenvalues of
    ``I + V / 2`` by their absolute values, and the last Exp is not kept in its domain either. Not reproduced: the
    exponent that all matrix powers shared backward, which made gradients wrong for powers other than one.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or a geometry to use as it is.
    **options
        ``power``, ``learn_metric`` and those of `RiemannianBatchNorm`.

    References
    ----------
    Code of Wang et al. 2025, "Learning to normalize on the SPD manifold under Bures-Wasserstein geometry".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.GBWBN(1, momentum=1.0)
    >>> _ = layer(torch.tensor([4.0, 9.0])[:, None, None])
    >>> layer.running_var
    tensor(2.5000)
    """

    def __init__(self, n: Any, **options: Any) -> None:
        super().__init__(n, **{"mean": FixedPoint(1), **options})

    def _bias_base(self, bias: Tensor) -> Tensor:
        """Return the point to which tangent vectors are transported from the identity."""
        return bias

    def _published_move(self, move: Move) -> Move:
        def folded(manifold: Any, mean: Tensor, x: Tensor) -> Moved:
            origin = manifold.origin(dtype=x.dtype, device=x.device)

            def fold(v: Tensor) -> Tensor:
                return manifold.log(origin, manifold.exp(origin, v))

            v = fold(manifold.to_origin(mean, manifold.log(mean, x)))

            def finish(factor: Tensor, bias: Tensor | None) -> Tensor:
                scaled = spread(factor, 2) * v
                if bias is None:
                    return manifold.exp(origin, scaled)
                return manifold.exp(bias, manifold.from_origin(self._bias_base(bias), fold(scaled)))

            return Moved(manifold.squared_dist(origin, x), finish)

        return folded


class GBWBNRResNet(GBWBN):
    """Generalised Bures-Wasserstein batch norm of the authors' RResNet code.

    Quirks: those of `GBWBN`; tangent vectors are transported to the bias point itself but applied at its image under
    the power and the metric, which differ unless the power is one and the metric the identity.

    Parameters
    ----------
    n : int or Manifold
        Matrix size, or a geometry to use as it is.
    **options
        ``power``, ``learn_metric`` and those of `RiemannianBatchNorm`.

    References
    ----------
    Code of Wang et al. 2025, "Learning to normalize on the SPD manifold under Bures-Wasserstein geometry" (RResNet).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.published.GBWBNRResNet(2, power=0.5)
    >>> layer(torch.eye(2).expand(4, 2, 2)).shape
    torch.Size([4, 2, 2])
    """

    def _bias_base(self, bias: Tensor) -> Tensor:
        point = self.bias_point
        assert point is not None
        return point
