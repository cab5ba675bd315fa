"""Residual connections and activations of hyperbolic space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.nn._domains import apply
from manifoldnorm.nn.hyperbolic._layer import Hyperbolic


class HyperbolicActivation(Hyperbolic):
    """A function of the coordinates of the tangent vector at the origin.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of input and output.
    function : callable
        On orthonormal coordinates (..., d), the same in all models; default `torch.relu`.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.nn.HyperbolicActivation(mn.PoincareBall(2))(torch.tensor([0.3, -0.4]))
    tensor([0.3181, 0.0000])
    """

    def __init__(self, manifold: Any, function: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__(manifold)
        self.function = function

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Map points (..., *point_shape) to points."""
        manifold = self.manifold
        self._check(manifold, x)
        space, wide = manifold._open(x)
        return manifold._leave(space, space.exp(self.function(space.log(manifold._enter(space, wide)))), x.dtype)

    def extra_repr(self) -> str:
        """Return the geometry and the function."""
        return f"{self._show()}, {getattr(self.function, '__name__', self.function)}"


class HyperbolicResidual(Hyperbolic):
    """A residual block ``shortcut(x) (+) gain (*) branch(x)`` in gyroaddition and gyroscaling.

    Parameters
    ----------
    manifold : PoincareBall, Lorentz, Klein or LearnableManifold
        Geometry of the output.
    branch : Module
        From points to points of ``manifold``.
    shortcut : Module, optional
        Likewise; default the identity.
    gain : float or None
        Start of the learnable number that scales the branch; with 0 the block starts as its shortcut exactly, so
        networks of any depth keep the norm of their activations. None: no such number.

    References
    ----------
    van Spengler, Berkhout and Mettes 2023, "Poincare ResNet" (gyroaddition); Bachlechner et al. 2021, "ReZero is all
    you need" (gain).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(2)
    >>> block = mn.nn.HyperbolicResidual(ball, mn.nn.HyperbolicLinear(ball, 2))
    >>> x = torch.tensor([0.3, -0.4])
    >>> bool((block(x) == x).all())
    True
    """

    def __init__(
        self,
        manifold: Any,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        *,
        gain: float | None = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(manifold)
        self.branch, self.shortcut = branch, nn.Identity() if shortcut is None else shortcut
        self.gain = None if gain is None else nn.Parameter(torch.tensor(float(gain), device=device, dtype=dtype))

    takes_domain = True

    def forward(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map points to points; branch and shortcut are given the domain where they take it."""
        manifold = self.manifold
        change = apply(self.branch, x, domain)
        if self.gain is not None:
            change = manifold.gyroscale(self.gain, change)
        return manifold.gyroadd(apply(self.shortcut, x, domain), change)

    def extra_repr(self) -> str:
        """Return the geometry."""
        return self._show()
