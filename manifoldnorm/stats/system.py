"""The stationarity condition of a Frechet mean, and the damped iteration that solves it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._call import plain
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.stats.hessian import Hessian
from manifoldnorm.stats.reduction import Reduction, trailing
from manifoldnorm.stats.weights import Weights, check_weights, weighted_mean


@dataclass(frozen=True)
class MeanSystem:
    """What a manifold says about ``sum_i w_i log_p(x_i) = 0`` at a point p.

    Attributes
    ----------
    residual : Tensor
        The weighted mean of the logarithms, in coordinates of the manifold's choice (*groups, *point); differentiable
        in the samples and the weights, with p constant.
    hessian : Hessian or None
        Of half the weighted sum of squared distances, in the same coordinates.
    cost : Tensor
        Twice that objective: the weighted variance about p (*groups), without gradient.
    scale : Tensor
        The natural size of a residual (*groups), a distance: tolerances are relative to it.
    """

    residual: Tensor
    hessian: Hessian | None
    cost: Tensor
    scale: Tensor


def system_at(manifold: Any, p: Tensor, x: Tensor, weights: Weights) -> MeanSystem:
    """Return the manifold's system at ``p``; a statistic without samples is stationary wherever it is."""
    system: MeanSystem = manifold.mean_system(p, x, weights)
    empty = weights.empty if isinstance(weights, Reduction) else None
    if empty is None:
        return system
    residual = torch.where(trailing(empty, system.residual.ndim - empty.ndim), 0.0, system.residual)
    return MeanSystem(residual, system.hessian, system.cost, system.scale)


def _direction(system: MeanSystem, cg_steps: int) -> Tensor:
    if system.hessian is None:
        return system.residual
    return system.hessian.solve(system.residual, cg_steps, 0)


