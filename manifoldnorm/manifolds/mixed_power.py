"""The mixed-power-Euclidean family of metrics on positive-definite matrices."""

from __future__ import annotations

from manifoldnorm.manifolds.kernel_metric import KernelMetric
from manifoldnorm.manifolds.kernels import MixedPowerKernel
from manifoldnorm.manifolds.spd import check_size


class MixedPowerEuclidean(KernelMetric):
    r"""Positive-definite matrices with the metric ``tr(D pow_p[V] D pow_q[V]) / (p q)``.

    A kernel metric, with the logarithm in place of a power 0. It is affine-invariant for ``(1, -1)`` and power-affine
    for ``(p, -p)``, Euclidean for ``(1, 1)`` and power-Euclidean for ``(p, p)``, log-Euclidean for ``(0, 0)``; these
    have closed forms. The others are geodesics of a solver, see `KernelMetric`. Powers of different signs, or one of
    them 0, keep points away from singular matrices; the order of p and q is immaterial.

    Parameters
    ----------
    n : int
        Matrix size.
    p, q : float
        Powers.
    closed_form : bool
        Whether to use the closed form where there is one; the solver otherwise.

    References
    ----------
    Thanwerdas and Pennec 2022, "The geometry of mixed-Euclidean metrics on symmetric positive definite matrices".

    Examples
    --------
    >>> import torch, manifoldnorm as mn
    >>> mn.MixedPowerEuclidean(2, 1.0, -1.0).dist(torch.eye(2), torch.e * torch.eye(2))
    tensor(1.4142)
    """

    def __init__(self, n: int, p: float, q: float, *, closed_form: bool = True) -> None:
        check_size("MixedPowerEuclidean", n)
        config = {"n": n, "p": p, "q": q, "closed_form": closed_form}
        self._setup_kernel(config, n, MixedPowerKernel(p, q))
