"""Train SPD networks with any batch norm on EMG, EEG, radar or your own covariances, and compare the norms."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f"spd_networks.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _spd import norms, report, training
from _spd.tasks import QUICK, TASKS, Case, Recipe

EPILOG = """
norms (--norm takes all, or several with commas):
{norms}
{same}

what it writes to --out:
  table.md, table.csv   accuracy and its spread over seeds, seconds per epoch, one row per norm
  runs.csv              the same for every single run
  learning_curves.png   validation accuracy per epoch
  accuracy.png          test accuracy of every seed, mean and standard deviation
  best.pt               weights of the run with the best validation accuracy, and how to build its network
  checkpoints/          state of every run; what --resume continues from

examples:
  python examples/spd_networks.py --norm all --out results/emg
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


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parser() -> Parser:
    rows = "\n".join(f"  {name:14s}{choice.label}" for name, choice in norms.NORMS.items())
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
        help="mamem: the file mamem_ssvep.npz; own: an npz file (x, y, optionally session, subject, trial) or a folder "
        "of *_<label>.npy files, covariances or signals, real or complex",
    )
    data.add_argument("--subjects", type=integers, help="mamem: all (default) or numbers, e.g. 1,6,11")
    data.add_argument("--real", action="store_true", help="complex data: train on the real part only")
    data.add_argument("--compare-real", action="store_true", help="complex data: train on both, in one table")
    data.add_argument("--window", type=int, help="own folder of signals: samples per window")
    data.add_argument("--hop", type=int, help="own folder of signals: samples from window to window")
    data.add_argument("--shrinkage", type=float, default=0.0, help="own covariances: share of trace/n on the diagonal")
    train = p.add_argument_group("training (defaults depend on the data set)")
    train.add_argument("--norm", default="none,rbn-aim", help="default %(default)s; see below")
    train.add_argument("--seeds", type=positive, help="number of seeds")
    train.add_argument("--epochs", type=positive, help="most epochs of a run; the step size falls to 0 over them")
    train.add_argument("--patience", type=int, help="early stopping: epochs without a better validation loss")
    train.add_argument("--fixed-epochs", action="store_true", help="no early stopping; test the last epoch")
    train.add_argument("--batch", type=positive, help="samples per batch")
    train.add_argument("--lr", type=float, help="step size")
    train.add_argument("--weight-decay", type=float, help="of classifier and convolutions")
    train.add_argument("--optimizer", choices=list(training.OPTIMIZERS), help="radam is Riemannian, by geoopt")
    train.add_argument("--sizes", type=integers, help="matrix sizes of the SPDNet, input first, e.g. 20,16,12")
    train.add_argument("--quick", action="store_true", help="few epochs, one seed, less data: a smoke test")
    p.add_argument("--out", type=Path, default=Path("results/spd"), help="folder to write to, default %(default)s")
    p.add_argument("--resume", action="store_true", help="continue an interrupted command; finished runs are kept")
    p.add_argument("--overwrite", action="store_true", help="start anew although --out holds unfinished runs")
    return p


def integers(text: str) -> tuple[int, ...] | None:
    return None if text == "all" else tuple(int(part) for part in text.split(","))


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


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
    return runs, json.loads(json.dumps(settings))


def prepare(args: argparse.Namespace, runs: Sequence[training.Run], settings: dict[str, Any]) -> None:
    """Make the folder ready: check what is there before anything is replaced."""
    file = args.out / "settings.json"
    old = json.loads(file.read_text()) if file.is_file() else None
    if args.resume and old is not None:
        differ = [key for key in settings if key != "data" and old.get(key) != settings[key]]
        differ += ["data"] if any(old["data"].get(k, v) != v for k, v in settings["data"].items()) else []
        if differ:
            raise ValueError(f"{args.out} was made with other settings ({', '.join(differ)}); choose another --out")
        settings = {**settings, "data": {**old["data"], **settings["data"]}}
    elif not args.overwrite and (args.out / "checkpoints").is_dir() and not (args.out / "table.md").is_file():
        raise ValueError(
            f"{args.out} holds unfinished runs; add --resume to continue them or --overwrite to start anew"
        )
    (args.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").unlink(missing_ok=True)  # its presence says that every run is finished
    if not args.resume:
        for checkpoint in (args.out / "checkpoints").glob("*.pt"):
            checkpoint.unlink()
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(settings, indent=1))
    os.replace(partial, file)


def execute(runs: Sequence[training.Run], recipe: Recipe, *, resume: bool) -> list[report.Done]:
    """Train every run behind one progress bar, counted in epochs."""
    done = []
    with tqdm(total=len(runs) * recipe.epochs, unit="epoch", smoothing=0.05, dynamic_ncols=True) as bar:

        def progress(run: training.Run, state: training.State) -> None:
            bar.set_postfix_str(f"{run.name}: validation {state['history'][-1]['val_accuracy']:.1f} %")
            bar.update()

        for number, run in enumerate(runs):
            done.append((run, training.train(run, recipe, progress, resume=resume)))
            bar.update((number + 1) * recipe.epochs - bar.n)  # what early stopping or an earlier command saved
    return done


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    args.dataset = args.dataset or ("own" if args.data else "emg")
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    try:
        args.recipe = recipe_of(args)
        runs, settings = plan(args)
        prepare(args, runs, settings)
        print(f"{runs[0].case.data.name}: {len(runs)} runs of at most {args.recipe.epochs} epochs")
        done = execute(runs, args.recipe, resume=args.resume)
        title = f"{runs[0].case.data.name}, {args.recipe.seeds} seed{'s' * (args.recipe.seeds > 1)}" + (
            ", --quick" if args.quick else ""
        )
        text = report.write(done, title, settings, args.out)
    except KeyboardInterrupt:
        command = shlex.join([a for a in (argv or sys.argv[1:]) if a not in ("--resume", "--overwrite")] + ["--resume"])
        print(f"\nstopped; every finished epoch is saved. Continue with\n  python {sys.argv[0]} {command}")
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, torch.linalg.LinAlgError) as error:
        p.error(" ".join(str(error).split()))
    print(f"\n{text}")
    print(
        f"table    {args.out / 'table.md'} and table.csv\npicture  {args.out / 'learning_curves.png'} and accuracy.png"
    )
    print(f"weights  {args.out / 'best.pt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
