"""The law suite as a user calls it: on a geometry and a layer of one's own, under pytest and from the command line."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm import testing
from manifoldnorm.manifolds import Pullback, SymmetricMatrices
from manifoldnorm.testing.__main__ import main
from manifoldnorm.testing.catalogue import MANIFOLDS, NORMS
from manifoldnorm.testing.checks import GYRO_LAWS, LIE_LAWS, MANIFOLD_LAWS, NORM_LAWS, SLOW_NORM_LAWS
from manifoldnorm.testing.tolerances import TOLERANCES

ONE_LINE_METRIC = Pullback(mn.manifolds.MatrixLog() @ mn.manifolds.MatrixPower(2.0), SymmetricMatrices(2))


@pytest.mark.parametrize("law", testing.laws_of(ONE_LINE_METRIC), ids=lambda law: law.name)
def test_a_metric_of_ones_own(law: testing.Law) -> None:
    law.assert_holds(seed=0)


class Centring(nn.Module):
    """A minimal norm layer that knows nothing of the package: moves the batch mean to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3, dtype=torch.float64))
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0) if self.training else self.running_mean
        if self.training and len(x):
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
        return self.gain * (x - mean)


def test_a_layer_of_ones_own() -> None:
    report = testing.check_norm(Centring, manifold=mn.Euclidean(3))
    verdicts = {o.law: o.verdict for o in report}
    held = [
        "output_mean_is_the_bias",
        "order_is_immaterial",
        "gradient_through_statistics",
        "state_dict_round_trip",
        "copies",
    ]
    assert {verdicts[name] for name in held} == {"ok"}
    absent = [
        "output_variance",
        "weighted_moments",
        "four_steps",
        "weights_are_repetitions",
        "bias_and_scale_can_be_assigned",
    ]
    assert {verdicts[name] for name in absent} == {"absent"}
    assert verdicts["bad_samples_are_left_out"] == "FAILED"  # a NaN sample spoils its mean
    assert verdicts["all_bad_batches_change_nothing"] == "FAILED"


class Shifted(mn.Euclidean):
    """A geometry with a wrong logarithm and an operation that raises."""

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return q - 0.9 * p

    def egrad2rgrad(self, p: Tensor, g: Tensor) -> Tensor:
        raise RuntimeError("no gradient today\nsecond line")


def test_failures_say_what_where_and_how_much() -> None:
    report = testing.check_manifold(Shifted(3), seed=5)
    by_law = {o.law: o for o in report}
    assert by_law["exp_log"].verdict == "FAILED"
    assert by_law["exp_log"].residual > 1e-2
    assert by_law["gradient_duality"].verdict == "ERROR"
    assert by_law["gradient_duality"].detail == "RuntimeError: no gradient today"
    assert not report.ok
    with pytest.raises(AssertionError, match=r"FAILED .* 5  exp_log .* Shifted"):
        report.assert_ok()
    laws = {law.name: law for law in testing.laws_of(Shifted(3))}
    with pytest.raises(AssertionError, match="The exponential undoes the logarithm"):
        laws["exp_log"].assert_holds(seed=5)
    with pytest.raises(RuntimeError, match="no gradient today"):
        laws["gradient_duality"].assert_holds()


def test_absent_is_neither_passed_nor_failed() -> None:
    laws = {law.name: law for law in testing.laws_of(mn.BuresWasserstein(2))}
    outcome = laws["transport_isometry"].run()
    assert outcome.verdict == "absent"
    assert not outcome.failed
    assert "no closed form for parallel transport" in outcome.detail
    with pytest.raises(unittest.SkipTest, match="absent"):
        laws["transport_isometry"].assert_holds()
    for check in (testing.check_lie_group, testing.check_gyrogroup):
        report = check(mn.BuresWasserstein(2))
        assert len(report.absent) == len(report) > 0


def test_seeds_reproduce_and_differ() -> None:
    (law,) = [law for law in testing.laws_of(mn.AffineInvariant(3)) if law.name == "autograd"]
    assert law.run(3) == law.run(3)
    assert law.run(3).residual != law.run(4).residual


def test_a_sampler_of_ones_own() -> None:
    calls: list[tuple[int, ...]] = []

    def sampler(*batch: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        calls.append(batch)
        return 3 + torch.randn(*batch, 3, generator=generator, dtype=dtype)

    assert testing.check_manifold(mn.Euclidean(3), sampler).ok
    assert calls


def test_the_subject_is_never_changed() -> None:
    layer = mn.nn.LieBatchNorm(mn.LogCholesky(2), dtype=torch.float64)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert testing.check_norm(layer).ok
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.training


def test_one_tolerance_per_law() -> None:
    laws = MANIFOLD_LAWS + LIE_LAWS + GYRO_LAWS + NORM_LAWS + SLOW_NORM_LAWS
    symmetries = {str(s).split("[")[0] for _, some in NORMS.values() for s in some}
    assert {f.__name__ for f in laws} | symmetries == set(TOLERANCES)
    assert all((f.__doc__ or "").strip() for f in laws)


def test_reports_add_and_print() -> None:
    report = testing.check_manifold(mn.Euclidean(2)) + testing.check_lie_group(mn.Euclidean(2))
    text = str(report)
    assert "exp_log" in text
    assert "group_inverse" in text
    assert text.endswith(report.summary())
    assert report.summary() == f"{len(report) - len(report.absent)} hold, 0 fail, {len(report.absent)} absent"


def test_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["Euclidean-scalar", "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert "exp_log" in out
    assert "absent" in out
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == [*MANIFOLDS, *NORMS]
    assert main(["no such subject"]) == 2  # an empty report proves nothing
    assert "no subject's name contains no such subject" in capsys.readouterr().out
    broken: dict[str, Any] = {"Broken": lambda: Shifted(2)}
    monkeypatch.setattr("manifoldnorm.testing.__main__.MANIFOLDS", broken)
    assert main(["Broken", "--failures"]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert main(["transposed congruence", "--mutants"]) == 0
    assert "killed 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("manifold", "seed"), [(mn.BuresWasserstein(1), 0), (mn.BuresWasserstein(1), 4), (mn.BuresWasserstein(3), 0)]
)
def test_laws_stay_inside_a_domain(manifold: mn.manifolds.Manifold, seed: int) -> None:
    testing.check_manifold(manifold, seed=seed).assert_ok()
    testing.check_manifold(mn.PowerDeformed(manifold, 2.0), seed=seed).assert_ok()


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"eps": 0.0}, {"check_input": True}], ids=str)
@pytest.mark.parametrize("manifold", [mn.AffineInvariant(3), mn.BuresWasserstein(3)], ids=lambda m: type(m).__name__)
def test_laws_of_a_layer_with_options_at_their_ends(manifold: mn.manifolds.Manifold, options: dict) -> None:
    testing.check_norm(mn.nn.RiemannianBatchNorm(manifold, dtype=torch.float64, **options)).assert_ok()
