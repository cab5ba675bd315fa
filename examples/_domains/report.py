"""Accuracies on unseen domains, averaged over folds, and their differences from the plain norm, paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from _common.files import State
from _common.runs import Run
from _common.tables import comma_separated, markdown, paired, with_spread

from manifoldnorm import plotting

from .training import NORMS

Done = Sequence[tuple[Run, State]]
Row = tuple[str, str]  # a norm and how it is tested


def label(row: Row) -> str:
    name, how = row
    return NORMS[name].label + (", refitted" if how == "refitted" and not NORMS[name].per_domain else "")


def by_seed(done: Done, row: Row) -> list[float]:
    """Return the mean over the folds, by seed."""
    name, how = row
    seeds = dict.fromkeys(run.seed for run, _ in done)
    of_seed = [[s["result"][how] for r, s in done if (r.name, r.seed) == (name, seed)] for seed in seeds]
    return [statistics.fmean(numbers) for numbers in of_seed]


def lines_of(task: str, done: Done) -> tuple[list[list[str]], dict[str, list[float]]]:
    """Return a task's lines of the table, and the accuracies by row."""
    names = list(dict.fromkeys(run.name for run, _ in done))
    rows: list[Row] = []
    for how in ("as it is", "refitted"):
        rows += [(name, how) for name in names if any(r.name == name and how in s["result"] for r, s in done)]
    rows.sort(key=lambda row: names.index(row[0]))
    found = {row: by_seed(done, row) for row in rows}
    lines = []
    for row, numbers in found.items():
        plain, before = row[0].removeprefix("domain-"), list(found)[: list(found).index(row)]
        differences = [
            paired(numbers, found[reference], 1) if reference in before else "-"
            for reference in (("none", "as it is"), (plain, "as it is"), (plain, "refitted"))
        ]
        seconds = statistics.fmean(state["result"]["seconds"] for run, state in done if run.name == row[0])
        lines.append([task, label(row), with_spread(numbers, 1), *differences, f"{seconds:.0f}"])
    return lines, {label(row): numbers for row, numbers in found.items()}


HEADER = ["unseen", "norm", "accuracy %", "against no norm", "against plain", "against plain, refitted", "s per run"]


def write(tasks: dict[str, Done], title: str, note: str, out: Path) -> str:
    """Write table and pictures into the folder and return what to print."""
    lines, pictures, folds = [HEADER], [], [["unseen", "fold", "norm", "tested", "seed", "accuracy %"]]
    for task, done in tasks.items():
        more, found = lines_of(task, done)
        lines += more
        pictures.append(out / f"accuracy_{task.replace(' ', '_')}.png")
        plotting.accuracy_per_norm(found, title=f"unseen {task}, {title}").savefig(pictures[-1])
        for run, state in done:
            for how in ("as it is", "refitted"):
                if how in state["result"]:
                    number = f"{state['result'][how]:.3f}"
                    folds.append([task, run.part.removeprefix(f"{task} "), run.name, how, str(run.seed), number])
    text = markdown(lines, note)
    (out / "table.csv").write_text(comma_separated(lines))
    (out / "runs.csv").write_text(comma_separated(folds))
    (out / "table.md").write_text(text)
    shown = ", ".join(picture.name for picture in pictures)
    return "\n".join([text, f"table    {out / 'table.md'}, table.csv and runs.csv (each fold)", f"pictures {shown}"])
