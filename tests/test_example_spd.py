"""The example as a user runs it: every kind of data, its outputs, resuming bit for bit, and its errors."""

import csv
import importlib.metadata
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="needs the extra demo")
pytest.importorskip("tqdm", reason="needs the extra demo")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "spd_networks.py"
MAMEM = ROOT.parent / "shared" / "data" / "mamem_ssvep.npz"


def _has_emg() -> bool:
    try:
        return bool(importlib.metadata.version("geomstats"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_emg = pytest.mark.skipif(not _has_emg(), reason="the geomstats distribution, which carries emg.csv, is absent")
needs_mamem = pytest.mark.skipif(not MAMEM.is_file(), reason="../shared/data/mamem_ssvep.npz is absent")


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))
    import spd_networks

    yield spd_networks
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 180 separable covariances in 3 sessions."""
    rng = np.random.default_rng(0)
    y = np.arange(180) % 3
    x = rng.normal(size=(180, 5, 30))
    x[np.arange(180), y] *= 3
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(file, x=x @ x.transpose(0, 2, 1) / 30, y=y, session=np.arange(180) // 60)
    return file


def _complex_signals(folder: Path) -> Path:
    """Write radar-like signals whose classes differ in the sign of the Doppler shift only."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(60):
        noise = rng.normal(size=(2, 200)) / 4
        tone = np.exp(2j * np.pi * (0.1 if i % 2 else -0.1) * np.arange(200))
        np.save(folder / f"{i}_{'left' if i % 2 else 'right'}.npy", tone + noise[0] + 1j * noise[1])
    return folder


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_own_covariances_give_every_output(
    example: ModuleType, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(own), "--norm", "none,gyro-aim,rbn-aim,lie-lem", "--seeds", "2", "--epochs", "6"]
    assert example.main([*command, "--fixed-epochs", "--lr", "0.05", "--batch", "10", "--out", str(tmp_path)]) == 0
    rows = _rows(tmp_path / "table.csv")
    assert [row["norm"] for row in rows] == [
        "no norm",
        "affine-invariant, Riemannian = gyro",
        "log-Euclidean",
    ]
    runs = _rows(tmp_path / "runs.csv")
    assert [(run["norm"], run["seed"]) for run in runs] == [
        (norm, seed) for norm in ("none", "rbn-aim", "lie-lem") for seed in "01"
    ]
    for row, pair in zip(rows, (runs[:2], runs[2:4], runs[4:]), strict=True):
        accuracy = [float(run["test_accuracy"]) for run in pair]
        assert row["test accuracy %"] == f"{np.mean(accuracy):.1f}"
        assert row["spread over seeds"] == f"{np.std(accuracy, ddof=1):.1f}"
        assert row["epochs"] == "6" and float(row["s/epoch"]) > 0
        assert min(accuracy) > 60  # chance is 33
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() in printed and "share a row" in printed
    for name in ("table.md", "learning_curves.png", "best.pt"):
        assert str(tmp_path / name) in printed
    for name in ("learning_curves.png", "accuracy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_best_checkpoint_rebuilds_the_network_with_the_reported_accuracy(
    example: ModuleType, own: Path, tmp_path: Path
) -> None:
    import manifoldnorm as mn

    command = ["--data", str(own), "--norm", "lie-lem", "--seeds", "1", "--epochs", "3", "--out", str(tmp_path)]
    assert example.main([*command, "--sizes", "5,4"]) == 0
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["norm"] == "lie-lem" and best["classes"] == ["0", "1", "2"]
    net = mn.models.SPDNet([5, 4], 3, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean), dtype=torch.float64)
    net.load_state_dict(best["model"])
    split = mn.datasets.load_npz(own).default_split()
    assert best["unit"] == pytest.approx(split.train.x.diagonal(dim1=-2, dim2=-1).mean().item())
    with torch.no_grad():
        right = net.eval()(split.test.x / best["unit"]).argmax(1) == split.test.y
    assert 100 * right.double().mean().item() == pytest.approx(best["result"]["test_accuracy"])


