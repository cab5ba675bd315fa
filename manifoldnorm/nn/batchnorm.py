"""The batch norms by name: one class for each way to move a point."""

from __future__ import annotations

from typing import Any, TypeVar

from manifoldnorm.manifolds import Manifold, flatten
from manifoldnorm.nn import moves
from manifoldnorm.nn.norm import ManifoldNorm

_PARAMETERS = """manifold : Manifold or LearnableManifold
        The geometry (a geoopt manifold is converted).
    channels : int, optional
        With C channels the input is (N, ..., C, *point_shape): one mean, variance, scale and bias per channel.
        Without, it is (N, ..., *point_shape). All axes before the channel are averaged over.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running statistics; None averages all batches equally.
    affine : bool
        Whether there is a learnable scale, and a bias.
    track_running_stats : bool
        If not, evaluation uses the batch too.
    mean : MeanPolicy, optional
        How the batch mean is computed, default ``manifold.default_mean``; see `manifoldnorm.stats`.
    statistics : Statistics, optional
        Which statistics are used: `Batch` (default), `Momentum` or `Renorm`; the last two have their own momenta.
    grad_through_stats : bool
        Whether gradients flow through the mean and the variance; published codes detach them.
    bias : {"tangent", "manifold", False}
        ``"tangent"``: a tangent vector at the origin, for any optimizer, which weight decay pulls to the identity;
        ``"manifold"``: a `geoopt.ManifoldParameter` (key ``bias_on_manifold``) for Riemannian optimizers.
    check_input : bool
        Whether to look at the values and raise a ValueError that names the sample, the cause and the remedy.
    device, dtype : optional
        Of parameters and buffers.
"""


_Norm = TypeVar("_Norm", bound=type[ManifoldNorm])


def _documented(cls: _Norm) -> _Norm:
    """Fill in the parameters that all norms share."""
    cls.__doc__ = (cls.__doc__ or "").replace("    <parameters>\n", f"    {_PARAMETERS}")
    return cls


@_documented
class RiemannianBatchNorm(ManifoldNorm):
    """Batch normalisation that moves points by parallel transport.

    The output's Frechet mean is the bias point and its variance ``scale^2 v / (v + eps)``. Through the origin it is the
    same map as `GyroBatchNorm` wherever both exist.

    Parameters
    ----------
    <parameters>
    route : {"origin", "direct"}
        Transport from the mean to the origin and from there to the bias, or in one step.

    References
    ----------
    Brooks et al. 2019 (mean only); Lou et al. 2020 (direct); Kobler et al. 2022 (variance).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.AffineInvariant(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.RiemannianBatchNorm(mn.AffineInvariant(3))(x).shape
    torch.Size([8, 3, 3])
    """

    fuses = True  # this class itself, not those derived from it, may take a fused path

    def __init__(self, manifold: Any, *, route: str = "origin", **options: Any) -> None:
        self.route = route  # before super().__init__, which asks for the move
        super().__init__(manifold, **options)

    def _select_move(self, base: Manifold) -> moves.Move:
        return moves.transport_move(base, self.route)

    def extra_repr(self) -> str:
        """Return the options; scale is a standard deviation."""
        return f"{super().extra_repr()}, route={self.route}"


@_documented
class LieBatchNorm(ManifoldNorm):
    """Batch normalisation that moves points by left translations of a Lie group.

    On `AffineInvariant` the group is that of Cholesky factors, so the layer depends on the order of channels.

    Parameters
    ----------
    <parameters>

    References
    ----------
    Chen et al. 2024, "A Lie group approach to Riemannian batch normalization" (LieBN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.LogEuclidean(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.LieBatchNorm(mn.LogEuclidean(3))(x).shape
    torch.Size([8, 3, 3])
    """

    fuses = True  # this class itself, not those derived from it, may take a fused path

    def _select_move(self, base: Manifold) -> moves.Move:
        return moves.group_move(base)

    def extra_repr(self) -> str:
        """Return the options; scale is a standard deviation."""
        order = type(flatten(self.manifold)[1]).__name__ == "AffineInvariant"
        return super().extra_repr() + (", depends on the order of channels" if order else "")


@_documented
class GyroBatchNorm(ManifoldNorm):
    """Batch normalisation that moves points by left gyrotranslations.

    Parameters
    ----------
    <parameters>

    References
    ----------
    Chen et al. 2025, "Gyrogroup batch normalization" (GyroBN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = mn.AffineInvariant(3).random_point(8, generator=torch.Generator().manual_seed(0))
    >>> mn.nn.GyroBatchNorm(mn.AffineInvariant(3))(x).shape
    torch.Size([8, 3, 3])
    """

    fuses = True  # this class itself, not those derived from it, may take a fused path

    def _select_move(self, base: Manifold) -> moves.Move:
        return moves.gyro_move(base)
