"""Synchronised statistics: several processes against one with the whole batch, what moves, and when one dies."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import manifoldnorm as mn
from manifoldnorm.nn import DomainBatchNorm, convert_sync_batchnorm
from manifoldnorm.stats import Pooled, Processes, converged_mean, pooled, segment, weighted_mean

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without the gloo backend"
)
WORKER = Path(__file__).with_name("sync_worker.py")
F64 = {"dtype": torch.float64}


def launch(task: str, world: int, folder: Path, seconds: float = 400) -> list[tuple[int, str]]:
    """Run a task in ``world`` processes; return the exit status and the output of each, and leave none behind."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    files = [(folder / f"output{rank}").open("w+") for rank in range(world)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), task, str(rank), str(world), str(folder)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        for rank, file in enumerate(files)
    ]
    try:
        for process in processes:
            process.wait(timeout=seconds)
    finally:
        for process, file in zip(processes, files, strict=True):
            process.kill()
            process.wait()
            file.close()
    return [(p.returncode, Path(f.name).read_text()) for p, f in zip(processes, files, strict=True)]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_equal_one_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    for rank, (status, output) in enumerate(launch("compare", world, tmp_path)):
        assert status == 0, f"process {rank} of {world}:\n{output}"
    results = [json.loads((tmp_path / f"result{rank}.json").read_text()) for rank in range(world)]
    check_that_they_differ_without([result.pop("plain")["errors"]["output"] for result in results])
    check_errors(results)
    moved = [{case: entry["moved"] for case, entry in result.items() if "moved" in entry} for result in results]
    assert all(other == moved[0] for other in moved)  # every process takes part in every sum
    check_sums(moved[0])


def check_that_they_differ_without(errors: list[float]) -> None:
    assert sum(error > 0.01 for error in errors) >= 2


def check_errors(results: list[dict[str, Any]]) -> None:
    wrong = {
        f"{case}, {what}, process {rank}": error
        for rank, result in enumerate(results)
        for case, entry in result.items()
        for what, error in entry["errors"].items()
        if not error < 1e-12
    }
    assert wrong == {}
    assert len(results[0]) > 45


def most_values(case: str) -> float:
    """The most values that one all-reduce of a case may move: 1.1 (n^2 + 2) for each channel and domain."""
    sizes = {"Poincare": 3, "Lorentz": 4, "Sphere": 4, "Grassmann": 25, "Rotations": 9, "Rotations Newton": 16}
    name = case.rsplit(", ", 1)[0].removeprefix("domains ")
    size = next((size for start, size in reversed(sizes.items()) if name.startswith(start)), 16)
    groups = 3 if name == "Sphere channels" else 2 if "channels" in name or name == "AIM Newton, weights" else 1
    return 1.1 * (size + 2) * groups * (5 if case.startswith("domains") else 1)


def check_sums(moved: dict[str, dict[str, list[int]]]) -> None:
    """One packed sum for each step of a mean."""
    bounded = {case: m for case, m in moved.items() if not case.startswith(("correlation", "product"))}
    assert {c: m for c, m in bounded.items() if max(m["forward"] + m["backward"]) > most_values(c)} == {}
    # the weights; arithmetic and harmonic mean; the residual with the cost; 3 steps of conjugate gradients; variance
    assert moved["AIM Newton, uneven"]["forward"] == [2, 16, 16, 17, 16, 16, 16, 1]
    # variance; the gradient of the mean; 3 steps of conjugate gradients; the residual
    assert moved["AIM Newton, uneven"]["backward"] == [1, 16, 16, 16, 16, 17]
    assert moved["AIM Karcher, uneven"]["forward"] == [2, 16, 17, 1]
    assert moved["LEM, uneven"] == {"forward": [2, 16, 1], "backward": [1, 16]}
    assert moved["AIM Newton, detached, uneven"]["backward"] == []


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    world = 3
    ended = launch("killed", world, tmp_path)
    assert ended[-1][0] == -9
    for rank, (status, output) in enumerate(ended[:-1]):
        assert status not in (0, -9)
        assert f"Synchronised statistics: process {rank} could not sum over the {world} processes" in output
        assert "another one has ended" in output
        # a failed step leaves the statistics as they were
        assert json.loads((tmp_path / f"failed{rank}.json").read_text()) == {"step": 2, "same": True}
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    layer = mn.nn.LieBatchNorm(mn.AffineInvariant(4), **F64)
    layer.load_state_dict(state["layer"])
    assert layer.num_batches_tracked == 2


@pytest.mark.slow
def test_the_recipe_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    example = WORKER.parents[1] / "examples" / "distributed.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(example)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = []
    for epochs in (1, 2):
        command = [*torchrun, "--out", str(tmp_path), "--batch", "250", "--epochs", str(epochs)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert [len(lines) for lines in printed] == [1, 1]
    assert printed[1][0].startswith("epoch 2 of 2: test accuracy")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="no pgrep, which finds the processes of torchrun")
