"""A user's own covariances or signals in one npz file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._reading import Array, asymmetry, classes_of, codes_of, definite, is_hermitian, numbers, open_npz
from ._recordings import Kind, Recordings
from ._windows import as_tensor

_COLUMNS = ("session", "subject", "trial")


def load_npz(
    path: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    shrinkage: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Recordings:
    """Load covariances or signals from one npz file.

    The file holds ``x`` (or ``X``), (N, n, n) or (N, channels, time), real or complex; ``y``, N labels, numbers or
    strings; and optionally ``session``, ``subject`` and ``trial``, N numbers or strings each.  Samples of one trial
    are never separated; ``groups``, if given in place of ``trial``, means the same.  Without either, each sample is
    its own trial.

    Parameters
    ----------
    path : path
        The file.
    kind : {"signals", "covariances"}, optional
        What ``x`` holds; by default square Hermitian matrices are covariances and everything else is signals.
    shrinkage : float
        For covariances: this times trace / n is added to the diagonal, which makes singular ones definite.
    dtype : torch.dtype
        Precision; complex data take the complex type of this precision.

    Returns
    -------
    Recordings

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not an npz file, lacks ``x`` or ``y``, if lengths disagree, values are not finite, or a
        covariance is not Hermitian positive definite.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from manifoldnorm import datasets
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.npz"
    >>> np.savez(file, x=np.stack([np.eye(3)] * 4), y=["left", "right"] * 2, session=[1, 1, 2, 2])
    >>> datasets.load_npz(file)
    Recordings('mine.npz', 4 covariances (3, 3) float64, 2 classes, groups: session, trial)
    """
    file = open_npz(path)
    key = next((key for key in ("x", "X") if key in file), None)
    if key is None or "y" not in file:
        raise ValueError(f"{path}: needs the arrays x (or X) and y, found {', '.join(file) or 'nothing'}.")
    x = numbers(file[key], f"{path}: {key}", samples=True)
    if x.ndim != 3:
        hint = " This looks like the MAMEM file: use mamem_ssvep." if "label_freq_hz" in file else ""
        raise ValueError(f"{path}: {key} must be (N, n, n) or (N, channels, time), got {x.shape}.{hint}")
    if "groups" in file and "trial" not in file:
        file["trial"] = file["groups"]
    columns = {column: file[column] for column in _COLUMNS if column in file}
    columns.setdefault("trial", np.arange(len(x)))
    for column, values in {"y": file["y"], **columns}.items():
        if values.size != len(x):
            found = f"shape {values.shape}" if values.ndim > 1 else f"{values.size} entries"
            raise ValueError(
                f"{path}: {column} has {found}, {key} has {len(x)} samples. Give one number or string per sample."
            )
    y, classes = classes_of(file["y"], f"{path}: y")
    groups: dict[str, Tensor] = {}
    names: dict[str, tuple[str, ...]] = {}
    for column, values in columns.items():
        groups[column], names[column] = codes_of(values, f"{path}: {column}")
    kind = kind or _guess_kind(x, f"{path}: {key}")
    if kind == "covariances":
        x = definite(x, shrinkage, lambda i: f"{path}: sample {i}")
    return Recordings(
        name=Path(path).name,
        x=as_tensor(x, dtype),
        y=y,
        classes=classes,
        kind=kind,
        groups=groups,
        unit="trial",
        group_names={column: values for column, values in names.items() if values},
    )


def _guess_kind(x: Array, where: str) -> Kind:
    """Square Hermitian matrices are covariances, other shapes signals; square without symmetry could be either."""
    if x.shape[1] != x.shape[2]:
        return "signals"
    if is_hermitian(x):
        return "covariances"
    raise ValueError(
        f"{where} is square, {x.shape}, but {asymmetry(x)}. Pass kind='signals' if these are as many channels as "
        "samples; else symmetrise the covariances, (x + x^H) / 2, or remove those that are wrong."
    )
