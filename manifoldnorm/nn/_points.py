"""Parameters that are points of a manifold, through everything that torch does to parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class HoldsPoints(nn.Module):
    """A module whose `geoopt.ManifoldParameter` parameters stay such.

    Loading with ``assign=True`` and moves to and from the meta device make plain parameters of them, and an optimizer
    would then leave the manifold without a word.
    """

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        points = self._points()
        super()._load_from_state_dict(*args, **kwargs)
        self._restore(points)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        points = self._points()
        super()._apply(fn, recurse)
        self._restore(points)
        return self

    def _points(self) -> dict[str, Any]:
        return {name: p.manifold for name, p in self._parameters.items() if p is not None and hasattr(p, "manifold")}

    def _restore(self, points: dict[str, Any]) -> None:
        for name, manifold in points.items():
            parameter = self._parameters[name]
            if type(parameter) is nn.Parameter:
                from manifoldnorm._geoopt import manifold_parameter

                self._parameters[name] = manifold_parameter(parameter.data, manifold, parameter.requires_grad)
