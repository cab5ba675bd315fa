"""Real EEG: MAMEM SSVEP data set II as preprocessed for MAtt, in one compressed file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ._reading import Array, load_mat, open_npz
from ._recordings import Recordings
from ._windows import as_tensor

SOURCE = (
    "mamem_ssvep reads the file mamem_ssvep.npz or the folder of U001.mat to U011.mat: MAMEM SSVEP data set II "
    "(PhysioNet mssvepdb, doi:10.6084/m9.figshare.3153409) as preprocessed for MAtt; the documentation of "
    "mamem_ssvep says where to find the mat files and which arrays the npz file holds."
)
_HERTZ = (12.0, 10.0, 8.57, 7.5, 6.66)  # of the labels 0 to 4, found from the spectra of each class
_SESSIONS, _SEGMENTS = 5, 4  # a file has no columns of its own: 5 sessions of 25 trials of 4 segments, in this order


class _Contents(NamedTuple):
    """Signals (subjects, segments, 8, 125) in microvolts, and columns that hold for every subject."""

    subjects: list[int]
    microvolts: Array
    y: Array
    session: Array
    trial: Array
    hertz: Sequence[float]
    rate: float


def mamem_ssvep(
    path: str | os.PathLike[str], subject: int | Sequence[int] | None = None, *, dtype: torch.dtype = torch.float64
) -> Recordings:
    """Load steady-state visual evoked potentials: 11 people, 5 sessions of 100 segments, 8 channels, 1 s at 125 Hz.

    The classes are the flicker frequencies.  The columns are ``subject`` (1..11), ``session`` (1..5), ``trial``
    (never cut: its 4 segments are contiguous pieces of one 5 s trial) and ``segment`` (0..3 in its trial).  The
    protocol is MAtt's: train on sessions 1 to 3, validate on 4, test on 5.  The order of the classes is the same in
    each session, so position in the session must not reach a model.

    Parameters
    ----------
    path : path
        The file ``mamem_ssvep.npz``, or the folder of the files ``U001.mat`` to ``U011.mat``; see the notes.
    subject : int or sequence of int, optional
        Subjects to load, 1..11; all of them by default.
    dtype : torch.dtype
        Precision of the result.

    Returns
    -------
    Recordings
        ``x`` in microvolts, (500 times the number of subjects, 8, 125).

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or is not this data set, or a subject does not exist.

    Notes
    -----
    The recordings (256 channels, 250 Hz) are public, ODC-By 1.0: PhysioNet's database ``mssvepdb``, or figshare,
    doi:10.6084/m9.figshare.3153409.  The authors of MAtt cut them to 8 channels and 125 Hz; their files ``U001.mat``
    to ``U011.mat`` (``x_test``, (500, 8, 125), and ``y_test``, 500 labels 0..4) lie in the public repository
    ``jjscc/GBWBN`` on GitHub, folder ``GBWBN_SPDNet/experiments/data/MAMEM``, without a licence of their own. Pass that
    folder, or keep all of it in one npz file with the arrays ``X`` (subjects, 500, 8, 125); ``scale`` (subjects,), by
    which ``X`` is multiplied for microvolts; ``y`` (500,), classes 0..4; ``session`` (500,), 1..5; ``trial`` (500,),
    0..124; ``label_freq_hz`` (5,), the frequency of each class; and ``fs``, 125.

    References
    ----------
    V. Oikonomou et al., arXiv:1602.00904 (recordings); Y. Pan et al., "MAtt", NeurIPS 2022 (preprocessing, protocol).

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> train, val, test = datasets.mamem_ssvep("mamem_ssvep.npz", subject=1).split()  # doctest: +SKIP
    """
    numbers: Any = None if subject is None else list(subject) if isinstance(subject, Iterable) else [subject]
    if numbers is not None and not (numbers and all(isinstance(number, Integral) for number in numbers)):
        raise ValueError(f"subject must be a number from 1 to 11, several, or None for all, got {subject!r}.")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file. {SOURCE}")
    found = (_read_folder if Path(path).is_dir() else _read_npz)(Path(path), numbers)
    people, segments = len(found.subjects), len(found.y)
    owner = torch.tensor(found.subjects).repeat_interleave(segments)
    session, trial = (torch.from_numpy(column.astype(np.int64)) for column in (found.session, found.trial))
    trials_each = int(trial.max()) + 1
    return Recordings(
        name="MAMEM SSVEP",
        x=as_tensor(found.microvolts.reshape(-1, *found.microvolts.shape[2:]), dtype),
        y=torch.from_numpy(found.y.astype(np.int64)).repeat(people),
        classes=tuple(f"{frequency:g} Hz" for frequency in found.hertz),
        kind="signals",
        groups={
            "subject": owner,
            "session": session.repeat(people),
            "trial": (owner - 1) * trials_each + trial.repeat(people),  # the same number never means two people
            "segment": torch.arange(segments).repeat(people) % (segments // trials_each),
        },
        unit="trial",
        protocol={"train": (1, 2, 3), "val": 4, "test": 5},
        sampling_rate=found.rate,
    )


def _read_npz(path: Path, subjects: list[int] | None) -> _Contents:
    file = open_npz(path)
    missing = {"X", "scale", "y", "session", "trial", "label_freq_hz", "fs"} - file.keys()
    if missing:
        raise ValueError(
            f"{path} is not the MAMEM file: it lacks {', '.join(sorted(missing))}. {SOURCE} See load_npz for others."
        )
    subjects = _choose(subjects, range(1, len(file["X"]) + 1), path)
    index = np.array(subjects) - 1
    microvolts = file["X"][index] * file["scale"][index, None, None, None].astype(np.float64)
    hertz, rate = file["label_freq_hz"].tolist(), float(file["fs"])
    return _Contents(subjects, microvolts, file["y"], file["session"], file["trial"], hertz, rate)


def _read_folder(folder: Path, subjects: list[int] | None) -> _Contents:
    files = {int(file.stem[1:]): file for file in sorted(folder.glob("U[0-9][0-9][0-9].mat"))}
    if not files:
        raise FileNotFoundError(f"{folder}: no file U001.mat to U011.mat in it. {SOURCE}")
    subjects = _choose(subjects, files, folder)
    signals: list[Array] = []
    labels: list[Array] = []
    for file in (files[number] for number in subjects):
        arrays = load_mat(file)
        x, y = (arrays.get(key, np.empty(0)) for key in ("x_test", "y_test"))
        if x.shape != (500, 8, 125) or y.size != 500 or np.any(y.reshape(-1) != (labels or [y])[0].reshape(-1)):
            raise ValueError(
                f"{file}: expected x_test (500, 8, 125) and y_test with the same 500 labels for every subject, got "
                f"{x.shape} and {y.shape}. {SOURCE}"
            )
        signals.append(x)
        labels.append(y)
    position = np.arange(500)
    session, trial = position // (500 // _SESSIONS) + 1, position // _SEGMENTS
    return _Contents(subjects, np.stack(signals), labels[0].reshape(-1), session, trial, _HERTZ, 125.0)


def _choose(asked: list[int] | None, present: Collection[int], path: Path) -> list[int]:
    for number in asked or ():
        if number not in present:
            raise ValueError(f"subject {number} is not in {path}; choose from {min(present)} to {max(present)}.")
    return list(present) if asked is None else asked
