"""Residual networks whose feature maps are points of hyperbolic space, with any norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from manifoldnorm import nn as mnn
from manifoldnorm.manifolds import PoincareBall
from manifoldnorm.models.spdnet import Norm
from manifoldnorm.nn.factory import build_norm
from manifoldnorm.nn.hyperbolic._layer import resize


class Shortcut(nn.Module):
    """Every ``stride``-th point, embedded in a space of more dimensions by coordinates that are 0: an isometry.

    Parameters
    ----------
    stride : int
        Along height and width.
    more : int
        Number of added coordinates.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.models.poincare_resnet import Shortcut
    >>> Shortcut(2, 3)(torch.zeros(1, 4, 4, 2)).shape
    torch.Size([1, 2, 2, 5])
    """

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, *point_shape) to maps of the block's output size."""
        return pad(x[:, :: self.stride, :: self.stride], (0, self.more))


class PoincareResNet(nn.Module):
    """A residual network on feature maps (N, H, W, d) of points: convolutions, norms, gyroadditions, a classifier.

    Images are lifted to the ball pixel by pixel and pass a first convolution; then come three stages of residual blocks
    (convolution, norm, activation, convolution, norm), the second and third at half the resolution, the gyromidpoint of
    all pixels, and hyperbolic logistic regression. Blocks start as the identity exactly, so at any depth activations
    start with the norm they come in with.

    Parameters
    ----------
    in_channels, n_outputs : int
        Channels of the images, and classes.
    norm : class, factory or callable, optional
        Called with each block's geometry, e.g. ``GyroBatchNorm`` or ``PoincareMidpointBatchNorm``; factories
        ``Norm.of`` are called with its dimension. None for no norm.
    widths : sequence of int
        Dimensions of the points in the three stages.
    depth : int
        Layers with weights, ``6 n + 2`` for n blocks per stage.
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold, optional
        Model and curvature; its dimension is ``in_channels``. A learnable curvature is shared by all layers.
    clip : float
        Largest distance from the origin of a lifted pixel.
    device, dtype : optional
        Of the parameters.

    Raises
    ------
    ValueError
        If ``depth`` is not 8, 14, 20, ... or the manifold is not of dimension ``in_channels``.

    References
    ----------
    van Spengler, Berkhout and Mettes 2023, "Poincare ResNet"; here with learnable gains of the blocks that start at 0.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.PoincareResNet(1, 10, norm=mn.nn.GyroBatchNorm, depth=8)
    >>> net(torch.rand(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        *,
        norm: Norm | None = None,
        widths: Sequence[int] = (8, 16, 32),
        depth: int = 20,
        manifold: Any = None,
        clip: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 2 * len(widths))
        if blocks < 1 or rest:
            raise ValueError(
                f"PoincareResNet: depth must be {2 * len(widths)} n + 2 for {len(widths)} stages of n blocks, got "
                f"{depth}."
            )
        kind = {"device": device, "dtype": dtype}
        geometry = PoincareBall(in_channels) if manifold is None else manifold
        self.lift = mnn.Lift(geometry, clip)
        if self.lift.manifold.dim != in_channels:
            raise ValueError(
                f"PoincareResNet: images have {in_channels} channels, the manifold {self.lift.manifold.dim} dimensions."
            )
        self.stem = mnn.PoincareConv2d(geometry, widths[0], padding=1, init="orthogonal", **kind)
        stages: list[nn.Module] = []
        for stage, width in enumerate(widths):
            for block in range(blocks):
                before = widths[max(0, stage - 1)] if block == 0 else width
                stride = 2 if block == 0 and stage > 0 else 1
                stages.append(_block(resize(geometry, before), resize(geometry, width), stride, norm, kind))
        self.stages = mnn.Sequential(*stages)
        self.classifier = mnn.HyperbolicMLR(resize(geometry, widths[-1]), n_outputs, **kind)

    takes_domain = True

    def features(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map images (N, in_channels, H, W) to points (N, *point_shape) of the last stage."""
        maps = self.stages(self.stem(self.lift(mnn.from_channels_first(x))), domain)
        return self.classifier.manifold.midpoint(maps.flatten(1, 2).transpose(0, 1))

    def forward(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map images (N, in_channels, H, W) to scores (N, n_outputs)."""
        return self.classifier(self.features(x, domain))


def _block(before: Any, after: Any, stride: int, norm: Norm | None, kind: dict[str, Any]) -> nn.Module:
    """Return a residual block from one geometry to another."""
    first = mnn.PoincareConv2d(before, _dimension(after), stride=stride, padding=1, **kind)
    second = mnn.PoincareConv2d(after, _dimension(after), padding=1, **kind)
    norms = [build_norm(norm, after, "PoincareResNet", **kind) for _ in range(2)]
    layers = [first, norms[0], mnn.HyperbolicActivation(after), second, norms[1]]
    branch = mnn.Sequential(*(layer for layer in layers if layer is not None))
    same = before is after or (stride == 1 and _dimension(before) == _dimension(after))
    shortcut = None if same else Shortcut(stride, _dimension(after) - _dimension(before))
    return mnn.HyperbolicResidual(after, branch, shortcut, **kind)


def _dimension(geometry: Any) -> int:
    return getattr(geometry, "template", geometry).d
