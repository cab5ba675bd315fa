"""The compiled kernels: found, checked once, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

PATH = Path(__file__).with_name("_kernels.native.so")  # setup.py names it
INSTRUCTION_SETS = ("baseline", "AVX2", "AVX-512")
CONVERGED, NOT_FINITE, NOT_CONVERGED = range(3)
_INTERFACE = 6  # mn_interface() of a library that these functions can call
INPUTS, OUTPUTS = 9, 4  # operands of an operation
_KINDS = {
    (torch.float64, torch.float64): 0,
    (torch.float32, torch.float32): 1,
    (torch.float32, torch.float64): 2,
    (torch.complex128, torch.complex128): 3,
    (torch.complex64, torch.complex64): 4,
    (torch.complex64, torch.complex128): 5,
}

_TYPES = {torch.float64: 0, torch.float32: 1, torch.complex128: 2, torch.complex64: 3}


class FusedCall(ctypes.Structure):
    """One call of the fused kernels: the struct ``Fused`` of kernels.hpp."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("n", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("inputs", ctypes.c_void_p * INPUTS),
        ("outputs", ctypes.c_void_p * OUTPUTS),
        ("number", ctypes.c_double),
        ("index", ctypes.c_void_p),
    )


class Instruction(ctypes.Structure):
    """One line of a program: the struct ``Instruction`` of kernels.hpp."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("n", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("inputs", ctypes.c_int64 * INPUTS),
        ("outputs", ctypes.c_int64 * OUTPUTS),
        ("index", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("numbers", ctypes.c_double * 2),
    )


class Lines:
    """Consecutive lines of a program, in memory."""

    def __init__(self, lines: Sequence[Instruction]) -> None:
        self._memory = (Instruction * len(lines))(*lines)
        self.address, self.count = ctypes.addressof(self._memory), len(lines)


class AnglesCall(ctypes.Structure):
    """One call of the kernels of principal angles: the struct ``Angles`` of angles_table.hpp."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("p", ctypes.c_int),
        ("m", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("inputs", ctypes.c_void_p * 7),
        ("outputs", ctypes.c_void_p * 3),
    )


