"""Fully connected layers of hyperbolic space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds._curvature import widen
from manifoldnorm.nn.hyperbolic import _sheet
from manifoldnorm.nn.hyperbolic._layer import ToDimension, bias_kind, identity_

INITIALS: dict[str, Callable[[Tensor], Any]] = {
    "orthogonal": nn.init.orthogonal_,
    "identity": identity_,
    "normal": lambda weight: nn.init.normal_(weight, std=(2 / weight.numel()) ** 0.5),
}


class _Linear(ToDimension):
    def __init__(
        self,
        manifold: Any,
        out_features: int,
        *,
        bias: str | bool = True,
        init: str = "orthogonal",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(manifold, out_features)
        name = type(self).__name__
        if init not in INITIALS:
            raise ValueError(f"{name}: init must be one of {', '.join(map(repr, INITIALS))}, got {init!r}.")
        self.init, self.bias_kind = init, bias_kind(bias, name)
        self.weight = nn.Parameter(torch.empty(out_features, self.manifold.d, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if self.bias_kind else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weight as ``init`` says and set the bias to zero."""
        INITIALS[self.init](self.weight)
        if self.bias is not None:
            self.bias.zero_()

    def _scores(self, x: _sheet.Sheet, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map points (..., *point_shape) to points of ``out_manifold``."""
        manifold, out = self.manifold, self.out_manifold
        self._check(manifold, x)
        gyro = self.bias_kind == "gyro"
        scores = self._scores(_sheet.enter(manifold, x), None if gyro else self.bias)
        space, scores = out._open(scores)
        disk = _sheet.disk_from_distances(space, scores)
        if gyro and self.bias is not None:
            disk = space.add(space.exp(widen(self.bias)), disk)
        return out._leave(space, disk, x.dtype)

    def extra_repr(self) -> str:
        """Return the geometry and options."""
        return f"{self._show()}, out_features={self.out_features}, bias={self.bias_kind or False}, init={self.init}"


class HyperbolicLinear(_Linear):
    r"""Fully connected layer of hyperbolic space: output coordinates are signed distances from hyperplanes.

    The signed distance of the output from its k-th coordinate hyperplane is score k of `HyperbolicMLR`. In the ball
    that is the layer of HNN++ with ``Z = W / 2`` and ``r = -bias / 2``; the hyperboloid and the Klein ball give the
    same point under the isometry. An orthogonal weight without bias is a rotation, the identity matrix exactly the
    identity map. As the curvature goes to 0 it becomes ``W u + |w| bias`` in normal coordinates u at the origin.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the input; that of the output has ``out_features`` dimensions and the same curvature, see
        ``out_geometry``.
    out_features : int
        Dimension of the output.
    bias : {True, "hyperplane", "gyro", False}
        ``"hyperplane"`` (True): hyperplanes at a distance from the origin, as in HNN++; ``"gyro"``: the output is moved
        by the left gyrotranslation ``exp_e(bias) (+) y``.
    init : {"orthogonal", "identity", "normal"}
        Of the weight. ``"identity"`` maps points to themselves (Poincare ResNet); where ``out_features`` is larger than
        d coordinates repeat, divided by the root of their number. ``"normal"`` is that of HNN++, which shrinks points.
    device, dtype : optional
        Of ``weight`` (out_features, d), in orthonormal coordinates at the origin, and ``bias`` (out_features).

    Raises
    ------
    TypeError
        If the geometry is not hyperbolic.
    ValueError
        If an option is unknown.

    References
    ----------
    Shimizu, Mukuta and Harada 2021, "Hyperbolic neural networks++", eq. (7); van Spengler, Berkhout and Mettes 2023,
    "Poincare ResNet" (identity).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(3)
    >>> layer = mn.nn.HyperbolicLinear(ball, 5)
    >>> layer(ball.random_point(8)).shape, layer.out_manifold
    (torch.Size([8, 5]), PoincareBall(d=5, curvature=-1.0))
    """

    def _scores(self, x: _sheet.Sheet, bias: Tensor | None) -> Tensor:
        return _sheet.hyperplane_scores(x, self.weight, bias)


class BusemannLinear(_Linear):
    r"""Fully connected layer of hyperbolic space: output coordinates are Busemann functions.

    The signed distance of the output from its k-th coordinate hyperplane is score k of `BusemannMLR`, after an optional
    activation. As the curvature goes to 0 it becomes ``W u + bias`` in normal coordinates u at the origin.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the input; that of the output is ``out_geometry``.
    out_features : int
        Dimension of the output.
    activation : callable, optional
        Of the scores, e.g. ``torch.relu``.
    bias : {True, "hyperplane", "gyro", False}
        ``"hyperplane"`` (True): added to the Busemann function; ``"gyro"``: the output is moved by the left
        gyrotranslation ``exp_e(bias) (+) y``, as published.
    init : {"orthogonal", "identity", "normal"}
        Of the weight, see `HyperbolicLinear`; here the identity matrix is the identity map to first order only.
    device, dtype : optional
        Of ``weight`` (out_features, d), in orthonormal coordinates at the origin, and ``bias`` (out_features).

    Raises
    ------
    TypeError
        If the geometry is not hyperbolic.
    ValueError
        If an option is unknown.

    References
    ----------
    Chen et al. 2026, "Hyperbolic Busemann neural networks" (HBNN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lorentz = mn.Lorentz(3)
    >>> mn.nn.BusemannLinear(lorentz, 5, bias="gyro")(lorentz.random_point(8)).shape
    torch.Size([8, 6])
    """

    def __init__(
        self, manifold: Any, out_features: int, *, activation: Callable[[Tensor], Tensor] | None = None, **options: Any
    ) -> None:
        super().__init__(manifold, out_features, **options)
        self.activation = activation

    def _scores(self, x: _sheet.Sheet, bias: Tensor | None) -> Tensor:
        scores = _sheet.busemann_scores(x, self.weight, bias)
        return scores if self.activation is None else self.activation(scores)