def _select(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(trailing(mask, a.ndim - mask.ndim), a, b)


def shared(direction: Tensor, weights: Weights) -> Tensor:
    """Return a direction whose gradient is that of all processes, as the implicit gradient behind it needs."""
    processes = weights.processes if isinstance(weights, Reduction) else None
    return direction if processes is None else processes.average_gradient(direction)


def residual_norm(residual: Tensor, groups: int) -> Tensor:
    """Return the Euclidean norm of a residual (*groups, *point) per group."""
    return torch.linalg.vector_norm(residual.flatten(groups), dim=-1) if residual.ndim > groups else residual.abs()


@torch.no_grad()
def solve_mean(
    manifold: Any,
    x: Tensor,
    weights: Weights,
    steps: int,
    cg_steps: int,
    stop: Callable[[Tensor, Tensor], bool] | None = None,
) -> Tensor:
    """Iterate damped Newton (or Karcher) steps and return the best point found, without gradient.

    A step that increases the objective is undone and retried at a quarter of its length, per group and by masks only,
    so the loop never looks at values unless ``stop(residual norm, scale)`` of the best point is given.
    """
    best = manifold.mean_start(x, weights)
    groups = best.ndim - len(manifold.point_shape)
    system = system_at(manifold, best, x, weights)
    cost, norm = system.cost, residual_norm(system.residual, groups)
    direction = _direction(system, cg_steps)
    length = torch.ones_like(cost)
    rounding = torch.finfo(cost.dtype).eps ** 0.5
    for _ in range(steps):
        if stop is not None and stop(norm, system.scale):
            break
        point = manifold.mean_step(best, trailing(length, len(manifold.point_shape)) * direction)
        system = system_at(manifold, point, x, weights)
        new_norm = residual_norm(system.residual, groups)
        # where rounding decides which objective is smaller, the residual tells
        alike = (system.cost - cost).abs() <= rounding * system.scale.square()
        better = torch.where(alike, new_norm <= norm, system.cost < cost)
        best = _select(better, point, best)
        cost, norm = torch.where(better, system.cost, cost), torch.where(better, new_norm, norm)
        direction = _select(better, _direction(system, cg_steps), direction)
        length = torch.where(better, (2 * length).clamp_max(1.0), length / 4)
    return best


@without_autocast
def frechet_mean(
    manifold: Any,
    x: Tensor,
    weights: Tensor | None = None,
    *,
    dim: int | tuple[int, ...] = 0,
    max_iter: int | None = None,
    tol: float | None = None,
) -> Tensor:
    """Return the weighted Frechet mean, iterated to a tolerance, differentiable by the implicit function theorem.

    Parameters
    ----------
    manifold : Manifold
        The geometry.
    x : Tensor
        Points (*batch, *point_shape).
    weights : Tensor, optional
        Non-negative, of the shape of the averaged dimensions, or of the (leading) batch dimensions; any scale. A mask
        works too.
    dim : int or tuple of int
        Batch dimensions that are averaged over; the others are kept.
    max_iter : int, optional
        Largest number of damped steps (default 100).
    tol : float, optional
        Stop when the residual is below ``tol`` times its natural scale, see `MeanSystem` (default ``16 eps``).

    Returns
    -------
    Tensor
        Points with the dimensions ``dim`` removed.

    Raises
    ------
    ValueError
        For a ``dim`` that is no batch dimension, weights of another shape, and, on CPU, weights that are negative, not
        finite, or all 0.

    Warns
    -----
    RuntimeWarning
        If the tolerance was not reached; the text has the residual.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.stack([torch.eye(2), 4 * torch.eye(2)])
    >>> mn.AffineInvariant(2).frechet_mean(x).diagonal()
    tensor([2., 2.])
    """
    check_tensor(x, manifold, "frechet_mean")
    return converged_mean(manifold, *_front(x, weights, dim, len(manifold.point_shape)), max_iter, tol)


def converged_mean(
    manifold: Any, x: Tensor, weights: Weights, max_iter: int | None = None, tol: float | None = None
) -> Tensor:
    """Return `frechet_mean` of (N, *groups, *point) over dimension 0, with normalised weights or a `Reduction`."""
    closed: Tensor | None = manifold.closed_form_mean(x, weights)
    if closed is not None:
        return closed
    tolerance = tol if tol is not None else 16 * torch.finfo(x.dtype).eps
    last: list[float] = [float("inf"), float("inf"), 0.0]

    def stop(residual: Tensor, scale: Tensor) -> bool:
        relative = float((residual / scale).max()) if residual.numel() else 0.0
        # at a relative residual of sqrt(eps) rounding may stall the last digits: two steps without progress end it
        last[2] = last[2] + 1 if relative >= last[0] * 0.5 else 0
        last[0] = min(relative, last[0])
        return relative <= tolerance or (last[2] >= 2 and last[0] < torch.finfo(scale.dtype).eps ** 0.5)

    point = solve_mean(manifold, x.detach(), None if weights is None else weights.detach(), max_iter or 100, 24, stop)
    if last[0] > max(tolerance, torch.finfo(x.dtype).eps ** 0.5):
        warnings.warn(
            f"{manifold}.frechet_mean: relative residual {last[0]:.2e} after {max_iter or 100} steps; "
            f"the data may be too spread out. Raise max_iter or rescale the data.",
            RuntimeWarning,
            stacklevel=3,
        )
    return implicit_step(manifold, point, x, weights, 24, 32)


def implicit_step(
    manifold: Any, point: Tensor, x: Tensor, weights: Weights, cg_steps: int, backward_steps: int
) -> Tensor:
    """Take one Newton step from a constant point: at convergence its gradient is exactly the mean's."""
    system = system_at(manifold, point.detach(), x, weights)
    if system.hessian is None:
        return manifold.mean_step(point.detach(), system.residual)
    direction = system.hessian.solve(system.residual, cg_steps, backward_steps)
    return manifold.mean_step(point.detach(), shared(direction, weights))


@without_autocast
def frechet_variance(
    manifold: Any,
    x: Tensor,
    mean: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    dim: int | tuple[int, ...] = 0,
) -> Tensor:
    """Return the weighted mean of squared distances to the mean (computed if not given); no Bessel correction.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> x = torch.stack([torch.eye(1), torch.eye(1) * torch.e**2])
    >>> mn.stats.frechet_variance(mn.AffineInvariant(1), x)
    tensor(1.)
    """
    if mean is None:
        mean = frechet_mean(manifold, x, weights, dim=dim)
    x, weights = _front(x, weights, dim, len(manifold.point_shape))
    return weighted_mean(manifold.squared_dist(mean, x), weights, 0)


def _front(
    x: Tensor, weights: Tensor | None, dim: int | tuple[int, ...], point_ndim: int
) -> tuple[Tensor, Tensor | None]:
    """Move the averaged dimensions to one leading dimension and normalise the weights over it."""
    batch = x.ndim - point_ndim
    dims = _batch_dims(dim, batch, x.shape)
    count = 1
    for d in dims:
        count *= x.shape[d]
    if count == 0:
        raise ValueError(f"frechet_mean: x has no samples along dim={dim} (shape {tuple(x.shape)}); pass at least one.")
    if weights is not None:
        check_tensor(weights, "frechet_mean", "weights")
        averaged, shape = tuple(x.shape[d] for d in dims), tuple(x.shape[:batch])
        full = weights
        if weights.ndim == len(dims) < batch:  # one weight for each sample of the averaged dimensions
            full = weights.reshape(tuple(weights.shape[dims.index(d)] if d in dims else 1 for d in range(batch)))
        elif weights.ndim < batch:
            full = weights.reshape(weights.shape + (1,) * (batch - weights.ndim))
        if full.ndim != batch or any(own not in (1, size) for own, size in zip(full.shape, shape, strict=True)):
            options = " or ".join(map(str, dict.fromkeys((averaged, shape))))
            raise ValueError(
                f"frechet_mean: weights must have shape {options}, got {tuple(weights.shape)}: one for each sample."
            )
        full = full.to(x.real.dtype if x.is_complex() else x.dtype).expand(shape)
        full = full.movedim(dims, tuple(range(len(dims)))).flatten(0, len(dims) - 1)
        total = full.sum(0)
        if plain(full.detach()):  # looking at values costs nothing here
            check_weights(full, total, "frechet_mean")
        weights = full / total
    return x.movedim(dims, tuple(range(len(dims)))).flatten(0, len(dims) - 1), weights


def _batch_dims(dim: int | tuple[int, ...], batch: int, shape: torch.Size) -> tuple[int, ...]:
    """Return the averaged dimensions, counted from the front; raise unless they are different batch dimensions."""
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(d + batch if d < 0 else d for d in given)
    if not dims or len(set(dims)) < len(dims) or not all(0 <= d < batch for d in dims):
        remedy = f"Use 0 to {batch - 1}, or -{batch} to -1." if batch else "Add one: x[None]."
        raise ValueError(
            f"frechet_mean: dim={dim} must name different batch dimensions of x, and shape {tuple(shape)} has {batch} "
            f"before those of a point. {remedy}"
        )
    return dims