class GrassmannCall(ctypes.Structure):
    """One call of the kernels of batches of frames: the struct ``Grassmann`` of grassmann_table.hpp."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("p", ctypes.c_int),
        ("m", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("inputs", ctypes.c_void_p * 9),
        ("outputs", ctypes.c_void_p * 7),
        ("index", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("groups", ctypes.c_int64),
    )


class Kernels:
    """The functions of the compiled library at ``path``.

    Raises
    ------
    OSError, AttributeError, RuntimeError
        If the file is no such library, or is one of another version, or computes wrongly.
    """

    def __init__(self, path: Path = PATH) -> None:
        library = ctypes.CDLL(str(path))
        if library.mn_interface() != _INTERFACE:
            raise RuntimeError("it was built for another version of manifoldnorm")
        self._eigen = library.mn_eigen
        self._eigen.argtypes = (*(ctypes.c_int,) * 2, *(ctypes.c_void_p,) * 4, ctypes.c_int64, *(ctypes.c_int,) * 2)
        self._eigen.restype = ctypes.c_int64
        self._fused = library.mn_fused
        self._fused.argtypes = (*(ctypes.c_int,) * 2, ctypes.c_void_p, ctypes.c_int)
        self._program = library.mn_program
        self._program.argtypes = (
            *(ctypes.c_int,) * 2,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int,
        )
        self._angles = library.mn_angles
        self._angles.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self._grassmann = library.mn_grassmann
        self._grassmann.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self.best: int = library.mn_best()
        self._check()

    def eigen(
        self, a: Tensor, dtype: torch.dtype, *, vectors: bool, instruction_set: int | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Decompose the symmetric or Hermitian parts of CPU matrices (..., n, n) in ``dtype``.

        Returns ascending eigenvalues (..., n), conjugated eigenvectors as rows (..., n, n) or None, and None or, if the
        iteration did not end for some matrix, a status per matrix (...). A matrix that is not finite gives NaN.
        """
        a = a.resolve_conj().resolve_neg().contiguous()
        batch_shape, n = a.shape[:-2], a.shape[-1]
        values = torch.empty((*batch_shape, n), dtype=dtype.to_real(), device="cpu")
        rows = torch.empty(a.shape, dtype=dtype, device="cpu") if vectors else None
        status = torch.empty(batch_shape, dtype=torch.uint8, device="cpu")
        failed = self._eigen(
            self.best if instruction_set is None else instruction_set,
            _KINDS[a.dtype, dtype],
            a.data_ptr(),
            values.data_ptr(),
            None if rows is None else rows.data_ptr(),
            status.data_ptr(),
            status.numel(),
            n,
            torch.get_num_threads(),
        )
        if failed < 0:
            raise ValueError(f"this processor has no {INSTRUCTION_SETS[instruction_set or 0]} kernels")
        return values, rows, status if failed else None

    def fused(self, call: FusedCall, dtype: torch.dtype) -> None:
        """Run a fused operation; the arguments of its operands are contiguous and outlive the call."""
        if self._fused(self.best, _TYPES[dtype], ctypes.byref(call), torch.get_num_threads()):
            raise ValueError("fused kernel: an argument is out of range")

    def program(self, lines: Lines, addresses: Sequence[int], single: bool, scratch: int = 0) -> bool:
        """Run lines of a program on the buffers at these addresses; return whether none of them failed.

        With ``scratch`` the second buffer is so many bytes of the library's own.
        """
        buffers = (ctypes.c_void_p * len(addresses))(*addresses)
        ran = self._program(self.best, single, lines.address, lines.count, buffers, scratch, torch.get_num_threads())
        if ran < 0:
            raise ValueError("program: an argument is out of range")
        return bool(ran == lines.count)

    def angles(self, call: AnglesCall) -> None:
        """Run an operation on principal angles; the arguments of its operands are contiguous and outlive the call."""
        if self._angles(self.best, ctypes.byref(call), torch.get_num_threads()):
            raise ValueError("kernel of principal angles: an argument is out of range")

    def grassmann(self, call: GrassmannCall) -> bool:
        """Run an operation on frames, as above; return whether its iterations ended."""
        status: int = self._grassmann(self.best, ctypes.byref(call), torch.get_num_threads())
        if status < 0:
            raise ValueError("kernel of frames: an argument is out of range")
        return status == 0

    def _check(self) -> None:
        """Decompose matrices with eigenvalues 1, 2, 4 and compare."""
        real = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64, device="cpu")
        phases = torch.tensor([1, 1j, (-1 + 1j) * 0.5**0.5], dtype=torch.complex128, device="cpu")
        expected = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, device="cpu")
        for source, dtype in _KINDS:
            a = (phases.conj() * phases.unsqueeze(-1) * real if dtype.is_complex else real).expand(5, 3, 3).to(source)
            values, rows, failed = self.eigen(a, dtype, vectors=True)
            assert rows is not None
            error = (rows.mH * values.unsqueeze(-2)) @ rows - a.to(dtype)
            worst = max(float(error.abs().max()), float((values - expected).abs().max()))
            if failed is not None or not worst < 64 * torch.finfo(source).eps:
                raise RuntimeError(f"its {INSTRUCTION_SETS[self.best]} kernels compute wrongly")


@functools.cache
def kernels() -> Kernels | str:
    """Return the kernels, loaded and checked at the first call, or why there are none."""
    if not PATH.exists():
        return "not compiled: there was no C++ compiler when manifoldnorm was installed"
    try:
        return Kernels()
    except (OSError, AttributeError, RuntimeError) as error:
        return f"the library does not load: {error}"
