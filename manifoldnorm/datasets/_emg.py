"""Real electromyography: the gestures that the geomstats distribution carries, read without importing it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._geomstats import find_file
from ._recordings import Recordings
from ._windows import as_tensor, covariances, windows

GESTURES = ("rest", "rock", "paper", "scissors", "ok")
_ROW = np.dtype([("time", np.int32), ("emg", np.int16, 8), ("gesture", "S8"), ("session", "S8")])


def emg_gestures(
    *,
    window: int = 100,
    hop: int | None = None,
    shrinkage: float = 1e-3,
    signals: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Recordings:
    """Load surface EMG of 2 people in 2 sessions each: 8 electrodes, 5 gestures, covariances of short windows.

    A session is 30 runs of one gesture, about 6,100 samples each; windows never cross runs.  The columns are
    ``subject`` (mg, rr), ``session`` (mg_s1, mg_s2, rr_s1, rr_s2), ``run`` (0..119, never cut) and ``repetition``
    (0..5, the how-manieth run of this gesture in its session).  The protocol trains on repetitions 0..4 of both
    first sessions, validates on their repetition 5 and tests on both second sessions.

    Parameters
    ----------
    window, hop : int
        Samples per window and from window to window; ``hop=None`` is ``window``, without overlap.
    shrinkage : float
        This times trace / 8 is added to the diagonal of each covariance.
    signals : bool
        Return the windows themselves, (N, 8, window), as recorded (not centred), instead of covariances.
    dtype : torch.dtype
        Precision of the result.

    Returns
    -------
    Recordings
        ``x`` of shape (N, 8, 8) or (N, 8, window); 7,264 samples with the default windows.

    Raises
    ------
    ModuleNotFoundError
        If the geomstats distribution, which carries the file, is not installed.
    ValueError
        If a window is longer than a run, below 2 samples, or ``hop`` or ``shrinkage`` is out of range.

    Notes
    -----
    The file ``emg.csv`` is found through :mod:`importlib.metadata`; the package itself is never imported.

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> train, val, test = datasets.emg_gestures().split()  # doctest: +SKIP
    >>> train, val, test = datasets.emg_gestures().split(train="mg_s1", val="rr_s1", test="mg_s2")  # doctest: +SKIP
    """
    rows = np.loadtxt(find_file("emg.csv", "the EMG recording is"), dtype=_ROW, delimiter=",", skiprows=1)
    bounds = _run_bounds(rows)
    first = rows[bounds[:-1]]  # the first row of each run tells its gesture and session
    pieces = [
        windows(as_tensor(rows["emg"][a:b].T, dtype), window, hop).transpose(0, 1)
        for a, b in itertools.pairwise(bounds.tolist())
    ]
    run = torch.arange(len(pieces)).repeat_interleave(torch.tensor([len(piece) for piece in pieces]))
    columns, names = _run_columns(first["gesture"], first["session"])
    x = torch.cat(pieces)
    return Recordings(
        name="EMG gestures",
        x=x if signals else covariances(x, shrinkage),
        y=columns.pop("gesture")[run],
        classes=GESTURES,
        kind="signals" if signals else "covariances",
        groups={column: values[run] for column, values in columns.items()} | {"run": run},
        unit="run",
        group_names=names,
        protocol={
            "train": {"session": ("mg_s1", "rr_s1"), "repetition": range(5)},
            "val": {"session": ("mg_s1", "rr_s1"), "repetition": 5},
            "test": {"session": ("mg_s2", "rr_s2")},
        },
    )


def _run_bounds(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Row numbers where a run starts, and the number of rows: a run ends where gesture or session changes."""
    change = (rows["gesture"][1:] != rows["gesture"][:-1]) | (rows["session"][1:] != rows["session"][:-1])
    return np.concatenate([[0], np.flatnonzero(change) + 1, [len(rows)]])


def _run_columns(
    gesture: np.ndarray[Any, Any], session: np.ndarray[Any, Any]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Codes per run, and the names of the codes."""
    gestures, sessions = gesture.astype(str).tolist(), session.astype(str).tolist()
    subjects = [name.split("_")[0] for name in sessions]
    names = {"subject": tuple(sorted(set(subjects))), "session": tuple(sorted(set(sessions)))}
    runs = list(zip(gestures, sessions, strict=True))
    repetition = [runs[:i].count(run) for i, run in enumerate(runs)]  # earlier runs of this gesture and session
    columns = {
        "gesture": [GESTURES.index(name) for name in gestures],
        "subject": [names["subject"].index(name) for name in subjects],
        "session": [names["session"].index(name) for name in sessions],
        "repetition": repetition,
    }
    return {column: torch.tensor(codes) for column, codes in columns.items()}, names
