"""Simulated radar: micro-Doppler returns of three kinds of rotating targets in clutter and noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from ._recordings import Recordings
from ._windows import as_tensor, covariances, windows

Array = np.ndarray[Any, Any]


class _Target(NamedTuple):
    """Blades per rotor, rotors, rotation frequency and tip Doppler in pulses^-1, rotor to body ratio in dB."""

    blades: int
    rotors: int
    rotation: float
    tip_doppler: float
    ratio: float


_TARGETS = (_Target(2, 1, 0.030, 0.14, 0.0), _Target(2, 4, 0.070, 0.22, -1.0), _Target(3, 2, 0.050, 0.32, -2.0))
_NAMES = ("one rotor, two blades", "four rotors, two blades", "two rotors, three blades")


def radar(
    n_samples: int = 3000,
    n_classes: int = 3,
    seed: int = 0,
    *,
    length: int = 400,
    window: int = 20,
    hop: int = 10,
    signals: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Recordings:
    """Simulate Doppler returns of moving targets with rotors, and take the complex covariance of their windows.

    A target is a body that moves and accelerates, multiplied by blades that rotate; it is seen at 10 to 30 dB above
    white noise, with correlated clutter at -10 to 5 dB.  Each signal is cut into windows, and the covariance of the
    windows (39 vectors of 20 samples) is one Hermitian positive definite matrix.

    Parameters
    ----------
    n_samples : int
        Number of signals; the classes are as equal as they can be, in random order.
    n_classes : int
        2 or 3.
    seed : int
        Seed of the simulator's own generator; the same arguments give the same data.
    length : int
        Pulses per signal.
    window, hop : int
        Pulses per window and from window to window.
    signals : bool
        Return the signals, complex (N, 1, length), instead of covariances.
    dtype : torch.dtype
        Precision; the result is of the complex type of this precision.

    Returns
    -------
    Recordings
        ``x`` complex of shape (N, window, window); the column ``trial`` numbers the signals.
        ``radar(...).real_part()`` is the real form that loses the sign of the Doppler shift.

    Raises
    ------
    ValueError
        If there are fewer samples than classes, other than 2 or 3 classes, or too few windows for full rank.

    Notes
    -----
    Every signal draws its own body motion, noise levels and rotor strength; every rotor its own speed, tip Doppler
    (both within 15 %) and starting angle.  On the default data the median condition number is 1.5e3.  The classes
    differ in blades, rotors, speed and tip Doppler, so no single feature tells them apart.

    References
    ----------
    D. Brooks et al., "Riemannian batch normalization for SPD neural networks", NeurIPS 2019 (windows of 20 pulses);
    S. Martin and B. Mulgrew, "Analysis of the theoretical radar return signal from aircraft propeller blades",
    1990 (the closed form of a rotating blade).

    Examples
    --------
    >>> from manifoldnorm import datasets
    >>> data = datasets.radar(n_samples=30)
    >>> data.x.shape, data.x.dtype
    (torch.Size([30, 20, 20]), torch.complex128)
    >>> data.real_part().x.dtype
    torch.float64
    """
    if n_classes not in (2, 3):
        raise ValueError(f"radar simulates 2 or 3 classes, got n_classes={n_classes}.")
    if n_samples < n_classes:
        raise ValueError(f"n_samples must be at least n_classes={n_classes}, got {n_samples}.")
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    target = np.empty((n_samples, length), dtype=complex)
    for c in range(n_classes):
        target[y == c] = _target(rng, _TARGETS[c], int((y == c).sum()), length)
    received = as_tensor(_receive(rng, target), torch.float64)
    return Recordings(
        name="radar",
        x=(received[:, None] if signals else _full_rank(received, window, hop)).to(dtype.to_complex()),
        y=torch.from_numpy(y.astype(np.int64)),
        classes=_NAMES[:n_classes],
        kind="signals" if signals else "covariances",
        groups={"trial": torch.arange(n_samples)},
        unit="trial",
    )


def _full_rank(received: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Covariances of the windows, refused where there are too few windows for full rank."""
    snapshots = windows(received, window, hop).mT  # (N, window, number of windows)
    if snapshots.shape[-1] <= window:
        raise ValueError(
            f"{snapshots.shape[-1]} windows give a singular covariance of size {window}. "
            "Use a longer signal, a shorter window or a smaller hop."
        )
    return covariances(snapshots)


def _target(rng: np.random.Generator, target: _Target, n: int, length: int) -> Array:
    """Return of body and rotors, (n, length), of unit power."""
    k = np.arange(length)
    shift, drift, phase = rng.uniform(-0.1, 0.1, (n, 1)), rng.normal(0, 2e-4, (n, 1)), rng.uniform(0, 1, (n, 1))
    body = np.exp(2j * np.pi * (shift * k + drift * k**2 / 2 + phase))
    rotor = _rotors(rng, target, n, length)
    ratio = _amplitude(rng.normal(target.ratio, 3, (n, 1)))
    return _unit_power(body * (1 + ratio * _unit_power(rotor)))


def _rotors(rng: np.random.Generator, target: _Target, n: int, length: int) -> Array:
    """Sum over rotors and blades of the closed form of a rotating line scatterer, (n, length)."""
    k, shape = np.arange(length), (n, target.rotors, 1)
    rotation = target.rotation * rng.uniform(0.85, 1.15, shape)
    depth = target.tip_doppler * rng.uniform(0.85, 1.15, shape) / rotation
    # all rotors of a target waver together by 5 %, one to four cycles per signal
    waver = np.sin(2 * np.pi * (rng.uniform(1, 4, (n, 1, 1)) * k / length + rng.uniform(0, 1, (n, 1, 1))))
    start = rng.uniform(0, 2 * np.pi, shape)
    angle = start + 2 * np.pi * np.cumsum(rotation * (1 + 0.05 * waver), axis=-1)
    total = np.zeros((n, length), dtype=complex)
    for blade in range(target.blades):
        x = depth * np.cos(angle + 2 * np.pi * blade / target.blades)
        total += (np.exp(1j * x) * np.sinc(x / np.pi)).sum(axis=1)
    return total


def _receive(rng: np.random.Generator, target: Array) -> Array:
    """Add clutter and white noise of unit power to targets of unit power, (n, length)."""
    n, length = target.shape
    signal_to_noise, clutter_to_noise = rng.uniform(10, 30, (n, 1)), rng.uniform(-10, 5, (n, 1))
    clutter = _circular_noise(rng, n, length)
    for k in range(1, length):  # stationary first-order autoregression of unit power
        clutter[:, k] = 0.95 * clutter[:, k - 1] + np.sqrt(1 - 0.95**2) * clutter[:, k]
    noise = _circular_noise(rng, n, length)
    return np.asarray(_amplitude(signal_to_noise) * target + _amplitude(clutter_to_noise) * clutter + noise)


def _circular_noise(rng: np.random.Generator, n: int, length: int) -> Array:
    noise: Array = rng.normal(size=(2, n, length)) / np.sqrt(2)
    return np.asarray(noise[0] + 1j * noise[1])


def _amplitude(decibel: Array) -> Array:
    return 10 ** (decibel / 20)


def _unit_power(signal: Array) -> Array:
    return np.asarray(signal / np.sqrt((np.abs(signal) ** 2).mean(-1, keepdims=True)))
