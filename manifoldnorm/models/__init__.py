"""Networks: short, readable, every norm swappable."""

from manifoldnorm.models.spdnet import SPDNet, SSVEPNet

__all__ = ["SPDNet", "SSVEPNet"]
