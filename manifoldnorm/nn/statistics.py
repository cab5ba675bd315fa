"""Statistics policies: which mean and variance centre and scale a batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Use the batch's own mean and variance in training, the running ones in evaluation."""
