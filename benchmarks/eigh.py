"""Time and check the compiled eigendecomposition against ``torch.linalg.eigh``.

python benchmarks/eigh.py                       # speed: sizes, batches, both dtypes, one thread
python benchmarks/eigh.py --threads 2 --isa AVX2
python benchmarks/eigh.py --accuracy 100000     # residual and orthogonality over families of matrices
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldnorm.linalg.native import INSTRUCTION_SETS, Kernels, kernels

SPEED = [(8, 512), (15, 30), (20, 30), (20, 128), (20, 512), (20, 2048), (32, 128), (32, 512), (64, 128), (93, 64)]
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def rotated(values: Tensor, batch: int) -> Tensor:
    """Return randomly rotated matrices with the given eigenvalues (n,) or (batch, n)."""
    n = values.shape[-1]
    basis = torch.linalg.qr(torch.randn(batch, n, n, dtype=torch.float64))[0]
    return (basis * values.unsqueeze(-2)) @ basis.mT


def _wishart(batch: int, n: int, columns: int) -> Tensor:
    x = torch.randn(batch, n, columns, dtype=torch.float64)
    return x @ x.mT / columns


def _graded(batch: int, n: int, decades: float) -> Tensor:
    scale = torch.logspace(0, -decades, n, dtype=torch.float64)
    return scale[:, None] * _wishart(batch, n, 2 * n) * scale


def _toeplitz(batch: int, n: int) -> Tensor:
    ratio = torch.rand(batch, 1, 1, dtype=torch.float64) * 0.98
    index = torch.arange(n, dtype=torch.float64)
    return ratio ** (index[:, None] - index).abs()


def _clustered(batch: int, n: int) -> Tensor:
    centres = torch.randint(1, 4, (batch, n)).double()
    return rotated(centres + 1e-12 * torch.randn(batch, n, dtype=torch.float64), batch)


# every family of matrices (batch, n, n) on which the kernels are held against torch's solver
FAMILIES: dict[str, Callable[[int, int], Tensor]] = {
    "Wishart": lambda b, n: _wishart(b, n, 2 * n),
    "Gaussian": lambda b, n: torch.randn(b, n, n, dtype=torch.float64),
    "condition 1e15": lambda b, n: rotated(torch.logspace(0, -15, n, dtype=torch.float64), b),
    "graded down": lambda b, n: _graded(b, n, 6.0),
    "graded up": lambda b, n: _graded(b, n, 6.0).flip(-1, -2),
    "clustered": _clustered,
    "repeated": lambda b, n: rotated(torch.randint(1, 4, (b, n)).double(), b),
    "rank one": lambda b, n: _wishart(b, n, 1),
    "rank half": lambda b, n: _wishart(b, n, max(1, n // 2)),
    "Toeplitz": _toeplitz,
    "diagonal": lambda b, n: torch.diag_embed(torch.randn(b, n, dtype=torch.float64)),
    "multiple of identity": lambda b, n: torch.randn(b, 1, 1, dtype=torch.float64) * torch.eye(n, dtype=torch.float64),
    "zero": lambda b, n: torch.zeros(b, n, n, dtype=torch.float64),
    "all ones": lambda b, n: torch.ones(b, n, n, dtype=torch.float64),
    "large": lambda b, n: _wishart(b, n, 2 * n) * 1e150,
    "small": lambda b, n: _wishart(b, n, 2 * n) * 1e-150,
    "denormal": lambda b, n: _wishart(b, n, 2 * n) * 2.0**-1060,
}
SINGLE_SCALES = {"large": 1e30 / 1e150, "small": 1e-30 / 1e-150, "denormal": 2.0**-140 / 2.0**-1060}


def family(name: str, batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Return symmetric matrices (batch, n, n) of a family; extreme scales are those of the dtype."""
    a = FAMILIES[name](batch, n)
    if dtype == torch.float32:
        a = a * SINGLE_SCALES.get(name, 1.0)
    return ((a + a.mT) / 2).to(dtype)


@dataclass
class Errors:
    """Largest errors over matrices, in units of eps: residual and eigenvalues relative to the norm, orthogonality."""

    residual: float
    orthogonality: float

    def worst(self, other: Errors) -> Errors:
        return Errors(max(self.residual, other.residual), max(self.orthogonality, other.orthogonality))


