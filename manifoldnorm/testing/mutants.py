"""Deliberate faults, planted one at a time, that the laws must notice.

No file changes: a mutant is a context manager that swaps a method or a function of the package while its subject is
built and tested. ``python -m manifoldnorm.testing --mutants`` prints which law killed which mutant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from manifoldnorm.linalg import backend
from manifoldnorm.testing.catalogue import MANIFOLDS, NORMS
from manifoldnorm.testing.checks import laws_of, laws_of_norm
from manifoldnorm.testing.laws import Law, Outcome

Change = Callable[[], AbstractContextManager[Any]]


def swap(*replacements: tuple[Any, str, Any]) -> Change:
    """Return a context-manager factory that replaces attributes ``(owner, name, new)`` and puts them back."""

    @contextlib.contextmanager
    def change() -> Any:
        with contextlib.ExitStack() as stack:
            for owner, name, new in replacements:
                stack.enter_context(mock.patch.object(owner, name, new))
            yield

    return change


@dataclass(frozen=True)
class Mutant:
    """A fault and the subject on which it shows.

    Attributes
    ----------
    name : str
        Short name.
    fault : str
        What is wrong, in words.
    subject : str
        A name of the catalogue.
    change : callable
        Returns a context manager within which the package has the fault.
    undetectable : str
        Why no law can see it: it computes the same function, or a consistent geometry at another scale; else empty.
    dtype : torch.dtype
        The precision in which it shows.
    law : str
        The law that has to notice, default any.
    """

    name: str
    fault: str
    subject: str
    change: Change
    undetectable: str = ""
    dtype: torch.dtype = torch.float64
    law: str = ""

    def laws(self) -> list[Law]:
        """Return the laws that may notice; built inside the change, so that constructors are mutated too."""
        if self.subject in MANIFOLDS:
            laws = laws_of(MANIFOLDS[self.subject](), name=self.subject, dtype=self.dtype)
        else:
            make, symmetries = NORMS[self.subject]
            laws = laws_of_norm(make, symmetries=symmetries, name=self.subject, dtype=self.dtype)
        return [law for law in laws if self.law in ("", law.name)]

    def killer(self, seed: int = 0) -> Outcome | None:
        """Return the outcome of the first law that fails under the fault, None if all hold.

        Without the compiled kernels: the faults are planted in the formulas that these replace.
        """
        with backend("torch"), self.change():
            for law in self.laws():
                outcome = law.run(seed)
                if outcome.failed:
                    return outcome
        return None


@dataclass(frozen=True)
class MutationReport:
    """Mutants and what killed them; prints as a table with the kill rate."""

    results: tuple[tuple[Mutant, Outcome | None], ...]

    @property
    def survivors(self) -> tuple[Mutant, ...]:
        """Mutants that a law should have noticed and none did."""
        return tuple(m for m, killer in self.results if killer is None and not m.undetectable)

    @property
    def kill_rate(self) -> float:
        """The share of the detectable mutants that were killed."""
        detectable = [killer for m, killer in self.results if not m.undetectable]
        return sum(killer is not None for killer in detectable) / max(len(detectable), 1)

    @property
    def ok(self) -> bool:
        """Whether every detectable mutant was killed and every undetectable one survived, as its reason says."""
        return not self.survivors and all(killer is None for m, killer in self.results if m.undetectable)

    def __str__(self) -> str:
        lines = []
        for mutant, killer in self.results:
            if killer is not None:
                how = f"{killer.verdict.lower()} {killer.law} ({killer.residual:.1e})"
            else:
                how = f"SURVIVED{': ' + mutant.undetectable if mutant.undetectable else ''}"
            lines.append(f"{mutant.name:34} {mutant.subject:36} {how}")
        detectable = sum(not m.undetectable for m, _ in self.results)
        lines.append(
            f"killed {round(self.kill_rate * detectable)} of {detectable} detectable mutants; "
            f"{len(self.results) - detectable} cannot be seen by a law"
        )
        return "\n".join(lines)


def all_mutants() -> tuple[Mutant, ...]:
    """Return every mutant: faults of geometries, of decompositions and means, and of layers."""
    from manifoldnorm.testing.faults_geometries import GEOMETRY_FAULTS
    from manifoldnorm.testing.faults_layers import LAYER_FAULTS
    from manifoldnorm.testing.faults_manifolds import MANIFOLD_FAULTS
    from manifoldnorm.testing.faults_numerics import NUMERICS_FAULTS
    from manifoldnorm.testing.faults_statistics import STATISTICS_FAULTS
    from manifoldnorm.testing.faults_structures import STRUCTURE_FAULTS

    return MANIFOLD_FAULTS + GEOMETRY_FAULTS + STRUCTURE_FAULTS + NUMERICS_FAULTS + LAYER_FAULTS + STATISTICS_FAULTS


def run_mutants(mutants: Sequence[Mutant] | None = None, *, seed: int = 0, names: Sequence[str] = ()) -> MutationReport:
    """Plant each fault in turn and report which law notices it.

    Parameters
    ----------
    mutants : sequence of Mutant, optional
        Default `all_mutants`.
    seed : int
        Of the laws.
    names : sequence of str
        Only mutants whose name or subject contains one of these.
    """
    chosen = [
        m
        for m in (all_mutants() if mutants is None else mutants)
        if not names or any(n.lower() in f"{m.name} {m.subject}".lower() for n in names)
    ]
    return MutationReport(tuple((m, m.killer(seed)) for m in chosen))
