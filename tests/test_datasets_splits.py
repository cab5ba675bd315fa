"""Splits never cut a unit, and say what is wrong with a request."""

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from manifoldnorm.datasets import Recordings


def _recordings(**changes: Any) -> Recordings:
    """Twelve trials of 2 samples, 2 classes, in 3 named sessions."""
    trial = torch.arange(12).repeat_interleave(2)
    fields: dict[str, Any] = {
        "name": "toy",
        "x": torch.eye(3).repeat(24, 1, 1) * torch.arange(1.0, 25)[:, None, None],
        "y": trial % 2,
        "classes": ("left", "right"),
        "kind": "covariances",
        "groups": {"trial": trial, "session": trial // 4, "half": torch.arange(24) % 2},
        "unit": "trial",
        "group_names": {"session": ("mon", "tue", "wed")},
    }
    return Recordings(**(fields | changes))


def test_split_by_session_names_or_codes() -> None:
    data = _recordings()
    named = data.split(train="mon", val="tue", test="wed")
    coded = data.split(train=[0], val=1, test=[2])
    for a, b in zip(named, coded, strict=True):
        assert len(a) == 8 and torch.equal(a.x, b.x)
    assert torch.equal(named.test.x, data.x[16:])


def test_split_by_conditions() -> None:
    train, val, test = _recordings().split(
        train={"session": ["mon", "tue"], "trial": range(6)}, val={"trial": [6, 7]}, test="wed"
    )
    assert (len(train), len(val), len(test)) == (12, 4, 8)


def test_protocol_is_the_split_without_arguments() -> None:
    data = _recordings(protocol={"train": "wed", "val": "tue", "test": "mon"})
    assert torch.equal(data.split().test.x, data.x[:8])
    assert torch.equal(data.default_split().test.x, data.x[:8])
    with pytest.raises(ValueError, match=r"no usual split: pass train, val and test, or use random_split"):
        _recordings().split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": [0], "val": [1], "test": [1], "by": "half"}, "trial 0 would be cut, it lies in both train and val"),
        ({"train": ["mon", "tue"], "val": "tue", "test": "wed"}, "trial 4 would be cut, it lies in both train and val"),
        ({"train": "mon", "val": "tue"}, "pass all of train, val and test"),
        (
            {"train": "mon", "val": "tue", "test": "thu"},
            "no sample has session 'thu'; choose from .*'mon', 'tue', 'wed'",
        ),
        ({"train": 0, "val": 1, "test": 7}, "no sample has session 7"),
        ({"train": 0, "val": 1, "test": 2, "by": "day"}, "no column 'day'; its columns are trial, session, half"),
        ({"train": "mon", "val": {"session": "tue", "trial": 0}, "test": "wed"}, "the val part would be empty"),
    ],
)
def test_bad_splits_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _recordings().split(**arguments)


def test_random_split_deals_whole_trials_with_equal_classes() -> None:
    data = _recordings()
    parts = data.random_split(val=1 / 3, test=1 / 6, seed=1)
    trials = [set(part.groups["trial"].tolist()) for part in parts]
    assert [len(trial) for trial in trials] == [6, 4, 2] and len(set.union(*trials)) == 12
    assert [part.y.bincount().tolist() for part in parts] == [[6, 6], [4, 4], [2, 2]]
    again, other = data.random_split(val=1 / 3, test=1 / 6, seed=1), data.random_split(val=1 / 3, test=1 / 6, seed=2)
    assert torch.equal(parts.train.x, again.train.x) and not torch.equal(parts.train.x, other.train.x)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.5), (0.5, 0.5), (-0.1, 0.2)])
def test_random_split_shares(val: float, test: float) -> None:
    with pytest.raises(ValueError, match="positive shares with a sum below 1"):
        _recordings().random_split(val, test)


def test_random_split_refuses_empty_parts() -> None:
    with pytest.raises(ValueError, match=r"no class has 3 trials, one each.*the most is 2, of 8 samples\).*Add trials"):
        _recordings().subset(torch.arange(8)).random_split(val=0.01, test=0.5)


def test_random_split_gives_every_part_every_class() -> None:
    assert _recordings().random_split(val=0.01, test=0.5).val.y.bincount().tolist() == [2, 2]


def test_default_split_takes_the_last_sessions() -> None:
    data = _recordings()
    assert torch.equal(data.default_split().val.x, data.x[8:16])
    assert torch.equal(data.default_split().test.x, data.x[16:])


def test_default_split_of_two_sessions_validates_on_trials_of_the_first() -> None:
    data = _recordings()
    two = data.subset(data.mask(session=["mon", "tue"]))
    train, val, test = two.default_split(seed=5)
    assert torch.equal(test.x, data.x[8:16])
    assert set(val.groups["session"].tolist()) == {0} and len(train) + len(val) == 8


def test_default_split_without_sessions_is_random() -> None:
    data = _recordings()
    lone = _recordings(groups={"trial": data.groups["trial"]})
    assert torch.equal(lone.default_split(seed=3).test.x, lone.random_split(seed=3).test.x)


def test_torch_loader_pickle_and_conversion() -> None:
    data = _recordings()
    x, y = next(iter(DataLoader(data, batch_size=5)))  # type: ignore[arg-type]
    assert x.shape == (5, 3, 3) and torch.equal(y, data.y[:5])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.x, data.x) and copy.group_names == data.group_names
    assert data.to(dtype=torch.float64, device="cpu").x.dtype == torch.float64
    complex_data = _recordings(x=data.x.to(torch.complex64))
    assert complex_data.to(dtype=torch.float64).x.dtype == torch.complex128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(24, 3, 4)}, r"x must be \(N, n, n\) for covariances, got \(24, 3, 4\)"),
        ({"x": torch.ones(24, 3), "kind": "signals"}, r"x must be \(N, channels, time\) for signals"),
        ({"kind": "images"}, "kind must be 'signals' or 'covariances', got 'images'"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"y must be \(24,\), one per sample, got \(3,\)"),
        ({"classes": ("left",)}, r"y must lie in 0\.\.0"),
        ({"unit": "run"}, "unit 'run' is no column of groups"),
    ],
)
def test_inconsistent_recordings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _recordings(**changes)
