"""The published batch norms as their code has them, quirks included, for comparison with the clean layers.

Each class says what it does differently from the layer it is built on. For new work use the clean layers: where the two
differ, the clean one follows the paper.
"""

from manifoldnorm.nn.published.base import EarlyStoppedKarcher, PublishedNorm
from manifoldnorm.nn.published.brooks import BrooksBatchNorm
from manifoldnorm.nn.published.cbn import CBN
from manifoldnorm.nn.published.correlation import LieBNCor, SeriesLogEuclideanCholesky, UnipotentSeries
from manifoldnorm.nn.published.gbwbn import GBWBN, GBWBNRResNet
from manifoldnorm.nn.published.geometries import (
    Float32AffineInvariant,
    IndexedLogEuclidean,
    IndexWeights,
    TracedLogCholesky,
)
from manifoldnorm.nn.published.grassmann import CayleyGrassmann, GyroBNGr, ManifoldNormGr, MisalignedGrassmann, RBNGr
from manifoldnorm.nn.published.hyperbolic import RBNH, GyroBNH, HyperbolicNorm, LorentzCentroidBN, PoincareMidpointBN
from manifoldnorm.nn.published.liebn import AdaptiveLieBN, LieBN, LieBNSPDNet, LieBNSPDNN
from manifoldnorm.nn.published.rotations import FirstSampleKarcher, LieBNRot
from manifoldnorm.nn.published.tsmnet import DetachedKarcher, LieBNTSMNet, TangentMomentum, TSMNetBatchNorm

__all__ = [
    "CBN",
    "GBWBN",
    "RBNH",
    "AdaptiveLieBN",
    "BrooksBatchNorm",
    "CayleyGrassmann",
    "DetachedKarcher",
    "EarlyStoppedKarcher",
    "FirstSampleKarcher",
    "Float32AffineInvariant",
    "GBWBNRResNet",
    "GyroBNGr",
    "GyroBNH",
    "HyperbolicNorm",
    "IndexWeights",
    "IndexedLogEuclidean",
    "LieBN",
    "LieBNCor",
    "LieBNRot",
    "LieBNSPDNN",
    "LieBNSPDNet",
    "LieBNTSMNet",
    "LorentzCentroidBN",
    "ManifoldNormGr",
    "MisalignedGrassmann",
    "PoincareMidpointBN",
    "PublishedNorm",
    "RBNGr",
    "SeriesLogEuclideanCholesky",
    "TSMNetBatchNorm",
    "TangentMomentum",
    "TracedLogCholesky",
    "UnipotentSeries",
]