@pytest.mark.parametrize("optimizer", ["adamw", "radam"])
def test_resuming_after_an_interruption_is_bit_identical(
    example: ModuleType,
    own: Path,
    tmp_path: Path,
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--data", str(own), "--norm", "none,rbn-aim", "--seeds", "2", "--epochs", "4", "--patience", "3"]
    command += ["--optimizer", optimizer]
    assert example.main([*command, "--out", str(tmp_path / "whole")]) == 0

    saved, original = [], example.training.save

    def interrupted(state: object, file: Path) -> None:
        original(state, file)
        saved.append(file)
        if len(saved) in (2, 9, 12):  # inside a run, after a run, inside another run
            raise KeyboardInterrupt

    monkeypatch.setattr(example.training, "save", interrupted)
    cut = [*command, "--out", str(tmp_path / "cut")]
    assert example.main(cut) == 130
    assert "--resume" in capsys.readouterr().out
    codes = [example.main([*cut, "--resume"]) for _ in range(3)]
    assert codes == [130, 130, 0]
    assert len(saved) == len(set(saved)) * 5  # four epochs and one result each: no epoch was trained twice
    files = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").glob("*.pt"))
    assert len(files) == 4
    for name in files:
        whole, pieces = (
            torch.load(tmp_path / kind / "checkpoints" / name, weights_only=True) for kind in ("whole", "cut")
        )
        assert all(torch.equal(whole["model"][key], pieces["model"][key]) for key in whole["model"])
        assert _timeless(whole["history"]) == _timeless(pieces["history"])


def _timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


@pytest.mark.parametrize("word", [[], ["--resume"]])
def test_a_finished_command_shows_its_results_and_trains_nothing(
    example: ModuleType,
    own: Path,
    tmp_path: Path,
    word: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--data", str(own), "--norm", "none", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path)]
    assert example.main(command) == 0
    assert "already finished" not in capsys.readouterr().out
    table = (tmp_path / "table.csv").read_text()
    original, trained = example.training.Training.epoch, []

    def counted(training: Any) -> None:
        trained.append(training.run.seed)
        original(training)

    monkeypatch.setattr(example.training.Training, "epoch", counted)
    assert example.main([*command, *word]) == 0
    printed = capsys.readouterr().out
    assert "already finished, nothing was trained; --overwrite trains anew" in printed
    assert (tmp_path / "table.md").read_text() in printed
    assert (tmp_path / "table.csv").read_text() == table and not trained
    assert example.main([*command, *word, "--seeds", "2"]) == 0  # what it lacks is added
    assert trained == [1, 1]
    assert "already finished" not in capsys.readouterr().out
    assert example.main([*command, "--force"]) == 0
    assert trained == [1, 1, 0, 0]


@pytest.mark.parametrize("word", [[], ["--resume"]])
def test_results_of_other_settings_are_not_replaced_unasked(
    example: ModuleType, own: Path, tmp_path: Path, word: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(own), "--norm", "none", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path)]
    assert example.main(command) == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    message = "was made with other settings (lr); choose another --out, or --overwrite to replace it"
    _fails(example, [*command, "--lr", "0.5", *word], message, capsys)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before
    assert example.main([*command, "--lr", "0.5", "--overwrite"]) == 0


def test_a_table_of_somebody_else_is_not_replaced(
    example: ModuleType, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.md").write_text("mine")
    command = ["--data", str(own), "--norm", "none", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path)]
    _fails(example, command, "holds results whose settings are unknown; choose another --out", capsys)
    assert (tmp_path / "table.md").read_text() == "mine"


def test_the_same_command_continues_after_an_interruption(
    example: ModuleType,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--data", str(own), "--norm", "none", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path)]
    original, trained = example.training.Training.epoch, []

    def interrupted(training: Any) -> None:
        if len(trained) == 1:
            trained.append(-1)
            raise KeyboardInterrupt
        trained.append(len(training.history))
        original(training)

    monkeypatch.setattr(example.training.Training, "epoch", interrupted)
    assert example.main(command) == 130
    _fails(example, [*command, "--epochs", "3"], "was made with other settings (epochs)", capsys)
    assert example.main(command) == 0
    assert trained == [0, -1, 1]


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "emg"),
        (["--quick"], "emg-quick"),
        (["--dataset", "radar"], "radar"),
        (["--dataset", "mamem", "--data", "eeg.npz"], "mamem"),
        (["--data", "somewhere/mine.npz"], "mine"),
    ],
)
def test_every_data_set_has_a_folder_of_its_own(example: ModuleType, words: list[str], folder: str) -> None:
    args = example.parser().parse_args(words)
    args.dataset = args.dataset or ("own" if args.data else "emg")
    assert example.default_folder(args) == Path("results") / folder


