"""What a product inherits from its factors besides the metric: means and algebraic structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from manifoldnorm import stats
from manifoldnorm.manifolds.base import Manifold
from manifoldnorm.manifolds.pullback import flatten
from manifoldnorm.manifolds.structures import Gyrogroup, LieGroup
from manifoldnorm.stats import Hessian, MeanPolicy, MeanSystem


def total(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors that broadcast."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


class BlockHessian:
    """The Hessians of the factors' means; the identity for factors without one.

    Parameters
    ----------
    product : Product
        Splits and merges residuals.
    systems : list of MeanSystem
        Of the factors; in single precision some are in double.
    """

    def __init__(self, product: Any, systems: Sequence[MeanSystem]) -> None:
        self.product, self.systems = product, systems

    def _blocks(self, residual: Tensor) -> Iterator[tuple[Hessian | None, Tensor]]:
        for system, part in zip(self.systems, self.product.split(residual), strict=True):
            yield system.hessian, part.to(system.residual.dtype)

    def solve(self, residual: Tensor, steps: int, backward_steps: int) -> Tensor:
        """Return the factors' solutions."""
        blocks = self._blocks(residual)
        return self.product.merge(*(r if h is None else h.solve(r, steps, backward_steps) for h, r in blocks))

    def correct(self, residual: Tensor, backward_steps: int) -> Tensor:
        """Return ``residual`` with the factors' implicit gradients."""
        blocks = self._blocks(residual)
        return self.product.merge(*(r if h is None else h.correct(r, backward_steps) for h, r in blocks))


class ProductMeans:
    """Means of a product, factor by factor."""

    @property
    def default_mean(self: Any) -> MeanPolicy:
        """Newton where every factor has a Hessian or a closed form, else the converged mean."""
        return stats.Newton(1) if self.has_hessian else stats.Exact()

    def frechet_mean(self: Any, x: Tensor, weights: Tensor | None = None, **options: Any) -> Tensor:
        """Return the factors' Frechet means."""
        parts = zip(self.factors, self.split(x), strict=True)
        return self.merge(*(f.frechet_mean(part, weights, **options) for f, part in parts))

    def closed_form_mean(self: Any, x: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the factors' means where all have closed forms."""
        means = []
        for factor, part in zip(self.factors, self.split(x), strict=True):
            mean = factor.closed_form_mean(part, weights)
            if mean is None:
                return None
            means.append(mean)
        return self.merge(*means)

    def _start(self: Any, name: str, x: Tensor, weights: Tensor | None) -> Tensor:
        parts = zip(self.factors, self.split(x), strict=True)
        return self.merge(*(getattr(f, name)(part, weights) for f, part in parts))

    def arithmetic_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the factors' starts."""
        return self._start("arithmetic_start", x, weights)

    def mean_start(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Return the factors' first guesses."""
        return self._start("mean_start", x, weights)

    def mean_system(self: Any, p: Tensor, x: Tensor, weights: Tensor | None) -> MeanSystem:
        """Return the factors' systems side by side, in their coordinates."""
        parts = zip(self.factors, self.split(p), self.split(x), strict=True)
        systems = [f.mean_system(a, b, weights) for f, a, b in parts]
        scales = [flatten(f)[2] for f in self.factors]  # a pullback's cost is that of its base
        return MeanSystem(
            self.merge(*(s.residual for s in systems)),
            BlockHessian(self, systems) if any(s.hessian is not None for s in systems) else None,
            total([scale * s.cost for scale, s in zip(scales, systems, strict=True)]),
            total([s.scale.square() for s in systems]).sqrt(),
        )

    def mean_step(self: Any, p: Tensor, direction: Tensor) -> Tensor:
        """Return the factors' steps."""
        return self._merged("mean_step", p, direction.to(p.dtype))

    def karcher_step(self: Any, p: Tensor, residual: Tensor) -> Tensor:
        """Return the factors' unit gradient steps."""
        return self._merged("karcher_step", p, residual.to(p.dtype))


class ProductStructures:
    """Group and gyrogroup operations of a product, factor by factor; present if all factors have them."""

    factors: tuple[Manifold, ...]

    @property
    def structure_base(self) -> Manifold | None:
        """The factor whose structures all others have; None if there is none."""
        structures = (LieGroup, Gyrogroup)
        least = min(self.factors, key=lambda f: sum(isinstance(f, s) for s in structures))
        shared = all(isinstance(f, s) for f in self.factors for s in structures if isinstance(least, s))
        return least if shared else None

    def compose(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the factors' group products."""
        return self._merged("compose", x, y)

    def inverse(self: Any, x: Tensor) -> Tensor:
        """Return the factors' group inverses."""
        return self._merged("inverse", x)

    def quotient(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the factors' quotients."""
        return self._merged("quotient", x, y)

    group_dilation = LieGroup.group_dilation

    def gyroadd(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the factors' gyrosums."""
        return self._merged("gyroadd", x, y)

    def gyroneg(self: Any, x: Tensor) -> Tensor:
        """Return the factors' gyroinverses."""
        return self._merged("gyroneg", x)

    def gyrosub(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the factors' gyrosubtractions."""
        return self._merged("gyrosub", x, y)

    def gyroscale(self: Any, t: Tensor | float, x: Tensor) -> Tensor:
        """Return the factors' points, all dilated by ``t``."""
        parts = zip(self.factors, self.split(x), strict=True)
        return self.merge(*(f.gyroscale(t, part) for f, part in parts))

    def gyration(self: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the factors' gyrations."""
        return self._merged("gyration", x, y, z)

    gyro_dilation = Gyrogroup.gyro_dilation
