"""A user's own files: what is accepted, and what each error says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifoldnorm import datasets

RNG = np.random.default_rng(7)


def _covariances(n: int = 12, size: int = 4, *, imaginary: float = 0.0) -> Any:
    signal = RNG.normal(size=(n, size, 30)) + 1j * imaginary * RNG.normal(size=(n, size, 30))
    x = signal @ np.conj(np.swapaxes(signal, 1, 2)) / 30
    return x if imaginary else x.real


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


def _folder(folder: Path, arrays: dict[str, Any]) -> Path:
    for name, array in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, array)
    return folder


@pytest.mark.parametrize("imaginary", [0.0, 1.0])
def test_npz_covariances(tmp_path: Path, imaginary: float) -> None:
    x, y = _covariances(imaginary=imaginary), np.array(["s10", "s2", "s1"] * 4)
    data = datasets.load_npz(_npz(tmp_path, X=x, y=y, session=np.repeat([3, 5, 9], 4)))
    assert data.kind == "covariances" and data.classes == ("s1", "s2", "s10")
    assert data.y[:3].tolist() == [2, 1, 0]
    torch.testing.assert_close(data.x, torch.from_numpy(x))
    assert data.split(train=3, val=5, test=9).test.groups["session"].tolist() == [9] * 4
    single = datasets.load_npz(tmp_path / "mine.npz", dtype=torch.float32)
    assert single.x.dtype == (torch.complex64 if imaginary else torch.float32)


def test_npz_signals_with_groups(tmp_path: Path) -> None:
    file = _npz(tmp_path, x=RNG.normal(size=(6, 4, 50)), y=[[-1.0], [1.0]] * 3, groups=[0, 0, 1, 1, 2, 2])
    data = datasets.load_npz(file)
    assert data.kind == "signals" and data.classes == ("-1", "1")
    assert data.groups["trial"].tolist() == [0, 0, 1, 1, 2, 2]


def test_npz_square_signals_need_their_kind(tmp_path: Path) -> None:
    file = _npz(tmp_path, x=RNG.normal(size=(6, 4, 4)), y=[0, 1] * 3)
    with pytest.raises(ValueError, match=r"mine\.npz: x is square.*kind='signals'"):
        datasets.load_npz(file)
    assert datasets.load_npz(file, kind="signals").kind == "signals"


def test_npz_singular_covariances_need_shrinkage(tmp_path: Path) -> None:
    reference = np.eye(4) - 0.25  # average reference: rank 3
    file = _npz(tmp_path, x=reference @ _covariances() @ reference, y=[0, 1] * 6)
    with pytest.raises(ValueError, match=r"mine\.npz: sample 0 is not positive definite .*Pass shrinkage=1e-3"):
        datasets.load_npz(file)
    assert torch.linalg.eigvalsh(datasets.load_npz(file, shrinkage=1e-3).x).min() > 0


def test_npz_matrices_that_are_no_covariances(tmp_path: Path) -> None:
    x = _covariances()
    x[3] *= -1
    with pytest.raises(ValueError, match=r"sample 3 is not positive definite.*No covariance has negative eigenvalues"):
        datasets.load_npz(_npz(tmp_path, x=x, y=[0, 1] * 6))
    x[3] = 0
    with pytest.raises(ValueError, match=r"sample 3 is not positive definite.*It is zero"):
        datasets.load_npz(_npz(tmp_path, x=x, y=[0, 1] * 6), shrinkage=0.1)


def _broken(value: float) -> Any:
    x = _covariances()
    x[5, 1, 2] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": _covariances()}, r"needs the arrays x \(or X\) and y, found x"),
        ({"x": _covariances(), "y": [0, 1]}, "y has 2 entries, x has 12 samples. Give one number or string"),
        (
            {"x": _covariances(), "y": np.eye(2)[[0, 1] * 6]},
            r"y has shape \(12, 2\), x has 12 samples. Give one",
        ),
        ({"x": _covariances(), "y": [np.nan, 1.0] * 6}, r"y: sample 0 has no label \(nan\). Remove it"),
        (
            {"x": _broken(9.0), "y": [0, 1] * 6},
            r"but sample 5 is not symmetric \(\[1, 2\] is 9, \[2, 1\] .*symmetrise",
        ),
        ({"x": _broken(1.0) * (1 + 0j), "y": [0, 1] * 6}, r"but sample 5 is not Hermitian \(\[1, 2\] is 1\+0j"),
        ({"x": _covariances(), "y": [0, 1] * 6, "session": [1]}, "session has 1 entries"),
        ({"x": np.eye(4), "y": [0] * 4}, r"x must be \(N, n, n\) or \(N, channels, time\), got \(4, 4\)"),
        ({"x": _broken(np.nan), "y": [0, 1] * 6}, r"x: sample 5 is not finite at index \(5, 1, 2\) \(nan\). Remove"),
        ({"x": np.array([[["a"]]]), "y": [0]}, "holds <U1, not numbers"),
        ({"x": _covariances(), "y": np.linspace(0, 1, 12)}, "y must hold whole numbers or strings"),
        ({"x": np.ones((0, 4, 4)), "y": np.ones(0)}, r"x is empty, shape \(0, 4, 4\)"),
        ({"x": _covariances(), "y": np.array([{}] * 12, dtype=object)}, "unreadable .*plain arrays"),
    ],
)
def test_npz_errors_name_the_file(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = _npz(tmp_path, **arrays)
    with pytest.raises(ValueError, match=r"mine\.npz.*" + message):
        datasets.load_npz(file)


def test_npz_refuses_a_single_asymmetric_covariance(tmp_path: Path) -> None:
    file = _npz(tmp_path, x=_broken(9.0), y=[0, 1] * 6)
    with pytest.raises(ValueError, match="sample 5 is not Hermitian"):
        datasets.load_npz(file, kind="covariances")


def test_npz_refuses_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.eye(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ValueError, match="a single array, not an npz file"):
        datasets.load_npz(tmp_path / "one.npy")
    for name in ("text.npz", "empty.npz"):
        with pytest.raises(ValueError, match=rf"{name}: (neither|empty).*numpy\.savez\(path, x=") as seen:
            datasets.load_npz(tmp_path / name)
        assert "pickle" not in str(seen.value)
    (tmp_path / "cut.npz").write_bytes(_npz(tmp_path, x=np.ones(3)).read_bytes()[:90])
    with pytest.raises(ValueError, match=r"cut\.npz: damaged or cut off"):
        datasets.load_npz(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.load_npz(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="is not the MAMEM file: it lacks"):
        datasets.mamem_ssvep(_npz(tmp_path, X=np.ones((1, 2, 3))))


@pytest.mark.parametrize("imaginary", [0.0, 1.0])
def test_folder_covariances(tmp_path: Path, imaginary: float) -> None:
    x = _covariances(3, imaginary=imaginary)
    data = datasets.load_folder(_folder(tmp_path, {"a_1_rest.npy": x[0], "a_10_move.npy": x[1], "a_2_rest.npy": x[2]}))
    torch.testing.assert_close(data.x, torch.from_numpy(x[[0, 2, 1]]))  # natural order
    assert data.classes == ("move", "rest") and data.y.tolist() == [1, 1, 0]
    assert data.groups["trial"].tolist() == [0, 1, 2]


def test_folder_sessions_are_sub_folders(tmp_path: Path) -> None:
    x = _covariances(6)
    names = [f"{part}/{i}_{i}.npy" for part in ("test", "train", "val") for i in range(2)]
    data = datasets.load_folder(_folder(tmp_path, dict(zip(names, x, strict=True))))
    assert data.group_names["session"] == ("train", "val", "test")
    train, val, test = data.default_split()
    torch.testing.assert_close(test.x, torch.from_numpy(x[:2]))
    torch.testing.assert_close(train.x, torch.from_numpy(x[2:4]))
    assert len(val) == 2


def test_folder_signals_of_different_length(tmp_path: Path) -> None:
    long, short = RNG.normal(size=(4, 25)), RNG.normal(size=(4, 13))
    _folder(tmp_path, {"0_a.npy": long, "1_b.npy": short})
    with pytest.raises(ValueError, match=r"1_b\.npy: shape \(4, 13\) does not fit \(4, 25\).*Pass window"):
        datasets.load_folder(tmp_path)
    data = datasets.load_folder(tmp_path, window=10, hop=5)
    assert data.kind == "signals" and data.x.shape == (5, 4, 10)
    assert data.groups["trial"].tolist() == [0, 0, 0, 0, 1] and data.y.tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(data.x[1], torch.from_numpy(long[:, 5:15]))
    with pytest.raises(ValueError, match=r"1_b\.npy: signal has 13 samples, fewer than one window of 20"):
        datasets.load_folder(tmp_path, window=20)


def test_folder_radar_signals_give_the_covariances_of_their_windows(tmp_path: Path) -> None:
    raw, expected = datasets.radar(4, signals=True), datasets.radar(4)
    for i in range(4):
        np.save(tmp_path / f"{i}_{int(raw.y[i])}.npy", raw.x[i, 0].numpy())
    np.save(tmp_path / "4_0.npy", raw.x[0, 0, :300].numpy())
    data = datasets.load_folder(tmp_path, window=20, hop=10)
    assert data.x.shape == (5, 20, 20) and data.x.dtype == torch.complex128
    torch.testing.assert_close(data.x[:4], expected.x, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"0_\d\.npy: a signal of one channel needs a window"):
        datasets.load_folder(tmp_path)
    with pytest.raises(ValueError, match=r"0_\d\.npy is not positive definite"):
        datasets.load_folder(tmp_path, window=80, hop=10)
    assert datasets.load_folder(tmp_path, window=80, hop=10, shrinkage=1e-3).x.shape == (5, 80, 80)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"nolabel.npy": np.eye(3)}, {}, r"nolabel\.npy: the name has no label"),
        ({"0_.npy": np.eye(3)}, {}, r"0_\.npy: the name has no label"),
        ({"0_a.npy": np.eye(3), "1_b.npy": np.eye(4)}, {}, r"1_b\.npy: shape \(4, 4\) does not fit \(3, 3\)"),
        ({"0_a.npy": np.eye(3), "1_b.npy": -np.eye(3)}, {}, r"1_b\.npy is not positive definite"),
        ({"0_a.npy": np.eye(3), "1_b.npy": np.triu(np.ones((3, 3)))}, {}, r"1_b\.npy: not Hermitian, but 0_a\.npy is"),
        ({"0_a.npy": np.triu(np.ones((3, 3)))}, {}, r"0_a\.npy: square, \(3, 3\), but not Hermitian"),
        ({"0_a.npy": np.eye(3)}, {"window": 2}, r"0_a\.npy: window=2 is for signals, but this is a covariance"),
        ({"0_a.npy": np.full((3, 3), np.inf)}, {}, r"0_a\.npy is not finite at index"),
        ({"0_a.npy": np.ones((2, 3, 4))}, {}, r"0_a\.npy: an array must be \(n, n\)"),
        ({"0_a.npy": np.eye(3), "day1/0_b.npy": np.eye(3)}, {}, r"both in the folder and in its sub-folders \(day1\)"),
    ],
)
def test_folder_errors_name_the_file(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.load_folder(_folder(tmp_path, arrays), **options)


@pytest.mark.parametrize("loader", [datasets.load_folder, lambda path: datasets.load_folder(path / "none")])
def test_folder_without_files(tmp_path: Path, loader: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError, match=r"_<label>\.npy"):
        loader(tmp_path)


def test_a_wrong_dtype_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"dtype must be a floating-point type such as torch\.float64, got torch\.int32"
    ):
        datasets.load_npz(_npz(tmp_path, x=_covariances(), y=[0, 1] * 6), dtype=torch.int32)
