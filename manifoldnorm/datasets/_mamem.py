"""Real EEG: MAMEM SSVEP data set II as preprocessed for MAtt, in one compressed file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from ._reading import open_npz
from ._recordings import Recordings
from ._windows import as_tensor


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
        The file ``mamem_ssvep.npz``.
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

    References
    ----------
    V. Oikonomou et al., arXiv:1602.00904 (recordings); Y. Pan et al., "MAtt", NeurIPS 2022 (preprocessing, protocol).

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> train, val, test = datasets.mamem_ssvep("mamem_ssvep.npz", subject=1).split()  # doctest: +SKIP
    """
    file = open_npz(path)
    missing = {"X", "scale", "y", "session", "trial", "label_freq_hz", "fs"} - file.keys()
    if missing:
        raise ValueError(
            f"{path} is not the MAMEM file: it lacks {', '.join(sorted(missing))}. See load_npz for others."
        )
    total, segments = file["X"].shape[:2]
    numbers = [subject] if isinstance(subject, int) else list(range(1, total + 1) if subject is None else subject)
    for number in numbers:
        if not 1 <= number <= total:
            raise ValueError(f"subject {number} is not in {path}; choose from 1 to {total}.")
    index = np.array(numbers) - 1
    microvolts = file["X"][index] * file["scale"][index, None, None, None].astype(np.float64)
    owner = torch.from_numpy(index).repeat_interleave(segments) + 1
    columns = {name: torch.from_numpy(file[name].astype(np.int64)).repeat(len(index)) for name in ("session", "trial")}
    trials_each = int(file["trial"].max()) + 1
    segment = torch.arange(segments).repeat(len(index)) % (segments // trials_each)
    return Recordings(
        name="MAMEM SSVEP",
        x=as_tensor(microvolts.reshape(-1, *microvolts.shape[2:]), dtype),
        y=torch.from_numpy(file["y"].astype(np.int64)).repeat(len(index)),
        classes=tuple(f"{frequency:g} Hz" for frequency in file["label_freq_hz"].tolist()),
        kind="signals",
        groups={
            "subject": owner,
            "session": columns["session"],
            "trial": (owner - 1) * trials_each + columns["trial"],  # the same number never means two people
            "segment": segment,
        },
        unit="trial",
        protocol={"train": (1, 2, 3), "val": 4, "test": 5},
        sampling_rate=float(file["fs"]),
    )
