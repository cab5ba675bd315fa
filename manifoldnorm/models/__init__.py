"""Networks: short, readable, every norm swappable."""

from manifoldnorm.models.grassmann_net import GrassmannNet
from manifoldnorm.models.hyperbolic_graph import HyperbolicGraphNet
from manifoldnorm.models.poincare_resnet import PoincareResNet
from manifoldnorm.models.spdnet import SPDNet
from manifoldnorm.models.ssvep import SSVEPNet

__all__ = ["GrassmannNet", "HyperbolicGraphNet", "PoincareResNet", "SPDNet", "SSVEPNet"]
