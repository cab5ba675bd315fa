"""Norm factories: what models call with each layer's sizes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from manifoldnorm.manifolds import Manifold
from manifoldnorm.nn.learnable import LearnableManifold


def _options_of(manifold: Any) -> set[str]:
    own = isinstance(manifold, type) and manifold is not int  # int: the layer itself takes the size
    return set(inspect.signature(manifold).parameters) if own else set()


def check_factory(norm: Any, name: str) -> None:
    """Raise a TypeError that says what to pass if ``norm`` cannot build a layer for each size."""
    if norm is None:
        return
    if isinstance(norm, nn.Module):
        own = type(norm).__name__ if hasattr(norm, "of") else "LieBatchNorm"
        geometry = type(getattr(norm, "manifold", None)).__name__ if hasattr(norm, "of") else "LogEuclidean"
        raise TypeError(
            f"{name}: norm is a layer already ({type(norm).__name__}), but every block needs one of its own size. "
            f"Pass a factory, e.g. norm={own}.of({geometry})."
        )
    kind = norm if isinstance(norm, type) else type(norm)
    if issubclass(kind, Manifold):
        raise TypeError(
            f"{name}: norm is a geometry ({kind.__name__}), which does not say how points are moved. Pass a factory, "
            f"e.g. norm=RiemannianBatchNorm.of({kind.__name__})."
        )
    if issubclass(kind, nn.modules.batchnorm._BatchNorm) or not callable(norm):
        shown = kind.__name__ if isinstance(norm, type) else repr(norm)
        raise TypeError(
            f"{name}: norm must be None or a factory of norms on matrices, e.g. LieBatchNorm.of(LogEuclidean), "
            f"got {shown}."
        )


class NormFactory:
    """``factory(*sizes, **more)`` builds ``norm(manifold(*sizes), ...)``; picklable, comparable, clonable.

    Parameters
    ----------
    norm : type
        A norm layer class.
    manifold : type or callable
        Called with the sizes.
    options : dict
        Those in the manifold's signature go to it, the others to the layer.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> mn.nn.GyroBatchNorm.of(mn.AffineInvariant, eps=1e-4)
    GyroBatchNorm.of(AffineInvariant, eps=0.0001)
    """

    of_sizes = True

    def __init__(self, norm: type, manifold: Any, options: dict[str, Any]) -> None:
        if isinstance(manifold, (Manifold, nn.Module)):
            raise TypeError(
                f"{norm.__name__}.of: pass a geometry's class or a function of the size, which builds one for each "
                f"size, not an instance, got {manifold}."
            )
        self.norm, self.manifold, self.options = norm, manifold, dict(options)

    def __call__(self, *sizes: int, field: str = "real", **more: Any) -> Any:
        """Return the layer for a manifold of these sizes, over the given field."""
        known = _options_of(self.manifold)
        geometry = {k: v for k, v in self.options.items() if k in known}
        layer = {k: v for k, v in self.options.items() if k not in known}
        if field != "real":
            if self.manifold is int:
                raise ValueError(
                    f"{self!r} is real only. For Hermitian matrices name a geometry over the complex field, e.g. "
                    f"{self.norm.__name__}.of(BuresWasserstein)."
                )
            geometry["field"] = field
        own = sizes if self.manifold is int else (self.manifold(*sizes, **geometry),)
        return self.norm(*own, **{**layer, **more})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormFactory) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.norm, repr(self)))

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"{self.norm.__name__}.of({getattr(self.manifold, '__name__', repr(self.manifold))}{options})"


def build_norm(norm: Any, geometry: Any, name: str, *, exact: bool = True, **options: Any) -> nn.Module | None:
    """Return a norm on a geometry: from a layer, a factory of sizes (``Norm.of``), or a callable of the geometry.

    ``DomainBatchNorm.of`` is called with what it wraps is called with.

    Parameters
    ----------
    norm : layer, factory, callable or None
        As a network takes it.
    geometry : Manifold or LearnableManifold
        Of the points that the norm gets.
    name : str
        Of the network.
    exact : bool
        Whether the norm's geometry must equal this one, or only be of its kind, as those of published norms.
    **options
        Of the norm.

    Raises
    ------
    ValueError
        If the norm is on another geometry.
    """
    if norm is None or isinstance(norm, nn.Module):
        built = norm
    elif getattr(norm, "of_sizes", False):
        template = geometry.template if isinstance(geometry, LearnableManifold) else geometry
        sizes = [getattr(template, size) for size in ("d", "n", "p") if hasattr(template, size)]
        built = norm(*(sizes or template.point_shape[:1]), **options)
    else:
        built = norm(geometry, **options)
    theirs = getattr(built, "manifold", None)
    ours = geometry() if isinstance(geometry, LearnableManifold) else geometry
    if not isinstance(theirs, Manifold):
        return built
    if not isinstance(theirs, type(ours)) or theirs.point_shape != ours.point_shape:
        raise ValueError(f"{name}: the points are on {ours}, the norm on {theirs}.")
    if exact and isinstance(geometry, Manifold) and theirs != ours:
        raise ValueError(
            f"{name}: the points are on {ours}, the norm on {theirs}. Pass the norm's class, which is called with the "
            f"geometry, or a factory with the same options."
        )
    return built
