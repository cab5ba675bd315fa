"""One process of several: synchronised norms against one process with the whole batch. Started by test_sync.py.

python sync_worker.py TASK RANK WORLD FOLDER
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import manifoldnorm as mn
from manifoldnorm.nn import Batch, DomainBatchNorm, Momentum, Renorm, convert_sync_batchnorm
from manifoldnorm.stats import Exact, FixedPoint, Karcher, Newton

SAMPLES = 11
DOMAINS = torch.tensor([0, 2, 3, 0, 2, 2, 4, 3, 0, 2, 3])  # domain 1 is absent, 4 has one sample
SPLITS = {  # samples of each process: uneven, and with processes that have none
    2: {"uneven": (7, 4), "empty": (0, 11)},
    4: {"uneven": (5, 0, 2, 4)},
}
F64 = {"dtype": torch.float64}


@dataclass
class Case:
    """A layer, its batch, and what it is called with beside the batch."""

    layer: nn.Module
    x: Tensor
    along: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 1
    refit: bool = False


def batch(m: Any, *groups: int) -> Tensor:
    dtype = torch.complex128 if m.is_complex else torch.float64
    centre = m.random_point(dtype=dtype).expand(SAMPLES, *groups, *m.point_shape)
    return m.exp(centre, 0.3 * m.random_tangent(centre))


def norm(kind: Any, m: Any, *groups: int, **options: Any) -> Case:
    return Case(kind(m, channels=groups[0] if groups else None, **F64, **options), batch(m, *groups))


def learned(kind: Any, m: Any, *names: str, **options: Any) -> Case:
    return Case(kind(mn.nn.LearnableManifold(m, names, **F64), **F64, **options), batch(m))


def domains(kind: Any, m: Any, *groups: int, **options: Any) -> Case:
    single = norm(kind, m, *groups, **options)
    return Case(DomainBatchNorm(single.layer, 5), single.x, {"domain": DOMAINS})


def twice_and_refit(case: Case) -> Case:
    """For what remembers earlier batches; and the converged mean."""
    case.steps, case.refit = 2, True
    return case


def weighted(case: Case) -> Case:
    case.along["weights"] = torch.rand(SAMPLES, **F64)
    case.along["weights"][3] = 0
    return case


def with_bad_samples(case: Case, *bad: int) -> Case:
    case.x[list(bad)] = float("nan")
    return case


def cases() -> dict[str, Callable[[], Case]]:
    """Every geometry, mean, statistics policy and kind of input."""
    lie, riemann, gyro = mn.nn.LieBatchNorm, mn.nn.RiemannianBatchNorm, mn.nn.GyroBatchNorm
    aim, lem, bw = mn.AffineInvariant(4), mn.LogEuclidean(4), mn.BuresWasserstein(4)
    ball, sphere, grassmann = mn.PoincareBall(3), mn.Sphere(3), mn.Grassmann(5, 2)
    hpd = mn.AffineInvariant(3, field="complex")
    return {
        "AIM Karcher": lambda: norm(lie, aim, mean=Karcher(1)),
        "AIM Karcher(3)": lambda: norm(gyro, aim, mean=Karcher(3)),
        "AIM Newton": lambda: norm(riemann, aim, mean=Newton(1)),
        "AIM Newton, detached": lambda: norm(lie, aim, mean=Newton(2), grad_through_stats=False),
        "AIM Exact": lambda: norm(gyro, aim, mean=Exact(2)),
        "AIM alpha, beta": lambda: norm(lie, mn.AffineInvariant(4, 2.0, 0.25)),
        "complex AIM": lambda: norm(riemann, hpd),
        "AIM of a learned power": lambda: learned(lie, mn.PowerDeformed(aim, 0.5), "power"),
        "AIM channels": lambda: norm(lie, aim, 2),
        "LEM": lambda: norm(lie, lem),
        "LEM cumulative": lambda: twice_and_refit(norm(lie, lem, momentum=None)),
        "LEM without running statistics": lambda: norm(lie, lem, track_running_stats=False),
        "LCM": lambda: norm(lie, mn.LogCholesky(4)),
        "CRIM": lambda: norm(lie, mn.CholeskyRightInvariant(4)),
        "BW FixedPoint": lambda: norm(riemann, bw, mean=FixedPoint(1)),
        "BW Newton": lambda: norm(riemann, bw, mean=Newton(1)),
        "BW Exact": lambda: norm(riemann, bw, mean=Exact(2)),
        "learned generalised BW": lambda: learned(riemann, mn.GeneralizedBuresWasserstein(4), "metric", mean=Newton(1)),
        "Poincare": lambda: norm(gyro, ball),
        "Poincare Karcher": lambda: norm(riemann, ball, mean=Karcher(2)),
        "Poincare midpoint": lambda: norm(mn.nn.PoincareMidpointBatchNorm, ball, recenter=True),
        "Lorentz": lambda: norm(gyro, mn.Lorentz(3)),
        "Lorentz centroid": lambda: norm(mn.nn.LorentzCentroidBatchNorm, mn.Lorentz(3)),
        "Sphere": lambda: norm(riemann, sphere),
        "Sphere channels": lambda: norm(gyro, sphere, 3, mean=Exact(2)),
        "Grassmann": lambda: norm(riemann, grassmann),
        "Grassmann Newton": lambda: norm(gyro, grassmann, mean=Newton(1)),
        "Rotations": lambda: norm(lie, mn.Rotations(3)),
        "Rotations Newton": lambda: norm(lie, mn.Rotations(4), mean=Newton(1)),
        "correlation": lambda: norm(gyro, mn.CorrelationPolyHyperbolic(4)),
        "product": lambda: norm(riemann, mn.Product(mn.AffineInvariant(2), mn.Sphere(2))),
        "AIM Momentum": lambda: twice_and_refit(norm(lie, aim, statistics=Momentum(0.6, 0.2))),
        "BW Renorm": lambda: twice_and_refit(norm(riemann, bw, statistics=Renorm(0.3))),
        "AIM weights": lambda: weighted(norm(lie, aim)),
        "Sphere channels, weights": lambda: weighted(norm(riemann, sphere, 2)),
        "AIM NaN": lambda: with_bad_samples(norm(lie, aim), 1, 8),
        "LEM only NaN": lambda: with_bad_samples(norm(lie, lem), *range(SAMPLES)),
        "published LieBN": lambda: norm(mn.nn.published.LieBNSPDNet, aim),
        "domains AIM": lambda: twice_and_refit(domains(lie, aim, statistics=Momentum(0.6, 0.2))),
        "domains AIM Newton, weights": lambda: weighted(domains(gyro, aim, 2, mean=Newton(1))),
        "domains LEM": lambda: domains(lie, lem, statistics=Batch()),
        "domains BW": lambda: with_bad_samples(domains(riemann, bw, statistics=Renorm(0.3)), 4),
        "domains Sphere": lambda: domains(gyro, sphere, mean=Exact(2)),
        "domains Grassmann": lambda: domains(riemann, grassmann, mean=Newton(1)),
        "domains Poincare": lambda: twice_and_refit(domains(gyro, ball)),
        "domains Rotations": lambda: domains(lie, mn.Rotations(3)),
    }


@torch.no_grad()
def distance(own: Tensor, whole: Tensor) -> float:
    """The largest difference, relative to the largest entry; infinite where NaN differ."""
    if own.shape != whole.shape or not torch.equal(own.isnan(), whole.isnan()):
        return float("inf")
    own, whole = own.nan_to_num(), whole.nan_to_num()
    if not own.numel():
        return 0.0
    return float((own - whole).abs().max() / whole.abs().double().max().clamp_min(1e-3))


def merge(errors: dict[str, float], new: dict[str, float]) -> None:
    for name, value in new.items():
        errors[name] = max(errors.get(name, 0.0), value)


def leaves(case: Case, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
    """A part of the batch, and of what comes with it; gradients are wanted for all that can have one."""
    along = {name: value[part].clone().requires_grad_(value.is_floating_point()) for name, value in case.along.items()}
    return case.x[part].clone().requires_grad_(), along


def own_part(split: tuple[int, ...], rank: int) -> slice:
    return slice(sum(split[:rank]), sum(split[: rank + 1]))


@contextmanager
def counted() -> Iterator[list[int]]:
    """List the number of values that every all-reduce moves."""
    plain, moved = dist.all_reduce, []

    def counting(values: Tensor, **options: Any) -> Any:
        moved.append(values.numel())
        return plain(values, **options)

    dist.all_reduce = counting
    try:
        yield moved
    finally:
        dist.all_reduce = plain


def whole_and_own(case: Case, part: slice, group: Any = None) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Train; return how far this process's part is from the whole, and what each all-reduce moved."""
    whole = randomized(case.layer)
    own = convert_sync_batchnorm(copy.deepcopy(whole), group)
    errors: dict[str, float] = {}
    moved: dict[str, list[int]] = {}
    cotangent = torch.randn_like(case.x)
    for step in range(case.steps):
        x, along = leaves(case, slice(None))
        x_own, along_own = leaves(case, part)
        y = whole(x, **along)
        with counted() as moved["forward"]:
            y_own = own(x_own, **along_own)
        loss(y, cotangent).backward()
        with counted() as moved["backward"]:
            loss(y_own, cotangent[part]).backward()
        merge(errors, {"output": distance(y_own, y[part]), "input gradient": distance(x_own.grad, x.grad[part])})
        if "weights" in along:
            error = distance(along_own["weights"].grad, along["weights"].grad[part])
            merge(errors, {"gradient of the weights": error})
        if step + 1 < case.steps:
            whole.zero_grad()
            own.zero_grad()
    for (name, p), q in zip(whole.named_parameters(), own.parameters(), strict=True):
        if p.grad is not None:
            dist.all_reduce(q.grad, group=group)
            merge(errors, {f"gradient of {name}": distance(q.grad, p.grad)})
    merge(errors, statistics_apart(whole, own, group))
    if case.refit:
        along = {name: value.where(value != 4, 3) for name, value in case.along.items()}  # one sample is too few
        own.refit(case.x[part], **{name: value[part] for name, value in along.items()})
        whole.refit(case.x, **along)
        merge(errors, statistics_apart(whole, own, group))
    return errors, moved


