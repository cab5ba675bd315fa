"""Between flat features and points of a manifold: exponential and logarithm at the origin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from manifoldnorm.linalg import without_autocast
from manifoldnorm.manifolds import Manifold
from manifoldnorm.manifolds.base import spread
from manifoldnorm.nn import _inputs
from manifoldnorm.nn.learnable import LearnableManifold


def _has_time(manifold: Manifold) -> bool:
    """Return whether points carry a time coordinate, which is 0 in tangent vectors at the origin."""
    return manifold.point_shape == (manifold.dim + 1,)


class _AtOrigin(nn.Module):
    def __init__(self, manifold: Any, clip: float | None) -> None:
        super().__init__()
        self._geometry = _inputs.as_geometry(manifold)
        if clip is not None and not clip > 0:
            raise ValueError(f"{type(self).__name__}: clip must be a positive distance or None, got {clip}.")
        self.clip = clip

    @property
    def manifold(self) -> Manifold:
        """The geometry in use (of a `LearnableManifold`, at its current options)."""
        return self._geometry() if isinstance(self._geometry, LearnableManifold) else self._geometry

    def _clipped(self, manifold: Manifold, origin: Tensor, v: Tensor) -> Tensor:
        if self.clip is None:
            return v
        factor = self.clip / manifold.norm(origin, v).clamp_min(self.clip)
        return spread(factor, len(manifold.point_shape)) * v

    def extra_repr(self) -> str:
        """Return the options."""
        geometry = "learnable" if isinstance(self._geometry, nn.Module) else self._geometry
        return f"{geometry}, clip={self.clip}"


class Lift(_AtOrigin):
    """Features to points: the exponential at the origin, with optional clipping.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        Any geometry.
    clip : float, optional
        Largest distance from the origin: longer tangent vectors are shortened to it. Keeps hyperbolic classifiers
        away from the boundary, where gradients vanish.

    Raises
    ------
    ValueError
        If ``clip`` is not positive or the features have the wrong shape.

    Notes
    -----
    Input (..., *point_shape), projected onto the tangent space at the origin; where points carry a time coordinate
    (`Lorentz`, `Sphere`) also (..., d) without it. On `PoincareBall` the metric at the origin is 4 times the Euclidean
    one, so features u land at distance ``2 |u|``; on `Lorentz` at ``|u|``.

    References
    ----------
    Guo et al. 2022, "Clipped hyperbolic classifiers are super-hyperbolic classifiers".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> lift = mn.nn.Lift(mn.Lorentz(2), clip=1.0)
    >>> lift.manifold.dist(lift.manifold.origin(), lift(torch.tensor([30.0, 40.0])))
    tensor(1.)
    """

    def __init__(self, manifold: Any, clip: float | None = None) -> None:
        super().__init__(manifold, clip)

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Return points (..., *point_shape)."""
        manifold = self.manifold
        if _has_time(manifold) and x.shape[-1:] == (manifold.dim,):
            x = pad(x, (1, 0))
        manifold.check_shape(x, "Lift input")
        origin = manifold.origin(dtype=x.dtype, device=x.device)
        v = manifold.project_tangent(origin, x)
        return manifold.shoot(None, self._clipped(manifold, origin, v))


class Lower(_AtOrigin):
    """Points to features: the logarithm at the origin, the inverse of `Lift`.

    Parameters
    ----------
    manifold : Manifold or LearnableManifold
        Any geometry.
    clip : float, optional
        Longest tangent vector.

    Notes
    -----
    Output (..., *point_shape); where points carry a time coordinate (`Lorentz`, `Sphere`) its zero is left out: (...,
    d).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> ball = mn.PoincareBall(2)
    >>> mn.nn.Lower(ball)(mn.nn.Lift(ball)(torch.tensor([0.3, -0.4])))
    tensor([ 0.3000, -0.4000])
    """

    def __init__(self, manifold: Any, clip: float | None = None) -> None:
        super().__init__(manifold, clip)

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """Return tangent vectors at the origin."""
        manifold = self.manifold
        manifold.check_shape(x, "Lower input")
        origin = manifold.origin(dtype=x.dtype, device=x.device)
        v = self._clipped(manifold, origin, manifold.log(origin, x))
        return v[..., 1:] if _has_time(manifold) else v
