"""Norm factories: what models call with each layer's sizes."""

from __future__ import annotations

import inspect
from typing import Any


def _options_of(manifold: Any) -> set[str]:
    own = isinstance(manifold, type) and manifold is not int  # int: the layer itself takes the size
    return set(inspect.signature(manifold).parameters) if own else set()


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

    def __init__(self, norm: type, manifold: Any, options: dict[str, Any]) -> None:
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
