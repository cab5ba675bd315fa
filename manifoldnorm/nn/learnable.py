"""A geometry with learnable options: the module that owns the parameters of an immutable manifold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manifoldnorm import linalg
from manifoldnorm.manifolds import Manifold


class Constraint(NamedTuple):
    """A smooth bijection from unconstrained parameters to an admissible option, given the initial value."""

    to_raw: Callable[[Tensor], Tensor]
    from_raw: Callable[[Tensor, Tensor], Tensor]  # (raw, sign)


def _log(value: Tensor) -> Tensor:
    return value.abs().log()


def _exp(raw: Tensor, sign: Tensor) -> Tensor:
    return sign * raw.exp()


CONSTRAINTS = {
    "real": Constraint(torch.clone, lambda raw, sign: raw),
    "positive": Constraint(_log, _exp),
    "negative": Constraint(_log, _exp),
    "nonzero": Constraint(_log, _exp),
    "spd": Constraint(linalg.logm, lambda raw, sign: linalg.expm(raw)),
}


class LearnableManifold(nn.Module):
    """Own the learnable options of a manifold and build the manifold from them on every call.

    Several layers can share one; it survives deepcopy, ``.to()`` and ``state_dict``. Signs stay as they start, and an
    option with a lower bound (``alpha`` beside a negative ``beta``) stays above it.

    Parameters
    ----------
    manifold : Manifold
        The geometry at its initial options.
    learn : sequence of str
        Names among ``manifold.learnable``; ``"base.metric"`` reaches an option of a pullback's base.
    device, dtype : optional
        Of the parameters ``raw_<name>`` (logarithms of the options).

    Raises
    ------
    ValueError
        If an option is not learnable, or starts outside its range.

    Examples
    --------
    >>> import manifoldnorm as mn
    >>> geometry = mn.nn.LearnableManifold(mn.PowerDeformed(mn.AffineInvariant(3), 0.5), learn=("power",))
    >>> geometry().power
    tensor(0.5000, grad_fn=<MulBackward0>)
    """

    def __init__(
        self, manifold: Manifold, learn: Sequence[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if isinstance(learn, str):
            learn = (learn,)
        self.template = manifold
        self.learn = tuple(learn)
        for name in self.learn:
            owner, option = _owner(manifold, name)
            kind = owner.learnable.get(option)
            if kind is None:
                raise ValueError(
                    f"LearnableManifold: {name!r} is not learnable on {owner}; learnable: {tuple(owner.learnable)}."
                )
            place = device if device is not None else _place(getattr(owner, option))
            initial = _initial(owner, option).to(dtype or torch.get_default_dtype())
            raw = CONSTRAINTS[kind].to_raw(initial - owner.lower_bound(option))
            if not bool(raw.isfinite().all()):
                raise ValueError(f"LearnableManifold: {name}={getattr(owner, option)} is outside its open range.")
            sign = initial.sign() if kind != "spd" else torch.ones_like(initial[0, 0])
            self.register_buffer(_key("sign", name), sign.to(place))
            self.register_parameter(_key("raw", name), nn.Parameter(raw.to(place)))

    def forward(self) -> Manifold:
        """Return the manifold at the current options; gradients flow to the parameters."""
        manifold = self.template
        for name in self.learn:
            owner, option = _owner(self.template, name)
            constraint = CONSTRAINTS[owner.learnable[option]]
            value = constraint.from_raw(getattr(self, _key("raw", name)), getattr(self, _key("sign", name)))
            bound = owner.lower_bound(option)
            manifold = _replace(manifold, name.split("."), value + bound if bound else value)
        return manifold

    def extra_repr(self) -> str:
        """Return the template and what is learned."""
        return f"{self.template}, learn={self.learn}"


def _key(prefix: str, name: str) -> str:
    return f"{prefix}_{name.replace('.', '_')}"


def _owner(manifold: Any, name: str) -> tuple[Any, str]:
    *path, option = name.split(".")
    owner = manifold
    for step in path:
        if not isinstance(getattr(owner, step, None), Manifold):
            raise ValueError(f"LearnableManifold: {name!r}: {owner} has no geometry {step!r} in it.")
        owner = getattr(owner, step)
    return owner, option


def _place(value: Any) -> torch.device:
    return value.device if isinstance(value, Tensor) else torch.get_default_device()


def _initial(owner: Any, option: str) -> Tensor:
    value = getattr(owner, option)
    if value is None:  # a metric that defaults to the identity; on the CPU, as the default device may hold no values
        return torch.eye(owner.point_shape[-1], device="cpu")
    return (value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")).detach().clone()


def _replace(manifold: Any, path: list[str], value: Any) -> Any:
    if len(path) == 1:
        return manifold.replace(**{path[0]: value})
    return manifold.replace(**{path[0]: _replace(getattr(manifold, path[0]), path[1:], value)})
