"""The published batch norms as their code has them, quirks included, for comparison with the clean layers.

Each class says what it does differently from the layer it is built on. For new work use the clean layers: where the two
differ, the clean one follows the paper.
"""

from manifoldnorm.nn.published.layers import (
    CBN,
    GBWBN,
    BrooksBatchNorm,
    GBWBNRResNet,
    LieBN,
    LieBNSPDNet,
    LieBNSPDNN,
    learnable_alem,
)
from manifoldnorm.nn.published.parts import (
    EarlyStoppedKarcher,
    Float32AffineInvariant,
    IndexedLogEuclidean,
    IndexWeights,
    PublishedNorm,
    TracedLogCholesky,
)

__all__ = [
    "CBN",
    "GBWBN",
    "BrooksBatchNorm",
    "EarlyStoppedKarcher",
    "Float32AffineInvariant",
    "GBWBNRResNet",
    "IndexWeights",
    "IndexedLogEuclidean",
    "LieBN",
    "LieBNSPDNN",
    "LieBNSPDNet",
    "PublishedNorm",
    "TracedLogCholesky",
    "learnable_alem",
]
