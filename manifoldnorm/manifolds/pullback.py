"""Diffeomorphisms, and the metric that one pulls back: most published metrics are one line of this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.cone import PositiveDefiniteCone, identity
from manifoldnorm.stats import MeanPolicy, MeanSystem


class Diffeo:
    """A diffeomorphism between two manifolds of tensors of the same shape, as an immutable value.

    A subclass gives `__call__` and `inverse`; differentials default to derivatives of these by automatic
    differentiation, and a closed form may replace them. ``outer @ inner`` composes.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> chart = mn.manifolds.MatrixPower(0.5)
    >>> chart.inverse(chart(2 * torch.eye(2))).diagonal()
    tensor([2., 2.])
    """

    image_of: ClassVar[dict[str, str]] = {}  # what "identity" and "zero" are mapped to, where they are one of these

    def image(self, kind: str | None) -> str | None:
        """Return which of "identity" and "zero" the given one is mapped to; None for neither."""
        return self.image_of.get(kind or "")

    def __call__(self, p: Tensor) -> Tensor:
        """Return the image of ``p``."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """Return the preimage of ``y``."""
        raise NotImplementedError

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the differential at ``p`` applied to the tangent vector ``v``."""
        return _directional(self.__call__, *_aligned(p, v))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Return the differential of the inverse at the image point ``y`` applied to ``w``."""
        return _directional(self.inverse, *_aligned(y, w))

    def push_identity(self, v: Tensor) -> Tensor:
        """Return the differential at the identity matrix applied to ``v`` (override: often just a factor)."""
        eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        return self.push(eye.expand_as(v), v)

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        """Return the adjoint of `pull` at ``y`` applied to ``g``: how Euclidean gradients enter the image."""
        y, g = _aligned(y, g)
        return torch.func.vjp(self.inverse, y)[1](g)[0]

    def __matmul__(self, inner: Diffeo) -> Diffeo:
        return _Composition(self, inner)

    def _key(self) -> tuple[Any, ...]:
        values = tuple(id(v) if isinstance(v, Tensor) else v for v in vars(self).values())
        return (type(self), *values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diffeo) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def _aligned(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(p.shape, v.shape)
    return p.expand(shape), v.expand(shape)


def _directional(f: Callable[[Tensor], Tensor], p: Tensor, v: Tensor) -> Tensor:
    """Return D f(p)[v] as the derivative of the (linear) reverse-mode product: works without forward-mode rules."""
    image, vjp = torch.func.vjp(f, p)[:2]
    transposed = torch.func.vjp(lambda c: vjp(c)[0], torch.zeros_like(image))[1]
    return transposed(v)[0]


class _Composition(Diffeo):
    """``outer(inner(p))``."""

    def __init__(self, outer: Diffeo, inner: Diffeo) -> None:
        self.outer, self.inner = outer, inner

    def image(self, kind: str | None) -> str | None:
        return self.outer.image(self.inner.image(kind))

    def __call__(self, p: Tensor) -> Tensor:
        return self.outer(self.inner(p))

    def inverse(self, y: Tensor) -> Tensor:
        return self.inner.inverse(self.outer.inverse(y))

    def push(self, p: Tensor, v: Tensor) -> Tensor:
        return self.outer.push(self.inner(p), self.inner.push(p, v))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        return self.inner.pull(self.outer.inverse(y), self.outer.pull(y, w))

    def push_identity(self, v: Tensor) -> Tensor:
        return self.outer.push_identity(self.inner.push_identity(v))

    def pull_adjoint(self, y: Tensor, g: Tensor) -> Tensor:
        return self.outer.pull_adjoint(y, self.inner.pull_adjoint(self.outer.inverse(y), g))


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
        chart = manifold.chart if chart is None else _Composition(manifold.chart, chart)
        scale = scale * manifold.scale
        manifold = manifold.base
    return chart, manifold, scale
