"""Which solver decomposes: kernels of our own or torch's, by size, batch and dtype, unless the caller decides."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from manifoldnorm.linalg.native._library import INSTRUCTION_SETS, Kernels, kernels
from manifoldnorm.linalg.native._table import Table, table

_MODES = ("auto", "native", "torch-eigh", "torch")
_VARIABLE = "MANIFOLDNORM_EIGH"
_FROM_ENVIRONMENT = os.environ.get(_VARIABLE, "auto")
_mode: ContextVar[str] = ContextVar("manifoldnorm_eigh_backend", default=_FROM_ENVIRONMENT)

LARGEST = 96  # the largest matrix of the compiled kernels
# The kernels take as long for one matrix as for a full vector of them, so torch's solver is faster for large matrices
# in small batches: measured with AVX-512, from n = 33 on for one matrix in double precision and n = 17 in single, for
# two matrices from twice these sizes on, and so forth; for complex matrices from half of them. Narrower vectors only
# move the balance towards the kernels.
# A table that ``python -m manifoldnorm bench eigh --tune`` measured on this machine stands in for the rule.
FILLING = 4


@contextlib.contextmanager
def backend(mode: str) -> Iterator[None]:
    """Choose the solver that decomposes symmetric and Hermitian matrices.

    Parameters
    ----------
    mode : {"auto", "native", "torch-eigh", "torch"}
        ``"native"``: our own kernels wherever they exist (up to 96 x 96 on CPU, real and 64 x 64 on GPU);
        ``"torch-eigh"``: never to decompose, only for the products around a decomposition; ``"torch"``: never;
        ``"auto"`` (the default, or what the environment variable ``MANIFOLDNORM_EIGH`` says): where they are faster.
        The choice holds for the current thread or task; a compiled function is called, not traced, inside.

    Raises
    ------
    ValueError
        If ``mode`` is none of these.
    RuntimeError
        At the first decomposition, if ``mode`` is ``"native"`` and the kernels are not there.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.linalg.native import backend
    >>> from manifoldnorm.linalg import eigvalsh
    >>> with backend("torch"):
    ...     eigvalsh(torch.eye(2))
    tensor([1., 1.])
    """
    _check_mode(mode, "backend(mode)")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def _check_mode(mode: str, name: str) -> None:
    if mode not in _MODES:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, _MODES))}, got {mode!r}.")


def chosen(a: Tensor, dtype: torch.dtype) -> Kernels | None:
    """Return the kernels if they are to decompose ``a`` in ``dtype``, or None for torch's solver."""
    if a.device.type != "cpu":
        return None
    return chosen_for(a.shape[-1], a.shape[:-2].numel(), dtype)


def chosen_for(n: int, batch: int, dtype: torch.dtype) -> Kernels | None:
    """Return `chosen` for n x n matrices on CPU."""
    mode = _mode.get()
    if mode in ("torch", "torch-eigh") or n > LARGEST:
        return None
    _check_mode(mode, _VARIABLE)
    library = kernels()
    if isinstance(library, str):
        if mode == "native":
            raise RuntimeError(f"the backend 'native' was asked for, but {library}.")
        return None
    if mode == "auto" and not _faster(library, n, batch, dtype):
        return None
    return library


def _faster(library: Kernels, n: int, batch: int, dtype: torch.dtype) -> bool:
    measured = table("cpu", INSTRUCTION_SETS[library.best])
    if isinstance(measured, Table) and measured.knows(dtype):
        return measured.faster(n, batch, dtype)
    return filled(n, batch, dtype)


def filled(n: int, batch: int, dtype: torch.dtype) -> bool:
    """Return whether a batch fills the kernels' vectors enough for them to be faster, by the rule of `FILLING`."""
    return n <= FILLING * dtype.itemsize * batch // (4 if dtype.is_complex else 1)


def chosen_on_device(a: Tensor, *, decompose: bool = True) -> ModuleType | None:
    """Return the Triton kernels if they are to decompose ``a``, on a GPU, or None for torch's solver.

    With ``decompose=False``: if they are to form the products around a decomposition.
    """
    mode, n = _mode.get(), a.shape[-1]
    if mode == "torch" or (decompose and mode == "torch-eigh") or a.is_complex() or n == 0:
        return None
    from manifoldnorm.linalg import gpu  # imports Triton

    if n > (gpu.LARGEST if decompose else gpu.LARGEST_ADJOINT):
        return None
    if mode == "auto" and a.is_cuda:  # until somebody measures them there, torch's solver is the one known to work
        measured = table("cuda", "")
        if not isinstance(measured, Table):
            return None
        if decompose and not measured.faster(n, a.shape[:-2].numel(), a.dtype):
            return None
    reason = gpu.trouble(n, a.dtype, a.device)
    if reason is not None and mode == "native":
        raise RuntimeError(f"the backend 'native' was asked for, but {reason}.")
    return gpu if reason is None else None


def fusing(a: Tensor, *, decompose: bool = False) -> Kernels | None:
    """Return the kernels if they are to run fused operations on ``a``, a real CPU tensor, or None for torch's own.

    With ``decompose``: operations that decompose too.
    """
    return fusing_for(a.shape[-1], decompose=decompose)


def fusing_for(n: int, *, decompose: bool = False) -> Kernels | None:
    """Return `fusing` for n x n matrices."""
    mode = _mode.get()
    if mode == "torch" or (decompose and mode == "torch-eigh") or n > LARGEST:
        return None
    library = kernels()
    return None if isinstance(library, str) else library


def backends() -> dict[str, str]:
    """Say which solver decomposes what, and why.

    Examples
    --------
    >>> from manifoldnorm.linalg.native import backends
    >>> sorted(backends())
    ['cpu complex', 'cpu real', 'cuda']
    """
    mode, library = _mode.get(), kernels()
    if mode in ("torch", "torch-eigh"):
        cpu = f"torch: chosen by backend('{mode}') or {_VARIABLE}"
    elif isinstance(library, str):
        cpu = f"torch: {library}"
    else:
        where = f"n <= {LARGEST}"
        if mode != "native":
            where += " where the batch makes them faster" + _measured("cpu", INSTRUCTION_SETS[library.best])
        cpu = (
            f"native kernels ({INSTRUCTION_SETS[library.best]}, {torch.get_num_threads()} threads): {where}; else torch"
        )
    return {
        "cpu real": cpu,
        "cpu complex": cpu,
        "cuda": _device(mode),
    }


def _measured(device: str, instructions: str) -> str:
    found = table(device, instructions)
    if found is None:
        return ""
    return f" (table ignored: {found})" if isinstance(found, str) else " (by this machine's table)"


def _device(mode: str) -> str:
    if mode in ("torch", "torch-eigh"):
        return f"torch: chosen by backend('{mode}') or {_VARIABLE}"
    if not torch.cuda.is_available():
        return "no CUDA device"
    from manifoldnorm.linalg import gpu

    if mode == "auto" and not isinstance(table("cuda", ""), Table):
        return f"torch, until `python -m manifoldnorm bench eigh --tune` has measured ours here{_measured('cuda', '')}"
    device = torch.device("cuda", torch.cuda.current_device())
    reason = gpu.trouble(gpu.LARGEST, torch.float32, device)
    if reason:
        return f"torch: {reason}"
    return f"Triton kernels: real, n <= {gpu.LARGEST}{_measured('cuda', '')}; else torch"
