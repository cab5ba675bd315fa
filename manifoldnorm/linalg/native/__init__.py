"""Compiled kernels for batches of small matrices on the CPU, and the choice between them and torch's solver."""

from manifoldnorm.linalg.native._choice import (
    backend,
    backends,
    chosen,
    chosen_for,
    chosen_on_device,
    fusing,
    fusing_for,
)
from manifoldnorm.linalg.native._library import (
    INSTRUCTION_SETS,
    NOT_CONVERGED,
    AnglesCall,
    FusedCall,
    GrassmannCall,
    Instruction,
    Kernels,
    Lines,
    kernels,
)
from manifoldnorm.linalg.native._table import location, save

__all__ = [
    "INSTRUCTION_SETS",
    "NOT_CONVERGED",
    "AnglesCall",
    "FusedCall",
    "GrassmannCall",
    "Instruction",
    "Kernels",
    "Lines",
    "backend",
    "backends",
    "chosen",
    "chosen_for",
    "chosen_on_device",
    "fusing",
    "fusing_for",
    "kernels",
    "location",
    "save",
]
