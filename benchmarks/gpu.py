"""Check and time the Triton kernels on a GPU, in under 8 minutes; without one, say so.

python benchmarks/gpu.py            # correctness, eigendecompositions, a training step in a CUDA graph
python benchmarks/gpu.py --quick    # a few sizes
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.bench import matrices, tuning

DTYPES = (torch.float32, torch.float64)
LIMIT = 450.0  # seconds; what is left is reported as left out
START = time.monotonic()


def left() -> float:
    return LIMIT - (time.monotonic() - START)


def milliseconds(call: Callable[[], object], rounds: int = 20) -> float:
    """Return the median time of a call by CUDA events, after warming up; slow calls are timed fewer times."""
    call()
    torch.cuda.synchronize()
    before = time.perf_counter()
    call()
    torch.cuda.synchronize()
    rounds = max(3, min(rounds, int(2.0 / max(time.perf_counter() - before, 1e-6))))
    times = []
    for _ in range(rounds):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times)


def correctness(sizes: list[int]) -> bool:
    """Print the errors of every family of matrices, in units of eps, against torch in float64."""
    print("| dtype | n | residual (eps) | orthogonality (eps) | eigenvalues (eps of the norm) | within n eps |")
    print("|---|---|---|---|---|---|")
    good = True
    for dtype in DTYPES:
        for n in sizes:
            eps = torch.finfo(dtype).eps
            names = [name for name in matrices.FAMILIES if name != "denormal"]
            a = torch.cat([matrices.family(name, 17, n, dtype) for name in names])
            with mn.linalg.backend("native"):
                values, rows = torch.ops.manifoldnorm.eigh(a.cuda(), False, False, "gpu.py")
            values, rows = values.cpu(), rows.cpu()
            errors = matrices.errors(a, values, rows)
            norm = torch.linalg.matrix_norm(a.double()).clamp_min(1e-300).unsqueeze(-1)
            far = float(((values.double() - torch.linalg.eigvalsh(a.double())).abs() / norm).max()) / eps
            fine = errors.residual <= 2 * n + 12 and errors.orthogonality <= n**0.5 * max(n, 8) and far <= 2 * n + 12
            good &= fine
            row = f"{errors.residual:.1f} | {errors.orthogonality:.1f} | {far:.1f} | {'yes' if fine else 'NO'}"
            print(f"| {dtype} | {n} | {row} |", flush=True)
    a = matrices.family("Wishart", 8, 20, torch.float32).cuda()
    a[3, 1, 1] = float("nan")
    flagged = mn.linalg.eigvalsh(a).isnan().any(-1).tolist() == [False, False, False, True, False, False, False, False]
    x = matrices.family("Wishart", 5, 20, torch.float64)
    gradients = []
    for device, mode in (("cuda", "native"), ("cpu", "torch")):
        leaf = x.to(device).requires_grad_()
        with mn.linalg.backend(mode):
            (grad,) = torch.autograd.grad(mn.linalg.logm(leaf).square().sum(), leaf)
        gradients.append(grad.cpu())
    error = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
    print(f"\nNaN flagged, others right: {flagged}; gradient of logm against CPU in float64: {error:.1e}\n")
    return good and flagged and error < 1e-12


def eigendecompositions(sizes: list[int], batches: list[int]) -> None:
    """Print milliseconds of our kernel, torch's solver and CuPy's, with and without eigenvectors."""
    try:
        import cupy
    except ImportError:
        cupy = None
        print("CuPy is not installed: its column is empty (pip install cupy-cuda12x)\n")
    print("| dtype | n | B | ours ms | torch ms | torch / ours | CuPy ms | values only: ours | torch |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dtype in DTYPES:
        for n in sizes:
            for batch in batches:
                if left() < 120:
                    print(f"left out for time: {dtype}, n = {n}, B = {batch}")
                    continue
                a = matrices.family("Wishart", batch, n, dtype).cuda()
                with mn.linalg.backend("native"):
                    ours = milliseconds(lambda a=a: torch.ops.manifoldnorm.eigh(a, False, False, "gpu.py"))
                    only = milliseconds(lambda a=a: torch.ops.manifoldnorm.eigvalsh(a, False))
                theirs = milliseconds(lambda a=a: torch.linalg.eigh(a))
                values = milliseconds(lambda a=a: torch.linalg.eigvalsh(a))
                peer = ""
                if cupy is not None:
                    view = cupy.from_dlpack(a)
                    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
                        peer = f"{milliseconds(lambda v=view: cupy.linalg.eigh(v)):.3f}"
                print(
                    f"| {dtype} | {n} | {batch} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} | {peer} "
                    f"| {only:.3f} | {values:.3f} |",
                    flush=True,
                )


def warps(batch: int = 4096) -> None:
    """Print milliseconds by the warps of a program, beside those that are used."""
    from manifoldnorm.linalg.gpu import _launch

    used = _launch.geometry
    print("| dtype | n | B | warps used | 1 warp ms | 2 | 4 | 8 |\n|---|---|---|---|---|---|---|---|")
    for dtype in DTYPES:
        for n in (16, 32, 64):
            a = matrices.family("Wishart", batch, n, dtype).cuda()
            several, chosen = used(_launch.tile(n), dtype == torch.float64)
            cells = []
            try:
                for number in (1, 2, 4, 8):
                    _launch.geometry = lambda size, double, several=several, number=number: (several, number)
                    cells.append(f"{milliseconds(lambda a=a: _launch.eigen(a, vectors=True), 10):.3f}")
            finally:
                _launch.geometry = used
            print(f"| {dtype} | {n} | {batch} | {chosen} | {' | '.join(cells)} |", flush=True)
    print()


def training_step(batch: int = 4096, n: int = 32) -> None:
    """Print the time of one affine-invariant training step, launched one by one and replayed as a CUDA graph."""
    print(f"\n| AIM training step, B = {batch}, n = {n}, float32 | eager ms | CUDA graph ms |\n|---|---|---|")
    x = matrices.family("Wishart", batch, n, torch.float32).cuda()
    g = torch.randn_like(x)
    for mode in ("native", "torch"):
        layer = mn.nn.LieBatchNorm(mn.AffineInvariant(n), mean=mn.stats.Karcher(1), grad_through_stats=False).cuda()
        leaf = x.clone().requires_grad_()

        def step(layer: torch.nn.Module = layer, leaf: Tensor = leaf) -> None:
            layer(leaf).backward(g)

        with mn.linalg.backend(mode):
            eager = milliseconds(step)
            captured = "not captured"
            if mode == "native":
                captured = replayed(step)
        print(f"| {mode} | {eager:.3f} | {captured} |", flush=True)


def replayed(step: Callable[[], None]) -> str:
    """Return the time of a step as a CUDA graph, or why it is not captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        return f"not captured: {str(error).splitlines()[0]}"
    return f"{milliseconds(graph.replay):.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tune", type=Path, metavar="FILE", help="also write a table for MANIFOLDNORM_TUNE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to check or measure")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}")
    said = mn.linalg.backends()["cuda"]
    print(f"backend: {said}\n")
    if said.startswith("torch"):
        print("the kernels do not run here: nothing to measure")
        return 1
    torch.manual_seed(0)
    good = correctness([3, 8, 20] if arguments.quick else [1, 2, 3, 4, 5, 8, 13, 16, 20, 32, 33, 50, 64])
    training_step()
    print()
    if not arguments.quick:
        warps()
    eigendecompositions([8, 20] if arguments.quick else [8, 16, 20, 32, 48, 64], [512, 4096])
    if arguments.tune:
        tuning.tune("cuda", arguments.tune, print, limit=max(left() - 20, 10))
    print(f"\n{time.monotonic() - START:.0f} s; {'all checks passed' if good else 'SOME CHECKS FAILED'}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
