"""Reading a user's arrays, and the checks whose messages name file, sample, cause and remedy."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def open_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read every array of an npz file."""
    file = _load(path)
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path}: a single array, not an npz file. Write it with numpy.savez(path, x=..., y=...).")
    with file:
        try:
            return {key: file[key] for key in file.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: unreadable ({error}). Save plain arrays with numpy.savez.") from error


def load_npy(path: Path) -> Array:
    """Read one npy file."""
    array = _load(path)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(
            f"{path}: several arrays in a file named npy. Save one array with numpy.save, or use load_npz."
        )
    return array


def load_mat(path: Path) -> dict[str, Array]:
    """Read every array of a MATLAB file."""
    from scipy import io

    try:
        arrays: dict[str, Array] = io.loadmat(path)
    except (ValueError, OSError, NotImplementedError, io.matlab.MatReadError) as error:
        raise ValueError(f"{path}: not a readable MATLAB file ({error}). Copy or download it again.") from error
    return arrays


def _load(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Check the path; relative ones start at {Path.cwd()}.")
    with Path(path).open("rb") as file:
        start = file.read(6)
    if not start.startswith((b"PK", b"\x93NUMPY")):
        what = "empty" if not start else "neither an npz nor an npy file"
        raise ValueError(f"{path}: {what}. Write it with numpy.savez(path, x=..., y=...) or, one array, numpy.save.")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: damaged or cut off. Write it again with numpy.savez(path, x=..., y=...).")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged or cut off ({error}). Write it again, with numpy.save or savez.") from error


def numbers(x: Array, where: str, *, samples: bool = False) -> Array:
    """Return ``x`` if it holds finite numbers; ``samples`` says that its first axis counts samples."""
    if x.dtype.kind not in "iufc":
        raise ValueError(f"{where} holds {x.dtype}, not numbers. Convert it to float or complex.")
    if x.size == 0:
        raise ValueError(f"{where} is empty, shape {x.shape}. Remove it or save the data again.")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        sample = f": sample {place[0]}" if samples else ""
        rest = f"; {count - 1} more are not finite" if (count := len(np.unique(bad[:, 0]))) > 1 and samples else ""
        raise ValueError(
            f"{where}{sample} is not finite at index {place} ({x[place]}{rest}). Remove that sample or repair it."
        )
    return x


def is_hermitian(x: Array) -> bool:
    """Whether square matrices (..., n, n) equal their conjugate transpose up to rounding."""
    return not bool(np.any(_asymmetric(x)))


def asymmetry(x: Array) -> str:
    """Say which of the matrices (N, n, n) is not Hermitian, and where it is the furthest from that."""
    i = int(np.flatnonzero(_asymmetric(x))[0])
    gap = np.abs(x[i] - np.conj(x[i].T))
    j, k = (int(place) for place in np.unravel_index(int(np.argmax(gap)), gap.shape))
    word = "Hermitian" if np.iscomplexobj(x) else "symmetric"
    return f"sample {i} is not {word} ([{j}, {k}] is {x[i, j, k]:.6g}, [{k}, {j}] is {x[i, k, j]:.6g})"


def _asymmetric(x: Array) -> Array:
    gap = np.abs(x - np.conj(np.swapaxes(x, -1, -2))).max(axis=(-1, -2))
    return np.asarray(gap > 100 * _eps(x) * np.abs(x).max(axis=(-1, -2)))


def definite(x: Array, shrinkage: float, where: Callable[[int], str]) -> Array:
    """Return covariances (N, n, n), symmetrised and shrunk by ``shrinkage`` times trace / n, if all are definite."""
    if not 0 <= shrinkage < float("inf"):
        raise ValueError(f"shrinkage must be a finite number of at least 0, got {shrinkage}.")
    eps, n = _eps(x), x.shape[-1]
    for i, matrix in enumerate(x):
        if not is_hermitian(matrix):
            raise ValueError(f"{where(i)} is not Hermitian. Symmetrise it, or pass kind='signals' if it is a signal.")
    x = x.astype(np.result_type(x.dtype, np.float64))
    x = (x + np.conj(np.swapaxes(x, -1, -2))) / 2
    x = x + shrinkage * (np.trace(x, axis1=-2, axis2=-1).real / n)[:, None, None] * np.eye(n)
    eigenvalues = np.linalg.eigvalsh(x)
    singular = np.flatnonzero(eigenvalues[:, 0] <= eps * np.abs(eigenvalues[:, -1]))
    if len(singular):
        i = int(singular[0])
        low, high = eigenvalues[i, 0], eigenvalues[i, -1]
        remedy = "Pass shrinkage=1e-3, reduce the rank, or use more samples than channels."
        if low < -1e-3 * abs(high):  # far beyond rounding
            remedy = "No covariance has negative eigenvalues: look at how it was made, or remove it."
        elif high <= 0:
            remedy = "It is zero: remove it, or look at how it was made."
        raise ValueError(
            f"{where(i)} is not positive definite (smallest eigenvalue {low:.1e}, largest {high:.1e}). {remedy}"
        )
    return x


def classes_of(labels: Array, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Codes of labels and the class names in natural order."""
    codes, names = codes_of(labels, where)
    if names:
        return codes, names
    values, inverse = torch.unique(codes, return_inverse=True)
    return inverse, tuple(str(value) for value in values.tolist())


def codes_of(values: Array, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Integers as they are, without names; strings as numbers into their names in natural order."""
    flat = values.reshape(-1)
    if flat.dtype.kind in "US":
        texts = flat.astype(str).tolist()
        names = tuple(sorted(set(texts), key=natural))
        number = {name: i for i, name in enumerate(names)}
        return torch.tensor([number[text] for text in texts]), names
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        i = int(np.flatnonzero(~np.isfinite(flat))[0])
        raise ValueError(
            f"{where}: sample {i} has no label ({flat[i]}). Remove it, or give it the number of its class."
        )
    if flat.dtype.kind not in "iufb" or not np.array_equal(flat, np.round(flat)):
        raise ValueError(f"{where} must hold whole numbers or strings, got {flat.dtype}. Give each class its number.")
    return torch.from_numpy(flat.astype(np.int64)), ()


def natural(text: str) -> list[str | int]:
    """Sort key by which "s2" comes before "s10"."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+)", text))]


def _eps(x: Array) -> float:
    return float(np.finfo(x.dtype if x.dtype.kind in "fc" else np.float64).eps)
