"""Compiled kernels for batches of small matrices on the CPU, and the choice between them and torch's solver."""

from manifoldnorm.linalg.native._choice import backend, backends, chosen, chosen_on_device, fusing
from manifoldnorm.linalg.native._library import (
    INSTRUCTION_SETS,
    NOT_CONVERGED,
    AnglesCall,
    FusedCall,
    GrassmannCall,
    Kernels,
    kernels,
)
from manifoldnorm.linalg.native._table import location, save

__all__ = [
    "INSTRUCTION_SETS",
    "NOT_CONVERGED",
    "AnglesCall",
    "FusedCall",
    "GrassmannCall",
    "Kernels",
    "backend",
    "backends",
    "chosen",
    "chosen_on_device",
    "fusing",
    "kernels",
    "location",
    "save",
]
