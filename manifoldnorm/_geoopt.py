"""The one file that imports geoopt, lazily: its import costs a second and warns."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from torch import Tensor

from manifoldnorm.manifolds import AffineInvariant, Euclidean, LogEuclidean, Manifold, Stiefel


@functools.cache
def _geoopt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import geoopt
    return geoopt


@functools.cache
def _adapter_class() -> Any:
    geoopt = _geoopt()

    class Adapter(geoopt.Manifold):  # type: ignore[misc, name-defined]
        """A manifoldnorm geometry behind geoopt's interface: what its optimizers and parameters call."""

        name = "manifoldnorm"
        reversible = False

        def __init__(self, manifold: Manifold) -> None:
            super().__init__()
            self.geometry = manifold
            self.ndim = len(manifold.point_shape)

        def __reduce__(self) -> Any:
            return adapt, (self.geometry,)

        def __deepcopy__(self, memo: Any) -> Any:
            return adapt(self.geometry)

        def retr(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.retract(x, u)

        def expmap(self, x: Tensor, u: Tensor) -> Tensor:
            return self.geometry.exp(x, u)

        def logmap(self, x: Tensor, y: Tensor) -> Tensor:
            return self.geometry.log(x, y)

        def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
            return self._keep(self.geometry.dist(x, y), keepdim)

        def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
            return self._keep(self.geometry.inner(x, u, u if v is None else v), keepdim)

        def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
            return self.geometry.vector_transport(x, y, v)

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
            return geoopt.ManifoldTensor(self.geometry.origin(*batch, dtype=dtype, device=device).clone(), manifold=self)

        def _keep(self, value: Tensor, keepdim: bool) -> Tensor:
            return value.reshape(value.shape + (1,) * self.ndim) if keepdim else value

        def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
            violation = float(self.geometry.violation(x).max()) if x.numel() else 0.0
            return (True, None) if violation <= atol else (False, f"relative violation {violation:.3g}")

        def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
            gap = float((u - self.geometry.project_tangent(x, u)).abs().max()) if u.numel() else 0.0
            return (True, None) if gap <= atol * max(1.0, float(u.abs().max())) else (False, f"off tangent by {gap:.3g}")

    Adapter.__name__ = Adapter.__qualname__ = "ManifoldnormAdapter"
    return Adapter


def adapt(manifold: Manifold) -> Any:
    """Return a geoopt manifold that behaves as ``manifold``."""
    return _adapter_class()(manifold)


def manifold_parameter(data: Tensor, manifold: Any, requires_grad: bool = True) -> Any:
    """Return a `geoopt.ManifoldParameter` holding ``data`` on ``manifold`` (ours, or geoopt's own)."""
    adapter = adapt(manifold) if isinstance(manifold, Manifold) else manifold
    return _geoopt().ManifoldParameter(data, manifold=adapter, requires_grad=requires_grad)


def to_geoopt(manifold: Manifold) -> Any:
    """Return a geoopt manifold for one of ours."""
    return adapt(manifold)


def from_geoopt(manifold: Any) -> Manifold:
    """Return the manifold of this package for a geoopt manifold.

    Raises
    ------
    TypeError
        If there is no equivalent; sizes that geoopt leaves open must be given by our own class.
    """
    geometry = getattr(manifold, "geometry", None)
    if isinstance(geometry, Manifold):
        return geometry
    raise TypeError(
        f"from_geoopt: {type(manifold).__module__}.{type(manifold).__name__} does not fix its sizes or has no equivalent "
        f"here. Use {AffineInvariant.__name__}(n), {LogEuclidean.__name__}(n), {Stiefel.__name__}(n, p) or "
        f"{Euclidean.__name__}(*shape)."
    )


def geoopt_attribute(name: str) -> Any:
    """Return an attribute of the geoopt package."""
    return getattr(_geoopt(), name)


