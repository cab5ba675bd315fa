"""Time one training step of every norm: the same as ``python -m manifoldnorm bench norms``, in float64.

python benchmarks/norms.py                  # B = 30 and 512, n = 20, one thread
python benchmarks/norms.py --grad-through-stats --dtype float32 --out results/norms
python benchmarks/norms.py --backend torch-eigh  # the compiled kernels for everything but decompositions
"""

import sys

from manifoldnorm.bench.command import main

if __name__ == "__main__":
    sys.exit(main(["norms", "--dtype", "float64", *sys.argv[1:]]))
