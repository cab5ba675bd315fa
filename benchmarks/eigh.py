"""Time and check the compiled eigendecomposition against ``torch.linalg.eigh``.

python benchmarks/eigh.py                       # speed: sizes, batches, all dtypes, one thread
python benchmarks/eigh.py --threads 2 --isa AVX2
python benchmarks/eigh.py --accuracy 100000     # residual and orthogonality over families of matrices
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import torch

from manifoldnorm.bench.matrices import FAMILIES, Errors, compare, family
from manifoldnorm.bench.timing import IN_A_ROW
from manifoldnorm.linalg.native import INSTRUCTION_SETS, Kernels, kernels

SPEED = [(8, 512), (15, 30), (20, 30), (20, 128), (20, 512), (20, 2048), (32, 128), (32, 512), (64, 128), (93, 64)]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "complex128": torch.complex128,
    "complex64": torch.complex64,
}


def fastest(calls: list[Callable[[], object]], budget: float) -> list[float]:
    """Return the least seconds of each call, alternating for about ``budget`` seconds; of one thread its CPU time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # other load stretches the latter
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times[0]) < 8:
        for call, found in zip(calls, times, strict=True):
            for _ in range(IN_A_ROW):
                start = clock()
                call()
                found.append(clock() - start)
    return [min(found) for found in times]


def speed(library: Kernels, isa: int, dtypes: list[str], sizes: list[tuple[int, int]], budget: float) -> Iterator[str]:
    """Yield rows of a table: microseconds per matrix of torch and of the kernels, and their ratio."""
    yield "| dtype | n | B | eigh torch us | ours us | ratio | eigvalsh torch us | ours us | ratio |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in dtypes:
        for n, batch in sizes:
            a = family("Wishart", batch, n, DTYPES[name])
            cells = []
            for vectors, solver in ((True, torch.linalg.eigh), (False, torch.linalg.eigvalsh)):
                theirs = lambda solver=solver, a=a: solver(a)  # noqa: E731
                ours = lambda v=vectors, a=a: library.eigen(a, a.dtype, vectors=v, instruction_set=isa)  # noqa: E731
                torch_us, ours_us = (t / batch * 1e6 for t in fastest([theirs, ours], budget))
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
    parser.add_argument("--dtype", choices=DTYPES, help="default: all")
    parser.add_argument("--n", type=int, nargs="+", help="sizes, instead of the standard table")
    parser.add_argument("--batch", type=int, nargs="+", default=[512], help="batches for --n")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds for each comparison")
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
