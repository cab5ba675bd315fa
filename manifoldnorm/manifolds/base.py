"""The contract of a manifold: primitives that each geometry implements, and operations derived from them."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.manifolds._checks import check_finite, check_tensor, first_bad
from manifoldnorm.manifolds._operations import guard
from manifoldnorm.stats import MeanPolicy, MeanSystem

Self = TypeVar("Self", bound="Manifold")


def safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root with gradient 0 (not infinity) at 0; 0 below it, NaN for NaN."""
    zero = x <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def spread(t: Tensor | float, axes: int) -> Tensor | float:
    """Return ``t`` with ``axes`` trailing dimensions of size one."""
    return t.reshape(t.shape + (1,) * axes) if isinstance(t, Tensor) else t


def _show(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return str(value.tolist()) if value.ndim == 0 else f"<tensor of shape {tuple(value.shape)}>"


class Manifold(abc.ABC):
    """A Riemannian manifold as an immutable, hashable value: tensors in, tensors out, no state.

    Points are plain tensors (*batch, *point_shape); tangent vectors have the shape of points; batches broadcast.

    Parameters
    ----------
    point_shape : tuple of int
        Shape of one point.
    dim : int
        Dimension as a manifold.
    config : dict
        The constructor's arguments by name; they become attributes.
    derived : dict, optional
        Attributes computed from them.
    """

    point_shape: tuple[int, ...]
    dim: int
    is_complex = False
    has_hessian = False
    has_fixed_point = False
    variance_shape: tuple[int, ...] = ()  # of the variance that a norm layer keeps: a product has one per factor
    origin_kind: str | None = None  # "identity" or "zero" where the origin is that matrix
    learnable: ClassVar[dict[str, str]] = {}  # option -> its constraint ("positive", "nonzero", "negative", "spd")

    def __init__(
        self, point_shape: tuple[int, ...], dim: int, config: dict[str, Any], derived: dict[str, Any] | None = None
    ) -> None:
        values = {**config, **(derived or {}), "point_shape": point_shape, "dim": dim, "_config": config}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        guard(cls)

    # ---- a value object

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use manifold.replace({name}=...) for another one.")

    def replace(self: Self, **changes: Any) -> Self:
        """Return the same geometry with some constructor arguments changed."""
        return type(self)(**{**self._config, **changes})  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        return functools.partial(type(self), **self._config), ()  # type: ignore[attr-defined]

    def _key(self) -> tuple[Any, ...]:
        items = self._config.items()  # type: ignore[attr-defined]
        return (type(self), *((k, id(v) if isinstance(v, Tensor) else v) for k, v in items))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifold) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        config = ", ".join(f"{k}={_show(v)}" for k, v in self._config.items())  # type: ignore[attr-defined]
        return f"{type(self).__name__}({config})"

    def lower_bound(self, option: str) -> float:
        """Return what a learned option stays above, beside keeping its sign."""
        return 0.0

    # ---- primitives; base point first

    @abc.abstractmethod
    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the origin e, expanded to ``(*batch, *point_shape)``."""

    @abc.abstractmethod
    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the exponential map of the tangent vector ``v`` at ``p``."""

    @abc.abstractmethod
    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the tangent vector at ``p`` whose exponential is ``q``."""

    @abc.abstractmethod
    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the Riemannian inner product (*batch) of ``u`` and ``v`` at ``p``."""

    @abc.abstractmethod
    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` parallel transported along the geodesic from ``p`` to the origin."""

    @abc.abstractmethod
    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return ``v``, tangent at the origin, parallel transported to ``p``."""

    @abc.abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Return a point of the manifold near the ambient ``x``."""

    @abc.abstractmethod
    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the orthogonal projection of the ambient ``v`` onto the tangent space at ``p``."""

    @abc.abstractmethod
    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the Riemannian gradient for the Euclidean gradient ``g`` at ``p``."""

    @abc.abstractmethod
    def violation(self, x: Tensor) -> Tensor:
        """Return how far ``x`` is from the manifold (*batch), relative to its scale; 0 on it."""

    # ---- derived

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` parallel transported along the geodesic from ``p`` to ``q``."""
        raise NotImplementedError(
            f"{self} has no closed form for parallel transport between two general points; "
            f"use to_origin / from_origin, or vector_transport for optimizers."
        )

    @property
    def injectivity_radius(self) -> float | Tensor:
        """How far from a point the exponential is injective (default: everywhere)."""
        return math.inf

    def canonical(self, x: Tensor) -> Tensor:
        """Return what tells points apart, where one point has several representatives (default: ``x``)."""
        return x

    def norm(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the Riemannian norm (*batch) of ``v`` at ``p``; its gradient at 0 is 0."""
        return safe_sqrt(self.inner(p, v, v))

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the squared geodesic distance (*batch)."""
        v = self.log(p, q)
        return self.inner(p, v, v)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the geodesic distance (*batch); its gradient at ``p == q`` is 0."""
        apart = p != q
        if self.point_shape:
            apart = apart.flatten(-len(self.point_shape)).any(-1)
        # between equal points rounding leaves a distance of about eps, whose gradient would be noise of size one
        return safe_sqrt(torch.where(apart, self.squared_dist(p, q), 0.0))

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return the point at time ``t`` (broadcast over the batch) of the geodesic from ``p`` (t=0) to ``q`` (t=1)."""
        return self.exp(p, spread(t, len(self.point_shape)) * self.log(p, q))

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the squared distance of ``x`` from the origin and ``t -> exp_e(t log_e x)``, sharing their work."""
        origin = self.origin(dtype=x.dtype, device=x.device)
        v = self.log(origin, x)
        return self.inner(origin, v, v), lambda t: self.exp(origin, spread(t, len(self.point_shape)) * v)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return a first-order approximation of ``exp`` that stays on the manifold (default: ``exp`` itself)."""
        return self.exp(p, v)

    def vector_transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return ``v`` moved from ``p`` to ``q`` for an optimizer: transport where closed, else through the origin."""
        try:
            return self.transport(p, q, v)
        except NotImplementedError:
            return self.from_origin(q, self.to_origin(p, v))  # keeps the length, which a projection does not

    def random_tangent(self, p: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a tangent vector at each ``p`` whose coordinates in an orthonormal frame are standard normal."""
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        origin = self.origin(dtype=p.dtype, device=p.device)
        return self.from_origin(p, self.project_tangent(origin, noise))

    def random_point(
        self,
        *batch: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> Tensor:
        """Return the exponential at the origin of random tangent vectors of norm about 1."""
        origin = self.origin(*batch, dtype=dtype, device=device)
        return self.exp(origin, self.random_tangent(origin, generator) / math.sqrt(max(self.dim, 1)))

    # ---- bias points: a global chart at the origin

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return the point that the unconstrained tangent vector ``v`` at the origin stands for (default ``exp_e``)."""
        return self.exp(self.origin(dtype=v.dtype, device=v.device), v)

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return the inverse of `point_from_tangent`."""
        return self.log(self.origin(dtype=p.dtype, device=p.device), p)

    def origin_inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the inner product (*batch) of two tangent vectors at the origin."""
        return self.inner(self.origin(dtype=u.dtype, device=u.device), u, v)

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return the exponential at ``p`` (None: the origin) of ``v`` transported there from the origin.

        Where ``exp`` is not defined everywhere the step is shrunk into its domain, sample by sample.
        """
        origin = self.origin(dtype=v.dtype, device=v.device)
        return self.exp(origin, v) if p is None else self.exp(p, self.from_origin(p, v))

    def injective_fraction(self, p: Tensor, v: Tensor) -> Tensor | None:
        """Return the largest t <= 1 (*batch) for which ``exp(p, t v)`` is defined; None where it always is."""
        return None

    # ---- means

    @property
    def default_mean(self) -> MeanPolicy:
        """The mean policy that norm layers use unless told otherwise."""
        return stats.Newton(1) if self.has_hessian else stats.Exact()

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        *,
        dim: int | tuple[int, ...] = 0,
        max_iter: int | None = None,
        tol: float | None = None,
    ) -> Tensor:
        """Return the converged weighted Frechet mean over ``dim``, see `manifoldnorm.stats.frechet_mean`."""
        return stats.frechet_mean(self, x, weights, dim=dim, max_iter=max_iter, tol=tol)

    def closed_form_mean(self, x: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the mean of (N, *groups, *point_shape) over dimension 0 where it has a closed form, else None."""
        return None

    def arithmetic_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the projected arithmetic mean: where the published Karcher iterations start."""
        return self.project(stats.weighted_mean(x, weights, len(self.point_shape)))

    def mean_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return a cheap first guess of the mean."""
        return self.arithmetic_start(x, weights)

    def mean_system(self, p: Tensor, x: Tensor, weights: Tensor | None) -> MeanSystem:
        """Return the stationarity condition of the mean of ``x`` (N, *groups, *point_shape) at ``p``.

        What is derived from ``p`` meets the samples through `manifoldnorm.stats.spread`: weights may be segments.
        """
        p = stats.spread(p, weights)
        v = self.log(p, x)
        cost = self.inner(p, v, v).detach()
        residual, cost = stats.weighted_means(weights, (v, len(self.point_shape)), (cost, 0))
        return MeanSystem(residual, None, cost, 1 + cost.clamp_min(0).sqrt())

    def mean_step(self, p: Tensor, direction: Tensor) -> Tensor:
        """Return the point reached from ``p`` by a direction in the coordinates of `mean_system`."""
        return self.exp(p, direction)

    def karcher_step(self, p: Tensor, residual: Tensor) -> Tensor:
        """Return the point reached from ``p`` by a unit gradient step."""
        return self.mean_step(p, residual)

    # ---- input checks

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise a ValueError that names the sample, the cause and the remedy unless ``x`` lies on the manifold.

        Looks at values, so it synchronises with the device.
        """
        self.check_shape(x, name)
        check_finite(x, len(self.point_shape), f"{self}: {name}")
        violation = self.violation(x.detach())
        tolerance = 1e3 * torch.finfo(x.dtype).eps
        where = first_bad(violation > tolerance)
        if where is not None:
            raise ValueError(
                f"{self}: {name}: {where[0]} is not on the manifold (relative violation "
                f"{float(violation.flatten()[where[1]]):.3g}). Project it with manifold.project(x)."
            )

    def check_shape(self, x: Tensor, name: str = "x") -> None:
        """Raise unless ``x`` has the shape (*batch, *point_shape) and a floating dtype of the manifold's field."""
        check_tensor(x, self, name)
        axes = len(self.point_shape)
        if x.ndim < axes or tuple(x.shape[x.ndim - axes :]) != self.point_shape:
            raise ValueError(
                f"{self}: {name}: expected shape (..., {', '.join(map(str, self.point_shape))}), got {tuple(x.shape)}."
            )
        if x.is_complex() and not self.is_complex:
            raise TypeError(f"{self}: {name} is complex; this geometry is real. Use field='complex' if it has one.")
        if not (x.is_floating_point() or x.is_complex()) or x.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(f"{self}: {name}: expected float32 or float64 (or complex), got {x.dtype}. Use x.float().")


guard(Manifold)
