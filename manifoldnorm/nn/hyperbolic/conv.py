"""Convolution of feature maps (N, H, W, d) of points of hyperbolic space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds._curvature import sine_cosine
from manifoldnorm.nn.hyperbolic import _sheet
from manifoldnorm.nn.hyperbolic._layer import ToDimension, identity_
from manifoldnorm.nn.hyperbolic.lift import Lift


def concatenation_factor(d: int, count: int) -> float:
    """Return what tangent vectors of dimension ``d`` are multiplied with before ``count`` of them are concatenated.

    ``beta(count d / 2, 1 / 2) / beta(d / 2, 1 / 2)``: it keeps the expected norm of random vectors (HNN++).

    Examples
    --------
    >>> from manifoldnorm.nn.hyperbolic.conv import concatenation_factor
    >>> concatenation_factor(2, 1), round(concatenation_factor(2, 9), 4)
    (1.0, 0.2995)
    """

    def log_beta(n: int) -> float:
        return math.lgamma(n / 2) - math.lgamma((n + 1) / 2)

    return math.exp(log_beta(count * d) - log_beta(d))


def from_channels_first(x: Tensor, manifold: Any = None, clip: float | None = None) -> Tensor:
    """Return maps (N, d, H, W) of features as (N, H, W, d), lifted to points where a manifold is given.

    Parameters
    ----------
    x : Tensor
        As torch's convolutions give them.
    manifold : Manifold or LearnableManifold, optional
        See `Lift`, as for ``clip``.
    clip : float, optional
        Largest distance from the origin.

    Raises
    ------
    ValueError
        If ``x`` has not four dimensions, or not d channels.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.from_channels_first(torch.randn(2, 3, 8, 9), mn.Lorentz(3)).shape
    torch.Size([2, 8, 9, 4])
    """
    if x.ndim != 4:
        raise ValueError(f"from_channels_first: expected (N, d, H, W), got {tuple(x.shape)}.")
    x = x.permute(0, 2, 3, 1)
    return x if manifold is None else Lift(manifold, clip)(x)


class PoincareConv2d(ToDimension):
    r"""Convolution on hyperbolic space: points under the kernel are concatenated, then a `HyperbolicLinear` follows.

    Concatenation (HNN++): tangent vectors at the origin are multiplied by a ratio of beta functions, which keeps their
    expected norm, and joined to one point of ``kernel_size^2 d`` dimensions, which is never formed: its norm and its
    products with the weight are two flat convolutions. Padding is with the origin.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the input points; that of the output is ``out_geometry``.
    out_features : int
        Dimension of the output points.
    kernel_size : int or tuple of int
        Height and width.
    stride, padding : int or tuple of int
        As in `torch.nn.Conv2d`; ``padding="same"`` is not offered.
    bias : bool
        Whether the hyperplanes may leave the origin.
    init : {"identity", "orthogonal", "normal"}
        ``"identity"``: output points are the input points under the centre of the kernel, exactly for a kernel of size
        one and to first order else (Poincare ResNet); ``"orthogonal"``: orthogonal rows of equal norms, which keep the
        norm of random vectors; ``"normal"``: that of HNN++, which shrinks them.
    device, dtype : optional
        Of ``weight`` (out_features, d, height, width) and ``bias`` (out_features).

    Raises
    ------
    TypeError
        If the geometry is not hyperbolic.
    ValueError
        If the input is not (N, H, W, *point_shape), or an option is unknown.

    References
    ----------
    Shimizu, Mukuta and Harada 2021, "Hyperbolic neural networks++", section 3.3; van Spengler, Berkhout and Mettes
    2023, "Poincare ResNet".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(3)
    >>> mn.nn.PoincareConv2d(ball, 5, 3, stride=2, padding=1)(ball.random_point(2, 8, 8)).shape
    torch.Size([2, 4, 4, 5])
    """

    def __init__(
        self,
        manifold: Any,
        out_features: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        init: str = "identity",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(manifold, out_features)
        if init not in ("identity", "orthogonal", "normal"):
            raise ValueError(f"PoincareConv2d: init must be 'identity', 'orthogonal' or 'normal', got {init!r}.")
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        d = self.manifold.d
        self.kernel_size, self.stride, self.padding, self.init = kernel, stride, padding, init
        self.factor = concatenation_factor(d, kernel[0] * kernel[1])
        self.weight = nn.Parameter(torch.empty(out_features, d, *kernel, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weight as ``init`` says and set the bias to zero."""
        if self.init == "identity":
            height, width = self.kernel_size
            center = self.weight.new_empty(self.weight.shape[:2])
            self.weight.zero_()[:, :, height // 2, width // 2] = identity_(center) / self.factor
        elif self.init == "orthogonal":
            out, inside = self.weight.flatten(1).shape
            nn.init.orthogonal_(self.weight.flatten(1), gain=max(1.0, inside / out) ** 0.5)
        else:
            nn.init.normal_(self.weight, std=(2 / self.weight.numel()) ** 0.5)
        if self.bias is not None:
            self.bias.zero_()

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map points (N, H, W, *point_shape) to points (N, H', W', *point_shape) of ``out_manifold``."""
        manifold, out = self.manifold, self.out_manifold
        self._check(manifold, x)
        if x.ndim != 4:
            raise ValueError(
                f"PoincareConv2d: expected (N, H, W, {manifold.point_shape[0]}), got {tuple(x.shape)}. Features come "
                f"last; see from_channels_first."
            )
        space, wide = manifold._open(x)
        tangent = self.factor * space.log(manifold._enter(space, wide)).permute(0, 3, 1, 2)
        scores = self._scores(_sheet.root_of(space), space.curvature, tangent).permute(0, 2, 3, 1)
        target, scores = out._open(scores)
        return out._leave(target, _sheet.disk_from_distances(target, scores), x.dtype)

    def _scores(self, root: Any, curvature: Any, tangent: Tensor) -> Tensor:
        """Return signed distances times gains (N, out, H', W') of the concatenated tangent vectors (N, d, H, W)."""
        gain, unit = _sheet.directions(self.weight.flatten(1))
        norm2 = self._convolve(tangent.square().sum(1, keepdim=True), tangent.new_ones(1, 1, *self.kernel_size))
        sine, cosine = sine_cosine(curvature * norm2, -1)
        along = root * sine * self._convolve(tangent, unit.reshape(self.weight.shape))
        bias = None if self.bias is None else self.bias[:, None, None]
        return gain[:, None, None] * (_sheet.shifted(along, cosine, root, bias).asinh() / root)

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        return functional.conv2d(x, kernel, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        """Return the geometry and options."""
        return (
            f"{self._show()}, out_features={self.out_features}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, init={self.init}"
        )
