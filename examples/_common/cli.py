"""The command line of an example: errors in one line, a folder that is not overwritten, interruption without loss."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def integers(text: str) -> tuple[int, ...] | None:
    return None if text == "all" else tuple(int(part) for part in text.split(","))


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def add_output(p: argparse.ArgumentParser, out: str) -> None:
    """Add the options that every example has for what it writes."""
    p.add_argument("--out", type=Path, default=Path(out), help="folder to write to, default %(default)s")
    p.add_argument("--resume", action="store_true", help="continue an interrupted command; finished runs are kept")
    p.add_argument("--overwrite", action="store_true", help="start anew although --out holds unfinished runs")


def prepare(args: Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the folder ready and return the settings: what is there is checked before anything is replaced.

    ``settings["data"]`` maps the names of data sets to what tells them apart; a resumed command may add some.
    """
    settings = json.loads(json.dumps(settings))
    file = args.out / "settings.json"
    old = json.loads(file.read_text()) if file.is_file() else None
    if args.resume and old is not None:
        differ = [key for key in settings if key != "data" and old.get(key) != settings[key]]
        differ += ["data"] if any(old["data"].get(k, v) != v for k, v in settings["data"].items()) else []
        if differ:
            raise ValueError(f"{args.out} was made with other settings ({', '.join(differ)}); choose another --out")
        settings = {**settings, "data": {**old["data"], **settings["data"]}}
    elif not args.overwrite and any((args.out / "checkpoints").rglob("*.pt")) and not (args.out / "table.md").is_file():
        raise ValueError(
            f"{args.out} holds unfinished runs; add --resume to continue them or --overwrite to start anew"
        )
    (args.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").unlink(missing_ok=True)  # its presence says that every run is finished
    if not args.resume:
        for checkpoint in (args.out / "checkpoints").rglob("*.pt"):
            checkpoint.unlink()
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(settings, indent=1))
    os.replace(partial, file)
    return settings


def run(p: Parser, argv: Sequence[str] | None, body: Callable[[Namespace], str]) -> int:
    """Parse the command line, do the work and print what it returns; return the exit code."""
    args = p.parse_args(argv)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    try:
        text = body(args)
    except KeyboardInterrupt:
        command = shlex.join([a for a in (argv or sys.argv[1:]) if a not in ("--resume", "--overwrite")] + ["--resume"])
        print(f"\nstopped; every finished epoch is saved. Continue with\n  python {sys.argv[0]} {command}")
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, torch.linalg.LinAlgError) as error:
        p.error(" ".join(str(error).split()))
    print(f"\n{text}")
    return 0
