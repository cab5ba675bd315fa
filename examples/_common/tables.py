"""Tables of results, and what differences between paired runs say."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student


def spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def with_spread(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the standard deviation where there is one."""
    deviation = spread(values)
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if deviation is None else f"{mean} ± {deviation:.{digits}f}"


def paired(values: Sequence[float], reference: Sequence[float], digits: int, overlap: float = 0.0) -> str:
    """Return the mean difference of runs with equal seeds and its 95 % interval by Student's t distribution.

    ``overlap`` is the ratio of test to training samples where runs share training samples, as the folds of repeated
    cross-validation do: their mean is less certain than that of independent runs (Nadeau and Bengio 2003).
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.{digits}f}"
    error = statistics.stdev(differences) * math.sqrt(1 / len(differences) + overlap)
    half = float(student.ppf(0.975, len(differences) - 1)) * error
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def markdown(lines: Sequence[Sequence[str]], note: str) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def join(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = join([("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)])
    return "\n".join([join(lines[0]), rule, *map(join, lines[1:]), "", note, ""])


def comma_separated(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
