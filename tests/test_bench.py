"""The benchmarks run, say what they measured, and the table they write decides which solver decomposes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from manifoldnorm import __main__ as command
from manifoldnorm import linalg
from manifoldnorm.bench import eigh, tuning
from manifoldnorm.bench.timing import Times
from manifoldnorm.linalg.native import Kernels, _choice, _table, chosen, kernels

ROOT = Path(__file__).parent.parent
compiled = pytest.mark.skipif(not isinstance(kernels(), Kernels), reason="no compiled kernels")
ROWS: dict[str, dict[int, int | None]] = {"float64": {8: 4, 20: 2, 40: None}, "float32": {8: 1, 20: 1, 40: 1}}


@pytest.fixture
def table_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Name a file that stands for the user's table, which no other test sees."""
    path = tmp_path / "cache" / "eigh.json"
    monkeypatch.setenv("MANIFOLDNORM_TUNE", str(path))
    _table.table.cache_clear()
    yield path
    _table.table.cache_clear()


def _instructions() -> str:
    library = kernels()
    assert isinstance(library, Kernels)
    return _choice.INSTRUCTION_SETS[library.best]


def _ours(n: int, batch: int, dtype: torch.dtype = torch.float64) -> bool:
    return chosen(torch.empty(batch, n, n, dtype=dtype), dtype) is not None