def errors(a: Tensor, values: Tensor, rows: Tensor) -> Errors:
    """Return the largest ``|A - U W U^T| / |A|`` and ``|U^T U - I|`` (Frobenius) in units of eps of the dtype."""
    eps = torch.finfo(a.dtype).eps
    a, values, rows = a.double(), values.double(), rows.double()
    scale = a.abs().amax((-1, -2)).clamp_min(torch.finfo(torch.float64).tiny * torch.finfo(torch.float64).eps)
    half = torch.exp2(-torch.floor(torch.log2(scale) / 2))[:, None, None]  # twice: a single factor may overflow
    a, values = a * half * half, values * half[..., 0] * half[..., 0]
    norm = torch.linalg.matrix_norm(a).clamp_min(1e-300)
    residual = torch.linalg.matrix_norm(rows.mT @ (values.unsqueeze(-1) * rows) - a) / norm
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    return Errors(float(residual.max()) / eps, float(torch.linalg.matrix_norm(rows @ rows.mT - identity).max()) / eps)


def compare(library: Kernels, a: Tensor, instruction_set: int) -> tuple[Errors, Errors]:
    """Return the errors of the kernels and of torch's solver on the same matrices."""
    values, rows, failed = library.eigen(a, a.dtype, vectors=True, instruction_set=instruction_set)
    assert rows is not None and failed is None
    reference, vectors = torch.linalg.eigh(a)
    return errors(a, values, rows), errors(a, reference, vectors.mT)


def time_of(call: Callable[[], object], budget: float) -> float:
    """Return the median seconds of a call, measured for about ``budget`` seconds."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def speed(library: Kernels, isa: int, dtypes: list[str], sizes: list[tuple[int, int]], budget: float) -> Iterator[str]:
    """Yield rows of a table: microseconds per matrix of torch and of the kernels, and their ratio."""
    yield "| dtype | n | B | eigh torch us | ours us | ratio | eigvalsh torch us | ours us | ratio |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in dtypes:
        for n, batch in sizes:
            a = family("Wishart", batch, n, DTYPES[name])
            cells = []
            for vectors, solver in ((True, torch.linalg.eigh), (False, torch.linalg.eigvalsh)):
                torch_us = time_of(lambda solver=solver, a=a: solver(a), budget) / batch * 1e6
                ours = lambda v=vectors, a=a: library.eigen(a, a.dtype, vectors=v, instruction_set=isa)  # noqa: E731
                ours_us = time_of(ours, budget) / batch * 1e6
                cells += [f"{torch_us:.2f}", f"{ours_us:.2f}", f"{torch_us / ours_us:.1f}"]
            yield f"| {name} | {n} | {batch} | {' | '.join(cells)} |"


def accuracy(library: Kernels, isa: int, dtypes: list[str], total: int) -> Iterator[str]:
    """Yield rows of a table: the largest errors of the kernels and of torch's solver by family."""
    yield "| dtype | family | matrices | residual ours / torch (eps) | orthogonality ours / torch (eps) |"
    yield "|---|---|---|---|---|"
    sizes = (1, 2, 3, 5, 8, 13, 20, 32, 47, 64, 93, 96)
    for name in dtypes:
        for kind in FAMILIES:
            ours, theirs, count = Errors(0.0, 0.0), Errors(0.0, 0.0), 0
            share = max(1, total // (len(dtypes) * len(FAMILIES) * len(sizes)))
            for n in sizes:
                batch = share + n % 3  # ragged
                first, second = compare(library, family(kind, batch, n, DTYPES[name]), isa)
                ours, theirs, count = ours.worst(first), theirs.worst(second), count + batch
            yield (
                f"| {name} | {kind} | {count} | {ours.residual:.1f} / {theirs.residual:.1f} "
                f"| {ours.orthogonality:.1f} / {theirs.orthogonality:.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", choices=INSTRUCTION_SETS, help="instruction set; default: the processor's best")
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--n", type=int, nargs="+", help="sizes, instead of the standard table")
    parser.add_argument("--batch", type=int, nargs="+", default=[512], help="batches for --n")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds for each figure")
    parser.add_argument("--accuracy", type=int, metavar="MATRICES", help="check this many matrices instead of timing")
    arguments = parser.parse_args()
    library = kernels()
    if isinstance(library, str):
        sys.exit(f"no kernels: {library}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    isa = INSTRUCTION_SETS.index(arguments.isa) if arguments.isa else library.best
    dtypes = [arguments.dtype] if arguments.dtype else list(DTYPES)
    if arguments.accuracy:
        rows = accuracy(library, isa, dtypes, arguments.accuracy)
    else:
        sizes = [(n, b) for n in arguments.n for b in arguments.batch] if arguments.n else SPEED
        rows = speed(library, isa, dtypes, sizes, arguments.budget)
    print(f"torch {torch.__version__}, {INSTRUCTION_SETS[isa]}, {arguments.threads} threads")
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
