"""The published network for steady-state visual evoked potentials, with its convolutions folded into one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from manifoldnorm import nn as mnn
from manifoldnorm.linalg._precision import check_tensor
from manifoldnorm.manifolds._checks import check_count
from manifoldnorm.models.spdnet import Norm
from manifoldnorm.nn.factory import check_factory


class FoldedConvolutions(nn.Sequential):
    """Convolution over channels, batch norm, convolution over time, batch norm, evaluated as one short convolution.

    The first three layers are affine in the signal once the batch statistics are known, and these follow from the
    covariance of the channels; so one convolution from ``n_channels + 1`` inputs (the last is a constant, which the
    padding of the second convolution cuts off) replaces them. Output, gradients, running statistics and state are those
    of the four layers one after the other, which ``plain`` computes. Hooks on the inner layers do not run.

    Parameters
    ----------
    n_channels : int
        Electrodes.
    spatial, temporal : int
        Channels after the first and the second convolution.
    kernel : int
        Length of the temporal convolution; half of it pads each side.

    Examples
    --------
    >>> import torch
    >>> from manifoldnorm.models.ssvep import FoldedConvolutions
    >>> FoldedConvolutions(8, 125, 15, 36)(torch.randn(2, 8, 125)).shape
    torch.Size([2, 15, 126])
    """

    def __init__(self, n_channels: int, spatial: int, temporal: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(1, spatial, (n_channels, 1)),
            nn.BatchNorm2d(spatial),
            nn.Conv2d(spatial, temporal, (1, kernel), padding=(0, kernel // 2)),
            nn.BatchNorm2d(temporal),
        )

    def plain(self, x: Tensor) -> Tensor:
        """Map signals (N, n_channels, time) layer by layer to (N, temporal, time')."""
        return cast(Tensor, super().forward(x.unsqueeze(1))).squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map signals (N, n_channels, time) to (N, temporal, time')."""
        spatial, temporal = cast(nn.Conv2d, self[0]), cast(nn.Conv2d, self[2])
        mixing = _mixing(x, spatial, cast(nn.BatchNorm2d, self[1]))
        weight = torch.einsum("okj,kc->ocj", temporal.weight.squeeze(2).double(), mixing).to(x.dtype)
        signal = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        mixed = nn.functional.conv1d(signal, weight, temporal.bias, padding=weight.shape[-1] // 2)
        # an empty batch has no statistics, and would leave NaN in the running ones
        return cast(Tensor, self[3](mixed.unsqueeze(2))).squeeze(2) if x.shape[0] else mixed


def _mixing(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return the affine map (spatial, n_channels + 1) of a convolution over channels and its batch norm."""
    running_mean, running_var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    weight, offset = convolution.weight.flatten(1).double(), cast(Tensor, convolution.bias).double()
    if norm.training and x.shape[0]:
        center = x.double().mean((0, 2), keepdim=True)
        centered = (x - center).transpose(0, 1).flatten(1)
        covariance = centered @ centered.mT / centered.shape[1]
        mean = weight @ center.flatten() + offset
        variance = ((weight @ covariance) * weight).sum(1)
        unbiased = variance * (centered.shape[1] / (centered.shape[1] - 1))
        tracked = cast(Tensor, norm.num_batches_tracked).add_(1)  # as torch.nn.BatchNorm2d does it
        for running, new in ((running_mean, mean), (running_var, unbiased)):
            share: Any = 1 / tracked.to(running.dtype) if norm.momentum is None else norm.momentum
            running.lerp_(new.detach().to(running.dtype), share)
    else:
        mean, variance = running_mean.double(), running_var.double()
    gain = norm.weight.double() * (variance + norm.eps).rsqrt()
    shift = norm.bias.double() + gain * (offset - mean)
    return torch.cat([gain[:, None] * weight, shift[:, None]], 1)


class SSVEPNet(nn.Module):
    """The published EEG network for visual evoked potentials: two convolutions, covariance, BiMap, norm, classifier.

    Convolution over all channels, batch norm, convolution over time, batch norm, covariance, BiMap, norm, ReEig,
    LogEig, linear. Signals enter in any unit: the batch norms remove it. The convolutions run in single precision,
    the covariances and what follows in double.

    Parameters
    ----------
    n_channels, n_outputs : int
        Electrodes and classes.
    norm : factory, optional
        Called with the matrix size after BiMap.
    spatial, temporal, features : int
        Channels after the first and the second convolution, and matrix size after BiMap.
    kernel : int
        Length of the temporal convolution.
    threshold : float
        Absolute threshold of ReEig and ridge of the covariance, as published.
    normalize_trace : bool
        Whether covariances are divided by their trace, as in MAtt (GBWBN does not): it fixes the unit that metrics
        without scale invariance see, otherwise an accident of the convolutions' gain.
    parametrization : {"polar", "manifold"}
        Of the `BiMap` layer: for any optimizer, or for Riemannian ones.

    References
    ----------
    Pan et al. 2022, "MAtt: a manifold attention network for EEG decoding" (front end); Wang et al. 2025 (GBWBN).

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.models.SSVEPNet(8, 5)(torch.randn(2, 8, 125)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        n_channels: int,
        n_outputs: int,
        *,
        norm: Norm | None = None,
        spatial: int = 125,
        temporal: int = 15,
        features: int = 12,
        kernel: int = 36,
        threshold: float = 1e-5,
        normalize_trace: bool = True,
        parametrization: str = "polar",
    ) -> None:
        super().__init__()
        n_channels = check_count(n_channels, "SSVEPNet: n_channels")
        n_outputs = check_count(n_outputs, "SSVEPNet: n_outputs")
        check_factory(norm, "SSVEPNet")
        self.front = FoldedConvolutions(n_channels, spatial, temporal, kernel)
        self.covariance = mnn.Covariance(unbiased=True, normalize_trace=normalize_trace)
        self.n_channels, self.threshold = n_channels, threshold
        double = torch.float64
        normed = [norm(features, dtype=double)] if norm is not None else []
        bimap = mnn.BiMap(temporal, features, parametrization=parametrization, dtype=double)
        self.features = mnn.Sequential(bimap, *normed, mnn.ReEig(threshold, relative=False), mnn.LogEig())
        self.vectorize = mnn.SPDVectorize(features)
        self.classifier = nn.Linear(self.vectorize.out_features, n_outputs, dtype=double)

    takes_domain = True

    def forward(self, x: Tensor, domain: Any = None) -> Tensor:
        """Map signals (N, channels, time) to scores (N, n_outputs)."""
        check_tensor(x, "SSVEPNet input")
        if x.ndim != 3 or x.shape[1] != self.n_channels:
            raise ValueError(f"SSVEPNet: expected signals (N, {self.n_channels}, time), got {tuple(x.shape)}.")
        single = next(self.front.parameters()).dtype
        signal = self.front(x.to(single)).to(torch.float64, memory_format=torch.contiguous_format)
        covariance = self.covariance(signal)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        features = self.features(covariance + self.threshold * eye, domain)
        return self.classifier(self.vectorize(features))
