"""Domains of samples: labels of any kind, indices for the layers, and which layers take them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def labels_of(domains: Any, name: str) -> list[Hashable]:
    """Return one label per sample, as Python's own values, from a sequence, an array, a tensor or a series."""
    if isinstance(domains, (str, bytes)) or not isinstance(domains, Iterable):
        raise TypeError(f"{name}: pass a sequence with one label for each sample, got {domains!r}.")
    shape = tuple(getattr(domains, "shape", ()))
    if math.prod(shape[1:]) != 1:
        raise ValueError(
            f"{name}: pass one label for each sample, got shape {shape}. Labels of several parts: a list of tuples."
        )
    flat = domains.reshape(-1) if hasattr(domains, "reshape") else domains
    listed = flat.tolist() if hasattr(flat, "tolist") else flat
    labels = [each.item() if hasattr(each, "item") else each for each in listed]
    for position, label in enumerate(labels):
        if not isinstance(label, Hashable):
            raise TypeError(f"{name}: label {position} is not hashable, got {label!r}. Use strings, numbers or tuples.")
        if label != label:
            raise ValueError(f"{name}: label {position} is NaN, which belongs to no domain. Leave the sample out.")
    return labels


def distinct(labels: Iterable[Any]) -> list[Any]:
    """Return each label once, ascending, or as they first appear where they cannot be compared."""
    found = dict.fromkeys(labels)
    try:
        return sorted(found)
    except TypeError:
        return list(found)


def index_of(domain: Any, x: Tensor, name: str) -> Tensor:
    """Return the domain (N,) of each sample of ``x`` as integers; those in a tensor stay where they are."""
    if not isinstance(domain, Tensor):
        domain = _as_tensor(domain, x, name)
    if domain.dtype == torch.bool or domain.is_floating_point() or domain.is_complex():
        raise TypeError(f"{name}: {_REMEDY.format(got=domain.dtype)} Whole numbers: domain.long().")
    if domain.ndim == 0:
        domain = domain.expand(x.shape[0])
    return domain if domain.dtype in (torch.int32, torch.int64) else domain.long()


_REMEDY = (
    "domain must hold integers, got {got}. Map labels to 0, 1, ... first (the estimators of manifoldnorm.sklearn take "
    "labels of any kind)."
)


def _as_tensor(domain: Any, x: Tensor, name: str) -> Tensor:
    if isinstance(domain, int) and not isinstance(domain, bool):
        return torch.full(x.shape[:1], domain, dtype=torch.long, device=x.device)
    if getattr(domain, "dtype", None) == "object":  # Python's numbers in an array or a column of a table
        domain = domain.tolist()
    try:
        index = torch.as_tensor(domain, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:  # strings, None, ragged lists
        raise TypeError(f"{name}: {_REMEDY.format(got=repr(domain)[:80])}") from error
    return index.long() if index.numel() == 0 else index  # an empty list has no dtype of its own


def takes_domain(layer: Any) -> bool:
    """Return whether a layer says that its forward takes ``domain``, by an attribute of this name."""
    return bool(getattr(layer, "takes_domain", False))


def apply(layer: nn.Module, x: Tensor, domain: Any) -> Any:
    """Return the layer's output; it is given the domain, if there is one, where it takes it."""
    return layer(x, domain=domain) if domain is not None and takes_domain(layer) else layer(x)