def test_the_recipe_survives_a_killed_process(tmp_path: Path) -> None:
    example = WORKER.parents[1] / "examples" / "distributed.py"
    recipe = ["--standalone", "--nproc-per-node", "4", "--max-restarts", "3", str(example), "--out", str(tmp_path)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # as docs/scaling.md says
    }
    with (tmp_path / "printed").open("w+") as printed, (tmp_path / "errors").open("w+") as errors:
        command = [sys.executable, "-m", "torch.distributed.run", *recipe, "--epochs", "4"]
        torchrun = subprocess.Popen(command, env=environment, stdout=printed, stderr=errors)
        try:
            deadline = time.monotonic() + 300
            while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
                assert torchrun.poll() is None, (tmp_path / "errors").read_text()
                time.sleep(0.1)
            workers = subprocess.check_output(["pgrep", "-P", str(torchrun.pid)], text=True).split()
            os.kill(int(workers[2]), signal.SIGKILL)
            assert torchrun.wait(timeout=300) == 0, (tmp_path / "errors").read_text()
        finally:
            torchrun.terminate()
            torchrun.wait()
    assert f"(pid: {workers[2]})" in (tmp_path / "errors").read_text()
    epochs = [int(line.split()[1]) for line in (tmp_path / "printed").read_text().splitlines()]
    # each epoch once, but for the one that was killed between its checkpoint and its line
    assert epochs == sorted(set(epochs)) and len(epochs) >= 3 and epochs[-1] == 4
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 4


# ---- one process


def batch(manifold: Any = None) -> torch.Tensor:
    return (manifold or mn.AffineInvariant(3)).random_point(6, **F64)


@pytest.mark.parametrize("training", [True, False])
def test_without_a_process_group_it_is_the_plain_norm(training: bool) -> None:
    plain = mn.nn.LieBatchNorm(mn.AffineInvariant(3), **F64).train(training)
    layer = convert_sync_batchnorm(copy.deepcopy(plain))
    x = batch()
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert layer(x[:0]).shape == (0, 3, 3)


def test_in_a_group_of_one_it_is_the_plain_norm(tmp_path: Path) -> None:
    plain = mn.nn.LieBatchNorm(mn.AffineInvariant(3), **F64)
    layer, x = convert_sync_batchnorm(copy.deepcopy(plain)), batch()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert torch.equal(layer(x), plain(x))
        # and the sums themselves change nothing but the order of additions
        share, valid = pooled(torch.ones(6, **F64), Processes())
        assert isinstance(share, Pooled) and bool(valid)
        torch.testing.assert_close(weighted_mean(x, share, 2), x.mean(0))
        aim = mn.AffineInvariant(3)
        torch.testing.assert_close(converged_mean(aim, x, share), aim.frechet_mean(x))
        copied = copy.deepcopy(convert_sync_batchnorm(plain, dist.new_group([0])))  # as for an average of models
        assert copied.processes.group is plain.processes.group
    finally:
        dist.destroy_process_group()


def test_a_failed_sum_says_what_it_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: torch.Tensor, **options: Any) -> None:
        raise RuntimeError("Timed out waiting 60000ms for recv operation to complete")

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "all_reduce", fail)
        with pytest.raises(RuntimeError, match=r"other than the 10 numbers here.* add_domain in every.*Timed out"):
            segment(torch.ones(6, **F64), torch.arange(6) % 5, 5, Processes())  # for each domain its weight and count
    finally:
        dist.destroy_process_group()


def test_conversion_reaches_every_norm_and_keeps_the_module() -> None:
    aim = mn.nn.RiemannianBatchNorm.of(mn.AffineInvariant)
    net = torch.nn.ModuleList(
        [mn.models.SPDNet([4, 3, 2], 2, norm=aim), DomainBatchNorm(aim(3), 2), torch.nn.BatchNorm1d(2), aim(2)]
    )
    before, keys = dict(net.named_modules()), list(net.state_dict())
    assert convert_sync_batchnorm(net) is net
    assert dict(net.named_modules()) == before
    assert list(net.state_dict()) == keys
    norms = [m for m in net.modules() if isinstance(m, mn.nn.ManifoldNorm)]
    assert len(norms) == 4
    assert all("synchronised" in repr(norm) for norm in norms)
    assert type(net[2]) is torch.nn.BatchNorm1d
    single = mn.nn.LieBatchNorm(mn.LogEuclidean(2))
    assert "synchronised" not in repr(single)
    assert convert_sync_batchnorm(single) is single


def test_a_converted_norm_is_copied_pickled_and_saved() -> None:
    layer = convert_sync_batchnorm(mn.nn.GyroBatchNorm(mn.AffineInvariant(3), **F64))
    x = batch()
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert other.processes is not None
        other.reset_running_stats()
        assert torch.equal(other(x), y)


def test_a_mean_that_depends_on_one_sample_is_refused() -> None:
    layer = mn.nn.published.LieBNRot(3)
    with pytest.raises(ValueError, match="depends on one sample"):
        convert_sync_batchnorm(torch.nn.Sequential(mn.nn.LieBatchNorm(mn.LogEuclidean(2)), layer))
