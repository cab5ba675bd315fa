"""Compare norms by one number per run: the table and the pictures that every comparison writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from manifoldnorm import plotting

from .files import State
from .runs import Run, values
from .tables import comma_separated, markdown, paired, with_spread


def write(
    done: Sequence[tuple[Run, State]],
    labels: Mapping[str, str],
    key: str,
    what: str,
    curve: str,
    title: str,
    note: str,
    out: Path,
) -> str:
    """Write table and pictures into the folder and return what to print.

    ``key`` is the number in the results that ``what`` names, ``curve`` the one per epoch; runs are paired by seed with
    those of the first name.
    """
    names = list(dict.fromkeys(run.name for run, _ in done))
    parts = list(dict.fromkeys(run.part for run, _ in done))
    lines = [["data", "norm", what, f"against {labels[names[0]]}", "seeds", "s per run"]]
    found: dict[str, list[float]] = {}
    for part in parts:
        for name in names:
            numbers, seconds = values(done, name, key, part), values(done, name, "seconds", part)
            difference = "-" if name == names[0] else paired(numbers, values(done, names[0], key, part), 1)
            average = f"{sum(seconds) / len(seconds):.0f}"
            lines.append([part, labels[name], with_spread(numbers, 1), difference, str(len(numbers)), average])
            found[", ".join(filter(None, [part, labels[name]]))] = numbers
    if len(parts) == 1:
        lines = [line[1:] for line in lines]
    text = markdown(lines, note)
    pictures = []
    for part in parts:
        histories = {name: [s["history"] for r, s in done if (r.name, r.part) == (name, part)] for name in names}
        curves = {labels[n]: [[row[curve] for row in one] for one in several] for n, several in histories.items()}
        pictures.append(f"learning_curves{'_' * bool(part)}{part}.png" if len(parts) > 1 else "learning_curves.png")
        figure = plotting.learning_curves(curves, ylabel=curve, title=", ".join(filter(None, [part, title])))
        figure.savefig(out / pictures[-1])
    plotting.accuracy_per_norm(found, xlabel=what, title=title).savefig(out / "runs.png")
    (out / "table.csv").write_text(comma_separated(lines))
    (out / "table.md").write_text(text)
    return "\n".join(
        [text, f"table    {out / 'table.md'} and table.csv", f"pictures {out / 'runs.png'}, {', '.join(pictures)}"]
    )


NOTE = (
    "Mean and standard deviation over seeds; differences are paired by seed, with their 95 % interval (Student): an "
    "interval that contains 0 is no evidence of a difference."
)


def chosen(names: str, known: Mapping[str, object]) -> list[str]:
    """Return the norms that ``all`` or a comma-separated list means, each once."""
    if names == "all":
        return list(known)
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise ValueError(
            f"unknown norm {', '.join(map(repr, unknown)) or repr(names)}; choose all or from {', '.join(known)}"
        )
    return list(dict.fromkeys(asked))
