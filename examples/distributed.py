"""Train an SPD network in several processes with synchronised norms; started again, it goes on from its checkpoint.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # or torchrun's restarts may meet addresses of processes that have ended
torchrun --standalone --nproc-per-node 4 --max-restarts 3 examples/distributed.py --out results/distributed
torchrun --nnodes 4 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
    examples/distributed.py --out SHARED_FOLDER
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import manifoldnorm as mn


def simulate(samples: int, n: int, classes: int, seed: int) -> TensorDataset:
    """Return covariance matrices of short signals whose sources are mixed in another way for each class."""
    mixing = torch.eye(n) + 0.04 * torch.randn(classes, n, n, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    signals = mixing[labels] @ torch.randn(samples, n, 4 * n, generator=generator)
    return TensorDataset(signals @ signals.mT / (4 * n), labels)


def save(path: Path, **state: object) -> None:
    """Write a checkpoint all at once: whoever is killed meanwhile, the file is the old one or the new one."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def accuracy(model: nn.Module, data: DataLoader, device: torch.device) -> float:
    """Return the share of right answers over all processes; the model is in evaluation and sums nothing itself."""
    model.eval()
    counts = torch.zeros(2, device=device)
    with torch.no_grad():
        for x, y in data:
            right = model(x.to(device)).argmax(1) == y.to(device)
            counts += torch.stack([right.sum(), torch.tensor(len(y), device=device)])
    dist.all_reduce(counts)
    return float(counts[0] / counts[1])


def loaders(batch: int) -> list[DataLoader[tuple[Tensor, ...]]]:
    """Return this process's part of the training and of the test data."""
    parts = [simulate(samples, 12, 4, seed) for samples, seed in ((2000, 1), (1000, 2))]
    samplers = [DistributedSampler(part, shuffle=number == 0) for number, part in enumerate(parts)]
    return [DataLoader(p, batch_size=batch, sampler=s) for p, s in zip(parts, samplers, strict=True)]


def main() -> None:
    """Train, one checkpoint after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=25, help="samples of each process in a step")
    parser.add_argument("--out", type=Path, default=Path("results/distributed"))
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    first = dist.get_rank() == 0
    torch.manual_seed(0)

    norm = mn.nn.LieBatchNorm.of(mn.AffineInvariant)
    model = mn.nn.convert_sync_batchnorm(mn.models.SPDNet([12, 8, 6], 4, norm=norm).to(device))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(mn.optim.no_decay_groups(model), lr=1e-2)
    train, test = loaders(arguments.batch)
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint, done = arguments.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"]
    for epoch in range(done + 1, arguments.epochs + 1):
        train.sampler.set_epoch(epoch)
        parallel.train()
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(parallel(x.to(device)), y.to(device)).backward()
            optimizer.step()
        score = accuracy(model, test, device)
        if first:
            save(checkpoint, epoch=epoch, model=model.state_dict(), optimizer=optimizer.state_dict())
            print(f"epoch {epoch} of {arguments.epochs}: test accuracy {100 * score:.1f} %", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
