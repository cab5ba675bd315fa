"""The published batch norms as their code has them, quirks included, for comparison with the clean layers.

Each class says what it does differently from the layer it is built on. For new work use the clean layers: where the two
differ, the clean one follows the paper.
"""

from manifoldnorm.nn.published.base import EarlyStoppedKarcher, PublishedNorm
from manifoldnorm.nn.published.brooks import BrooksBatchNorm
from manifoldnorm.nn.published.cbn import CBN
from manifoldnorm.nn.published.gbwbn import GBWBN, GBWBNRResNet
from manifoldnorm.nn.published.geometries import (
    Float32AffineInvariant,
    IndexedLogEuclidean,
    IndexWeights,
    TracedLogCholesky,
)
from manifoldnorm.nn.published.liebn import AdaptiveLieBN, LieBN, LieBNSPDNet, LieBNSPDNN

__all__ = [
    "CBN",
    "GBWBN",
    "AdaptiveLieBN",
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
]
