"""Layers of hyperbolic networks, on every model of hyperbolic space, and lifts between features and any manifold."""

from manifoldnorm.nn.hyperbolic._layer import SameCurvature
from manifoldnorm.nn.hyperbolic.conv import PoincareConv2d, from_channels_first
from manifoldnorm.nn.hyperbolic.embedding import HyperbolicEmbedding
from manifoldnorm.nn.hyperbolic.graph import HyperbolicAggregation
from manifoldnorm.nn.hyperbolic.lift import Lift, Lower
from manifoldnorm.nn.hyperbolic.linear import BusemannLinear, HyperbolicLinear
from manifoldnorm.nn.hyperbolic.mlr import BusemannMLR, HyperbolicMLR
from manifoldnorm.nn.hyperbolic.residual import HyperbolicActivation, HyperbolicResidual

__all__ = [
    "BusemannLinear",
    "BusemannMLR",
    "HyperbolicActivation",
    "HyperbolicAggregation",
    "HyperbolicEmbedding",
    "HyperbolicLinear",
    "HyperbolicMLR",
    "HyperbolicResidual",
    "Lift",
    "Lower",
    "PoincareConv2d",
    "SameCurvature",
    "from_channels_first",
]
