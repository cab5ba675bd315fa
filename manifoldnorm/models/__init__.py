"""Networks: short, readable, every norm swappable.

Every model takes ``domain``, the domain of each sample, for norms with statistics per domain, as
``norm=DomainBatchNorm.of(...)`` makes them; these raise without one. Where no norm is per domain it is ignored, so that
one training loop serves both.
"""

from manifoldnorm.models.grassmann_net import GrassmannNet
from manifoldnorm.models.hyperbolic_graph import HyperbolicGraphNet
from manifoldnorm.models.poincare_resnet import PoincareResNet
from manifoldnorm.models.spdnet import SPDNet
from manifoldnorm.models.ssvep import SSVEPNet

__all__ = ["GrassmannNet", "HyperbolicGraphNet", "PoincareResNet", "SPDNet", "SSVEPNet"]
