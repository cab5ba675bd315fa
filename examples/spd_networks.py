"""Train SPD networks with any batch norm on EMG, EEG, radar or your own covariances, and compare the norms."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f"spd_networks.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.cli import Parser, add_output, begin, integers, number, positive, prepare, run, step_size, whole
from _common.files import trained
from _spd import norms, report, training
from _spd.tasks import QUICK, TASKS, Case, Recipe

EPILOG = """
norms (--norm takes all, or several with commas):
{norms}
{same}

what it writes to --out (the same command again continues there, and trains nothing that is finished):
  table.md, table.csv   accuracy and its spread over seeds, seconds per epoch, one row per norm
  runs.csv              the same for every single run
  learning_curves.png   validation accuracy per epoch
  accuracy.png          test accuracy of every seed, mean and standard deviation
  best.pt               weights of the run with the best validation accuracy, and how to build its network
  checkpoints/          state of every run; what the next command continues from

examples:
  python examples/spd_networks.py --norm all
  python examples/spd_networks.py --dataset mamem --data mamem_ssvep.npz --norm none,bw --subjects 1,6,11 --seeds 3
  python examples/spd_networks.py --dataset radar --compare-real
  python examples/spd_networks.py --data my_covariances.npz --norm all
"""


# options that mean something for some data sets only
ONLY_FOR = {
    "data": ("mamem", "own"),
    "subjects": ("mamem",),
    "sizes": ("emg", "radar", "own"),
    "real": ("radar", "own"),
    "compare_real": ("radar", "own"),
    "window": ("own",),
    "hop": ("own",),
    "shrinkage": ("own",),
}


def parser() -> Parser:
    rows = "\n".join(
        f"  {name:15s}{choice.label}{' (not part of all)' * (not choice.in_all)}"
        for name, choice in norms.NORMS.items()
    )
    same = "the same map as: " + ", ".join(f"{name} = {other}" for name, other in norms.SAME.items())
    p = Parser(
        prog="spd_networks.py",
        description=__doc__,
        epilog=EPILOG.format(norms=rows, same=f"  {same}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = p.add_argument_group("data")
    data.add_argument("--dataset", choices=list(TASKS), help="default emg, or own where --data is given")
    data.add_argument(
        "--data",
        type=Path,
        help="mamem: the file mamem_ssvep.npz or the folder of U001.mat to U011.mat, see the README; own: an npz file "
        "(x, y, optionally session, subject, trial) or a folder of *_<label>.npy files, covariances or "
        "signals, real or complex",
    )
    data.add_argument("--subjects", type=integers, help="mamem: all (default) or numbers, e.g. 1,6,11")
    data.add_argument("--real", action="store_true", help="complex data: train on the real part only")
    data.add_argument("--compare-real", action="store_true", help="complex data: train on both, in one table")
    data.add_argument("--window", type=positive, help="own folder of signals: samples per window")
    data.add_argument("--hop", type=positive, help="own folder of signals: samples from window to window")
    data.add_argument("--shrinkage", type=number, default=0.0, help="own covariances: share of trace/n on the diagonal")
    train = p.add_argument_group("training (defaults depend on the data set)")
    train.add_argument("--norm", default="none,rbn-aim", help="default %(default)s; see below")
    train.add_argument("--seeds", type=positive, help="number of seeds")
    train.add_argument("--epochs", type=positive, help="most epochs of a run; the step size falls to 0 over them")
    train.add_argument("--patience", type=whole, help="early stopping: epochs without a better validation loss")
    train.add_argument("--fixed-epochs", action="store_true", help="no early stopping; test the last epoch")
    train.add_argument("--batch", type=positive, help="samples per batch")
    train.add_argument("--lr", type=step_size, help="step size")
    train.add_argument("--weight-decay", type=number, help="of classifier and convolutions")
    train.add_argument("--optimizer", choices=list(training.OPTIMIZERS), help="radam is Riemannian, by geoopt")
    train.add_argument("--sizes", type=integers, help="matrix sizes of the SPDNet, input first, e.g. 20,16,12")
    train.add_argument("--quick", action="store_true", help="few epochs, one seed, less data: a smoke test")
    add_output(p, None, "results/ and the data set's name, or that of the file, with --quick and -quick after it")
    return p


def default_folder(args: argparse.Namespace) -> Path:
    """Return a folder of its own for every data set, so that no command finds the results of another."""
    name = args.data.resolve().stem if args.dataset == "own" and args.data else args.dataset
    return Path("results") / f"{name}{'-quick' * args.quick}"


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the data set's recipe with --quick and the options of the command line on top."""
    recipe = TASKS[args.dataset][1]
    changes = QUICK[args.dataset].copy() if args.quick else {}
    names = [field.name for field in dataclasses.fields(Recipe)]
    changes |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(recipe, **changes, **({"patience": 0} if args.fixed_epochs else {}))


