"""What a law is, how one is run, and the report of many."""

from __future__ import annotations

import math
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pickle import PicklingError
from typing import Any

import torch
from torch import Tensor

from manifoldnorm.testing.tolerances import tolerance_of

Residual = float | Tensor
LawFunction = Callable[[Any], Residual]

# what a faulty subject may raise inside a law; anything else is a fault of the suite and passes through
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    PicklingError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,
)


class LawAbsent(unittest.SkipTest):
    """Raised by `Law.assert_holds` where the subject says that it cannot do what the law is about.

    Test runners show it as a skip: absent is neither passed nor failed.
    """


@dataclass(frozen=True)
class Outcome:
    """One law on one subject.

    Attributes
    ----------
    law, subject : str
        What was tested and on what.
    verdict : {"ok", "FAILED", "absent", "ERROR"}
        A law is absent where the subject lacks the operation or the structure and says so.
    residual, tolerance : float
        The law holds if ``residual <= tolerance``; NaN and infinity never do.
    seed : int
        Reproduces the data.
    detail : str
        Why the law is absent, or what was raised.
    """

    law: str
    subject: str
    verdict: str
    residual: float
    tolerance: float
    seed: int
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the law was tried and does not hold."""
        return self.verdict in ("FAILED", "ERROR")

    def __str__(self) -> str:
        numbers = f"{self.residual:9.1e} {self.tolerance:9.1e}" if self.verdict in ("ok", "FAILED") else " " * 19
        line = f"{self.verdict:6}  {numbers}  {self.seed:4}  {self.law:32}  {self.subject}"
        return f"{line}  ({self.detail})" if self.detail else line


HEADER = f"{'':6}  {'residual':>9} {'tolerance':>9}  {'seed':>4}  {'law':32}  subject"


@dataclass(frozen=True)
class Law:
    """A named law about one subject, ready to run at any seed.

    Attributes
    ----------
    name, subject : str
        What is tested and on what.
    function : callable
        ``case -> residual``; raises NotImplementedError where the subject lacks the operation.
    case : callable
        ``seed -> case``: fresh data and a fresh copy of the subject.
    dtype : torch.dtype
        Chooses the column of the tolerance table.
    slow : bool
        Takes seconds rather than milliseconds.
    """

    name: str
    subject: str
    function: LawFunction
    case: Callable[[int], Any] = field(repr=False)
    dtype: torch.dtype = torch.float64
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"

    @property
    def statement(self) -> str:
        """The law in words."""
        return (self.function.__doc__ or "").strip().split("\n")[0]

    def run(self, seed: int = 0) -> Outcome:
        """Try the law on data made from ``seed``; a fault of the subject becomes an outcome, not an exception."""
        try:
            return self._judge(seed)
        except _FAULTS as error:
            return self._outcome("ERROR", math.nan, seed, f"{type(error).__name__}: {_first_line(error)}")

    def assert_holds(self, seed: int = 0) -> None:
        """Raise an AssertionError unless the law holds, `LawAbsent` where the subject cannot have it.

        Exceptions of the subject pass through, so a debugger stops where they were raised.
        """
        outcome = self._judge(seed)
        if outcome.verdict == "absent":
            raise LawAbsent(f"{self.name} is absent: {outcome.detail}")
        if outcome.failed:
            raise AssertionError(f"{self.statement}\n{HEADER}\n{outcome}")

    def _judge(self, seed: int) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # a mean that did not converge is a failure
            try:
                residual = float(self.function(self.case(seed)))
            except NotImplementedError as error:
                return self._outcome("absent", math.nan, seed, _first_line(error))
        holds = residual <= tolerance_of(self.name, self.dtype)
        return self._outcome("ok" if holds else "FAILED", residual, seed)

    def _outcome(self, verdict: str, residual: float, seed: int, detail: str = "") -> Outcome:
        return Outcome(self.name, self.subject, verdict, residual, tolerance_of(self.name, self.dtype), seed, detail)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:160]


@dataclass(frozen=True)
class Report:
    """The outcomes of several laws; prints as a table."""

    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether no law failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The laws that do not hold."""
        return tuple(o for o in self.outcomes if o.failed)

    @property
    def absent(self) -> tuple[Outcome, ...]:
        """The laws that the subject cannot have."""
        return tuple(o for o in self.outcomes if o.verdict == "absent")

    def assert_ok(self) -> None:
        """Raise an AssertionError that lists the failures, if there are any."""
        if self.failures:
            raise AssertionError("\n".join([HEADER, *map(str, self.failures)]))

    def summary(self) -> str:
        """Return one line with the counts."""
        failed, absent = len(self.failures), len(self.absent)
        return f"{len(self.outcomes) - failed - absent} hold, {failed} fail, {absent} absent"

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def __add__(self, other: Report) -> Report:
        return Report(self.outcomes + other.outcomes)

    def __str__(self) -> str:
        return "\n".join([HEADER, *map(str, self.outcomes), self.summary()])


def run_laws(laws: Sequence[Law], seed: int = 0) -> Report:
    """Run every law once at ``seed``."""
    return Report(tuple(law.run(seed) for law in laws))
