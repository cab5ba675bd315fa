"""The suite notices deliberate faults: the kill rate over what a law can see is one."""

from __future__ import annotations

from manifoldnorm.testing.catalogue import MANIFOLDS, NORMS
from manifoldnorm.testing.faults_geometries import GEOMETRY_FAULTS
from manifoldnorm.testing.mutants import all_mutants, run_mutants
from manifoldnorm.testing.tolerances import TOLERANCES


def test_enough_mutants() -> None:
    mutants = all_mutants()
    assert len({m.name for m in mutants}) == len(mutants)
    assert sum(not m.undetectable for m in mutants) >= 20
    assert all(m.subject in MANIFOLDS or m.subject in NORMS for m in mutants)


def test_faults_of_the_geometries_name_their_laws() -> None:
    assert len(GEOMETRY_FAULTS) >= 25
    assert all(m.undetectable or m.law.split("[")[0] in TOLERANCES for m in GEOMETRY_FAULTS)


def test_kill_rate() -> None:
    report = run_mutants()
    assert report.survivors == (), str(report)
    assert report.kill_rate == 1.0
    # what is called undetectable must survive, or the reason given for it is wrong
    assert {m.name for m, killer in report.results if killer is None} == {
        m.name for m in all_mutants() if m.undetectable
    }
    # a mutant that merely crashes would say nothing about the tolerances
    crashed = {m.name: k.detail for m, k in report.results if k is not None and k.verdict == "ERROR"}
    assert list(crashed) == ["mean not iterated"]
    assert crashed["mean not iterated"].startswith("RuntimeWarning")  # not converged: laws treat it as an error


def test_changes_are_undone() -> None:
    mutant = next(m for m in all_mutants() if m.name == "missing factor in log")
    killer = mutant.killer()
    assert killer is not None
    (law,) = [law for law in mutant.laws() if law.name == killer.law]
    law.assert_holds()
