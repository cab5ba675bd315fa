"""The data that laws run on: generic points and tangent vectors, never at the origin, never equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.manifolds import Manifold

COUNT = 5  # points per draw: enough to see a batch, small enough to be quick


def mismatch(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest entry of ``b``; infinite for NaN or different shapes."""
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    gap, size = float((a - b).abs().max()), float(b.abs().max())
    residual = gap / size if size > 0 else gap
    return residual if math.isfinite(residual) else math.inf


def largest(x: Tensor) -> float:
    """Return the largest absolute entry; infinite if one is not finite."""
    value = float(x.abs().max()) if x.numel() else 0.0
    return value if math.isfinite(value) else math.inf


def pairing(a: Tensor, b: Tensor, axes: int) -> Tensor:
    """Return the real Euclidean inner product over the last ``axes`` dimensions."""
    product = (a.conj() * b).real if a.is_complex() else a * b
    return product.sum(tuple(range(-axes, 0))) if axes else product


def derivative(f: Callable[[float], Tensor], eps: float) -> Tensor:
    """Return f'(0) by the five-point stencil, whose error is about ``eps^(4/5)``."""
    h = eps**0.2
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def second_derivative(f: Callable[[float], Tensor], eps: float) -> Tensor:
    """Return f''(0) by the five-point stencil, whose error is about ``eps^(2/3)``."""
    h = eps ** (1 / 6)
    return (16 * (f(h) + f(-h)) - 30 * f(0.0) - (f(2 * h) + f(-2 * h))) / (12 * h * h)


class ManifoldCase:
    """A manifold with reproducible generic data.

    Data are drawn in double precision and rounded, so that both precisions see the same points.

    Parameters
    ----------
    manifold : Manifold
        The subject.
    dtype : torch.dtype
        Real dtype of the data, complex where the manifold is.
    seed : int
        Of the generator.
    sampler : callable, optional
        ``sampler(*batch, generator=..., dtype=...) -> points``, default ``manifold.random_point``.
    device : optional
        Where the data live.
    """

    def __init__(
        self,
        manifold: Manifold,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        sampler: Callable[..., Tensor] | None = None,
        device: Any = None,
    ) -> None:
        self.manifold, self.dtype, self.seed, self.device = manifold, dtype, seed, device
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = sampler or manifold.random_point
        self.axes = len(manifold.point_shape)
        self.eps = torch.finfo(dtype).eps
        # on compact manifolds the laws' unit of length: means stay unique, doubled steps short of the cut locus
        self.unit = min(1.0, float(manifold.injectivity_radius) / 3)

    @property
    def wide(self) -> torch.dtype:
        """The dtype of points in double precision."""
        return torch.complex128 if self.manifold.is_complex else torch.float64

    @property
    def point_dtype(self) -> torch.dtype:
        """The dtype of points."""
        return self.dtype.to_complex() if self.manifold.is_complex else self.dtype

    def cast(self, x: Tensor) -> Tensor:
        """Return ``x`` in the case's precision and on its device."""
        return x.to(dtype=self.point_dtype if x.is_complex() else self.dtype, device=self.device)

    def noise(self, *shape: int, complex_ok: bool = True) -> Tensor:
        """Return standard normal numbers in double precision."""
        dtype = self.wide if complex_ok else torch.float64
        return torch.randn(shape, generator=self.generator, dtype=dtype)

    def wide_points(self, *batch: int) -> Tensor:
        """Return random points in double precision."""
        return self.sampler(*batch, generator=self.generator, dtype=self.wide)

    def points(self, *batch: int) -> Tensor:
        """Return random points (*batch, *point_shape), default one batch of `COUNT`."""
        return self.cast(self.wide_points(*(batch or (COUNT,))))

    def ambient(self, p: Tensor) -> Tensor:
        """Return an ambient array of the shape of ``p``: neither a point nor tangent."""
        return self.cast(self.noise(*p.shape))

    def tangents(self, p: Tensor, size: float = 1.0, *, anywhere: bool = False) -> Tensor:
        """Return tangent vectors at ``p`` of Riemannian norm ``size``, well inside the exponential's domain.

        ``anywhere`` skips the latter.
        """
        noise = self.noise(*p.shape).to(dtype=p.dtype, device=p.device)
        v = self.manifold.project_tangent(p, noise)
        v = v * self.spread(size * self.unit / self.manifold.norm(p, v))
        fraction = None if anywhere else self.manifold.injective_fraction(p, 3 * v)
        return v if fraction is None else v * self.spread(fraction)

    def wide_cloud(self, *batch: int, size: float = 0.5) -> Tensor:
        """Return points 0.5 to 1.5 ``size`` away from a centre off the origin, one centre per trailing batch index."""
        centre = self.wide_points(*batch[1:]).expand(*batch, *self.manifold.point_shape)
        radius = 0.5 + torch.rand(*batch, generator=self.generator, dtype=torch.float64)
        return self.manifold.exp(centre, self.spread(radius) * self.tangents(centre, size))

    def cloud(self, *batch: int, size: float = 0.5) -> Tensor:
        """Return `wide_cloud` in the case's precision."""
        return self.cast(self.wide_cloud(*batch, size=size))

    def origin(self, *batch: int) -> Tensor:
        """Return the manifold's origin."""
        return self.manifold.origin(*batch, dtype=self.point_dtype, device=self.device)

    def spread(self, t: Tensor) -> Tensor:
        """Return ``t`` (*batch) with the axes of a point appended."""
        return t.reshape(t.shape + (1,) * self.axes)

    def mismatch(self, a: Tensor, b: Tensor) -> float:
        """Return the `mismatch` of points, whatever arrays stand for them."""
        return mismatch(self.manifold.canonical(a), self.manifold.canonical(b))

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the real Euclidean inner product of ambient arrays."""
        return pairing(a, b, self.axes)
