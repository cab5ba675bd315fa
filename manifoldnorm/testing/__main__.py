"""Print the laws of every geometry and norm layer of the package: ``python -m manifoldnorm.testing``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch

from manifoldnorm.testing.catalogue import MANIFOLDS, NORMS
from manifoldnorm.testing.checks import laws_of, laws_of_norm
from manifoldnorm.testing.laws import HEADER, Law, Report

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m manifoldnorm.testing", description=__doc__)
    parser.add_argument("names", nargs="*", help="only subjects whose name contains one of these")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="may be repeated; default: both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="also compile every layer")
    parser.add_argument("--failures", action="store_true", help="print only the laws that fail")
    parser.add_argument("--mutants", action="store_true", help="instead, plant faults and report which are caught")
    parser.add_argument("--list", action="store_true", help="print the names of the subjects")
    return parser.parse_args(arguments)


def _chosen(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(w.lower() in name.lower() for w in wanted)


def _suites(options: argparse.Namespace) -> Iterator[tuple[str, list[Law]]]:
    for dtype in map(DTYPES.__getitem__, options.dtype or DTYPES):
        for name, build in MANIFOLDS.items():
            if _chosen(name, options.names):
                yield name, laws_of(build(), dtype=dtype, name=name)
        for name, (make, symmetries) in NORMS.items():
            if _chosen(name, options.names):
                yield name, laws_of_norm(make, symmetries=symmetries, dtype=dtype, slow=options.slow, name=name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report and return the exit code: 1 if a law fails or a mutant survives that should not."""
    options = _options(arguments)
    write = sys.stdout.write
    if options.list:
        write("\n".join([*MANIFOLDS, *NORMS, ""]))
        return 0
    if options.mutants:
        from manifoldnorm.testing.mutants import run_mutants

        mutation = run_mutants(seed=options.seed, names=options.names)
        write(f"{mutation}\n")
        return int(not mutation.ok)
    if not any(_chosen(name, options.names) for name in (*MANIFOLDS, *NORMS)):
        write(f"no subject's name contains {' or '.join(options.names)}; --list prints the names\n")
        return 2
    total = Report(())
    write(HEADER + "\n")
    for _, laws in _suites(options):
        for law in laws:
            outcome = law.run(options.seed)
            total += Report((outcome,))
            if outcome.failed or not options.failures:
                write(f"{outcome}\n")
                sys.stdout.flush()
    write(f"{total.summary()}\n")
    return int(not total.ok)


if __name__ == "__main__":
    sys.exit(main())
