"""Products of manifolds: points flattened and concatenated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds._product_parts import ProductMeans, ProductStructures, total
from manifoldnorm.manifolds.base import Manifold, spread
from manifoldnorm.manifolds.euclidean import Euclidean
from manifoldnorm.manifolds.pullback import flatten


def _is_flat(manifold: Manifold) -> bool:
    return isinstance(flatten(manifold)[1], Euclidean)


def _rebuild(factors: tuple[Manifold, ...], per_factor: bool) -> Product:
    return Product(*factors, per_factor=per_factor)


class Product(ProductMeans, ProductStructures, Manifold):
    """The Riemannian product of manifolds: squared distances add, everything else goes factor by factor.

    A point is the concatenation of the factors' flattened points, see `split` and `merge`. It is a group or gyrogroup
    if all factors are. Norm layers keep one variance and one scale per factor.

    Parameters
    ----------
    *factors : Manifold
        All real or all complex.
    per_factor : bool
        Whether norm layers have a variance and a scale for each factor, (C?, factors), or one for the whole.

    Attributes
    ----------
    factors : tuple of Manifold
        Also ``factor_0``, ``factor_1``, ...: ``LearnableManifold(product, learn=("factor_0.curvature",))``.
    sizes : tuple of int
        Lengths of the flattened points.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> product = mn.Product(mn.LogEuclidean(2), mn.Euclidean(3))
    >>> matrix, vector = product.split(product.origin())
    >>> product.dist(product.origin(), product.merge(torch.e * matrix, vector + 1))
    tensor(2.2361)
    """

    factors: tuple[Manifold, ...]
    sizes: tuple[int, ...]
    per_factor: bool

    def __init__(self, *factors: Manifold, per_factor: bool = True) -> None:
        for i, factor in enumerate(factors):
            if not isinstance(factor, Manifold):
                raise TypeError(f"Product: factor {i} is {factor!r}; pass manifolds, e.g. Product(Euclidean(3)).")
        if not factors or len({f.is_complex for f in factors}) > 1:
            raise ValueError(f"Product: needs at least one factor, all real or all complex, got {factors}.")
        sizes = tuple(math.prod(f.point_shape) for f in factors)
        derived: dict[str, Any] = {
            "sizes": sizes,
            "variance_shape": (len(factors),) if per_factor else (),
            "is_complex": factors[0].is_complex,
            "has_hessian": all(f.has_hessian or _is_flat(f) for f in factors) and not all(map(_is_flat, factors)),
            **{f"factor_{i}": f for i, f in enumerate(factors)},
        }
        config = {"factors": factors, "per_factor": per_factor}
        super().__init__((sum(sizes),), sum(f.dim for f in factors), config, derived)

    # ---- a value object

    def replace(self, **changes: Any) -> Product:
        """Return a product with ``factors``, one ``factor_<i>`` or ``per_factor`` changed."""
        factors = list(changes.pop("factors", self.factors))
        per_factor = changes.pop("per_factor", self.per_factor)
        for name in [name for name in changes if name.startswith("factor_")]:
            factors[int(name.removeprefix("factor_"))] = changes.pop(name)
        if changes:
            raise TypeError(f"Product.replace: unknown {sorted(changes)}.")
        return Product(*factors, per_factor=per_factor)

    def __reduce__(self) -> Any:
        return _rebuild, (self.factors, self.per_factor)

    def __repr__(self) -> str:
        option = "" if self.per_factor else ", per_factor=False"
        return f"Product({', '.join(map(repr, self.factors))}{option})"

    # ---- points

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the factors' points (*batch, *point_shape) of a point (*batch, size)."""
        parts = x.split(self.sizes, -1)
        return [part.reshape(x.shape[:-1] + f.point_shape) for part, f in zip(parts, self.factors, strict=True)]

    def merge(self, *parts: Tensor) -> Tensor:
        """Return the point whose factors' points are given; their batches broadcast."""
        rows = [
            part.reshape(*part.shape[: part.ndim - len(f.point_shape)], size)
            for part, f, size in zip(parts, self.factors, self.sizes, strict=True)
        ]
        batch = torch.broadcast_shapes(*(row.shape[:-1] for row in rows))
        return torch.cat([row.expand(*batch, row.shape[-1]) for row in rows], -1)

    def _each(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of every factor with its share of the points among the arguments (None stays None)."""
        split = [self.split(a) if isinstance(a, Tensor) else [a] * len(self.factors) for a in arguments]
        return [getattr(f, name)(*share) for f, *share in zip(self.factors, *split, strict=True)]

    def _merged(self, name: str, *arguments: Any) -> Tensor:
        return self.merge(*self._each(name, *arguments))

    def origin(self, *batch: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """Return the point of the factors' origins."""
        return self.merge(*(f.origin(*batch, dtype=dtype, device=device) for f in self.factors))

    def random_point(self, *batch: int, **options: Any) -> Tensor:
        """Return random points of the factors."""
        return self.merge(*(f.random_point(*batch, **options) for f in self.factors))

    def random_tangent(self, p: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return random tangent vectors of the factors."""
        parts = zip(self.factors, self.split(p), strict=True)
        return self.merge(*(f.random_tangent(part, generator) for f, part in parts))

    def canonical(self, x: Tensor) -> Tensor:
        """Return what tells the factors' points apart, flattened and concatenated."""
        parts = zip(self.factors, self.split(x), strict=True)
        return torch.cat([f.canonical(part).reshape(*x.shape[:-1], -1) for f, part in parts], -1)

    def project(self, x: Tensor) -> Tensor:
        """Return the factors' projections."""
        return self._merged("project", x)

    def project_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the factors' tangent projections."""
        return self._merged("project_tangent", p, v)

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the factors' Riemannian gradients."""
        return self._merged("egrad2rgrad", p, g)

    def violation(self, x: Tensor) -> Tensor:
        """Return the largest violation of a factor."""
        return torch.stack(self._each("violation", x)).amax(0)

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise a ValueError that also names the factor."""
        self.check_shape(x, name)
        for i, (factor, part) in enumerate(zip(self.factors, self.split(x), strict=True)):
            factor.check_point(part, f"{name} (factor {i})")

    # ---- geometry

    def exp(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the factors' exponentials."""
        return self._merged("exp", p, v)

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the factors' logarithms."""
        return self._merged("log", p, q)

    def inner(self, p: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of the factors' inner products."""
        return total(self._each("inner", p, u, v))

    def origin_inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the sum of the factors' inner products at their origins."""
        return total(self._each("origin_inner", u, v))

    def squared_dist(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the sum of the factors' squared distances."""
        return total(self._each("squared_dist", p, q))

    def to_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the factors' transports to their origins."""
        return self._merged("to_origin", p, v)

    def from_origin(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the factors' transports from their origins."""
        return self._merged("from_origin", p, v)

    def transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the factors' transports (absent where a factor has none)."""
        return self._merged("transport", p, q, v)

    def vector_transport(self, p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Return the factors' vector transports."""
        return self._merged("vector_transport", p, q, v)

    def retract(self, p: Tensor, v: Tensor) -> Tensor:
        """Return the factors' retractions."""
        return self._merged("retract", p, v)

    def geodesic(self, p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
        """Return the factors' geodesics at the same time."""
        parts = zip(self.factors, self.split(p), self.split(q), strict=True)
        return self.merge(*(f.geodesic(a, b, t) for f, a, b in parts))

    def polar(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """Return the sum of the factors' squared distances and the dilation of all of them."""
        squared, dilations = zip(*self._each("polar", x), strict=True)
        return total(squared), lambda t: self.merge(*(dilate(t) for dilate in dilations))

    def point_from_tangent(self, v: Tensor) -> Tensor:
        """Return the factors' bias points."""
        return self._merged("point_from_tangent", v)

    def tangent_from_point(self, p: Tensor) -> Tensor:
        """Return the inverse of `point_from_tangent`."""
        return self._merged("tangent_from_point", p)

    def shoot(self, p: Tensor | None, v: Tensor) -> Tensor:
        """Return the factors' `shoot`, all steps shrunk alike where one of them has to be."""
        target = self.origin(dtype=v.dtype, device=v.device) if p is None else p
        fraction = self.injective_fraction(target, self.from_origin(target, v)) if self._bounded else None
        return self._merged("shoot", p, v if fraction is None else spread(fraction, 1) * v)

    @property
    def injectivity_radius(self) -> float | Tensor:
        """The smallest of the factors'."""
        radii = [factor.injectivity_radius for factor in self.factors]
        learned = [r for r in radii if isinstance(r, Tensor)]
        known = min([math.inf, *(r for r in radii if not isinstance(r, Tensor))])  # default= breaks a graph
        return torch.stack(learned).amin().clamp_max(known) if learned else known

    @property
    def _bounded(self) -> bool:
        return any(type(flatten(f)[1]).injective_fraction is not Manifold.injective_fraction for f in self.factors)

    def injective_fraction(self, p: Tensor, v: Tensor) -> Tensor | None:
        """Return the smallest of the factors' fractions."""
        fractions = [f for f in self._each("injective_fraction", p, v) if f is not None]
        return torch.stack(fractions).amin(0) if fractions else None
