"""Programs: decompositions, products and the few numbers between them, run by the native library in one call.

A layer's direction is some thirty operations on small matrices, and to call each from Python takes longer than to
compute it. A `Program` is written once for a shape, line by line, and run many times; its intermediate results are
places in one block of memory. Where torch's solver is to decompose, the lines in between are a call each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldnorm.linalg._fused import EACH_A, EACH_K, Operation
from manifoldnorm.linalg._spectral_function import SpectralFunction
from manifoldnorm.linalg._tally import counting
from manifoldnorm.linalg.native import Instruction, Lines, chosen_for, kernels

EIGEN, SUM_ROWS, FLOOR_LOG, MAP, SHIFT, DOT, SQUARES, FACTOR, SLOPE, LERP = range(32, 42)  # as in kernels.hpp
REARRANGE, DIAGONAL_EXP, INVERT_LOWER, MULTIPLY, FINITE, RIDGES, BURES_WEIGHTS, BURES_GRADIENT = range(42, 50)
COUNTS, SELECT, GATHER, IDENTITIES = range(50, 54)
SCALE, EXP, ROOT, INVERSE_ROOT, FILL, RATIO = range(6)
TRANSPOSE_A, ONE_A = 1, 2
SYMMETRIC, HALF_LOWER, OF_HALF_LOWER, TRANSPOSED, AS_IT_IS = range(5)
_KEPT, _SCRATCH, _ARGUMENTS = range(3)  # buffers
_LINE_OF_MEMORY = 64  # bytes
_OWN = 1 << 24  # bytes that a thread may keep from run to run
_OF_MATRICES = (EIGEN, REARRANGE, DIAGONAL_EXP, INVERT_LOWER, MULTIPLY, BURES_WEIGHTS, IDENTITIES)
_FACTORISING = (Operation.CHOLESKY, Operation.SUM_OF_INVERSES, Operation.BURES_STEP)


class Declined(Exception):
    """A program failed; the steps in Python either succeed or say what is wrong."""


@dataclass(frozen=True)
class Place:
    """Where an operand lies: in which buffer, from which number on, with which shape."""

    buffer: int
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return math.prod(self.shape)

    def item(self, index: int) -> Place:
        """Return one item of the first axis."""
        shape = self.shape[1:]
        return Place(self.buffer, self.start + index * math.prod(shape), shape)

    def items(self, begin: int, end: int) -> Place:
        """Return consecutive items of the first axis."""
        return Place(self.buffer, self.start + begin * math.prod(self.shape[1:]), (end - begin, *self.shape[1:]))


class Program:
    """Lines of one program for n x n matrices in one dtype, and the memory that they need."""

    def __init__(self, n: int, dtype: torch.dtype) -> None:
        self.n, self.dtype = n, dtype
        self._sizes = [0, 0]
        self._arguments = 0
        self._lines: list[Instruction] = []
        self._eigen: list[tuple[int, Place, Place, Place]] = []
        self._decompositions: list[tuple[str, int]] = []
        self._compiled: dict[tuple[bool, ...], list[Lines]] = {}

    # ---- places

    def _place(self, buffer: int, shape: tuple[int, ...]) -> Place:
        place = Place(buffer, self._sizes[buffer], shape)
        per_line = _LINE_OF_MEMORY // self.dtype.itemsize
        self._sizes[buffer] += -(-place.size // per_line) * per_line
        return place

    def argument(self, *shape: int) -> Place:
        """Return the place of the next tensor that `run` is given, contiguous, of the program's dtype."""
        self._arguments += 1
        return Place(_ARGUMENTS + self._arguments - 1, 0, shape)

    def kept(self, *shape: int) -> Place:
        """Return memory that outlives the run."""
        return self._place(_KEPT, shape)

    def scratch(self, *shape: int) -> Place:
        """Return memory for intermediate results."""
        return self._place(_SCRATCH, shape)

    @property
    def kept_size(self) -> int:
        """How many numbers the run keeps."""
        return self._sizes[_KEPT]

    # ---- lines

    def add(
        self,
        operation: int,
        inputs: Sequence[Place | None],
        outputs: Sequence[Place | None],
        *,
        kind: int = 0,
        like: Place | None = None,
        numbers: Sequence[float] = (),
        index: Place | None = None,
        groups: int = 1,
    ) -> None:
        """Add a line; its batch and width are those of ``like``, by default of the first output.

        ``index`` says which of several operands a sample takes, or which of the ``groups`` it belongs to.
        """
        shape = (like or outputs[0] or inputs[0]).shape  # type: ignore[union-attr]
        batch = shape[0] if len(shape) > 1 else 1
        if operation < EIGEN or operation in _OF_MATRICES:
            batch = math.prod(shape[:-2])  # matrices
        if operation in _FACTORISING:
            self._decompositions.append(("cholesky", batch))
        line = Instruction(operation, kind, self.n, batch, math.prod(shape) // batch)
        for codes, places in ((line.inputs, inputs), (line.outputs, outputs)):
            codes[:] = [-1] * len(codes)
            for k, place in enumerate(places):
                if place is not None:
                    codes[k] = place.buffer << 48 | place.start * self.dtype.itemsize
        line.index = -1 if index is None else index.buffer << 48 | index.start * 8
        line.groups = groups
        line.numbers[:] = [*numbers, 0.0, 0.0][:2]
        self._lines.append(line)

    def eigen(self, matrices: Place, values: Place, rows: Place) -> None:
        """Decompose symmetric matrices into ascending eigenvalues and eigenvectors as rows."""
        self._eigen.append((len(self._lines), matrices, values, rows))
        self._decompositions.append(("eigh", math.prod(matrices.shape[:-2])))
        self.add(EIGEN, [matrices], [values, rows], like=matrices)

    def cholesky(self, matrices: Place, factor: Place, chart: Place | None = None) -> None:
        """Factorise, and on demand write the log-Cholesky charts; the program fails where a factor does not exist."""
        self.add(Operation.CHOLESKY, [matrices], [factor, chart], like=matrices)

    def floor_log(self, values: Place, floored: Place, log: Place | None, eps: float, tolerance: float | None) -> None:
        """Raise spectra to ``eps`` of their largest value, and take logarithms.

        Fail if they are indefinite by more than the tolerance; None: if they are not positive.
        """
        strict, numbers = tolerance is None, (eps, tolerance or 0.0)
        self.add(FLOOR_LOG, [values], [floored, log], kind=int(strict), numbers=numbers)

    def congruence(self, k: Place, x: Place, out: Place, index: Place | None = None) -> None:
        """``K X K^T``, with one K or several."""
        self.add(Operation.CONGRUENCE, [k, x], [out], kind=_several(k), index=index)

    def rebuild(
        self, values: Place, rows: Place, out: Place, k: Place | None = None, index: Place | None = None
    ) -> None:
        """``K U diag(values) U^T K^T``, with one K, several or none."""
        self.add(Operation.REBUILD, [values, rows, k], [out], kind=_several(k), index=index)

    def adjoint(
        self,
        function: SpectralFunction,
        spectrum: tuple[Place, Place, Place | None, Place],
        g: Place,
        out: Place,
        *,
        k: Place | None = None,
        a: Place | None = None,
        inner: Place | None = None,
        colour: Place | None = None,
        index: Place | None = None,
    ) -> None:
        """`_fused.adjoint` for the eigenvalues, the function's auxiliary values, its parameter and the rows."""
        assert function.native is not None
        kind = function.native + EACH_K * _several(k) + EACH_A * _several(a)
        self.add(Operation.ADJOINT, [*spectrum, g, k, a], [out, inner, colour], kind=kind, index=index)

    def map(
        self,
        kind: int,
        x: Place | None,
        out: Place,
        by: float = 1.0,
        factor: Place | None = None,
        under: Place | None = None,
        index: Place | None = None,
        groups: int = 1,
    ) -> None:
        """Apply a function to each number, after multiplication by ``by`` and a number in memory."""
        self.add(MAP, [x, factor, under], [out], kind=kind, numbers=(by,), index=index, groups=groups)

    def rearrange(self, kind: int, x: Place, out: Place, by: float = 1.0) -> None:
        """Symmetric parts, lower halves, transposes, times ``by``."""
        self.add(REARRANGE, [x], [out], kind=kind, numbers=(by,))

    # ---- running

    def run(self, *arguments: Tensor) -> Tensor | None:
        """Return the kept memory, or None if a line failed."""
        library = kernels()
        if isinstance(library, str):
            return None
        memory = torch.empty(self._sizes[_KEPT], dtype=self.dtype, device="cpu")
        native = tuple(
            chosen_for(self.n, math.prod(m.shape[:-2]), self.dtype) is not None for _, m, _, _ in self._eigen
        )
        parts = self._compiled.get(native) or self._compile(native)
        split = [e for e, compiled in zip(self._eigen, native, strict=True) if not compiled]
        size = self._sizes[_SCRATCH] * self.dtype.itemsize
        own = not split and size <= _OWN  # memory that the library keeps has no pages to fault in
        scratch = torch.empty(0 if own else self._sizes[_SCRATCH], dtype=self.dtype, device="cpu")
        buffers = (memory, scratch, *arguments)
        single = self.dtype == torch.float32
        counts = counting()
        if counts is not None:
            counts.update(self._decompositions)
        addresses = [b.data_ptr() for b in buffers]
        for place, lines in enumerate(parts):
            if not library.program(lines, addresses, single, size if own else 0):
                return None
            if place < len(split) and not self._torch_eigen(*split[place][1:], buffers):
                return None
        return memory

    def _compile(self, native: tuple[bool, ...]) -> list[Lines]:
        parts: list[list[Instruction]] = [[]]
        ends = {line for (line, *_), compiled in zip(self._eigen, native, strict=True) if not compiled}
        for number, line in enumerate(self._lines):
            if number in ends:
                parts.append([])
            else:
                parts[-1].append(line)
        return self._compiled.setdefault(native, [Lines(part) for part in parts])

    def _torch_eigen(self, matrices: Place, values: Place, rows: Place, buffers: Sequence[Tensor]) -> bool:
        try:
            w, u = torch.linalg.eigh(view(matrices, buffers[matrices.buffer]))
        except torch.linalg.LinAlgError:
            return False
        view(values, buffers[values.buffer]).copy_(w)
        view(rows, buffers[rows.buffer]).copy_(u.mT)
        return True


def _several(operand: Place | None) -> int:
    return int(operand is not None and len(operand.shape) > 2 and operand.shape[0] > 1)


def view(place: Place, memory: Tensor) -> Tensor:
    """Return what lies at a place of a buffer."""
    return memory.view(-1)[place.start : place.start + place.size].view(place.shape)
