"""Networks: short, readable, every norm swappable."""

from manifoldnorm.models.spdnet import SPDNet
from manifoldnorm.models.ssvep import SSVEPNet

__all__ = ["SPDNet", "SSVEPNet"]
