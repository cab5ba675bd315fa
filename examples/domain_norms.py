"""Classify sessions and people that were never seen, with and without statistics per domain, and compare the norms."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import tqdm  # noqa: F401
except ModuleNotFoundError as missing:
    sys.exit(f"domain_norms.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common import compare
from _common.cli import Parser, add_output, begin, positive, prepare, run
from _common.files import State
from _common.runs import Run, execute
from _domains import report
from _domains.folds import TASKS, Fold, Recipe
from _domains.training import NORMS, DomainClassifier

EPILOG = """
data (--dataset takes all, or several with commas):
  emg-session   hand gestures, 2 people in 2 sessions: train on three sessions, test on the fourth
  emg-person    train on both sessions of one person, test on the other person
  mamem         EEG of subjects 1, 6, 11: train on the sessions 1 to 3, test on session 5

The unseen domain is adapted to without labels and without the training data: its statistics are set from all of
its samples (mn.nn.refit). A plain norm is tested as it is and refitted in the same way.
"""


def parser() -> Parser:
    p = Parser(
        prog="domain_norms.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--dataset", default="all", help=f"all, or several of {', '.join(TASKS)}; default %(default)s")
    p.add_argument("--data", type=Path, help="the file mamem_ssvep.npz, default the one in ../shared/data")
    p.add_argument("--norm", default="all", help=f"all, or several of {', '.join(NORMS)}; default %(default)s")
    p.add_argument("--epochs", type=positive, help="default 20 for EMG and 40 for MAMEM")
    p.add_argument("--seeds", type=positive, help="default 5")
    p.add_argument("--quick", action="store_true", help="one fold of each, few epochs, one seed: a smoke test")
    add_output(p, "results/domains")
    return p


def trained(
    folds: Sequence[Fold], recipe: Recipe, epochs: int, names: Sequence[str], seeds: int, args: Namespace
) -> list[tuple[Run, State]]:
    """Train every norm and seed on every fold."""
    by_part = {fold.part: fold for fold in folds}
    runs = [
        Run(name, seed, args.out / "checkpoints", part) for part in by_part for name in names for seed in range(seeds)
    ]
    begin(folds[0].task, f"{epochs} epochs", [run.file for run in runs])
    make = lambda each: DomainClassifier(each, by_part[each.part], recipe, epochs)  # noqa: E731
    return execute(runs, epochs, make, "training loss", resume=args.resume)


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    names, tasks = compare.chosen(args.norm, NORMS), compare.chosen(args.dataset, TASKS)
    seeds = args.seeds or (1 if args.quick else 5)
    folds = {task: TASKS[task][0](args.data, args.quick) for task in tasks}
    recipes = {task: TASKS[task][1] for task in tasks}
    epochs = {task: args.epochs or (r.quick_epochs if args.quick else r.epochs) for task, r in recipes.items()}
    settings = {task: {**dataclasses.asdict(recipe), "epochs": epochs[task]} for task, recipe in recipes.items()}
    digests = {fold.part: fold.digest() for task in tasks for fold in folds[task]}
    prepare(args, {"recipes": settings, "quick": args.quick, "data": digests})
    done = {folds[t][0].task: trained(folds[t], recipes[t], epochs[t], names, seeds, args) for t in tasks}
    title = f"{seeds} seed{'s' * (seeds > 1)}{', --quick' if args.quick else ''}"
    note = (
        f"{title}: accuracy on unseen domains after the last epoch ({', '.join(f'{epochs[t]} {t}' for t in tasks)}), "
        "averaged over folds; every norm sees the same batches, with as many samples of each domain. Domain norms and "
        f"those called refitted set their statistics from the unlabelled test samples. {compare.NOTE}"
    )
    return report.write(done, title, note, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
