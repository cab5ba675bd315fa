"""Mean policies: how a norm layer computes the mean of a batch, in a fixed number of steps without a look at values."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manifoldnorm.linalg._call import plain
from manifoldnorm.stats.reduction import Reduction
from manifoldnorm.stats.system import implicit_step, residual_norm, shared, solve_mean, system_at
from manifoldnorm.stats.weights import Weights


class MeanPolicy(abc.ABC):
    """Maps samples (N, *groups, *point) and weights (N, *groups), summing to one, to means (*groups, *point).

    Weights may also be a `Reduction`, such as `Segments`: then there is a mean for each of its statistics.

    Policies are immutable, compare by value and carry no state. Where the manifold's mean has a closed form, every
    policy returns it.

    Attributes
    ----------
    over_processes : bool
        Whether the means may be taken over several processes: whether all that enters them are means of samples.
    """

    over_processes: ClassVar[bool] = True

    def __call__(self, manifold: Any, x: Tensor, weights: Weights = None) -> Tensor:
        """Return the mean; its gradient is the implicit one, exact at convergence and a surrogate before."""
        closed = manifold.closed_form_mean(x, weights)
        return closed if closed is not None else self._iterate(manifold, x, weights)

    def check(self, manifold: Any) -> None:
        """Raise a ValueError if the manifold lacks what the policy needs."""

    @abc.abstractmethod
    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor: ...


@dataclass(frozen=True)
class Newton(MeanPolicy):
    """Newton steps with a few conjugate-gradient steps each: nearly exact for one decomposition per step.

    Parameters
    ----------
    steps : int
        Newton steps; each decomposes the batch once.
    cg_steps, backward_steps : int
        Conjugate-gradient steps forward and for the implicit gradient.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.stats.Newton(steps=2)
    Newton(steps=2, cg_steps=3, backward_steps=3)
    """

    steps: int = 1
    cg_steps: int = 3
    backward_steps: int = 3

    def check(self, manifold: Any) -> None:
        """Raise a ValueError if the manifold has no Hessian of the squared distance."""
        if not manifold.has_hessian:
            raise ValueError(
                f"Newton: {manifold} has no Hessian of the squared distance. Use mean=Karcher(...) or Exact()."
            )

    def before_last(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        """Return the point from which the last step starts; without gradient, it carries none."""
        point = manifold.mean_start(x, weights)
        for _ in range(self.steps - 1):
            point = implicit_step(manifold, point, x, weights, self.cg_steps, 0)
        return point

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        with torch.no_grad():
            point = self.before_last(manifold, x, weights)
        return implicit_step(manifold, point, x, weights, self.cg_steps, self.backward_steps)


@dataclass(frozen=True)
class Karcher(MeanPolicy):
    """Unit gradient steps from the arithmetic mean, as most published codes do (``steps=1``).

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.stats.Karcher()
    Karcher(steps=1, backward_steps=3)
    """

    steps: int = 1
    backward_steps: int = 3

    def before_last(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        """Return the point from which the last step starts; without gradient, it carries none."""
        point = manifold.arithmetic_start(x, weights)
        for _ in range(self.steps - 1):
            system = system_at(manifold, point, x, weights)
            point = manifold.karcher_step(point, system.residual)
        return point

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        with torch.no_grad():
            point = self.before_last(manifold, x, weights)
        system = system_at(manifold, point.detach(), x, weights)
        residual = system.residual
        if system.hessian is not None:
            residual = shared(system.hessian.correct(residual, self.backward_steps), weights)
        return manifold.karcher_step(point.detach(), residual)


@dataclass(frozen=True)
class FixedPoint(Karcher):
    """The fixed-point iteration of the Bures-Wasserstein barycentre, which is its Karcher iteration.

    Source: Alvarez-Esteban et al. 2016, "A fixed-point approach to barycenters in Wasserstein space", eq. (6).
    """

    def check(self, manifold: Any) -> None:
        """Raise a ValueError on a manifold other than a (generalised, deformed) Bures-Wasserstein one."""
        if not manifold.has_fixed_point:
            raise ValueError(
                f"FixedPoint: {manifold} has no fixed-point iteration for its mean. Use mean=Karcher(...)."
            )


@dataclass(frozen=True)
class Exact(MeanPolicy):
    """The Frechet mean to working accuracy, by a fixed number of damped Newton (or Karcher) steps.

    On CPU, where looking at values costs nothing, Karcher steps end once the residual is rounding. `mean_residual`
    tells how far a mean is from stationary.

    Parameters
    ----------
    steps : int
        Damped steps before the last one; each decomposes the batch once.
    cg_steps, backward_steps : int
        Conjugate-gradient steps per Newton step and for the implicit gradient.
    """

    steps: int = 6
    cg_steps: int = 12
    backward_steps: int = 16

    def before_last(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        """Return the point from which the last step starts; without gradient, it carries none."""
        if manifold.has_hessian:
            return solve_mean(manifold, x, weights, self.steps, self.cg_steps)
        # looking at values costs nothing here, and a step may be dear
        stop = _converged if plain(x) and not isinstance(weights, Reduction) else None
        return solve_mean(manifold, x, weights, 8 * self.steps, self.cg_steps, stop)

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        point = self.before_last(manifold, x.detach(), None if weights is None else weights.detach())
        return implicit_step(manifold, point, x, weights, self.cg_steps, self.backward_steps)


@dataclass(frozen=True)
class Midpoint(MeanPolicy):
    """The geometry's closed-form midpoint (gyromidpoint, Lorentz centroid), where it has one."""

    def check(self, manifold: Any) -> None:
        """Raise a ValueError if the manifold has no closed-form midpoint."""
        if not hasattr(manifold, "midpoint"):
            raise ValueError(f"Midpoint: {manifold} has no closed-form midpoint. Use mean=Karcher(...) or Exact().")

    def _iterate(self, manifold: Any, x: Tensor, weights: Weights) -> Tensor:
        return manifold.midpoint(x, weights)


def _converged(residual: Tensor, scale: Tensor) -> bool:
    """Return whether residuals are rounding; the last step, which follows, makes them smaller still."""
    return bool((residual <= 64 * torch.finfo(scale.dtype).eps * scale).all())


@torch.no_grad()
def mean_residual(manifold: Any, mean: Tensor, x: Tensor, weights: Weights = None) -> Tensor:
    """Return the norm of the mean tangent at ``mean`` (*groups), 0 for the exact mean of ``x`` (N, *groups, *point).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.stack([torch.eye(2), 4 * torch.eye(2)])
    >>> bool(mn.stats.mean_residual(mn.AffineInvariant(2), 2 * torch.eye(2), x) < 1e-6)
    True
    """
    system = system_at(manifold, mean, x, weights)
    return residual_norm(system.residual, mean.ndim - len(manifold.point_shape))
