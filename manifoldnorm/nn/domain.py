"""Domain-specific batch normalisation: statistics per domain, scale and bias shared."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from manifoldnorm.linalg import without_autocast
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds import Diffeo, Manifold
from manifoldnorm.nn._domains import index_of
from manifoldnorm.nn._refit import refit
from manifoldnorm.nn.factory import check_factory
from manifoldnorm.nn.norm import ManifoldNorm

Self = Any


class DomainBatchNorm(nn.Module):
    """A batch norm with one set of statistics for each domain (person, session, site) and one scale and bias for all.

    In training each sample is normalised by the statistics of its domain in the batch, all at once; in evaluation by
    the running ones. A domain with fewer than ``min_samples`` samples in a batch uses its running statistics, which
    that batch leaves as they are. The statistics' buffers have D in front: ``norm.running_mean`` is
    (D, C?, *point_shape), ``norm.num_batches_tracked`` (D,).

    Loading a state with another number of domains, also strictly, changes the number to that of the state.

    Parameters
    ----------
    norm : ManifoldNorm
        Any norm of this package, with any statistics policy; the layer takes it over.
    num_domains : int
        Number of domains D.
    min_samples : int
        Samples that a domain needs in a batch (per channel) for statistics of its own.

    References
    ----------
    Chang et al. 2019, "Domain-specific batch normalization for unsupervised domain adaptation"; on positive-definite
    matrices Kobler et al. 2022.

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> layer = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(2), momentum=1.0), 2)
    >>> x = torch.stack([torch.eye(2), 4 * torch.eye(2), 9 * torch.eye(2), 9 * torch.eye(2)])
    >>> _ = layer(x, torch.tensor([0, 0, 1, 1]))
    >>> layer.norm.running_mean[:, 0, 0]
    tensor([2., 9.])
    """

    takes_domain = True

    def __init__(self, norm: ManifoldNorm, num_domains: int, *, min_samples: int = 2) -> None:
        super().__init__()
        if not isinstance(norm, ManifoldNorm):
            raise TypeError(f"DomainBatchNorm: norm must be a norm layer of this package, got {norm!r}.")
        num_domains = _count(num_domains, "DomainBatchNorm: num_domains")
        min_samples = _count(min_samples, "DomainBatchNorm: min_samples")
        names = norm.statistics_names()
        others = {name for name, _ in norm.named_buffers(recurse=False)} - {*names, "momenta"}
        if norm.per_domain or others or not norm.track_running_stats:
            raise ValueError(
                "DomainBatchNorm: norm must keep running statistics, not be per domain already, and have no other "
                f"buffers than these, got {sorted(others)}."
            )
        buffers = {name: getattr(norm, name) for name in names}
        buffers = {name: buffer.expand(num_domains, *buffer.shape).clone() for name, buffer in buffers.items()}
        norm.per_domain, norm.min_samples = True, min_samples  # from here on nothing can fail
        self.norm = norm
        for name, buffer in buffers.items():
            norm.register_buffer(name, buffer)

    @classmethod
    def of(cls, norm: Any, num_domains: int = 1, **options: Any) -> DomainFactory:
        """Return a picklable factory ``sizes -> layer`` around a norm's factory; estimators set the number of domains.

        Examples
        --------
        >>> import manifoldnorm as mn
        >>> factory = mn.nn.DomainBatchNorm.of(mn.nn.LieBatchNorm.of(mn.LogEuclidean), 5)
        >>> factory(4).num_domains
        5
        """
        check_factory(norm, "DomainBatchNorm.of")
        return DomainFactory(norm, num_domains, options)

    # ---- forward

    @without_autocast
    def forward(self, x: Tensor, domain: Any = None, weights: Tensor | None = None) -> Tensor:
        """Normalise a batch.

        Parameters
        ----------
        x : Tensor
            Points (N, ..., C?, *point_shape).
        domain : Tensor, array, sequence or int
            Domain (N,) of each sample, integers of any dtype from 0 to D - 1, or the one domain of all; may be left out
            where D is 1. A tensor stays on its device; anything else is copied to that of ``x``.
        weights : Tensor, optional
            As in the norm's forward; they are normalised in each domain.

        Returns
        -------
        Tensor
            Points of the same shape; NaN where a sample is not finite.
        """
        return self.norm._forward(x, weights, self._domain(x, domain))[0]

    @without_autocast
    def forward_in_chart(
        self, x: Tensor, domain: Any = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Diffeo | None]:
        """Return the output before it leaves the chart of a pullback metric, and that chart (None: no chart)."""
        return self.norm._forward(x, weights, self._domain(x, domain), leaves=False)

    def _domain(self, x: Tensor, domain: Any) -> Tensor:
        if domain is not None:
            return index_of(domain, x, "DomainBatchNorm")
        if self.num_domains > 1:
            raise ValueError(
                f"DomainBatchNorm: pass the domain of each sample, 0 to {self.num_domains - 1}: model(x, domain). "
                f"(torch.nn.Sequential passes none on; manifoldnorm.nn.Sequential does.)"
            )
        check_tensor(x, "DomainBatchNorm", "input")
        return torch.zeros(x.shape[:1], dtype=torch.long, device=x.device)

    # ---- domains

    @property
    def num_domains(self) -> int:
        """The number of domains D."""
        return self.norm.running_mean.shape[0]

    def add_domain(self, count: int = 1) -> int:
        """Append domains with fresh statistics and return the index of the first; buffers are replaced."""
        count, first = _count(count, "DomainBatchNorm.add_domain: count"), self.num_domains
        self._resize(first + count)
        return first

    def adapt(self, x: Tensor, domain: Any, weights: Tensor | None = None) -> None:
        """Set the running statistics of domains from (unlabelled) data: converged means and the variances about them.

        A domain of fewer than ``min_samples`` samples is an error, which changes nothing. Where ``min_samples`` is 1,
        one sample sets the mean and leaves the variance, of which it says nothing.

        Parameters
        ----------
        x : Tensor
            Points (N, ..., C?, *point_shape), all data of these domains at once.
        domain : Tensor, array, sequence or int
            Domain (N,) of each sample, or the one domain of all; the statistics of other domains stay.
        weights : Tensor, optional
            As in `forward`.

        Examples
        --------
        >>> import torch, manifoldnorm as mn
        >>> layer = mn.nn.DomainBatchNorm(mn.nn.LieBatchNorm(mn.LogEuclidean(2)), 1)
        >>> new = layer.add_domain()
        >>> layer.adapt(torch.stack([torch.eye(2), 4 * torch.eye(2)]), new)
        >>> layer.norm.running_mean[new].diagonal()
        tensor([2., 2.])
        """
        self._refit(x, weights, index_of(domain, x, "DomainBatchNorm"))

    def refit(self, x: Tensor, domain: Any = None, weights: Tensor | None = None) -> None:
        """Do as `adapt`."""
        self._refit(x, weights, self._domain(x, domain))

    @without_autocast
    def _refit(self, x: Tensor, weights: Tensor | None, domain: Tensor) -> None:
        refit(self.norm, x, weights, domain)

    def freeze(self, frozen: bool = True) -> Self:
        """Use the running statistics in training too, and leave them as they are, until `unfreeze`."""
        self.norm.freeze(frozen)
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`."""
        return self.freeze(False)

    @torch.inference_mode(False)  # tensors made in inference mode could not be trained with later
    @torch.no_grad()
    def _resize(self, count: int) -> None:
        """Keep the first ``count`` domains, or append fresh ones."""
        norm = self.norm
        before = {name: getattr(norm, name) for name in norm.statistics_names()}
        for name, buffer in before.items():
            norm.register_buffer(name, buffer.new_zeros(count, *buffer.shape[1:]))
        norm.reset_running_stats()
        for name, buffer in before.items():
            kept = min(count, buffer.shape[0])
            getattr(norm, name)[:kept].copy_(buffer[:kept])

    def _take_domains(self, other: DomainBatchNorm) -> None:
        """Have as many domains as another layer of this kind, new ones with its statistics."""
        first = self.num_domains
        if other.num_domains == first:
            return
        self._resize(other.num_domains)
        for name in self.norm.statistics_names():
            getattr(self.norm, name)[first:].copy_(getattr(other.norm, name)[first:])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        saved = state_dict.get(f"{prefix}norm.running_mean")
        if saved is not None and saved.shape[0] != self.num_domains:
            self._resize(saved.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # ---- what a user reads and assigns

    @property
    def manifold(self) -> Manifold:
        """The norm's geometry."""
        return self.norm.manifold

    @property
    def scale(self) -> Tensor | None:
        """The norm's scale."""
        return self.norm.scale

    @scale.setter
    def scale(self, value: Tensor | float) -> None:
        self.norm.scale = value

    @property
    def bias_point(self) -> Tensor | None:
        """The norm's bias point."""
        return self.norm.bias_point

    @bias_point.setter
    def bias_point(self, value: Tensor) -> None:
        self.norm.bias_point = value

    def extra_repr(self) -> str:
        """Return the options."""
        return f"num_domains={self.num_domains}, min_samples={self.norm.min_samples}"


def _count(value: Any, argument: str) -> int:
    """Return a whole number of at least 1; numbers of numpy and torch are welcome."""
    try:
        count = index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"{argument} must be a whole number, got {value!r}.")
    if count < 1:
        raise ValueError(f"{argument} must be at least 1, got {count}.")
    return count


@dataclass(frozen=True)
class DomainFactory:
    """``factory(*sizes, **more)`` wraps what a norm's factory builds; picklable and comparable.

    Parameters
    ----------
    norm : callable
        Factory of the norm, such as ``LieBatchNorm.of(LogEuclidean)``, or a layer's class.
    num_domains : int
        Number of domains.
    options : dict
        Of `DomainBatchNorm`.
    """

    norm: Any
    num_domains: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def min_samples(self) -> int:
        """Samples that a domain needs for statistics of its own."""
        return int(self.options.get("min_samples", 2))

    @property
    def of_sizes(self) -> bool:
        """Whether it is called with sizes, as ``Norm.of``; a layer's class is called with a geometry."""
        return bool(getattr(self.norm, "of_sizes", False))

    def __call__(self, *sizes: Any, **more: Any) -> DomainBatchNorm:
        """Return the layer for a manifold of these sizes."""
        return DomainBatchNorm(self.norm(*sizes, **more), self.num_domains, **self.options)

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"DomainBatchNorm.of({self.norm!r}, {self.num_domains}{options})"
