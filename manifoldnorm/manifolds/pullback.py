"""The metric that a diffeomorphism pulls back: most published metrics are one line of this."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.cone import PositiveDefiniteCone, identity
from manifoldnorm.manifolds.diffeo import Composition, Diffeo
from manifoldnorm.stats import MeanPolicy, MeanSystem


class Pullback(Manifold):
    """The metric ``scale * chart^* base``: a base geometry seen through a diffeomorphism.

    It carries every structure of its base (group, gyrogroup, Hessian). Layers enter the chart once, work in the base
    and leave once. Where the chart does not fix the identity matrix, as a congruence, the origin is the preimage of the
    base's origin.

    Parameters
    ----------
    chart : Diffeo
        From this manifold to the base.
    base : Manifold
        Geometry of the chart's image.
    scale : float or Tensor
        Factor of the metric; squared distances are ``scale`` times those of the base.

    Examples
    --------
    The log-Cholesky metric of precision matrices, in one line:

    >>> import torch, manifoldnorm as mn
    >>> from manifoldnorm.manifolds import CholeskyInverse, LogCholeskyChart, Pullback, TriangularMatrices
    >>> metric = Pullback(LogCholeskyChart() @ CholeskyInverse(), TriangularMatrices(2))
    >>> metric.dist(torch.eye(2), torch.e**2 * torch.eye(2))
    tensor(1.4142)
    """

    def __init__(self, chart: Diffeo, base: Manifold, scale: float | Tensor = 1.0) -> None:
        self._setup({"chart": chart, "base": base, "scale": scale}, chart, base, scale)

    def _setup(self, config: dict[str, Any], chart: Diffeo, base: Manifold, scale: float | Tensor = 1.0) -> None:
        derived = {
            "chart": chart,
            "base": base,
            "scale": scale,
            "is_complex": base.is_complex,
            "has_hessian": base.has_hessian,
            "has_fixed_point": base.has_fixed_point,
            "origin_kind": "identity" if base.origin_kind and chart.image("identity") == base.origin_kind else None,
        }
        Manifold.__init__(self, base.point_shape, base.dim, config, derived)

    chart: Diffeo
    base: Manifold
    scale: float | Tensor

    @property
    def structure_base(self) -> Manifold:
        """The manifold whose algebraic structure this one carries."""
        return self.base

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the preimage of the base's origin: the identity matrix, unless the chart moves it."""
        if self.origin_kind == "identity":
            return identity(self.point_shape[-1], self.is_complex, batch, dtype, device)
        return self.chart.inverse(self.base.origin(*batch, dtype=dtype, device=device))

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the exponential map, taken in the chart."""
        return self.chart.inverse(self.base.exp(self.chart(p), self.chart.push(p, v)))

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the logarithm, taken in the chart."""
        y = self.chart(p)
        return self.chart.pull(y, self.base.log(y, self.chart(q)))

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return ``scale`` times the base's inner product of the pushed vectors."""
        return self.scale * self.base.inner(self.chart(p), self.chart.push(p, u), self.chart.push(p, v))

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` transported to the origin, in the chart."""
        moved = self.base.to_origin(self.chart(p), self.chart.push(p, v))
        return self.chart.pull(self._base_origin(v), moved)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` transported from the origin, in the chart."""
        y = self.chart(p)
        return self.chart.pull(y, self.base.from_origin(y, self._push_origin(v)))

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` transported from ``p`` to ``q``, in the chart (absent where the base has none)."""
        y = self.chart(q)
        return self.chart.pull(y, self.base.transport(self.chart(p), y, self.chart.push(p, v)))

    def project(self, x: Tensor) -> Tensor:
        """Return a nearby point on which the chart is defined."""
        return self.domain.project(x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the projection onto the tangent space."""
        return self.domain.project_tangent(p, v)

    def violation(self, x: Tensor) -> Tensor:
        """Return how far ``x`` is from the chart's domain."""
        return self.domain.violation(x)

    @property
    def domain(self) -> type[PositiveDefiniteCone]:
        """The set of points: how to project on it and how to check (default: positive-definite matrices)."""
        return PositiveDefiniteCone

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the Riemannian gradient: the base's, of the gradient pulled through the chart."""
        y = self.chart(p)
        gradient = self.base.egrad2rgrad(y, self.chart.pull_adjoint(y, self.domain.project_tangent(p, g)))
        return self.chart.pull(y, gradient) / self.scale

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``scale`` times the base's squared distance."""
        return self.scale * self.base.squared_dist(self.chart(p), self.chart(q))

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return the base's geodesic between the images, pulled back."""
        return self.chart.inverse(self.base.geodesic(self.chart(p), self.chart(q), t))

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance from the origin and the dilation about it, through the base's."""
        squared, dilate = self.base.polar(self.chart(x))
        return self.scale * squared, lambda t: self.chart.inverse(dilate(t))

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise a ValueError that names the sample, the cause and the remedy unless the chart is defined at ``x``."""
        self.check_shape(x, name)
        self.domain.check_point(x, f"{self}: {name}")

    # ---- means, in the chart

    @property
    def default_mean(self) -> MeanPolicy:
        """The base's."""
        return self.base.default_mean

    def closed_form_mean(self, x: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the preimage of the base's closed-form mean, where there is one."""
        mean = self.base.closed_form_mean(self.chart(x), weights)
        return None if mean is None else self.chart.inverse(mean)

    def arithmetic_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the preimage of the base's start."""
        return self.chart.inverse(self.base.arithmetic_start(self.chart(x), weights))

    def mean_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the preimage of the base's first guess."""
        return self.chart.inverse(self.base.mean_start(self.chart(x), weights))

    def mean_system(self, p: Tensor, x: Tensor, weights: Tensor | None) -> MeanSystem:
        """Return the base's system, in its coordinates."""
        return self.base.mean_system(self.chart(p), self.chart(x), weights)

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return the preimage of the base's step."""
        return self.chart.inverse(self.base.mean_step(self.chart(p), direction))

    def karcher_step(self, p: Tensor, residual: Tensor) -> Tensor:
        """Return the preimage of the base's unit step."""
        return self.chart.inverse(self.base.karcher_step(self.chart(p), residual))

    # ---- bias points

    def _base_origin(self, like: Tensor) -> Tensor:
        return self.base.origin(dtype=like.dtype, device=like.device)

    def _push_origin(self, v: Tensor) -> Tensor:
        if self.origin_kind == "identity":
            return self.chart.push_identity(v)
        return self.chart.push(self.origin(dtype=v.dtype, device=v.device), v)

    def base_tangent(self, v: Tensor) -> Tensor:
        """Return the tangent vector at the base's origin that the tangent vector ``v`` at the origin is pushed to."""
        return self._push_origin(v)

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return the preimage of the base's point."""
        return self.chart.inverse(self.base.point_from_tangent(self.base_tangent(v)))

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return the inverse of `point_from_tangent`."""
        tangent = self.base.tangent_from_point(self.chart(p))
        return self.chart.pull(self._base_origin(p), tangent)

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return the preimage of the base's."""
        return self.chart.inverse(self.base.shoot(None if p is None else self.chart(p), self.base_tangent(v)))

    @property
    def injectivity_radius(self) -> float | Tensor:
        """The base's, at the metric's scale."""
        radius = self.base.injectivity_radius
        return radius if radius == math.inf else self.scale**0.5 * radius

    def canonical(self, x: Tensor) -> Tensor:
        """Return what tells the images apart in the base."""
        return self.base.canonical(self.chart(x))

    def injective_fraction(self, p: Tensor, v: Tensor) -> Tensor | None:
        """Return the base's."""
        return self.base.injective_fraction(self.chart(p), self.chart.push(p, v))

    # ---- structures of the base

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the preimage of the base's group product."""
        return self.chart.inverse(self._structured.compose(self.chart(x), self.chart(y)))

    def inverse(self, x: Tensor) -> Tensor:
        """Return the preimage of the base's group inverse."""
        return self.chart.inverse(self._structured.inverse(self.chart(x)))

    def quotient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``inverse(x)`` composed with ``y``."""
        return self.chart.inverse(self._structured.quotient(self.chart(x), self.chart(y)))

    def gyroadd(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the preimage of the base's gyrosum."""
        return self.chart.inverse(self._structured.gyroadd(self.chart(x), self.chart(y)))

    def gyroneg(self, x: Tensor) -> Tensor:
        """Return the preimage of the base's gyroinverse."""
        return self.chart.inverse(self._structured.gyroneg(self.chart(x)))

    def gyrosub(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``gyroneg(x) (+) y``."""
        return self.chart.inverse(self._structured.gyrosub(self.chart(x), self.chart(y)))

    def gyroscale(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return the dilation of ``x`` by ``t`` about the origin."""
        return self.chart.inverse(self._structured.gyroscale(t, self.chart(x)))

    def gyration(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the preimage of the base's gyration."""
        return self.chart.inverse(self._structured.gyration(self.chart(x), self.chart(y), self.chart(z)))

    @property
    def _structured(self) -> Any:
        return self.base


def flatten(manifold: Manifold) -> tuple[Diffeo | None, Manifold, float | Tensor]:
    """Return (chart, base, scale) with pullbacks of pullbacks composed; (None, manifold, 1) for other manifolds."""
    chart: Diffeo | None = None
    scale: float | Tensor = 1.0
    while isinstance(manifold, Pullback):
        chart = manifold.chart if chart is None else Composition(manifold.chart, chart)
        scale = scale * manifold.scale
        manifold = manifold.base
    return chart, manifold, scale
