"""Classifiers on hyperbolic space: distances to hyperplanes, and Busemann functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.nn.hyperbolic import _sheet
from manifoldnorm.nn.hyperbolic._layer import Hyperbolic


class _Scores(Hyperbolic):
    def __init__(
        self, manifold: Any, n_outputs: int, *, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(manifold)
        if not isinstance(n_outputs, int) or n_outputs < 1:
            raise ValueError(f"{type(self).__name__}: n_outputs must be a positive integer, got {n_outputs!r}.")
        self.n_outputs = n_outputs
        self.weight = nn.Parameter(torch.empty(n_outputs, self.manifold.d, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(n_outputs, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw normal weights of variance ``1 / d`` and set the bias to zero."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        if self.bias is not None:
            self.bias.zero_()

    def extra_repr(self) -> str:
        """Return the geometry and options."""
        return f"{self._show()}, n_outputs={self.n_outputs}, bias={self.bias is not None}"


class HyperbolicMLR(_Scores):
    r"""Multinomial logistic regression on hyperbolic space: signed distances from hyperplanes.

    Score k is ``|w_k|`` times the signed distance from the hyperplane normal to ``w_k`` whose distance from the origin
    is ``-bias_k`` along ``w_k``. In the ball it is the unidirectional form of HNN++ with ``Z = W / 2`` and ``r = -bias
    / 2`` (lengths here are Riemannian, the ball's metric is 4 at the origin); on the hyperboloid the same function of
    the same point. As the curvature goes to 0 it becomes the linear layer ``W u + |w| bias`` of normal coordinates u at
    the origin.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the input.
    n_outputs : int
        Number of classes.
    bias : bool
        Whether hyperplanes may leave the origin.
    device, dtype : optional
        Of the parameters ``weight`` (n_outputs, d), in orthonormal coordinates at the origin, and ``bias`` (n_outputs).

    Raises
    ------
    TypeError
        If the geometry is not hyperbolic.

    References
    ----------
    Shimizu, Mukuta and Harada 2021, "Hyperbolic neural networks++", eq. (6); Bdeir et al. 2024 (Lorentz form).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(3)
    >>> mn.nn.HyperbolicMLR(ball, 5)(ball.random_point(8)).shape
    torch.Size([8, 5])
    """

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map points (..., *point_shape) to scores (..., n_outputs)."""
        manifold = self.manifold
        self._check(manifold, x)
        return _sheet.hyperplane_scores(_sheet.enter(manifold, x), self.weight, self.bias).to(x.dtype)


class BusemannMLR(_Scores):
    r"""Multinomial logistic regression on hyperbolic space by Busemann functions.

    Score k is ``bias_k - |w_k| B_k(x)``, where ``B_k``, the Busemann function of the ideal point in direction ``w_k``,
    is the signed distance from a horosphere; level sets are horospheres instead of hyperplanes. As the curvature goes
    to 0 it becomes the linear layer ``W u + bias``.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the input.
    n_outputs : int
        Number of classes.
    bias : bool
        Whether there is an additive bias.
    device, dtype : optional
        Of the parameters ``weight`` (n_outputs, d), in orthonormal coordinates at the origin, and ``bias`` (n_outputs).

    Raises
    ------
    TypeError
        If the geometry is not hyperbolic.

    References
    ----------
    Chen et al. 2026, "Hyperbolic Busemann neural networks" (HBNN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lorentz = mn.Lorentz(3)
    >>> mn.nn.BusemannMLR(lorentz, 5)(lorentz.random_point(8)).shape
    torch.Size([8, 5])
    """

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map points (..., *point_shape) to scores (..., n_outputs)."""
        manifold = self.manifold
        self._check(manifold, x)
        return _sheet.busemann_scores(_sheet.enter(manifold, x), self.weight, self.bias).to(x.dtype)
