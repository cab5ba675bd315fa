"""The data object that every loader returns, and its splits by whole sessions, runs or trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ._units import check_units, deal_units, distinct

Kind = Literal["signals", "covariances"]
Values = int | str | Iterable[int | str]  # group values: codes, or names where the column has names
Part = Values | Mapping[str, Values]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recordings:
    """Labelled signals or covariances with the session, subject and trial of each sample.

    It indexes like a torch data set (``data[i]`` is ``(x[i], y[i])``), so a ``DataLoader`` takes it as it is.

    Parameters
    ----------
    name : str
        Name used in messages.
    x : Tensor, shape (N, channels, time) or (N, n, n)
        Signals, or Hermitian positive definite covariances; real or complex.
    y : Tensor, shape (N,), int64
        Class of each sample, an index into ``classes``.
    classes : tuple of str
        Names of the classes.
    kind : {"signals", "covariances"}
        What ``x`` holds.
    groups : mapping of str to Tensor, shape (N,), int64
        Columns that say where a sample comes from, for example ``session``, ``subject``, ``trial``.
    unit : str
        The column of ``groups`` that no split may cut: samples that share its value are alike.
    group_names : mapping of str to tuple of str, optional
        Names of the values 0, 1, ... of a column.
    protocol : mapping, optional
        The parts of the usual split: ``train``, ``val`` and ``test``, each as for :meth:`split`.
    sampling_rate : float, optional
        Samples per second of the signals, where it is known.

    Raises
    ------
    ValueError
        If shapes, labels or columns do not fit each other.

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> data = datasets.radar(n_samples=60)
    >>> data
    Recordings('radar', 60 covariances (20, 20) complex128, 3 classes, groups: trial)
    >>> train, val, test = data.random_split(val=0.25, test=0.25, seed=0)
    >>> len(train), len(val), len(test)
    (30, 15, 15)
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    kind: Kind
    groups: Mapping[str, Tensor]
    unit: str
    group_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    protocol: Mapping[str, Part] | None = None
    sampling_rate: float | None = None

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.kind not in ("signals", "covariances"):
            raise ValueError(f"{self.name}: kind must be 'signals' or 'covariances', got {self.kind!r}.")
        if self.x.ndim != 3 or (self.kind == "covariances" and self.x.shape[1] != self.x.shape[2]):
            expected = "(N, channels, time)" if self.kind == "signals" else "(N, n, n)"
            raise ValueError(f"{self.name}: x must be {expected} for {self.kind}, got {tuple(self.x.shape)}.")
        for column, values in {"y": self.y, **self.groups}.items():
            if values.shape != (n,):
                raise ValueError(f"{self.name}: {column} must be ({n},), one per sample, got {tuple(values.shape)}.")
        if n and (int(self.y.min()) < 0 or int(self.y.max()) >= len(self.classes)):
            raise ValueError(
                f"{self.name}: y must lie in 0..{len(self.classes) - 1}, one of {len(self.classes)} classes."
            )
        if self.unit not in self.groups:
            raise ValueError(f"{self.name}: unit {self.unit!r} is no column of groups ({', '.join(self.groups)}).")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __repr__(self) -> str:
        dtype = str(self.x.dtype).removeprefix("torch.")
        return (
            f"Recordings({self.name!r}, {len(self)} {self.kind} {tuple(self.x.shape[1:])} {dtype}, "
            f"{len(self.classes)} classes, groups: {', '.join(self.groups)})"
        )

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Recordings:
        """Return a copy of that precision (complex data stay complex) on that device."""
        if dtype is not None and self.x.is_complex():
            dtype = dtype.to_complex()
        groups = {column: values.to(device) for column, values in self.groups.items()}
        return dataclasses.replace(self, x=self.x.to(device, dtype), y=self.y.to(device), groups=groups)

    def real_part(self) -> Recordings:
        """Return the real parts of complex covariances, which are symmetric positive definite but lose the phases.

        Raises
        ------
        ValueError
            If the recordings are signals: take the covariance first.
        TypeError
            If the covariances are real already.
        """
        if self.kind != "covariances":
            raise ValueError(f"{self.name}: real_part is for covariances, got signals. Take their covariances first.")
        if not self.x.is_complex():
            raise TypeError(f"{self.name}: real_part needs complex covariances, got {self.x.dtype}.")
        return dataclasses.replace(self, x=self.x.real.contiguous())

    def mask(self, **columns: Values) -> Tensor:
        """Say which samples have the given group values in every given column.

        Parameters
        ----------
        **columns : int, str or several of them
            Accepted values per column: codes, or names where ``group_names`` has the column.

        Returns
        -------
        Tensor, shape (N,), bool

        Raises
        ------
        ValueError
            If a column or a value does not occur.

        Examples
        --------
        >>> from manifoldnorm import datasets
        >>> int(datasets.radar(n_samples=6).mask(trial=[0, 5]).sum())
        2
        """
        chosen = torch.ones(len(self), dtype=torch.bool, device=self.y.device)
        for column, values in columns.items():
            chosen &= torch.isin(self._column(column), self._codes(column, values))
        return chosen

    def subset(self, index: Tensor) -> Recordings:
        """Return the samples that a mask (N,) or indices (K,) choose; the whole-unit rule stays with the caller."""
        groups = {column: values[index] for column, values in self.groups.items()}
        return dataclasses.replace(self, x=self.x[index], y=self.y[index], groups=groups)

    def split(
        self, train: Part | None = None, val: Part | None = None, test: Part | None = None, *, by: str = "session"
    ) -> Split:
        """Split by whole sessions (or another column); without arguments, as the data set's protocol says.

        Parameters
        ----------
        train, val, test : int, str, several of them, or mapping of column to those
            Values of the column ``by`` that go to this part; a mapping such as
            ``{"session": "mg_s1", "repetition": range(5)}`` takes the samples that meet every condition.
        by : str, default "session"
            The column that plain values refer to.

        Returns
        -------
        Split
            The parts ``train``, ``val`` and ``test``; samples in none of them are left out.

        Raises
        ------
        ValueError
            If a part is missing, empty or unknown, if parts overlap, or if the split would cut a trial or run.

        Examples
        --------
        >>> from manifoldnorm import datasets
        >>> data = datasets.radar(n_samples=6)
        >>> [len(part) for part in data.split(train=range(4), val=4, test=5, by="trial")]
        [4, 1, 1]
        """
        if train is None and val is None and test is None:
            if self.protocol is None:
                raise ValueError(f"{self.name} has no usual split: pass train, val and test, or use random_split().")
            return self.split(**self.protocol, by=by)
        if train is None or val is None or test is None:
            raise ValueError(f"{self.name}: pass all of train, val and test; early stopping needs its own part.")
        parts = {"train": train, "val": val, "test": test}
        masks = {part: self.mask(**(v if isinstance(v, Mapping) else {by: v})) for part, v in parts.items()}
        return self._take(masks)

    def random_split(self, val: float = 0.25, test: float = 0.25, *, seed: int = 0) -> Split:
        """Split whole units (trials, runs) at random, with the same share of every class in each part.

        Parameters
        ----------
        val, test : float
            Share of the units of each class, at least one where a class has three; the rest is the training part.
        seed : int
            Seed of the split's own generator.

        Returns
        -------
        Split

        Raises
        ------
        ValueError
            If the shares are not positive with a sum below 1, or a part would be empty.

        Examples
        --------
        >>> from manifoldnorm import datasets
        >>> data = datasets.radar(n_samples=12)
        >>> [part.y.bincount().tolist() for part in data.random_split()]
        [[2, 2, 2], [1, 1, 1], [1, 1, 1]]
        """
        if not (val > 0 and test > 0 and val + test < 1):
            raise ValueError(f"val and test must be positive shares with a sum below 1, got val={val}, test={test}.")
        check_units(self._column(self.unit), self.y, self.name, self.unit)
        part = deal_units(self._column(self.unit), self.y, (val, test), seed)
        return self._take({name: part == i for i, name in enumerate(Split._fields)})

    def default_split(self, *, seed: int = 0) -> Split:
        """Split by the protocol; else the last session tests and the one before validates; else at random by units.

        With two sessions the last one tests and a quarter of the units of the first one validates.

        Raises
        ------
        ValueError
            If a part would be empty, or if a unit runs across sessions.

        Examples
        --------
        >>> from manifoldnorm import datasets
        >>> len(datasets.radar(n_samples=12).default_split().test)
        3
        """
        if self.protocol is not None:
            return self.split()
        sessions = distinct(self.groups["session"]) if "session" in self.groups else []
        if len(sessions) >= 3:
            return self.split(train=sessions[:-2], val=sessions[-2], test=sessions[-1])
        if len(sessions) == 2:
            first = self.mask(session=sessions[0])
            part = torch.full_like(self.y, 2)
            part[first] = deal_units(self._column(self.unit)[first], self.y[first], (0.25,), seed)
            return self._take({name: part == i for i, name in enumerate(Split._fields)})
        return self.random_split(seed=seed)

    def _column(self, column: str) -> Tensor:
        if column not in self.groups:
            raise ValueError(f"{self.name} has no column {column!r}; its columns are {', '.join(self.groups)}.")
        return self.groups[column]

    def _codes(self, column: str, values: Values) -> Tensor:
        present = distinct(self._column(column))
        names = self.group_names.get(column, ())
        known = {name: code for code, name in enumerate(names)} | {code: code for code in present}
        codes = []
        for value in [values] if isinstance(values, (int, str)) else values:
            if known.get(value) not in present:
                options = [names[code] for code in present] if names else present
                raise ValueError(f"{self.name}: no sample has {column} {value!r}; choose from {options}.")
            codes.append(known[value])
        return torch.tensor(codes, dtype=torch.int64, device=self.y.device)

    def _take(self, masks: Mapping[str, Tensor]) -> Split:
        """Check that no sample or unit is in two parts and that no part is empty, then cut."""
        owner: dict[int, str] = {}
        for part, chosen in masks.items():
            if not chosen.any():
                raise ValueError(f"{self.name}: the {part} part would be empty. Give it more {self.unit}s or data.")
            for unit in distinct(self._column(self.unit)[chosen]):
                if unit in owner:
                    raise ValueError(
                        f"{self.name}: {self.unit} {unit} would be cut, it lies in both {owner[unit]} and {part}. "
                        f"Samples of one {self.unit} are alike: give whole sessions or {self.unit}s to each part."
                    )
                owner[unit] = part
        return Split(**{part: self.subset(chosen) for part, chosen in masks.items()})


class Split(NamedTuple):
    """The three disjoint parts of a data set: ``train``, ``val`` (early stopping) and ``test``."""

    train: Recordings
    val: Recordings
    test: Recordings
