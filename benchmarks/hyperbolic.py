"""Time one training step of the norms on spaces of constant curvature: forward, backward, statistics.

python benchmarks/hyperbolic.py                       # batch 1024, dimension 64, one thread, both precisions
python benchmarks/hyperbolic.py --batch 256 --dim 8 --out results/hyperbolic.md

The unit is the same run's time of ten products of two batches, which tells a busy machine from a slow layer.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from manifoldnorm.bench.hyperbolic import table


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    head = f"{platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s)"
    lines = [f"{head}, medians of {arguments.rounds} interleaved rounds", ""]
    for dtype in (torch.float64, torch.float32):
        lines += table(arguments.batch, arguments.dim, dtype, rounds=arguments.rounds)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
