"""Statistics over all processes of a distributed training."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from manifoldnorm.nn.norm import ManifoldNorm
from manifoldnorm.stats import Processes

Module = TypeVar("Module", bound=nn.Module)


def convert_sync_batchnorm(module: Module, process_group: Any = None) -> Module:
    """Make every norm of this package in a module take its statistics over all processes, and return the module.

    As `torch.nn.SyncBatchNorm.convert_sync_batchnorm`, for any geometry, mean and statistics policy: outputs, running
    statistics and (summed) gradients are those of one process with the whole batch. Batches may be uneven, and empty
    in some processes, but every process has to call the module, forward and backward. Norms are changed in place and
    keep their parameters, buffers and keys; torch's own batch norms are left to torch's conversion.

    In evaluation, with one process, and where `torch.distributed` is not initialised, a converted norm is the plain
    one. `refit` and `adapt` take each process's part of the data.

    Parameters
    ----------
    module : Module
        A norm or any module that contains some.
    process_group : torch.distributed.ProcessGroup, optional
        Over whose processes; all by default.

    Raises
    ------
    ValueError
        If a norm's mean starts from one of the samples, as that of the published norm of rotations.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> net = mn.models.SPDNet([4, 3], 2, norm=mn.nn.LieBatchNorm.of(mn.LogEuclidean))
    >>> net = mn.nn.convert_sync_batchnorm(net)
    >>> net(mn.LogEuclidean(4).random_point(8)).shape  # torch.distributed is not initialised: this process only
    torch.Size([8, 2])
    """
    norms = [norm for norm in module.modules() if isinstance(norm, ManifoldNorm)]
    for norm in norms:
        policy = norm._mean_policy
        if policy is not None and not policy.over_processes:
            raise ValueError(
                f"convert_sync_batchnorm: the mean {policy} of {type(norm).__name__} depends on one sample, which only "
                f"one process has. Use another one, such as mean=Karcher(1)."
            )
    for norm in norms:
        norm.processes = Processes(process_group)
    return module
