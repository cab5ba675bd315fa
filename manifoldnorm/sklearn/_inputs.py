"""What an estimator accepts: matrices or signals, real or complex, labels of any kind; errors that say what to do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from manifoldnorm.manifolds.cone import PositiveDefiniteCone
from manifoldnorm.nn import Covariance
from manifoldnorm.nn._domains import labels_of


@dataclass(frozen=True)
class Kind:
    """What the samples of a fit are: their number of channels, and whether they are signals, and complex."""

    channels: int
    signals: bool
    is_complex: bool

    def __str__(self) -> str:
        form = (
            f"signals (N, {self.channels}, time)" if self.signals else f"matrices (N, {self.channels}, {self.channels})"
        )
        return f"{'complex' if self.is_complex else 'real'} {form}"

    @property
    def field(self) -> str:
        """The field that matrices are over."""
        return "complex" if self.is_complex else "real"


def read(X: Any, name: str, fitted: Kind | None = None) -> tuple[Tensor, Kind]:
    """Return samples in double precision and their kind, which must be that of the fit."""
    if isinstance(X, Tensor):
        X = X.detach().cpu().resolve_conj()
        X = X.to(torch.complex128 if X.is_complex() else torch.float64).numpy()
    if np.iscomplexobj(X):  # scikit-learn refuses complex numbers
        array = np.array(X, dtype=np.complex128)
    else:
        options: Any = {"ensure_2d": False, "allow_nd": True, "ensure_all_finite": False}
        array = check_array(X, dtype=np.float64, copy=True, input_name="X", estimator=name, **options)
    if array.ndim != 3 or 0 in array.shape:
        advice = " One sample: X[None]. Reshape your data." if array.ndim < 3 else ""
        raise ValueError(
            f"{name}: X must hold at least one sample, matrices (samples, n, n) or signals (samples, channels, time), "
            f"got shape {array.shape}.{advice}"
        )
    kind = Kind(array.shape[1], array.shape[1] != array.shape[2], np.iscomplexobj(array))
    if fitted is not None:
        kind = _as_fitted(kind, fitted, name)
    bad = np.flatnonzero(~np.isfinite(array).all((1, 2)))
    if bad.size:
        raise ValueError(f"{name}: X contains NaN or infinity, first in sample {bad[0]}. Repair it or leave it out.")
    x = torch.from_numpy(array)
    return (x.to(torch.complex128) if kind.is_complex else x), kind


def _as_fitted(kind: Kind, fitted: Kind, name: str) -> Kind:
    if kind.channels != fitted.channels:
        raise ValueError(
            f"{name}: X has {kind.channels} features, but {name} is expecting {fitted.channels} features as input. "
            f"Pass the channels that it was fitted to."
        )
    if kind.signals != fitted.signals or (kind.is_complex and not fitted.is_complex):
        raise ValueError(f"{name}: X holds {kind}, but the fit saw {fitted}. Pass the same kind of data.")
    return fitted  # real numbers are complex ones too


def matrices(x: Tensor, kind: Kind, shrinkage: Any, name: str) -> Tensor:
    """Return the positive-definite matrices (N, n, n) of samples."""
    with torch.no_grad():
        covariances = Covariance(shrinkage)(x) if kind.signals else x
    PositiveDefiniteCone.check_point(covariances, f"{name}: {'covariances of X' if kind.signals else 'X'}")
    return covariances


def narrowed(x: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return matrices in the network's precision; those that are singular there are an error."""
    narrow = x.to(dtype.to_complex() if x.is_complex() else dtype)
    if dtype == torch.float32:
        try:
            PositiveDefiniteCone.check_point(narrow, f"{name}: X in single precision")
        except ValueError as error:
            raise ValueError(f"{error} Or compute in double precision: dtype='float64'.") from error
    return narrow


def check_parameters(estimator: Any, dtype: Any, name: str) -> None:
    """Raise unless an estimator can be fitted with these parameters here; the norm and the network check theirs."""
    for option, value, least in (("epochs", estimator.epochs, 1), ("batch_size", estimator.batch_size, 2)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}: {option} must be an integer of at least {least}, got {value!r}.")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: dtype must be 'float32' or 'float64', got {estimator.dtype!r}.")
    if not isinstance(estimator.adapt_unseen, (bool, np.bool_)):
        raise TypeError(f"{name}: adapt_unseen must be True or False, got {estimator.adapt_unseen!r}.")
    try:
        torch.empty(0, device=estimator.device)
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch raises for names and for missing devices
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name}: device {estimator.device!r} cannot be used on this machine ({reason}). Pass 'cpu', or the name "
            f"of a device that torch finds here."
        ) from error


def targets(y: Any, samples: int, name: str) -> np.ndarray[Any, Any]:
    """Return the labels (N,) of the samples."""
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None. Pass one label for each sample.")
    labels = column_or_1d(y.detach().cpu().numpy() if isinstance(y, Tensor) else y, warn=True)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name}: Input y contains NaN or infinity. Leave these samples out.")
    check_classification_targets(labels)
    if len(labels) != samples:
        raise ValueError(
            f"{name}: y has {len(labels)} labels, X has {samples} samples. Pass one label for each sample."
        )
    if len(set(labels.tolist())) < 2:
        raise ValueError(
            f"{name}: y holds only one class, {labels.tolist()[0]!r}. A classifier needs samples of at least two."
        )
    return labels


def domains(domain: Any, samples: int, name: str) -> Sequence[Hashable]:
    """Return one domain label per sample, from those or from the one label of all."""
    if isinstance(domain, (str, bytes)) or not isinstance(domain, Iterable) or getattr(domain, "ndim", 1) == 0:
        return labels_of([domain], f"{name}: domain") * samples
    labels = labels_of(domain, f"{name}: domain")
    if len(labels) != samples:
        whole = f" If {domain!r} is the one label of all samples: [{domain!r}] * {samples}."
        raise ValueError(
            f"{name}: domain has {len(labels)} labels, X has {samples} samples. Pass one label for each sample."
            f"{whole if isinstance(domain, tuple) else ''}"
        )
    return labels
