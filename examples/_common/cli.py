"""The command line of an example: errors in one line, a folder that is not overwritten, interruption without loss."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from .files import finished


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def integers(text: str) -> tuple[int, ...] | None:
    try:
        return None if text == "all" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}") from None


def whole(text: str, least: int = 0) -> int:
    if not text.strip().lstrip("+-").isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be at least {least} and whole, got {text}")
    return int(text)


def positive(text: str) -> int:
    return whole(text, 1)


def number(text: str) -> float:
    """Return a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def step_size(text: str) -> float:
    value = number(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def add_output(p: argparse.ArgumentParser, out: str | None, described: str = "") -> None:
    """Add the options that every example has for what it writes; without a default folder say how it is chosen."""
    default = Path(out) if out is not None else None
    p.add_argument("--out", type=Path, default=default, help=f"folder to write to, default {described or out}")
    again = p.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted command; also what the same command does: finished runs are kept",
    )
    again.add_argument("--overwrite", "--force", action="store_true", help="train anew what --out holds already")


def prepare(args: Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the folder ready and return the settings: what it holds is continued, and never replaced unasked.

    ``settings["data"]`` maps the names of data sets to what tells them apart; a continued command may add some. Sets
    ``args.resume`` where the folder holds runs of these settings.
    """
    settings = json.loads(json.dumps(settings))
    file = args.out / "settings.json"
    old = json.loads(file.read_text()) if file.is_file() else None
    runs = any((args.out / "checkpoints").rglob("*.pt"))
    if args.overwrite:
        for checkpoint in (args.out / "checkpoints").rglob("*.pt"):
            checkpoint.unlink()
    elif runs or (args.out / "table.md").is_file():
        settings = {**settings, "data": _same(args.out, old, settings)}
        args.resume = True
    try:
        (args.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {args.out}: no folder can be made there ({error.strerror})") from error
    (args.out / "table.md").unlink(missing_ok=True)  # its presence says that every run is finished
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(settings, indent=1))
    os.replace(partial, file)
    return settings


def _same(out: Path, old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return the data sets of both, if the rest agrees."""
    remedy = "choose another --out, or --overwrite to replace it"
    if old is None:
        raise ValueError(f"{out} holds results whose settings are unknown; {remedy}")
    data = old.get("data", {})
    differ = [key for key in new if key != "data" and old.get(key) != new[key]]
    differ += ["data"] if any(data.get(key, value) != value for key, value in new["data"].items()) else []
    if differ:
        raise ValueError(f"{out} was made with other settings ({', '.join(differ)}); {remedy}")
    return {**data, **new["data"]}


def begin(title: str, epochs: str, files: Sequence[Path]) -> str:
    """Say what will be trained, and return what to say of it in the end: whether all was there before."""
    before = sum(finished(file) for file in files)
    earlier = f", {before} of them finished before" if before else ""
    begun = sum(file.is_file() for file in files) - before
    print(f"{title}: {len(files)} runs of {epochs}{earlier}{f', {begun} begun and continued' if begun else ''}")
    return "already finished, nothing was trained; --overwrite trains anew\n" if before == len(files) else ""


def run(p: Parser, argv: Sequence[str] | None, body: Callable[[Namespace], str]) -> int:
    """Parse the command line, do the work and print what it returns; return the exit code."""
    args = p.parse_args(argv)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    try:
        text = body(args)
    except KeyboardInterrupt:
        kept = [word for word in (argv or sys.argv[1:]) if word not in ("--resume", "--overwrite", "--force")]
        command = shlex.join([*kept, "--resume"])
        print(f"\nstopped; every finished epoch is saved. Continue with\n  python {sys.argv[0]} {command}")
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, torch.linalg.LinAlgError) as error:
        p.error(" ".join(str(error).split()))
    print(f"\n{text}")
    return 0
