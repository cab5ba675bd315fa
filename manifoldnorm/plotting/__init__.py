"""Pictures: points and geodesics, batches before and after a norm, statistics during training, learning curves.

Every function draws on ``ax`` where it is given, else on a new figure, and returns the figure: save it with
``figure.savefig(path)``. Nothing is shown, and pyplot's state is neither used nor changed. matplotlib (extra ``plot``)
is imported when something is drawn.
"""

from manifoldnorm.plotting.cone import spd_cone
from manifoldnorm.plotting.curves import accuracy_per_norm, learning_curves
from manifoldnorm.plotting.disc import poincare_disc
from manifoldnorm.plotting.ellipses import spd_ellipses
from manifoldnorm.plotting.globe import sphere
from manifoldnorm.plotting.norms import before_and_after, statistics

__all__ = [
    "accuracy_per_norm",
    "before_and_after",
    "learning_curves",
    "poincare_disc",
    "spd_cone",
    "spd_ellipses",
    "sphere",
    "statistics",
]
