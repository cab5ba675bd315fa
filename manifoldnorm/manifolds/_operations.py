"""What every operation of a geometry does first: points of one shape and one dtype, and autocast off inside."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._C import _is_any_autocast_enabled

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._precision import check_tensor, raise_halves, real_dtype

# whose tensor arguments, except the time t, are points or tangent vectors
_POINTWISE = {
    *("exp", "log", "inner", "to_origin", "from_origin", "project_tangent", "egrad2rgrad", "transport", "norm"),
    *("squared_dist", "dist", "geodesic", "retract", "vector_transport"),
    *("compose", "quotient", "gyroadd", "gyrosub", "gyroscale", "gyration"),
}


def _refuse(manifold: Any, name: str, args: tuple[Any, ...]) -> None:
    """Raise for points of another shape, or of several dtypes."""
    points = [arg for arg in args if isinstance(arg, Tensor)]
    for point in points:
        manifold.check_shape(point, name)
    dtypes = sorted({str(point.dtype) for point in points})
    raise TypeError(f"{manifold}.{name}: the arguments have dtypes {', '.join(dtypes)}. Convert one of them: q.to(p).")


def _time(t: Any, points: tuple[Any, ...]) -> Any:
    """Return the time in the precision of the points: it must not raise theirs."""
    if not isinstance(t, Tensor) or not points or not isinstance(points[0], Tensor):
        return t
    return t.to(real_dtype(points[0].dtype))


def _pointwise(function: Callable[..., Any]) -> Callable[..., Any]:
    exact = without_autocast(function)
    name = function.__name__
    time = list(inspect.signature(function).parameters).index("t") - 1 if name in ("geodesic", "gyroscale") else None

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        autocast = _is_any_autocast_enabled()
        if autocast:  # before the dtypes are compared
            args = raise_halves(args)
        points = args
        if time is not None and len(args) > time:
            points = args[:time] + args[time + 1 :]
            args = (*args[:time], _time(args[time], points), *args[time + 1 :])
        shape, dtype = self.point_shape, None
        for point in points:
            if isinstance(point, Tensor):
                if dtype is None:
                    dtype = point.dtype
                if point.dtype != dtype or (shape and point.shape[-len(shape) :] != shape):
                    _refuse(self, name, points)
            elif hasattr(point, "__array_interface__"):
                check_tensor(point, self, name)
        return exact(self, *args, **kwargs) if autocast else function(self, *args, **kwargs)

    return run


def _anywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    exact = without_autocast(function)

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return exact(self, *args, **kwargs) if _is_any_autocast_enabled() else function(self, *args, **kwargs)

    return run


def guard(cls: type) -> None:
    """Wrap the public methods that a class defines; one call costs a microsecond."""
    for name, function in list(vars(cls).items()):
        public = not name.startswith("_") or name == "__call__"
        if public and inspect.isfunction(function) and not hasattr(function, "_guarded"):
            wrapped = _pointwise(function) if name in _POINTWISE else _anywhere(function)
            wrapped._guarded = True  # type: ignore[attr-defined]
            setattr(cls, name, wrapped)
