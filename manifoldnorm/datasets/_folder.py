"""A user's own covariances or signals in a folder of npy files named by their class."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._reading import Array, classes_of, definite, is_hermitian, load_npy, natural, numbers
from ._recordings import Kind, Recordings
from ._windows import as_tensor, covariances, windows

_USUAL_ORDER = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


def load_folder(
    path: str | os.PathLike[str],
    *,
    window: int | None = None,
    hop: int | None = None,
    shrinkage: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Recordings:
    """Load a folder of ``<anything>_<label>.npy`` files, real or complex; sub-folders, if any, are the sessions.

    The arrays of one folder are all of one sort:

    - covariances (n, n): one sample each;
    - signals (channels, time): one sample each, of equal length, or with ``window`` cut into samples
      (channels, window) that share the file's ``trial``;
    - radar signals (time,), of any length: the covariance (window, window) of the windows of each file, which needs
      ``window`` (Brooks et al., NeurIPS 2019, take ``window=20, hop=10``).

    The columns are ``trial``, the number of the file (never cut), and ``session`` where there are sub-folders, in
    natural order but train, val, test as these words say.

    Parameters
    ----------
    path : path
        The folder.
    window, hop : int, optional
        Samples per window and from window to window; ``hop=None`` is ``window``.
    shrinkage : float
        This times trace / n is added to the diagonal of covariances, which makes singular ones definite.
    dtype : torch.dtype
        Precision; complex data take the complex type of this precision.

    Returns
    -------
    Recordings

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it has no npy file.
    ValueError
        If a name has no label, arrays differ in sort or size, are too short or not finite, or a covariance is not
        Hermitian positive definite; the message names the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from manifoldnorm import datasets
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for i, label in enumerate(["drone", "bird", "drone"]):
    ...     np.save(folder / f"{i}_{label}.npy", np.eye(4) * (i + 1))
    >>> datasets.load_folder(folder).classes
    ('bird', 'drone')
    """
    files, sessions, names = _list_folder(Path(path))
    arrays = [numbers(load_npy(file), str(file)) for file in files]
    kind = _kind(arrays, files, window)
    if arrays[0].ndim == 2 and kind == "covariances":
        stacked = definite(np.stack(arrays), shrinkage, lambda i: str(files[i]))
        pieces = list(as_tensor(stacked, dtype)[:, None])
    elif kind == "covariances":
        pieces = [
            _radar_covariance(a, file, window or 0, hop, shrinkage, dtype)
            for a, file in zip(arrays, files, strict=True)
        ]
    else:
        pieces = [_cut(a, file, window, hop, dtype) for a, file in zip(arrays, files, strict=True)]
    y, classes = classes_of(np.array([_label(file) for file in files]), f"{path}: labels")
    trial = torch.arange(len(pieces)).repeat_interleave(torch.tensor([len(piece) for piece in pieces]))
    return Recordings(
        name=Path(path).resolve().name,
        x=torch.cat(pieces),
        y=y[trial],
        classes=classes,
        kind=kind,
        groups={"trial": trial} | ({"session": torch.tensor(sessions)[trial]} if names else {}),
        unit="trial",
        group_names={"session": names} if names else {},
    )


def _list_folder(folder: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Files in natural order, the session number of each, and the names of the sessions (none without sub-folders)."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Give the folder that holds <anything>_<label>.npy files.")
    top = _npy_files(folder)
    inner = {sub: files for sub in folder.iterdir() if sub.is_dir() and (files := _npy_files(sub))}
    if top and inner:
        raise ValueError(
            f"{folder}: npy files both in the folder and in its sub-folders ({', '.join(sub.name for sub in inner)}). "
            "Put every file into a sub-folder per session, or none."
        )
    if not top and not inner:
        raise FileNotFoundError(f"{folder}: no npy file. Save one array per sample as <anything>_<label>.npy.")
    if top:
        return top, [0] * len(top), ()
    subs = sorted(inner, key=lambda sub: (_USUAL_ORDER.get(sub.name.lower(), -1), natural(sub.name)))
    files = [file for sub in subs for file in inner[sub]]
    sessions = [number for number, sub in enumerate(subs) for _ in inner[sub]]
    return files, sessions, tuple(sub.name for sub in subs)


def _npy_files(folder: Path) -> list[Path]:
    found = [file for file in folder.glob("*.npy") if not file.name.startswith(".")]
    return sorted(found, key=lambda file: natural(file.name))


def _label(file: Path) -> str:
    """Return what stands after the last underscore of the name."""
    _, underscore, label = file.stem.rpartition("_")
    if not underscore or not label:
        raise ValueError(
            f"{file}: the name has no label. Name files <anything>_<label>.npy, for example 0001_rest.npy."
        )
    return label


def _kind(arrays: list[Array], files: list[Path], window: int | None) -> Kind:
    """Say what the arrays are, after checking that they are all of one sort and size."""
    first = arrays[0]
    if first.ndim not in (1, 2):
        raise ValueError(f"{files[0]}: an array must be (n, n), (channels, time) or (time,), got {first.shape}.")
    if first.ndim == 1 and window is None:
        raise ValueError(f"{files[0]}: a signal of one channel needs a window, for radar window=20, hop=10.")
    covariance = first.ndim == 2 and _is_covariance(first, files[0], window)
    for array, file in zip(arrays, files, strict=True):
        sizes = slice(None) if covariance or window is None else slice(0, first.ndim - 1)
        if array.ndim != first.ndim or array.shape[sizes] != first.shape[sizes]:
            remedy = "Pass window=... to cut signals of different length." if array.ndim == 2 and not covariance else ""
            raise ValueError(
                f"{file}: shape {array.shape} does not fit {first.shape} of {files[0].name}. {remedy}".strip()
            )
        if covariance and not is_hermitian(array):
            raise ValueError(f"{file}: not Hermitian, but {files[0].name} is. Symmetrise it or remove it.")
    return "covariances" if covariance or first.ndim == 1 else "signals"


def _is_covariance(array: Array, file: Path, window: int | None) -> bool:
    square = array.shape[0] == array.shape[1]
    if square and is_hermitian(array):
        if window is not None:
            raise ValueError(f"{file}: window={window} is for signals, but this is a covariance. Leave window out.")
        return True
    if square and window is None:
        raise ValueError(
            f"{file}: square, {array.shape}, but not Hermitian. Symmetrise the covariance, or pass "
            f"window={array.shape[1]} if this is a signal of as many channels as samples."
        )
    return False


def _cut(array: Array, file: Path, window: int | None, hop: int | None, dtype: torch.dtype) -> Tensor:
    """Windows of one file's signal, (number of windows, channels, window)."""
    signal = as_tensor(array, dtype)
    with _naming(file):
        return signal[None] if window is None else windows(signal, window, hop).transpose(0, 1)


def _radar_covariance(
    array: Array, file: Path, window: int, hop: int | None, shrinkage: float, dtype: torch.dtype
) -> Tensor:
    """Covariance of the windows of one file's signal, (1, window, window)."""
    with _naming(file):
        covariance = covariances(windows(as_tensor(array, torch.float64), window, hop).mT, shrinkage)
    return as_tensor(definite(covariance[None].numpy(), 0.0, lambda i: str(file)), dtype)


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the file's name before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
