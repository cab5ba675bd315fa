"""Real correlation matrices: the brain networks that the geomstats distribution carries, read without importing it."""

from __future__ import annotations

import numpy as np
import torch

from ._geomstats import find_file
from ._recordings import Recordings

REGIONS = 28


def connectomes(*, dtype: torch.dtype = torch.float64) -> Recordings:
    """Load functional brain networks of 86 people: correlations of 28 networks at rest, 46 controls and 40 patients.

    Entry (i, j) is the correlation over time of the fMRI signals of networks i and j, independent components of a whole
    group.  Every matrix has full rank, a unit diagonal and entries as the file has them, to 5 digits.  The column
    ``subject`` counts the people and is named by the file's identifiers.

    Parameters
    ----------
    dtype : torch.dtype
        Precision of the result.

    Returns
    -------
    Recordings
        ``x`` of shape (86, 28, 28); ``y`` is 1 for a patient with schizophrenia.

    Raises
    ------
    ModuleNotFoundError
        If the geomstats distribution, which carries the files, is not installed.
    ValueError
        If the two files are not about the same people, or not of 28 networks.

    Notes
    -----
    The files ``train_FNC.csv`` and ``train_labels.csv`` are the training part of the MLSP 2014 challenge; they hold the
    upper triangle row by row.  geomstats' own ``load_connectomes`` halves every correlation.  86 matrices are few:
    the accuracy of a cross-validation differs by 2 to 3 points from one repetition to the next.

    References
    ----------
    Silva et al. 2014, "The tenth annual MLSP competition: schizophrenia classification challenge".

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> datasets.connectomes()  # doctest: +SKIP
    Recordings('connectomes', 86 covariances (28, 28) float64, 2 classes, groups: subject)
    """
    what = "the connectomes are"
    files = [find_file(name, what) for name in ("train_FNC.csv", "train_labels.csv")]
    values, labels = (np.loadtxt(file, delimiter=",", skiprows=1) for file in files)
    if values.shape[1] != 1 + REGIONS * (REGIONS - 1) // 2 or not np.array_equal(values[:, 0], labels[:, 0]):
        raise ValueError(
            f"{files[0]} and {files[1].name} must hold the same people in the same order, and the correlations of "
            f"{REGIONS} networks; the installed geomstats distribution has other files. Install version 2.8."
        )
    x = torch.eye(REGIONS, dtype=torch.float64).repeat(len(values), 1, 1)
    i, j = torch.triu_indices(REGIONS, REGIONS, 1)
    x[:, i, j] = x[:, j, i] = torch.from_numpy(values[:, 1:])
    return Recordings(
        name="connectomes",
        x=x.to(dtype),
        y=torch.from_numpy(labels[:, 1].astype(np.int64)),
        classes=("control", "patient"),
        kind="covariances",
        groups={"subject": torch.arange(len(values))},
        unit="subject",
        group_names={"subject": tuple(str(int(number)) for number in values[:, 0])},
    )
