"""Normalisation layers for data that lives on manifolds."""

from manifoldnorm import linalg

__version__ = "0.1.0"