def test_interrupt_of_the_process_exits_cleanly(own: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--data", str(own), "--norm", "rbn-aim", "--seeds", "1"]
    command += ["--epochs", "100000", "--fixed-epochs", "--out", str(tmp_path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    checkpoint = tmp_path / "checkpoints" / "rbn-aim_seed_0.pt"
    end = time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "every finished epoch is saved" in out and "--resume" in out and "Traceback" not in err
    assert len(torch.load(checkpoint, weights_only=True)["history"]) >= 1


def test_the_epoch_is_chosen_on_validation_and_tested_once(
    example: ModuleType, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import manifoldnorm as mn

    split = mn.datasets.load_npz(own).default_split()
    sessions = {name: set(part.groups["session"].tolist()) for name, part in split._asdict().items()}
    assert sessions == {"train": {0}, "val": {1}, "test": {2}}
    seen, original = [], example.training.evaluate

    def watched(model: Any, data: Any) -> tuple[float, float]:
        (session,) = set(data.groups["session"].tolist())
        seen.append(session)
        return original(model, data)

    monkeypatch.setattr(example.training, "evaluate", watched)
    command = ["--data", str(own), "--norm", "none", "--seeds", "1", "--epochs", "5", "--out", str(tmp_path)]
    assert example.main(command) == 0
    assert seen == [1] * (len(seen) - 1) + [2] and len(seen) > 1


# ---- data


@needs_emg
def test_emg(example: ModuleType, tmp_path: Path) -> None:
    command = ["--quick", "--norm", "lie-lem", "--epochs", "2", "--out", str(tmp_path)]
    assert example.main(command) == 0
    (row,) = _rows(tmp_path / "table.csv")
    assert float(row["test accuracy %"]) > 40  # chance is 20


@needs_mamem
def test_mamem(example: ModuleType, tmp_path: Path) -> None:
    command = ["--dataset", "mamem", "--data", str(MAMEM), "--subjects", "6,11", "--norm", "lie-lem"]
    assert example.main([*command, "--epochs", "8", "--out", str(tmp_path)]) == 0
    (row,) = _rows(tmp_path / "table.csv")
    parts = [float(row[f"subject {number}"]) for number in (6, 11)]
    assert float(row["test accuracy %"]) == pytest.approx(np.mean(parts), abs=0.6)
    assert min(parts) > 40  # chance is 20
    assert row["epochs"] == "8"


def test_radar_compares_complex_and_real_input(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset", "radar", "--compare-real", "--quick", "--epochs", "2", "--norm", "none,lie-crim,bw"]
    assert example.main([*command, "--out", str(tmp_path)]) == 0
    rows = _rows(tmp_path / "table.csv")
    assert [row["norm"].rsplit(", ", 1)[1] for row in rows] == [
        "complex",
        "complex",
        "real part",
        "real part",
        "real part",
    ]
    assert "left out, for real matrices only: lie-crim" in capsys.readouterr().out


def test_own_folder_of_complex_signals(example: ModuleType, tmp_path: Path) -> None:
    folder = _complex_signals(tmp_path / "signals")
    command = ["--data", str(folder), "--window", "6", "--hop", "3", "--norm", "rbn-aim", "--seeds", "1"]
    command += ["--epochs", "30", "--fixed-epochs", "--compare-real", "--out", str(tmp_path / "out")]
    assert example.main(command) == 0
    both = {
        row["norm"].rsplit(", ", 1)[1]: float(row["test accuracy %"]) for row in _rows(tmp_path / "out" / "table.csv")
    }
    assert both["complex"] > 90  # the sign of the shift is in the imaginary part alone
    assert both["real part"] < 80


def test_own_signals_become_covariances(example: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4, 50))
    x[::2, 0] *= 3
    np.savez(tmp_path / "signals.npz", x=x, y=np.arange(60) % 2)
    command = ["--data", str(tmp_path / "signals.npz"), "--norm", "none", "--seeds", "1", "--epochs", "8"]
    assert example.main([*command, "--lr", "0.03", "--fixed-epochs", "--out", str(tmp_path / "out")]) == 0
    assert float(_rows(tmp_path / "out" / "table.csv")[0]["test accuracy %"]) > 80


# ---- errors


def _fails(example: ModuleType, command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        example.main(command)
    error = capsys.readouterr().err.splitlines()[-1]  # what comes before it is the progress bar
    assert stop.value.code == 2
    assert error.startswith("spd_networks.py: error: ") and message in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--norm", "nonsense"], "unknown norm 'nonsense'; choose all or from none, rbn-aim"),
        (["--norm", ","], "unknown norm ','"),
        (["--dataset", "nonsense"], "invalid choice: 'nonsense'"),
        (["--dataset", "mamem"], "needs --data, the path of mamem_ssvep.npz"),
        (["--dataset", "own"], "needs --data, an npz file or a folder"),
        (["--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--dataset", "mamem", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--dataset", "radar", "--quick", "--sizes", "8,4"], "--sizes must start with the size of the matrices, 20"),
        (["--dataset", "radar", "--quick", "--norm", "lie-crim"], "--norm lie-crim is for real matrices only"),
        (["--real"], "--real is for --dataset radar or own only"),
        (["--subjects", "1"], "--subjects is for --dataset mamem only"),
        (["--epochs", "0"], "--epochs: must be at least 1"),
        (["--epochs", "1.5"], "--epochs: must be at least 1 and whole, got 1.5"),
        (["--window", "0"], "--window: must be at least 1"),
        (["--patience", "-1"], "--patience: must be at least 0 and whole"),
        (["--lr", "0"], "--lr: must be positive, got 0"),
        (["--lr", "fast"], "--lr: must be a number of at least 0, got fast"),
        (["--weight-decay", "nan"], "--weight-decay: must be a number of at least 0, got nan"),
        (["--sizes", "8,a"], "--sizes: must be whole numbers with commas between, got '8,a'"),
        (["--resume", "--overwrite"], "not allowed with"),
    ],
)
def test_errors_are_one_line(
    example: ModuleType, command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails(example, [*command, "--out", str(tmp_path / "out")], message, capsys)
    assert not (tmp_path / "out").exists()


def test_wrong_keys_are_named(
    example: ModuleType, tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "wrong.npz", a=np.zeros(3))
    out = ["--out", str(tmp_path / "out")]
    _fails(example, ["--data", str(tmp_path / "wrong.npz"), *out], "needs the arrays x (or X) and y, found a", capsys)
    _fails(example, ["--dataset", "mamem", "--data", str(own), *out], "is not the MAMEM file: it lacks", capsys)
    _fails(example, ["--data", str(own), "--real", *out], "these are real already", capsys)
    _fails(example, ["--data", str(own), "--out", str(own)], "no folder can be made there", capsys)
    np.savez(tmp_path / "eeg.npz", X=np.zeros((1, 2, 3, 4)), y=[0, 1], label_freq_hz=[1])
    _fails(example, ["--data", str(tmp_path / "eeg.npz"), *out], "This looks like the MAMEM file", capsys)


def test_data_with_nothing_to_learn_are_refused(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, session = np.eye(3) * np.linspace(1, 2, 30)[:, None, None], np.arange(30) // 10
    for y, columns, message in (
        (np.zeros(30), {}, "wrong.npz: it has one class only (0), a classifier needs two"),
        (session // 2, {"session": session}, "its training part has one class only (0)"),
        (
            np.arange(30) % 2 + session // 2 * 2,
            {"session": session},
            "the test part has classes that the training",
        ),
        (np.arange(30), {}, "no class has 3 trials, one each for train, val and test (the most is 1, of 30 samples)"),
    ):
        np.savez(tmp_path / "wrong.npz", x=x, y=y, **columns)
        _fails(example, ["--data", str(tmp_path / "wrong.npz"), "--out", str(tmp_path / "out")], message, capsys)
    np.savez(tmp_path / "flat.npz", x=np.ones((30, 3, 40)), y=np.arange(30) % 2)
    command = ["--data", str(tmp_path / "flat.npz"), "--out", str(tmp_path / "out")]
    _fails(example, command, "flat.npz: Covariance output: sample 0 is not positive definite", capsys)


def test_a_single_channel_trains(example: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "one.npz", x=rng.normal(size=(40, 1, 30)) * (1 + np.arange(40) % 2)[:, None, None], y=[0, 1] * 20
    )
    command = ["--data", str(tmp_path / "one.npz"), "--quick", "--norm", "lie-lem", "--out", str(tmp_path / "out")]
    assert example.main(command) == 0


def test_a_diverging_run_says_so(
    example: ModuleType, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(own), "--norm", "none", "--lr", "1e300", "--epochs", "2", "--out", str(tmp_path)]
    _fails(example, [*command, "--seeds", "1", "--optimizer", "sgd"], "lower --lr", capsys)


def test_all_norms_are_those_of_the_tables_and_others_train_where_named(example: ModuleType) -> None:
    every = example.norms.resolve("all")
    assert "lie-crim-half" in every and "lie-crim" not in every
    assert example.norms.resolve("lie-crim") == ["lie-crim"]
    assert example.norms.resolve("all,lie-crim,rbn-lem") == [*every, "lie-crim"]
    assert len({example.norms.NORMS[name].label for name in every}) == len(every) == 9


def test_help_lists_norms_outputs_and_examples(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        example.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for expected in ("rbn-aim", "gyro-aim = rbn-aim", "learning_curves.png", "--compare-real", "--resume"):
        assert expected in text
