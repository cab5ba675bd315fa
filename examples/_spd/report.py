"""Table, pictures and best checkpoint of finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _common.files import save
from _common.tables import comma_separated, markdown, spread

from manifoldnorm import plotting

from .norms import MERGED, NORMS
from .training import Run, State

Done = tuple[Run, State]


class Row(NamedTuple):
    """A norm (and form of the data): accuracies per seed, averaged over the parts, and per part over the seeds."""

    label: str
    seeds: list[float]
    parts: dict[str, float]
    validation: float
    epochs: float
    seconds: float


def rows(done: Sequence[Done]) -> list[Row]:
    """Gather runs into rows, in the order of the runs."""
    labels = dict.fromkeys(label(run) for run, _ in done)
    return [_row(name, [entry for entry in done if label(entry[0]) == name]) for name in labels]


def label(run: Run) -> str:
    return ", ".join(filter(None, [NORMS[run.norm].label, run.case.form]))


def _row(name: str, done: Sequence[Done]) -> Row:
    def mean(key: str, **where: Any) -> float:
        chosen = [s for r, s in done if where.items() <= {"seed": r.seed, "part": r.case.part}.items()]
        return statistics.fmean(state["result"][key] for state in chosen)

    seeds = dict.fromkeys(run.seed for run, _ in done)
    parts = dict.fromkeys(run.case.part for run, _ in done)
    return Row(
        name,
        [mean("test_accuracy", seed=seed) for seed in seeds],
        {part: mean("test_accuracy", part=part) for part in parts if len(parts) > 1},
        mean("val_accuracy"),
        mean("epochs"),
        mean("seconds"),
    )


def table(found: Sequence[Row]) -> list[list[str]]:
    """Return the header and one line per row."""
    parts = list(found[0].parts)
    header = ["norm", "test accuracy %", "spread over seeds", "seeds", "validation %", "epochs", "s/epoch", *parts]
    lines = [header]
    for row in found:
        deviation = spread(row.seeds)
        numbers = [
            f"{statistics.fmean(row.seeds):.1f}",
            "-" if deviation is None else f"{deviation:.1f}",
            str(len(row.seeds)),
            f"{row.validation:.1f}",
            f"{row.epochs:.0f}",
            f"{row.seconds:.2f}",
        ]
        lines.append([row.label, *numbers, *(f"{row.parts[part]:.0f}" for part in parts)])
    return lines


def write(done: Sequence[Done], title: str, settings: dict[str, Any], out: Path) -> str:
    """Write every output into the folder and return the table as text."""
    found = rows(done)
    lines = table(found)
    note = (
        f"{title}. Spread: standard deviation over seeds (of the mean over subjects, where there are several). "
        f"{MERGED} A difference below the spread is no evidence that one norm is better than another."
    )
    text = markdown(lines, note)
    (out / "table.md").write_text(text)
    (out / "table.csv").write_text(comma_separated(lines))
    (out / "runs.csv").write_text(comma_separated(_run_lines(done)))
    curves: dict[str, list[list[float]]] = {}
    for run, state in done:
        curves.setdefault(label(run), []).append([epoch["val_accuracy"] for epoch in state["history"]])
    plotting.learning_curves(curves, title=title).savefig(out / "learning_curves.png")
    plotting.accuracy_per_norm({row.label: row.seeds for row in found}, title=title).savefig(out / "accuracy.png")
    save_best(done, settings, out / "best.pt")
    return text


def _run_lines(done: Sequence[Done]) -> list[list[str]]:
    keys = ["epochs", "epoch", "val_accuracy", "test_accuracy", "seconds"]
    lines = [["norm", "form", "part", "seed", *keys]]
    for run, state in done:
        values = [str(round(state["result"][key], 4)) for key in keys]
        lines.append([run.norm, run.case.form, run.case.part, str(run.seed), *values])
    return lines


def save_best(done: Sequence[Done], settings: dict[str, Any], file: Path) -> None:
    """Keep the weights of the run with the best validation accuracy, what builds its model, and its unit."""
    run, state = max(done, key=lambda entry: entry[1]["result"]["val_accuracy"])
    about = {"norm": run.norm, "form": run.case.form, "part": run.case.part, "seed": run.seed}
    about |= {
        "classes": list(run.case.data.classes),
        "unit": run.case.unit(run.case.data.default_split(seed=run.seed).train),
    }
    save({**about, "result": state["result"], "settings": settings, "model": state["model"]}, file)