def statistics_apart(whole: nn.Module, own: nn.Module, group: Any) -> dict[str, float]:
    """How far the buffers are from those of the whole batch; infinite if two processes differ in a bit."""
    errors = {}
    for (name, a), b in zip(whole.named_buffers(), own.buffers(), strict=True):
        real = torch.view_as_real(b) if b.is_complex() else b
        first = real.clone()
        dist.broadcast(first, dist.get_global_rank(group, 0) if group else 0, group=group)
        errors[name] = distance(b, a) if torch.equal(first, real) else float("inf")
    return errors


def loss(y: Tensor, cotangent: Tensor) -> Tensor:
    inner = (y.conj() * cotangent).real if y.is_complex() else y * cotangent
    return inner.nan_to_num().sum()


def randomized(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if not name.endswith(("on_manifold", "signed_scale")):
                p.add_(0.1 * torch.randn_like(p))
    return layer


def compare(rank: int, world: int) -> dict[str, Any]:
    """Every case, every split."""
    found: dict[str, Any] = {}
    for number, (name, make) in enumerate(cases().items()):
        for kind, split in SPLITS[world].items():
            torch.manual_seed(number)
            errors, moved = whole_and_own(make(), own_part(split, rank))
            found[f"{name}, {kind}"] = {"errors": errors, "moved": moved}
    return found


def groups(rank: int, world: int) -> dict[str, Any]:
    """Two groups of two processes, each with a batch of its own."""
    torch.manual_seed(0)
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    torch.manual_seed(rank // 2)
    errors, moved = whole_and_own(cases()["AIM Newton"](), own_part((8, 3), rank % 2), pairs[rank // 2])
    return {"groups": {"errors": errors, "moved": moved}}


def plain(rank: int, world: int) -> dict[str, Any]:
    """The control: without synchronisation the results are far from those of the whole batch."""
    torch.manual_seed(0)
    case = cases()["AIM Newton"]()
    part = own_part(SPLITS[world]["uneven"], rank)
    y = copy.deepcopy(case.layer)(case.x[part])
    return {"plain": {"errors": {"output": distance(y, case.layer(case.x)[part])}}}


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    nets = mn.nn.BiMap(4, 3, **F64), mn.nn.LieBatchNorm(mn.AffineInvariant(3), channels=1, **F64, **options)
    return mn.nn.Sequential(*nets, mn.nn.LogEig(), nn.Flatten(), nn.Linear(9, 2, **F64))


def parallel(rank: int, world: int) -> dict[str, Any]:
    """Three SGD steps under DistributedDataParallel and FSDP2, against one process."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(1)
    x = batch(mn.AffineInvariant(4), 1)
    part = own_part((*(0 for _ in range(world - 2)), 6, 5), rank)
    whole = network()
    trained(whole, whole, x)
    found = {}
    own = convert_sync_batchnorm(network())
    wrapped = nn.parallel.DistributedDataParallel(own)
    trained(wrapped, wrapped, x[part], world)
    found["DistributedDataParallel"] = {"errors": states_apart(whole, own.state_dict())}
    own = convert_sync_batchnorm(network())
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    fully_shard(own[1], mesh=mesh)
    fully_shard(own, mesh=mesh)
    trained(own, own, x[part], world)
    state = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in own.state_dict().items()}
    found["FSDP2"] = {"errors": states_apart(whole, state)}
    return found


def trained(model: nn.Module, called: nn.Module, x: Tensor, world: int = 1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (world * called(x).square().sum()).backward()  # the processes' gradients are averaged
        optimizer.step()


def states_apart(whole: nn.Module, state: dict[str, Tensor]) -> dict[str, float]:
    return {name: distance(state[name], value) for name, value in whole.state_dict().items()}


def killed(rank: int, world: int, folder: Path) -> None:
    """Train with a checkpoint after every step; the last process is killed inside of the third."""
    layer = convert_sync_batchnorm(mn.nn.LieBatchNorm(mn.AffineInvariant(4), **F64))
    x = batch(mn.AffineInvariant(4))
    checkpoint = folder / "checkpoint.pt"
    sums = 0
    plain = dist.all_reduce

    def dying(values: Tensor, **options: Any) -> Any:
        nonlocal sums
        sums += 1
        if step == 3 and sums == 4 and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(values, **options)

    dist.all_reduce = dying
    for step in range(1, 6):
        sums = 0
        try:
            layer(x).square().sum().backward()
        except RuntimeError:
            state = torch.load(checkpoint, weights_only=True)
            same = all(torch.equal(layer.state_dict()[k], v) for k, v in state["layer"].items())
            (folder / f"failed{rank}.json").write_text(json.dumps({"step": state["step"], "same": same}))
            raise
        if rank == 0:
            torch.save({"step": step, "layer": layer.state_dict()}, folder / "new.pt")
            os.replace(folder / "new.pt", checkpoint)
        dist.barrier()


def main() -> None:
    """Run a task in one process of the group."""
    task, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.manual_seed(0)
    if task == "killed":
        killed(rank, world, folder)
        return
    found: dict[str, Any] = {}
    for part in (compare, plain, parallel, *((groups,) if world == 4 else ())):
        found.update(part(rank, world))
    (folder / f"result{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
