"""The recordings: counts and statistics of the real ones, level and determinism of the simulated one."""

import csv
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor

from manifoldnorm import datasets

MAMEM = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mamem_ssvep.npz"


def _has_geomstats() -> bool:
    try:
        return bool(importlib.metadata.version("geomstats"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_geomstats = pytest.mark.skipif(
    not _has_geomstats(), reason="the geomstats distribution, which carries the files, is absent"
)
needs_mamem = pytest.mark.skipif(not MAMEM.is_file(), reason="../shared/data/mamem_ssvep.npz is absent")


@pytest.fixture(scope="module")
def emg() -> datasets.Recordings:
    return datasets.emg_gestures()


@pytest.fixture(scope="module")
def radar() -> datasets.Recordings:
    return datasets.radar()


def _condition(x: Tensor) -> Tensor:
    eigenvalues: Tensor = torch.linalg.eigvalsh(x)
    return eigenvalues[:, -1] / eigenvalues[:, 0]


def _log(x: Tensor) -> Tensor:
    eigenvalues: Tensor
    vectors: Tensor
    eigenvalues, vectors = torch.linalg.eigh(x)
    return (vectors * eigenvalues.log()[:, None, :]) @ vectors.mH


def _minimum_distance_to_mean(train: datasets.Recordings, test: datasets.Recordings) -> float:
    """Accuracy in percent of the nearest log-Euclidean class mean."""
    logs, queries = _log(train.x), _log(test.x)
    means = torch.stack([logs[train.y == c].mean(0) for c in range(len(train.classes))])
    distance = (queries[:, None] - means).abs().square().sum((-2, -1))
    return 100 * (distance.argmin(1) == test.y).double().mean().item()


@needs_geomstats
def test_emg_has_the_published_counts_and_conditioning(emg: datasets.Recordings) -> None:
    assert emg.x.shape == (7264, 8, 8) and emg.x.dtype == torch.float64
    assert emg.groups["session"].bincount().tolist() == [1814, 1819, 1814, 1817]
    assert emg.group_names["session"] == ("mg_s1", "mg_s2", "rr_s1", "rr_s2")
    assert len(emg.groups["run"].unique()) == 120 and emg.groups["repetition"].unique().tolist() == list(range(6))
    assert emg.classes == ("rest", "rock", "paper", "scissors", "ok")
    assert _condition(emg.x).mean().item() == pytest.approx(39, abs=0.5)


@needs_geomstats
def test_emg_runs_hold_one_gesture_of_one_session(emg: datasets.Recordings) -> None:
    run = emg.groups["run"]
    for column in (emg.y, emg.groups["session"], emg.groups["subject"], emg.groups["repetition"]):
        first = torch.full((120,), 99).scatter_reduce_(0, run, column, "amin")
        assert torch.equal(first[run], column)


@needs_geomstats
def test_emg_covariances_are_those_of_its_windows(emg: datasets.Recordings) -> None:
    raw = datasets.emg_gestures(signals=True)
    assert raw.kind == "signals" and raw.x.shape == (7264, 8, 100)
    for i in (0, 5000):
        expected = torch.cov(raw.x[i])
        expected = expected + 1e-3 * expected.trace() / 8 * torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close(emg.x[i], expected, rtol=1e-12, atol=1e-12)


@needs_geomstats
def test_emg_options() -> None:
    half = datasets.emg_gestures(window=200, hop=100, shrinkage=0.0, dtype=torch.float32)
    assert half.x.dtype == torch.float32 and len(half) == 7264 - 120
    with pytest.raises(ValueError, match="fewer than one window of 7000"):
        datasets.emg_gestures(window=7000)
    with pytest.raises(ValueError, match="shrinkage"):
        datasets.emg_gestures(shrinkage=-1.0)


@needs_geomstats
def test_emg_protocol_keeps_runs_and_sessions_apart(emg: datasets.Recordings) -> None:
    train, val, test = emg.split()
    runs = [set(part.groups["run"].tolist()) for part in (train, val, test)]
    assert [len(run) for run in runs] == [50, 10, 60] and len(set.union(*runs)) == 120
    assert set(test.groups["session"].tolist()) == {1, 3}
    assert set(train.groups["session"].tolist()) == set(val.groups["session"].tolist()) == {0, 2}
    assert len(val.y.unique()) == 5


@needs_geomstats
def test_geomstats_is_never_imported() -> None:
    code = (
        "import sys, manifoldnorm.datasets as d; d.emg_gestures(); d.connectomes(); print('geomstats' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_emg_without_the_distribution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(ModuleNotFoundError, match=r"pip install geomstats --no-deps.*manifoldnorm\[demo\]"):
        datasets.emg_gestures()


def test_emg_without_its_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(FileNotFoundError, match=r"no file emg\.csv.*pip install geomstats"):
        datasets.emg_gestures()
    with pytest.raises(FileNotFoundError, match=r"no file train_FNC\.csv.*pip install geomstats"):
        datasets.connectomes()


@needs_geomstats
def test_connectomes_are_the_correlations_of_the_file() -> None:
    data = datasets.connectomes()
    assert data.x.shape == (86, 28, 28) and data.x.dtype == torch.float64 and data.kind == "covariances"
    assert data.y.bincount().tolist() == [46, 40] and data.classes == ("control", "patient")
    assert torch.equal(data.x, data.x.mT) and bool((data.x.diagonal(dim1=1, dim2=2) == 1).all())
    # the first person's row, not halved, and where the second row of the triangle starts
    assert data.x[0, 0, 1:5].tolist() == [0.34312, 0.045761, -0.13112, 0.15034]
    assert data.group_names["subject"][:2] == ("120873", "135376") and data.y[:2].tolist() == [1, 0]
    files = {file.name: str(file.locate()) for file in importlib.metadata.files("geomstats") or []}
    with open(files["train_FNC.csv"], newline="") as lines:
        row = list(csv.DictReader(lines))[70]
    assert data.x[70, 1, 2].item() == float(row["FNC28"]) and data.x[70, 26, 27].item() == float(row["FNC378"])
    # a triangle read in another order gives indefinite matrices
    assert torch.linalg.eigvalsh(data.x).min().item() == pytest.approx(0.0023, abs=5e-5)
    assert _condition(data.x).quantile(0.5).item() == pytest.approx(679, abs=0.5)


@needs_geomstats
def test_connectomes_split_by_person_and_take_a_precision() -> None:
    data = datasets.connectomes(dtype=torch.float32)
    assert data.x.dtype == torch.float32
    train, val, test = data.random_split(seed=3)
    people = torch.cat([part.groups["subject"] for part in (train, val, test)])
    assert sorted(people.tolist()) == list(range(86))


def test_connectomes_that_do_not_fit_their_labels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(name: str, what: str) -> Path:
        return tmp_path / name

    monkeypatch.setattr(datasets._connectomes, "find_file", find)
    header = "Id," + ",".join(f"FNC{i}" for i in range(378))
    (tmp_path / "train_FNC.csv").write_text(f"{header}\n1{',0' * 378}\n2{',0' * 378}\n")
    (tmp_path / "train_labels.csv").write_text("Id,Class\n2,0\n1,1\n")
    with pytest.raises(ValueError, match="the same people in the same order"):
        datasets.connectomes()
    (tmp_path / "train_labels.csv").write_text("Id,Class\n1,0\n2,1\n")
    assert torch.equal(datasets.connectomes().x, torch.eye(28, dtype=torch.float64).expand(2, 28, 28))


def test_radar_is_complex_hermitian_positive_definite(radar: datasets.Recordings) -> None:
    assert radar.x.shape == (3000, 20, 20) and radar.x.dtype == torch.complex128
    assert radar.y.bincount().tolist() == [1000, 1000, 1000]
    torch.testing.assert_close(radar.x, radar.x.mH, rtol=1e-12, atol=1e-12)
    assert torch.linalg.eigvalsh(radar.x).min() > 0
    assert radar.x.imag.abs().max() > 1


def test_radar_has_the_condition_numbers_of_its_specification(radar: datasets.Recordings) -> None:
    assert _condition(radar.x).median().item() == pytest.approx(1510, rel=0.05)
    published = torch.linalg.svdvals((radar.x.real + radar.x.imag) / 2)
    assert (published[:, 0] / published[:, -1]).median().item() == pytest.approx(339, rel=0.05)


def test_radar_level_and_the_loss_of_the_real_part(radar: datasets.Recordings) -> None:
    real = radar.real_part()
    scores = []
    for seed in range(5):
        whole, part = radar.random_split(seed=seed), real.random_split(seed=seed)
        scores.append([_minimum_distance_to_mean(s.train, s.test) for s in (whole, part)])
    full, real_only = torch.tensor(scores).mean(0).tolist()
    # the specification measured 92.8 and 86.5 on one data set; data sets differ by 3 points
    assert full == pytest.approx(92.8, abs=3)
    assert real_only == pytest.approx(86.5, abs=3)
    assert full - real_only > 2


def test_radar_is_deterministic_and_leaves_the_global_generators_alone() -> None:
    state = torch.random.get_rng_state()
    one, two = datasets.radar(50, seed=3), datasets.radar(50, seed=3)
    assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y)
    assert not torch.equal(one.x, datasets.radar(50, seed=4).x)
    assert torch.equal(state, torch.random.get_rng_state())


def test_radar_covariances_are_those_of_its_signals() -> None:
    raw, data = datasets.radar(6, signals=True), datasets.radar(6)
    assert raw.x.shape == (6, 1, 400) and raw.x.dtype == torch.complex128
    snapshots = torch.stack([raw.x[:, 0, 10 * i : 10 * i + 20] for i in range(39)], dim=-1)
    for x, expected in zip(snapshots, data.x, strict=True):
        torch.testing.assert_close(torch.cov(x), expected, rtol=1e-12, atol=1e-12)


def test_radar_options_and_errors() -> None:
    assert datasets.radar(10, n_classes=2, dtype=torch.float32).x.dtype == torch.complex64
    with pytest.raises(ValueError, match="n_classes=4"):
        datasets.radar(n_classes=4)
    with pytest.raises(ValueError, match="at least n_classes=3, got 2"):
        datasets.radar(2)
    with pytest.raises(ValueError, match=r"9 windows give a singular covariance of size 20.*smaller hop"):
        datasets.radar(3, length=100)
    with pytest.raises(TypeError, match=r"real_part needs complex covariances, got torch\.float64"):
        datasets.radar(3).real_part().real_part()
    with pytest.raises(ValueError, match="Take their covariances first"):
        datasets.radar(3, signals=True).real_part()


@needs_mamem
def test_mamem_one_subject() -> None:
    data = datasets.mamem_ssvep(MAMEM, subject=6)
    assert data.x.shape == (500, 8, 125) and data.sampling_rate == 125
    assert data.classes == ("12 Hz", "10 Hz", "8.57 Hz", "7.5 Hz", "6.66 Hz")
    assert 1 < data.x.std() < 300  # microvolts
    train, val, test = data.split()
    assert [len(part) for part in (train, val, test)] == [300, 100, 100]
    assert torch.equal(test.x, data.x[400:])
    assert torch.equal(data.groups["segment"][:5], torch.tensor([0, 1, 2, 3, 0]))


@needs_mamem
def test_mamem_trials_of_several_subjects_stay_apart() -> None:
    data = datasets.mamem_ssvep(MAMEM, subject=(2, 11), dtype=torch.float32)
    assert data.x.shape == (1000, 8, 125) and data.x.dtype == torch.float32
    assert data.groups["subject"].unique().tolist() == [2, 11]
    assert (data.groups["trial"].unique(return_counts=True)[1] == 4).all()
    assert torch.equal(data.x[:500], datasets.mamem_ssvep(MAMEM, subject=2, dtype=torch.float32).x)
    assert data.x[:500].abs().max() == pytest.approx(1578, abs=1)


@needs_mamem
def test_mamem_refuses_to_cut_trials_and_unknown_subjects() -> None:
    data = datasets.mamem_ssvep(MAMEM, subject=1)
    with pytest.raises(ValueError, match="trial 0 would be cut, it lies in both train and val"):
        data.split(train=[0, 1], val=2, test=3, by="segment")
    with pytest.raises(ValueError, match=r"subject 12 is not in .*choose from 1 to 11"):
        datasets.mamem_ssvep(MAMEM, subject=12)


@needs_mamem
def test_mamem_from_the_mat_files_is_that_of_the_one_file(tmp_path: Path) -> None:
    data = datasets.mamem_ssvep(MAMEM, subject=(2, 11))
    for number, part in ((2, data.x[:500]), (11, data.x[500:])):
        savemat(tmp_path / f"U{number:03d}.mat", {"x_test": part.numpy(), "y_test": data.y[:500, None].numpy()})
    folder = datasets.mamem_ssvep(tmp_path)
    assert torch.equal(folder.x, data.x) and torch.equal(folder.y, data.y)
    assert folder.groups.keys() == data.groups.keys() and folder.classes == data.classes
    assert all(torch.equal(folder.groups[column], values) for column, values in data.groups.items())
    assert torch.equal(datasets.mamem_ssvep(tmp_path, subject=11).x, data.x[500:])
    with pytest.raises(ValueError, match=r"subject 1 is not in .*choose from 2 to 11"):
        datasets.mamem_ssvep(tmp_path, subject=1)


def test_mamem_says_where_its_data_come_from(tmp_path: Path) -> None:
    source = "mamem_ssvep.npz or the folder of U001.mat to U011.mat: MAMEM SSVEP data set II .PhysioNet mssvepdb"
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file.*" + source):
        datasets.mamem_ssvep(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match=r"no file U001\.mat to U011\.mat in it.*" + source):
        datasets.mamem_ssvep(tmp_path)
    np.savez(tmp_path / "other.npz", X=np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"is not the MAMEM file: it lacks fs, label_freq_hz.*" + source):
        datasets.mamem_ssvep(tmp_path / "other.npz")
    savemat(tmp_path / "U001.mat", {"x_test": np.zeros((500, 8, 12)), "y_test": np.zeros(500)})
    with pytest.raises(ValueError, match=r"U001\.mat: expected x_test \(500, 8, 125\).*got \(500, 8, 12\)"):
        datasets.mamem_ssvep(tmp_path)
    (tmp_path / "U001.mat").write_text("not MATLAB" * 50)
    with pytest.raises(ValueError, match=r"U001\.mat: not a readable MATLAB file"):
        datasets.mamem_ssvep(tmp_path)
    wrong: list[Any] = [(), "1", 1.0, [1, "2"]]
    for subject in wrong:
        with pytest.raises(ValueError, match="subject must be a number from 1 to 11, several, or None for all, got"):
            datasets.mamem_ssvep(tmp_path, subject=subject)


def test_windows() -> None:
    signal = torch.arange(7)
    assert datasets.windows(signal, 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert datasets.windows(signal[None], 4, 3).tolist() == [[[0, 1, 2, 3], [3, 4, 5, 6]]]
    with pytest.raises(ValueError, match="7 samples, fewer than one window of 8"):
        datasets.windows(signal, 8)
    with pytest.raises(ValueError, match="window=3, hop=0"):
        datasets.windows(signal, 3, 0)
