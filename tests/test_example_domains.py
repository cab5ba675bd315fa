"""The example of domain norms as a user runs it: unseen sessions stay unseen, outputs, resuming bit for bit, errors."""

import csv
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import manifoldnorm as mn

pytest.importorskip("matplotlib", reason="needs the extra demo")
pytest.importorskip("tqdm", reason="needs the extra demo")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAMEM = EXAMPLES.parents[1] / "shared" / "data" / "mamem_ssvep.npz"


def _emg() -> bool:
    try:
        mn.datasets.emg_gestures(window=1000)
    except (ModuleNotFoundError, FileNotFoundError):
        return False
    return True


needs_emg = pytest.mark.skipif(not _emg(), reason="needs the file of the geomstats distribution")
needs_mamem = pytest.mark.skipif(not MAMEM.is_file(), reason="../shared/data/mamem_ssvep.npz is absent")


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module
    sys.path.remove(str(EXAMPLES))


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@needs_emg
def test_unseen_sessions_are_not_in_training(load: Any) -> None:
    folds, data = load("_domains.folds"), mn.datasets.emg_gestures()
    sessions = folds.emg_sessions(None, False)
    assert [fold.name for fold in sessions] == ["mg_s1", "mg_s2", "rr_s1", "rr_s2"]
    for number, fold in enumerate(sessions):
        left_out = data.mask(session=number)
        unit = data.x[~left_out].diagonal(dim1=-2, dim2=-1).mean()
        assert torch.equal(fold.test[0], data.x[left_out] / unit) and torch.equal(fold.test[1], data.y[left_out])
        assert len(fold.train[0]) == int((~left_out).sum())
        assert fold.train_domain.unique().tolist() == [0, 1, 2] and fold.test_domain.unique().tolist() == [0]
    for fold in folds.emg_people(None, False):
        assert fold.train_domain.unique().tolist() == [0, 1] == fold.test_domain.unique().tolist()
        assert len(fold.train[0]) + len(fold.test[0]) == len(data)


@needs_emg
def test_result_is_that_of_refitted_statistics(load: Any, tmp_path: Path) -> None:
    training, folds = load("_domains.training"), load("_domains.folds")
    fold, recipe = folds.emg_people(None, True)[0], folds.Recipe(epochs=1, quick_epochs=1, batch=512, lr=1e-2)
    run = load("_common.runs").Run("domain-aim", 0, tmp_path, fold.part)
    trained = training.DomainClassifier(run, fold, recipe, 1)
    trained.epoch()
    norm = next(m for m in trained.model.modules() if isinstance(m, mn.nn.DomainBatchNorm))
    means = norm.norm.running_mean
    assert (norm.norm.num_batches_tracked > 1).all() and not means[0].allclose(means[1], rtol=0.01)
    found = trained.result()
    assert norm.num_domains == 2 and "as it is" not in found  # the trained model is left as it was
    # each unseen session refits a domain of the same network, one session after the other
    x, y = fold.test
    scores = torch.empty(len(y), 5, dtype=x.dtype)
    for session in (0, 1):
        chosen = fold.test_domain == session
        scores[chosen] = mn.nn.refit(trained.model, x[chosen], torch.full((int(chosen.sum()),), session)).detach()
    assert found["refitted"] == pytest.approx(100 * (scores.argmax(1) == y).double().mean().item())
    assert found["refitted"] > 30  # chance is 20


@needs_emg
def test_command_writes_its_tables_and_continues(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, runs = load("domain_norms"), load("_common.runs")
    command = ["--quick", "--dataset", "emg-person", "--seeds", "2", "--norm", "none,lem,domain-lem"]
    assert example.main([*command, "--out", str(tmp_path / "whole")]) == 0
    table = (tmp_path / "whole" / "table.md").read_text()
    assert table in capsys.readouterr().out and "paired by seed" in table
    rows = {row["norm"]: row for row in _rows(tmp_path / "whole" / "table.csv")}
    assert list(rows) == ["no norm", "plain, log-Euclidean", "plain, log-Euclidean, refitted", "domain, log-Euclidean"]
    means = {name: float(row["accuracy %"].split(" ± ")[0]) for name, row in rows.items()}
    difference = float(rows["domain, log-Euclidean"]["against plain"].split(" [")[0])
    assert difference == pytest.approx(means["domain, log-Euclidean"] - means["plain, log-Euclidean"], abs=0.11)
    assert rows["plain, log-Euclidean"]["against plain, refitted"] == "-"
    assert len(_rows(tmp_path / "whole" / "runs.csv")) == 2 * 4
    assert (tmp_path / "whole" / "accuracy_EMG_person.png").read_bytes().startswith(b"\x89PNG")

    original, count = runs.save, iter(range(1000))

    def interrupted(state: Any, file: Path) -> None:
        original(state, file)
        if next(count) == 12:  # in the first epoch of a domain norm
            raise KeyboardInterrupt

    cut = [*command, "--out", str(tmp_path / "cut")]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", interrupted)
        assert example.main(cut) == 130
    assert example.main([*cut, "--resume"]) == 0
    assert _rows(tmp_path / "cut" / "runs.csv") == _rows(tmp_path / "whole" / "runs.csv")


@needs_mamem
def test_mamem(load: Any, tmp_path: Path) -> None:
    command = ["--quick", "--dataset", "mamem", "--data", str(MAMEM), "--norm", "domain-lem", "--out", str(tmp_path)]
    assert load("domain_norms").main(command) == 0
    (row,) = _rows(tmp_path / "table.csv")
    assert float(row["accuracy %"]) > 30 and row["against plain"] == "-"


def test_missing_file_is_an_error_in_one_line(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("domain_norms").main(["--dataset", "mamem", "--data", str(tmp_path / "none.npz"), "--out", str(tmp_path)])
    assert "none.npz" in capsys.readouterr().err.strip().splitlines()[-1]