def plan(args: argparse.Namespace) -> tuple[list[training.Run], dict[str, Any]]:
    """Load the data and return the runs, and the settings that decide their results."""
    names = norms.resolve(args.norm)
    for option, datasets in ONLY_FOR.items():
        if getattr(args, option) and args.dataset not in datasets:
            raise ValueError(f"--{option.replace('_', '-')} is for --dataset {' or '.join(datasets)} only")
    cases: Sequence[Case] = TASKS[args.dataset][0](args)
    runs = []
    for case in cases:
        fits, rest = norms.for_field(names, case.data.x.is_complex())
        if not fits:
            raise ValueError(f"--norm {','.join(rest)} is for real matrices only; add --real")
        if rest:
            print(f"left out, for real matrices only: {', '.join(rest)}")
        folder = args.out / "checkpoints"
        runs += [training.Run(case, name, seed, folder) for name in fits for seed in range(args.recipe.seeds)]
    settings = {
        "dataset": args.dataset,
        **{key: value for key, value in dataclasses.asdict(args.recipe).items() if key != "seeds"},
        "quick": args.quick,
        "data": {f"{case.form} {case.part}".strip(): case.digest() for case in cases},
    }
    return runs, settings


def execute(runs: Sequence[training.Run], recipe: Recipe, *, resume: bool) -> list[report.Done]:
    """Train every run behind one progress bar, counted in epochs."""
    done, before = [], [trained(run.file, recipe.epochs) if resume else 0 for run in runs]
    options = {"unit": "epoch", "smoothing": 0.05, "dynamic_ncols": True}
    with tqdm(total=len(runs) * recipe.epochs, initial=sum(before), **options) as bar:

        def progress(run: training.Run, state: training.State) -> None:
            bar.set_postfix_str(f"{run.name}: validation {state['history'][-1]['val_accuracy']:.1f} %")
            bar.update()

        for each, known in zip(runs, before, strict=True):
            start = bar.n
            done.append((each, training.train(each, recipe, progress, resume=resume)))
            bar.update(start + recipe.epochs - known - bar.n)  # what early stopping saved
    return done


def train(args: argparse.Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    args.dataset = args.dataset or ("own" if args.data else "emg")
    args.recipe = recipe_of(args)
    args.out = args.out or default_folder(args)
    runs, settings = plan(args)
    settings = prepare(args, settings)
    epochs = f"{'at most ' * (args.recipe.patience > 0)}{args.recipe.epochs} epochs"
    again = begin(runs[0].case.data.name, epochs, [each.file for each in runs])
    done = execute(runs, args.recipe, resume=args.resume)
    title = f"{runs[0].case.data.name}, {args.recipe.seeds} seed{'s' * (args.recipe.seeds > 1)}" + (
        ", --quick" if args.quick else ""
    )
    return again + "\n".join(
        [
            report.write(done, title, settings, args.out),
            f"table    {args.out / 'table.md'} and table.csv",
            f"picture  {args.out / 'learning_curves.png'} and accuracy.png",
            f"weights  {args.out / 'best.pt'}",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
