"""Working precision of decompositions, and the scale of every clamp."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_HALF = (torch.float16, torch.bfloat16)
_SUPPORTED = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_native: ContextVar[bool] = ContextVar("manifoldnorm_native_precision", default=False)


@contextlib.contextmanager
def precision(mode: str) -> Iterator[None]:
    """Choose in which precision single-precision input is decomposed on CPU.

    Parameters
    ----------
    mode : {"accurate", "native"}
        ``"accurate"`` (the default everywhere) decomposes ``float32`` and ``complex64`` input in double precision
        on CPU, where this costs nothing; ``"native"`` stays in the input's precision. Other devices are always native.
        The choice holds for the current thread or task; a compiled function is called, not traced, inside.

    Raises
    ------
    ValueError
        If ``mode`` is neither of the two.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> with mn.linalg.precision("native"):
    ...     mn.linalg.logm(torch.eye(2)).dtype
    torch.float32
    """
    if mode not in ("accurate", "native"):
        raise ValueError(f"precision(mode): expected 'accurate' or 'native', got {mode!r}.")
    token = _native.set(mode == "native")
    try:
        yield
    finally:
        _native.reset(token)


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the eigenvalues of a matrix of ``dtype``."""
    return _REAL.get(dtype, dtype)


def native() -> bool:
    """Return whether `precision` is ``"native"`` here and now."""
    return _native.get()


def widens(a: Tensor) -> bool:
    """Return whether a decomposition of ``a`` returns double precision although ``a`` is single.

    A traced graph must not hold what is true of the current call only: there the answer is the default, and the
    operator reads the mode when it runs.
    """
    return a.device.type == "cpu" and a.dtype in _WIDER and (torch.compiler.is_compiling() or not native())


def working_dtype(dtype: torch.dtype, wide: bool) -> torch.dtype:
    """Return the dtype in which a matrix of ``dtype`` is decomposed."""
    return _WIDER.get(dtype, dtype) if wide else dtype


def _autocasts(args: Iterable[Any]) -> str:
    """Return the device of the first tensor if autocast is on there, else an empty string."""
    device = next((arg.device.type for arg in args if isinstance(arg, Tensor)), "cpu")
    return device if device != "meta" and torch.is_autocast_enabled(device) else ""


def _raise_half(arg: Any) -> Any:
    return arg.float() if isinstance(arg, Tensor) and arg.dtype in _HALF else arg


def raise_halves(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with half-precision tensors, which is what layers return under autocast, as ``float32``.

    Where autocast is off they stay as they are.
    """
    return tuple(_raise_half(arg) for arg in args) if _autocasts(args) else args


def without_autocast(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorate a function of tensors so that autocast never lowers the precision of the products inside.

    Where autocast is on, half-precision arguments, such as its layers return, come in as ``float32``.
    """
    raised: Callable[..., _Result] = function

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        device = _autocasts(chain(args, kwargs.values()))
        if not device:
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            more = {name: _raise_half(arg) for name, arg in kwargs.items()}
            return raised(*(_raise_half(arg) for arg in args), **more)

    return run


def check_tensor(x: Any, *where: object) -> None:
    """Raise a TypeError that says ``where`` and the remedy for what is no tensor, such as a numpy array."""
    if not isinstance(x, Tensor):
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        what = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
        what += f" of shape {tuple(shape)} and dtype {dtype}" if shape is not None and dtype is not None else ""
        kind = ", dtype=torch.float32" if "float" in str(dtype) else ""  # a layer's usual precision
        name = ": ".join(map(str, where))
        raise TypeError(f"{name}: expected a torch.Tensor, got {what}. Convert it, e.g. torch.as_tensor(x{kind}).")


def check_matrix(a: Tensor, name: str) -> Tensor:
    """Raise unless ``a`` is a floating stack of square matrices (shape and dtype only: no look at the values).

    Returns ``a``; under autocast as ``float32`` if it is of half precision.
    """
    check_tensor(a, name)
    if a.dtype in _HALF:
        (a,) = raise_halves((a,))
    if a.dtype not in _SUPPORTED:
        raise TypeError(
            f"{name}: expected a float32, float64, complex64 or complex128 tensor, got {a.dtype}. "
            f"Convert with .float() or .double() first."
        )
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"{name}: expected square matrices of shape (..., n, n), got {tuple(a.shape)}.")
    return a


def symmetrize(a: Tensor) -> Tensor:
    """Return the Hermitian part ``(A + A^H) / 2``.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg import symmetrize
    >>> symmetrize(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[1., 1.],
            [1., 1.]])
    """
    return (a + a.mH).mul_(0.5)  # in place: a fresh large temporary costs page faults
