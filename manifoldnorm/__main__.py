"""Commands of the package: ``python -m manifoldnorm bench``; the laws are ``python -m manifoldnorm.testing``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["bench"]:
        from manifoldnorm.bench.command import main as bench

        return bench(words[1:])
    asked = words[:1] in ([], ["-h"], ["--help"])
    (sys.stdout if asked else sys.stderr).write("usage: python -m manifoldnorm bench [eigh|norms] [--help]\n")
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