@pytest.mark.slow
def test_quick_benchmarks_print_and_write_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["bench", "--quick", "--dtype", "float64", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    written = (tmp_path / "eigh.md").read_text()
    assert "| float64 | 20 | 64 | 1 |" in printed and "| float64 | 20 | 64 | 1 |" in written
    assert "2 eigh" in (tmp_path / "norms.md").read_text() and "GyroBN ball" in printed
    assert "picture" in printed  # drawn, or why not
    assert ("no picture" in printed) != (tmp_path / "eigh.png").exists()


def test_without_matplotlib_no_picture_is_drawn_and_the_reason_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manifoldnorm.bench.report import picture

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    times = {"ours": Times((1.0, 1.0, 1.0)), "torch": Times((2.0, 3.0, 4.0))}
    row = eigh.Row("float64", 3, 8, 1, times, 1.0)
    assert row.ratio == 3.0
    assert "matplotlib is not installed" in picture([("n", row)], tmp_path / "p.png")


def test_the_command_line_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nonsense"]) == 2 and command.main([]) == 0
    for words in (["bench", "norms", "--tune"], ["bench", "--device", "tpu"]):
        with pytest.raises(SystemExit):
            command.main(words)
    capsys.readouterr()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_script_says_that_there_is_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "no CUDA device" in done.stdout


@pytest.mark.parametrize(
    ("faster_from", "expected"), [(1, 1), (4, 4), (64, 64), (100, None)], ids=["always", "4", "64", "never"]
)
def test_the_smallest_batch_is_found_from_above(faster_from: int, expected: int | None) -> None:
    def advantage(n: int, batch: int, dtype: torch.dtype, device: str, seconds: float) -> float:
        return 2.0 if batch >= faster_from else 0.5

    found = tuning.least_batch(8, torch.float64, "cpu", seconds=0.0, advantage=advantage)
    assert found == expected

    def lucky(n: int, batch: int, *rest: Any) -> float:
        return 2.0 if batch in (1, 64) else 0.5

    assert tuning.least_batch(8, torch.float64, "cpu", seconds=0.0, advantage=lucky) == 64


@compiled
def test_a_table_of_this_machine_decides(table_file: Path) -> None:
    assert _ours(8, 1)
    _table.table.cache_clear()
    _table.save("cpu", _instructions(), ROWS, table_file)
    assert [_ours(8, 3), _ours(8, 4), _ours(5, 4)] == [False, True, True]
    assert [_ours(20, 1), _ours(20, 2), _ours(9, 1)] == [False, True, False]
    assert not _ours(40, 10**4) and not _ours(21, 10**4) and not _ours(41, 10**4)
    assert _ours(40, 1, torch.float32) and not _ours(41, 10**4, torch.float32)
    assert "by this machine's table" in linalg.backends()["cpu real"]
    with linalg.backend("native"):
        assert _ours(40, 1)
    w = linalg.eigvalsh(torch.eye(8).expand(2, 8, 8))
    assert torch.equal(w, torch.ones(2, 8))


@compiled
def test_a_table_without_complex_rows_leaves_them_to_the_rule(table_file: Path) -> None:
    _table.save("cpu", _instructions(), ROWS, table_file)
    assert _ours(8, 1, torch.complex128) and not _ours(40, 2, torch.complex128)
    _table.table.cache_clear()
    _table.save("cpu", _instructions(), {**ROWS, "complex128": {8: 3, 40: 2}}, table_file)
    assert not _ours(8, 2, torch.complex128) and _ours(40, 2, torch.complex128)
    assert _ours(8, 1, torch.complex64)


def _foreign(content: dict[str, Any]) -> None:
    content["tables"]["cpu"]["machine"]["processor"] = "another"


def _format(content: dict[str, Any]) -> None:
    content["format"] = 99


def _wrong_batches(content: dict[str, Any]) -> None:
    content["tables"]["cpu"]["smallest_batch"]["float64"] = {"8": "many"}


def _no_sizes(content: dict[str, Any]) -> None:
    content["tables"]["cpu"]["smallest_batch"] = {}


@compiled
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_foreign, "another machine"),
        (_format, "another format"),
        (_wrong_batches, "no batches"),
        (_no_sizes, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_or_foreign_table_is_ignored_with_a_reason(damage: Any, reason: str, table_file: Path) -> None:
    _table.save("cpu", _instructions(), ROWS, table_file)
    if damage is None:
        table_file.unlink()  # the variable names a file that is not there
    elif isinstance(damage, str):
        table_file.write_text(damage)
    else:
        content = json.loads(table_file.read_text())
        damage(content)
        table_file.write_text(json.dumps(content))
    assert _ours(8, 1)
    said = linalg.backends()["cpu real"]
    assert "table ignored" in said and reason in said


@compiled
def test_a_broken_table_does_not_break_the_import(table_file: Path) -> None:
    table_file.parent.mkdir()
    table_file.write_bytes(b"\xff\x00{")
    code = "import manifoldnorm as mn; print(mn.linalg.backends()['cpu real'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert "table ignored" in done.stdout


@compiled
def test_saving_keeps_other_devices_and_replaces_a_broken_file(table_file: Path) -> None:
    _table.save("cpu", _instructions(), ROWS, table_file)
    content = json.loads(table_file.read_text())
    content["tables"]["other"] = {"machine": {}, "smallest_batch": {}}
    table_file.write_text(json.dumps(content))
    _table.save("cpu", _instructions(), ROWS, table_file)
    assert set(json.loads(table_file.read_text())["tables"]) == {"cpu", "other"}
    table_file.write_text("not json")
    _table.save("cpu", _instructions(), ROWS, table_file)
    assert set(json.loads(table_file.read_text())["tables"]) == {"cpu"}


@compiled
def test_tuning_writes_a_table_that_is_used(
    table_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tuning.SIZES, "cpu", (2, 6))
    monkeypatch.setitem(tuning.BATCHES, "cpu", (1, 8))
    assert command.main(["bench", "eigh", "--tune", "--quick"]) == 0
    assert "written to" in capsys.readouterr().out
    assert "by this machine's table" in linalg.backends()["cpu real"]
    assert not _ours(7, 1000)  # beyond what was measured


def test_where_the_table_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANIFOLDNORM_TUNE", "off")
    assert _table.location() is None
    monkeypatch.delenv("MANIFOLDNORM_TUNE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _table.location() == tmp_path / "manifoldnorm" / "eigh.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _table.location() == tmp_path / ".cache" / "manifoldnorm" / "eigh.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _table.location() == tmp_path / "Library" / "Caches" / "manifoldnorm" / "eigh.json"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert _table.location() == tmp_path / "manifoldnorm" / "eigh.json"


def test_a_file_in_the_place_of_the_folder_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from manifoldnorm.bench.command import main

    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main(["norms", "--quick", "--out", str(tmp_path / "out")])
    assert "a folder is expected" in capsys.readouterr().err
