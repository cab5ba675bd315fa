"""Embed a hierarchy (the WordNet mammals) in hyperbolic space, with and without normalisation, beside geoopt's ball."""

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
    sys.exit(f"wordnet_poincare.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.cli import Parser, add_output, begin, positive, prepare, run
from _common.compare import chosen
from _common.files import State
from _common.runs import Run, execute, values
from _common.tables import comma_separated, markdown, paired, with_spread
from _hierarchy import data, models, picture
from _hierarchy.training import Recipe, Training, speeds

from manifoldnorm import plotting

EPILOG = """
embeddings (--norm takes all, or several with commas):
{norms}
  geoopt        geoopt's own ball, always there unless --no-geoopt

Centring and bias are isometries: only the scale of a norm changes distances. In training the statistics are those of
all items, each once (with --sparse those of the items in a batch, each as often as it is there); ranking uses the
running ones.

what it writes to --out:
  table.md, table.csv   mean rank and MAP of reconstruction, mean and spread over seeds, paired differences, steps/s
  losses.png            training loss per epoch
  disc.png              an embedding in two dimensions without a norm, with the names of the largest groups
  checkpoints/          state of every run; what --resume continues from

examples:
  python examples/wordnet_poincare.py --norm all --out results/mammals
  python examples/wordnet_poincare.py --geometry lorentz --norm none,gyro
  python examples/wordnet_poincare.py --data /usr/share/wordnet --root all --seeds 1    # every noun: an hour a row
  python examples/wordnet_poincare.py --data my_edges.tsv --closure
"""
LARGE = 50_000  # pairs


def parser() -> Parser:
    rows = "\n".join(f"  {name:14s}{choice.label}" for name, choice in models.NORMS.items())
    p = Parser(
        prog="wordnet_poincare.py",
        description=__doc__,
        epilog=EPILOG.format(norms=rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = p.add_argument_group("data")
    source.add_argument("--data", type=Path, help="edge list (descendant, ancestor), or folder of a WordNet database")
    source.add_argument("--root", default="mammal.n.01", help="of a WordNet folder: a noun with what is below, or all")
    source.add_argument("--closure", action="store_true", help="edge list: take its transitive closure")
    train = p.add_argument_group("training")
    train.add_argument("--norm", default="none,temperature,gyro,midpoint", help="default %(default)s; see below")
    train.add_argument("--geometry", choices=list(models.GEOMETRIES), default="ball", help="default %(default)s")
    train.add_argument("--no-geoopt", action="store_true", help="leave out geoopt's own ball")
    train.add_argument("--dim", type=positive, default=5, help="dimension, default %(default)s")
    train.add_argument("--negatives", type=positive, default=50, help="per pair, default %(default)s")
    train.add_argument("--epochs", type=positive, help="default 300")
    train.add_argument("--batch", type=positive, help=f"pairs per step, default 1024, and 4096 for over {LARGE} pairs")
    train.add_argument("--lr", type=float, default=0.03, help="step size, default %(default)s")
    train.add_argument("--seeds", type=positive, help="default 3")
    train.add_argument("--sparse", action="store_true", help="sparse gradients: for batches that touch few items")
    train.add_argument("--ranked", type=positive, help="rank so many random items only; default all, 4096 of many")
    train.add_argument("--quick", action="store_true", help="few epochs, one seed: a smoke test")
    add_output(p, "results/wordnet")
    return p


def plan(args: Namespace, hierarchy: data.Hierarchy) -> tuple[list[str], Recipe]:
    """Return the embeddings and the recipe that the command line means."""
    names = chosen(args.norm, models.NORMS)
    large = len(hierarchy.pairs) > LARGE
    args.seeds = args.seeds or (1 if args.quick else 3)
    recipe = Recipe(
        dim=args.dim,
        negatives=args.negatives,
        epochs=args.epochs or (12 if args.quick else 300),
        burn_in=2 if args.quick else 20,
        batch=args.batch or (4096 if large else 1024),
        lr=args.lr,
        geometry=args.geometry,
        sparse=args.sparse,
        ranked=args.ranked or (4096 if large else None),
    )
    return [*([] if args.no_geoopt else [models.PEER]), *names], recipe


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    hierarchy = data.load(args.data, args.root, args.closure)
    names, recipe = plan(args, hierarchy)
    prepare(args, {**dataclasses.asdict(recipe), "quick": args.quick, "data": {hierarchy.name: hierarchy.digest()}})
    keys, folder = hierarchy.keys, args.out / "checkpoints"
    runs = [Run(name, seed, folder) for name in names for seed in range(args.seeds)]
    disc = Run("none", 0, folder / "disc")
    flat = dataclasses.replace(recipe, dim=2, geometry="ball")
    title = f"{hierarchy.name}: {len(hierarchy)} items, {len(hierarchy.pairs)} pairs"
    again = begin(title, f"{recipe.epochs} epochs, the last for the picture", [run.file for run in [*runs, disc]])

    def make(each: Run) -> Training:
        return Training(each, flat if each is disc else recipe, hierarchy, keys)

    *done, (_, drawn) = execute([*runs, disc], recipe.epochs, make, "loss", resume=args.resume)
    picture.draw(drawn["result"]["points"], hierarchy, f"{hierarchy.name}, two dimensions", args.out / "disc.png")
    speed = speeds(names, recipe, hierarchy, keys)
    return again + write(done, speed, recipe, hierarchy, args)


def write(
    done: Sequence[tuple[Run, State]],
    speed: dict[str, float],
    recipe: Recipe,
    hierarchy: data.Hierarchy,
    args: Namespace,
) -> str:
    """Write table and pictures into the folder and return what to print."""
    reference = next(iter(speed))
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}{', --quick' if args.quick else ''}"
    title = f"{hierarchy.name}, dimension {recipe.dim}, {seeds}"
    lines = [["embedding", "mean rank", "MAP %", f"MAP against {reference}", "steps/s", f"against {reference}", "s"]]
    for name in speed:
        ranks, precisions, seconds = (values(done, name, key) for key in ("rank", "map", "seconds"))
        base = values(done, reference, "map")
        lines.append(
            [
                models.label(name, recipe.geometry),
                with_spread(ranks, 2),
                with_spread(precisions, 1),
                "-" if name == reference else paired(precisions, base, 1),
                f"{speed[name]:.0f}",
                f"{speed[name] / speed[reference]:.2f}x",
                f"{sum(seconds) / len(seconds):.0f}",
            ]
        )
    points = "the items in a batch" if recipe.sparse else "all items"
    note = (
        f"{title}; {recipe.negatives} negatives, {recipe.epochs} epochs, batches of {recipe.batch}, step size "
        f"{recipe.lr}, double precision. Mean and standard deviation over seeds; differences are paired by seed, with "
        f"their 95 % interval. Steps per second of processor time, the embeddings taking turns; s: seconds of training "
        f"per run. Centring and bias of a norm are isometries, only its scale changes distances; its statistics are "
        f"those of {points} in training, and the running ones in ranking."
    )
    text = markdown(lines, note)
    curves: dict[str, list[list[float]]] = {}
    for each, state in done:
        losses = [row["loss"] for row in state["history"]]
        curves.setdefault(models.label(each.name, recipe.geometry), []).append(losses)
    figure = plotting.learning_curves(curves, ylabel="training loss", title=title)
    figure.savefig(args.out / "losses.png")
    (args.out / "table.csv").write_text(comma_separated(lines))
    (args.out / "table.md").write_text(text)
    return "\n".join(
        [text, f"table    {args.out / 'table.md'} and table.csv", f"pictures {args.out / 'disc.png'} and losses.png"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
