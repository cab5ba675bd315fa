"""Compare norms by one number per run: the options, runs, table and pictures that every comparison has."""

from __future__ import annotations

import argparse
import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from manifoldnorm import plotting

from .cli import add_output, begin, positive, prepare, step_size
from .files import State
from .runs import Make, Run, execute, values
from .tables import comma_separated, markdown, paired, with_spread

RecipeT = TypeVar("RecipeT")
Done = Sequence[tuple[Run, State]]


def spread_note(unit: str = "seed", correction: str = "") -> str:
    """Say what the spread and the intervals of a table are."""
    return (
        f"Mean and standard deviation over {unit}s; differences are paired by {unit}, with their 95 % interval "
        f"(Student{correction}): an interval that contains 0 is no evidence of a difference."
    )


NOTE = spread_note()


class Norm(NamedTuple):
    """A row: how it is called, and what a model takes as its norm."""

    label: str
    factory: Any = None


@dataclasses.dataclass(frozen=True)
class Comparison(Generic[RecipeT]):
    """What a script compares.

    The first norm is what the others are compared with; ``key`` is the number in the results that ``what`` names;
    ``seeds`` and ``quick_seeds`` are defaults, ``quick`` replaces fields of the recipe under ``--quick``. With
    ``folds`` every seed is a repetition of cross-validation, whose folds are runs.
    """

    norms: Mapping[str, Norm]
    recipe: type[RecipeT]
    key: str
    what: str
    quick: Mapping[str, Any]
    seeds: int
    quick_seeds: int = 1
    folds: int = 1

    def add_options(self, p: argparse.ArgumentParser, out: str) -> None:
        """Add the options that every comparison has; those of training have a default in the recipe."""
        p.add_argument("--norm", default="all", help=f"all, or several of {', '.join(self.norms)}; default %(default)s")
        default = self.recipe()
        p.add_argument("--epochs", type=positive, help=f"default {default.epochs}")
        if hasattr(default, "batch"):
            p.add_argument("--batch", type=positive, help=f"default {default.batch}")
        p.add_argument("--lr", type=step_size, help=f"step size of Adam, default {default.lr}")
        what = "" if self.folds == 1 else f"repetitions of {self.folds}-fold cross-validation, "
        p.add_argument("--seeds", type=positive, help=f"{what}default {self.seeds}")
        p.add_argument("--quick", action="store_true", help="few epochs, few seeds: a smoke test")
        add_output(p, out)

    def settings(self, args: Namespace) -> RecipeT:
        """Return the recipe that the command line means; a norm that is none is refused before any work."""
        chosen(args.norm, self.norms)
        given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(self.recipe)}
        quick = self.quick if args.quick else {}
        return self.recipe(**{**quick, **{name: value for name, value in given.items() if value is not None}})

    def carry_out(
        self,
        args: Namespace,
        recipe: RecipeT,
        data: Mapping[str, str],
        make: Make,
        *,
        title: str,
        note: str,
        parts: Sequence[str] = ("",),
        references: Callable[[int], Mapping[str, Sequence[State]]] = lambda runs: {},
    ) -> str:
        """Train, write table and pictures and return what to print.

        ``data`` maps names of data sets to what tells them apart; ``references`` maps a number of runs to
        rows of other methods, with their results per run.
        """
        names, seeds = chosen(args.norm, self.norms), args.seeds or (self.quick_seeds if args.quick else self.seeds)
        prepare(args, {**dataclasses.asdict(recipe), "quick": args.quick, "data": dict(data)})
        folder = args.out / "checkpoints"
        count = seeds * self.folds
        runs = [Run(name, seed, folder, part) for part in parts for name in names for seed in range(count)]
        again = begin(title, f"{recipe.epochs} epochs", [run.file for run in runs])
        done = execute(runs, recipe.epochs, make, "training loss", resume=args.resume)
        for label, results in references(count).items():
            done += [(Run(label, seed, folder), {"history": [], "result": one}) for seed, one in enumerate(results)]
        unit = "seed" if self.folds == 1 else "fold"
        repeats = f"{seeds} {'seed' if self.folds == 1 else 'repetition'}{'s' * (seeds > 1)}"
        title = f"{title}, {repeats}{', --quick' if args.quick else ''}"
        correction = "" if self.folds == 1 else ", corrected for the overlap of the training parts"
        note = f"{title}. {note} {spread_note(unit, correction)}"
        return again + self._write(done, f"{unit}s", title, note, args.out)

    def _write(self, done: Done, units: str, title: str, note: str, out: Path) -> str:
        labels = {run.name: self.norms[run.name].label if run.name in self.norms else run.name for run, _ in done}
        parts = list(dict.fromkeys(run.part for run, _ in done))
        first = next(iter(labels))
        overlap = 1 / (self.folds - 1) if self.folds > 1 else 0.0
        lines = [["data", "norm", self.what, f"against {labels[first]}", units, "s per run"]]
        found: dict[str, list[float]] = {}
        for part in parts:
            for name in labels:
                numbers, seconds = values(done, name, self.key, part), values(done, name, "seconds", part)
                base = values(done, first, self.key, part)
                difference = "-" if name == first else paired(numbers, base, 1, overlap)
                average = f"{sum(seconds) / len(seconds):.0f}"
                lines.append([part, labels[name], with_spread(numbers, 1), difference, str(len(numbers)), average])
                found[", ".join(filter(None, [part, labels[name]]))] = numbers
        if len(parts) == 1:
            lines = [line[1:] for line in lines]
        text = markdown(lines, note)
        pictures = [_losses(done, labels, part, title, out) for part in parts]
        plotting.accuracy_per_norm(found, xlabel=self.what, title=title).savefig(out / "runs.png")
        (out / "table.csv").write_text(comma_separated(lines))
        (out / "table.md").write_text(text)
        return "\n".join(
            [text, f"table    {out / 'table.md'} and table.csv", f"pictures {out / 'runs.png'}, {', '.join(pictures)}"]
        )


def _losses(done: Done, labels: Mapping[str, str], part: str, title: str, out: Path) -> str:
    """Draw the training loss per epoch of every norm and return the file's name."""
    curves: dict[str, list[list[float]]] = {}
    for run, state in done:
        if run.part == part and state["history"]:
            curves.setdefault(labels[run.name], []).append([row["training loss"] for row in state["history"]])
    name = f"learning_curves{'_' * bool(part)}{part}.png"
    figure = plotting.learning_curves(curves, ylabel="training loss", title=", ".join(filter(None, [part, title])))
    figure.savefig(out / name)
    return name


def chosen(names: str, known: Mapping[str, object], what: str = "norm") -> list[str]:
    """Return the names that ``all`` or a comma-separated list means, each once."""
    if names == "all":
        return list(known)
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise ValueError(
            f"unknown {what} {', '.join(map(repr, unknown)) or repr(names)}; choose all or from {', '.join(known)}"
        )
    return list(dict.fromkeys(asked))
