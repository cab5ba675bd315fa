"""The examples that compare norms, as a user runs them: outputs, resuming bit for bit, errors in one line."""

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import manifoldnorm as mn

COMMANDS = {
    "wordnet_poincare": ["--closure", "--dim", "3", "--norm", "all", "--seeds", "2", "--epochs", "4", "--batch", "64"],
    "hyperbolic_links": ["--seeds", "2", "--epochs", "3", "--widths", "4,4"],
    "images_poincare": ["--quick", "--epochs", "1", "--batch", "300", "--widths", "3,4,5"],
    "grassmann_signals": ["--quick", "--window", "500", "--epochs", "2", "--seeds", "2", "--norm", "none,gyro"],
    "correlation_connectomes": ["--quick", "--epochs", "2", "--sizes", "6"],
}
ROWS = {  # of the table
    "wordnet_poincare": 6,
    "hyperbolic_links": 4,
    "images_poincare": 3,
    "grassmann_signals": 2,
    "correlation_connectomes": 7,
}
KEYS = {"wordnet_poincare": "map", "hyperbolic_links": "auc"}  # the others': accuracy


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the edges of a binary tree of 63 items."""
    file = tmp_path_factory.mktemp("data") / "tree.tsv"
    file.write_text("\n".join(f"n{child}\tn{child // 2}" for child in range(2, 64)))
    return file


def _needs(name: str) -> None:
    """Skip where the extra demo, or a file of it, is absent."""
    for package in () if name == "wordnet_poincare" else ("sklearn", "networkx"):
        pytest.importorskip(package)
    try:
        if name == "grassmann_signals":
            mn.datasets.emg_gestures(window=1000)
        if name == "correlation_connectomes":
            mn.datasets.connectomes()
    except ModuleNotFoundError as absent:
        pytest.skip(str(absent))


def _command(name: str, edges: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", str(edges)] if name in ("wordnet_poincare", "hyperbolic_links") else []
    return [*data, *COMMANDS[name], *more, "--out", str(out)]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:Some parameters")
def test_command_writes_its_table_and_pictures_and_continues_bit_for_bit(
    name: str,
    load: Any,
    edges: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _needs(name)
    example, runs, whole = load(name), load("_common.runs"), tmp_path / "whole"
    assert example.main(_command(name, edges, whole)) == 0
    table = (whole / "table.md").read_text()
    assert table in capsys.readouterr().out and "differences are paired by" in table
    assert len(_rows(whole / "table.csv")) == ROWS[name]
    pictures = list(whole.glob("*.png"))
    assert len(pictures) == 2 and all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    results = [torch.load(file)["result"] for file in (whole / "checkpoints").rglob("*.pt")]
    assert results and all(0 < result[KEYS.get(name, "accuracy")] <= 100 for result in results)

    original, count, cut = runs.save, iter(range(1000)), _command(name, edges, tmp_path / "cut")

    def interrupted(state: Any, file: Path) -> None:
        original(state, file)
        if next(count) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", interrupted)
        assert example.main(cut) == 130
    assert "--resume" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        example.main([*cut, "--lr", "0.5"])  # unfinished runs are not overwritten
    assert example.main(cut) == 0
    assert "already finished" not in capsys.readouterr().out
    assert example.main([*cut, "--resume"]) == 0
    assert "already finished, nothing was trained" in capsys.readouterr().out
    for file in (whole / "checkpoints").rglob("*.pt"):
        first, again = torch.load(file), torch.load(tmp_path / "cut" / file.relative_to(whole))
        for row, other in zip(first["history"], again["history"], strict=True):
            assert {**row, "seconds": 0} == {**other, "seconds": 0}
        for key, value in first["result"].items():
            if key != "seconds":
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(again["result"][key]))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("wordnet_poincare", ["--norm", "batch"], "unknown norm 'batch'; choose all or from none"),
        ("hyperbolic_links", ["--graph", "cora"], "unknown graph 'cora'"),
        ("images_poincare", ["--norm", "lie"], "unknown norm 'lie'"),
        ("images_poincare", ["--depth", "9"], "depth must be 6 n"),
        ("grassmann_signals", ["--norm", "batch"], "unknown norm 'batch'"),
        ("correlation_connectomes", ["--norm", "lie"], "unknown norm 'lie'"),
        ("correlation_connectomes", ["--sizes", "30"], "grow from 28 to 30 at position 1"),
    ],
)
def test_errors_are_one_line(
    name: str, arguments: list[str], message: str, load: Any, edges: Path, tmp_path: Path, capsys: Any
) -> None:
    _needs(name)
    data = ["--data", str(edges)] if name == "wordnet_poincare" else []
    with pytest.raises(SystemExit) as stop:
        load(name).main([*data, *arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error


def test_only_checkpoints_and_tables_are_results_and_all_of_them_go(load: Any, tmp_path: Path) -> None:
    prepare, state = load("_common.cli").prepare, tmp_path / "checkpoints" / "disc" / "none_seed_0.pt"
    args = argparse.Namespace(out=tmp_path, resume=False, overwrite=False)
    prepare(args, {"lr": 1.0, "data": {}})
    prepare(args, {"lr": 2.0, "data": {}})  # what fails before its first epoch leaves nothing to lose
    assert not args.resume
    state.parent.mkdir()
    state.touch()
    with pytest.raises(ValueError, match=r"other settings \(lr\)"):
        prepare(args, {"lr": 1.0, "data": {}})
    assert prepare(args, {"lr": 2.0, "data": {"more": "1"}})["data"] == {"more": "1"} and args.resume
    with pytest.raises(ValueError, match=r"other settings \(data\)"):
        prepare(args, {"lr": 2.0, "data": {"more": "2"}})
    args.overwrite = True
    prepare(args, {"lr": 1.0, "data": {}})
    assert not state.exists()


def test_intervals_of_paired_differences(load: Any) -> None:
    paired = load("_common.tables").paired
    values, reference = torch.randn(2, 12, dtype=torch.float64).tolist()
    interval = stats.ttest_rel(values, reference).confidence_interval()
    mean = sum(values) / 12 - sum(reference) / 12
    assert paired(values, reference, 6) == f"{mean:+.6f} [{interval.low:+.6f}, {interval.high:+.6f}]"
    # 1 / 12 becomes 1 / 12 + 1 / 4
    half = 2 * (interval.high - mean)
    assert paired(values, reference, 6, 0.25) == f"{mean:+.6f} [{mean - half:+.6f}, {mean + half:+.6f}]"


def test_table_of_an_embedding_is_that_of_its_runs(load: Any, edges: Path, tmp_path: Path) -> None:
    assert load("wordnet_poincare").main(_command("wordnet_poincare", edges, tmp_path, "--norm", "none")) == 0
    maps = [torch.load(tmp_path / "checkpoints" / f"geoopt_seed_{seed}.pt")["result"]["map"] for seed in (0, 1)]
    written = _rows(tmp_path / "table.csv")[0]["MAP %"]
    assert written == f"{sum(maps) / 2:.1f} ± {abs(maps[0] - maps[1]) / math.sqrt(2):.1f}"


# ---- correlation matrices


def test_folds_test_every_sample_once_with_a_share_of_each_class(load: Any) -> None:
    _needs("correlation_connectomes")
    fold, y = load("correlation_connectomes").fold, mn.datasets.connectomes().y
    for repetition in (0, 3):
        parts = [fold(5 * repetition + number, y) for number in range(5)]
        assert torch.cat([test for _, test in parts]).sort().values.tolist() == list(range(86))
        assert all(torch.cat(part).sort().values.tolist() == list(range(86)) for part in parts)
        assert all(8 <= int(y[test].sum()) <= 8 + 1 for _, test in parts)
    assert not torch.equal(fold(0, y)[1], fold(5, y)[1])


def test_blocks_of_the_network_give_correlation_matrices_to_every_norm(load: Any) -> None:
    _needs("correlation_connectomes")
    example, x = load("correlation_connectomes"), mn.datasets.connectomes().x.float()
    for name in example.NORMS:
        net = example.network(name, [28, 9, 6])
        block = net.features[1]
        assert (block.norm is None) == (name == "none")
        out = net.features[:2](x)
        assert out.shape == (86, 9, 9) and bool((out.diagonal(dim1=1, dim2=2) == 1).all())
        assert bool(torch.linalg.eigvalsh(out).min() > 0)
        net(x).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_classical_reference_is_that_of_pyriemann(load: Any) -> None:
    _needs("correlation_connectomes")
    tangentspace = pytest.importorskip("pyriemann.tangentspace")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline

    data = mn.datasets.connectomes()
    theirs = make_pipeline(tangentspace.TangentSpace("riemann"), LogisticRegression(max_iter=5000))
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    want = cross_val_score(theirs, data.x.numpy(), data.y.numpy(), cv=cv)
    found = load("correlation_connectomes").tangent_space(data.x, data.y, 5)
    assert [row["accuracy"] for row in found] == pytest.approx((100 * want).tolist())
