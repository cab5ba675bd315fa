"""The one file that imports geoopt, lazily: its import costs a second and warns."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds import (
    AffineInvariant,
    Euclidean,
    LogEuclidean,
    Lorentz,
    Manifold,
    PoincareBall,
    ProjectedSphere,
    Sphere,
    Stereographic,
    Stiefel,
)
from manifoldnorm.manifolds._conformal import ConformalManifold
from manifoldnorm.manifolds.base import spread


@functools.cache
def _geoopt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import geoopt
    return geoopt


@functools.cache
def _adapter_class() -> Any:
    geoopt = _geoopt()

    class Adapter(geoopt.Manifold):  # type: ignore[name-defined]
        """A manifoldnorm geometry behind geoopt's interface: what its optimizers and parameters call."""

        name = "manifoldnorm"
        reversible = False

        def __init__(self, source: Any) -> None:
            super().__init__()
            self.source = source
            self.ndim = len(self.geometry.point_shape)

        @property
        def geometry(self) -> Manifold:
            """The geometry now: a module that learns one is asked at every use."""
            return self.source if isinstance(self.source, Manifold) else self.source()

        def __reduce__(self) -> Any:
            return adapt, (self.source,)

        def __deepcopy__(self, memo: Any) -> Any:
            return adapt(self.source if isinstance(self.source, Manifold) else copy.deepcopy(self.source, memo))

        def _shrunk(self, x: Tensor, u: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
            """Return vectors at ``x``, shrunk alike by what keeps ``exp(x, u)`` defined: a wall stops the momentum."""
            fraction = self.geometry.injective_fraction(x, u)
            return (u, *more) if fraction is None else tuple(spread(fraction, self.ndim) * w for w in (u, *more))

        def retr(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.retract(x, *self._shrunk(x, u))

        def expmap(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.exp(x, *self._shrunk(x, u))

        def logmap(self, x: Tensor, y: Tensor) -> Tensor:
            return self.geometry.log(x, y)

        def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
            return self._keep(self.geometry.dist(x, y), keepdim)

        def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
            return self._keep(self.geometry.inner(x, u, u if v is None else v), keepdim)

        def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
            return self.geometry.vector_transport(x, y, v)

        def retr_transp(self, x: Tensor, u: Tensor, v: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
            geometry = self.geometry
            if not more and isinstance(geometry, ConformalManifold):
                return geometry.step(x, u, v)
            u, *moving = self._shrunk(x, u, v, *more)
            y = geometry.retract(x, u)
            return y, *(self.transp(x, y, w) for w in moving)

        def proju(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.project_tangent(x, u)

        def projx(self, x: Tensor) -> Tensor:
            return self.geometry.project(x)

        def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.egrad2rgrad(x, u)

        def random(self, *size: int, dtype: Any = None, device: Any = None) -> Any:
            batch = size[: len(size) - self.ndim]
            point = self.geometry.random_point(*batch, dtype=dtype, device=device)
            return geoopt.ManifoldTensor(point, manifold=self)

        def origin(self, *size: Any, dtype: Any = None, device: Any = None, seed: int | None = 42) -> Any:
            batch = size[: len(size) - self.ndim]
            return geoopt.ManifoldTensor(
                self.geometry.origin(*batch, dtype=dtype, device=device).clone(), manifold=self
            )

        def _keep(self, value: Tensor, keepdim: bool) -> Tensor:
            return value.reshape(value.shape + (1,) * self.ndim) if keepdim else value

        def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
            violation = float(self.geometry.violation(x.detach()).max()) if x.numel() else 0.0
            return (True, None) if violation <= atol else (False, f"relative violation {violation:.3g}")

        def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
            x, u = x.detach(), u.detach()
            gap = float((u - self.geometry.project_tangent(x, u)).abs().max()) if u.numel() else 0.0
            return (
                (True, None) if gap <= atol * max(1.0, float(u.abs().max())) else (False, f"off tangent by {gap:.3g}")
            )

    Adapter.__name__ = Adapter.__qualname__ = "ManifoldnormAdapter"
    return Adapter


def adapt(manifold: Any) -> Any:
    """Return a geoopt manifold that behaves as ``manifold``, or as what a learnable one currently is."""
    return _adapter_class()(manifold)


def manifold_parameter(data: Tensor, manifold: Any, requires_grad: bool = True) -> Any:
    """Return a `geoopt.ManifoldParameter` holding ``data`` on ``manifold`` (ours, a learnable one, or geoopt's own)."""
    if isinstance(manifold, type) or not (isinstance(manifold, (Manifold, _geoopt().Manifold)) or callable(manifold)):
        raise TypeError(f"ManifoldParameter: manifold must be a geometry, e.g. AffineInvariant(8), got {manifold!r}.")
    check_tensor(data, "ManifoldParameter")
    adapter = manifold if isinstance(manifold, _geoopt().Manifold) else adapt(manifold)
    return _geoopt().ManifoldParameter(data, manifold=adapter, requires_grad=requires_grad)


def to_geoopt(manifold: Manifold) -> Any:
    """Return a geoopt manifold for one of ours."""
    return adapt(manifold)


def _plain(geometry: type) -> Any:
    return lambda manifold, *sizes: geometry(*sizes)


# geoopt class name -> the geometry of this package, from geoopt's manifold and the sizes that it leaves open
_EQUIVALENTS: dict[str, Any] = {
    "SymmetricPositiveDefinite:AIM": _plain(AffineInvariant),
    "SymmetricPositiveDefinite:LEM": _plain(LogEuclidean),
    "EuclideanStiefel": _plain(Stiefel),
    "EuclideanStiefelExact": _plain(Stiefel),
    "Euclidean": _plain(Euclidean),
    "Sphere": lambda manifold, d: Sphere(d),
    "Lorentz": lambda manifold, d: Lorentz(d, -1 / float(manifold.k)),
    "PoincareBall": lambda manifold, d: PoincareBall(d, -float(manifold.c)),
    "SphereProjection": lambda manifold, d: ProjectedSphere(d, float(manifold.k)),
    "Stereographic": lambda manifold, d: Stereographic(d, float(manifold.k)),
}


def from_geoopt(manifold: Any, *sizes: int) -> Manifold:
    """Return the geometry of this package for a geoopt manifold, which leaves its sizes open.

    Parameters
    ----------
    manifold : geoopt.Manifold
        One made by `to_geoopt`, or geoopt's own: affine-invariant or log-Euclidean SPD, Euclidean Stiefel, Euclidean,
        Sphere, Lorentz, and the stereographic models, whose curvature becomes a number.
    *sizes : int
        Of the geometry here, e.g. the matrix size.

    Raises
    ------
    TypeError
        If there is no equivalent, or the sizes are missing.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.optim.from_geoopt(mn.optim.to_geoopt(mn.LogCholesky(3))) == mn.LogCholesky(3)
    True
    """
    geometry = getattr(manifold, "geometry", None)
    if isinstance(geometry, Manifold):
        return geometry
    metric = getattr(manifold, "default_metric", None)
    name = type(manifold).__name__ + (f":{metric.value}" if metric is not None else "")
    equivalent = _EQUIVALENTS.get(name)
    if equivalent is None:
        raise TypeError(f"from_geoopt: {name} has no equivalent here; known: {', '.join(sorted(_EQUIVALENTS))}.")
    if not sizes:
        raise TypeError(f"from_geoopt: {name} leaves its sizes open; pass them: from_geoopt(manifold, 20).")
    return equivalent(manifold, *sizes)


def _at_rest(group: dict[str, Any], point: Tensor, states: Any) -> None:
    """Give a new parameter a momentum of zero."""
    if group["momentum"] > 0 and "momentum_buffer" not in states[point]:
        states[point]["momentum_buffer"] = torch.zeros_like(point.data)


def _real_moments(group: dict[str, Any], point: Tensor, states: Any) -> None:
    """Give a new complex parameter the state that geoopt gives a real one, with real second moments."""
    if point.is_complex() and not states[point]:
        moments = ("exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg_sq",)
        states[point].update({name: torch.zeros_like(point.data.real) for name in moments})
        states[point].update(step=0, exp_avg=torch.zeros_like(point.data))


@functools.cache
def optimizer(name: str) -> Any:
    """Return one of geoopt's optimizers; those with momentum start at rest.

    Geoopt starts the momentum with the Euclidean gradient, which is no tangent vector: near the boundary of the
    Poincare ball the first step would leave for infinity. Counts of steps stay whole numbers in a state that is loaded
    or copied, so that a resumed run is the same bit for bit: torch turns them into float32, whose powers round
    differently. Second moments of complex points are real: geoopt makes them complex, which have no maximum (AMSGrad).
    """
    theirs = getattr(_geoopt().optim, name)
    members: dict[str, Any] = {"__doc__": theirs.__doc__, "__module__": "manifoldnorm.optim"}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        entries = state.get("state", {}).values()
        counts = [(entry, int(entry["step"])) for entry in entries if "step" in entry]
        theirs.__setstate__(self, state)
        for entry, count in counts:
            entry["step"] = count

    members["__setstate__"] = __setstate__
    start = _at_rest if "SGD" in name else _real_moments

    def step(self: Any, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                start(group, parameter, self.state)
        return theirs.step(self, closure)

    members["step"] = step
    return type(name, (theirs,), members)


def geoopt_attribute(name: str) -> Any:
    """Return an attribute of the geoopt package."""
    return getattr(_geoopt(), name)
