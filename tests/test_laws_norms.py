"""Every norm layer obeys every law it can have, in both precisions; what it lacks is written down here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from manifoldnorm.linalg import _fused as _fused_kernels
from manifoldnorm.testing import laws_of_norm, run_laws
from manifoldnorm.testing.catalogue import NORMS
from manifoldnorm.testing.checks import NORM_LAWS

TRACKED = {
    "buffers_keep_their_storage",
    "eval_four_steps",
    "eval_ignores_batch_mates",
    "eval_repeats_training",
    "fresh_eval_is_a_dilation",
    "gradient_at_ties",
    "gradient_in_eval",
    "gradient_with_detached_statistics",
    "running_statistics",
}
OTHER = {
    "Lie-LogCholesky-not-affine": {"bias_and_scale_can_be_assigned"},
    "Riemannian-LogCholesky-detached": {"gradient_through_statistics"},
    "Riemannian-BuresWasserstein-detached": {"gradient_through_statistics"},
}
FLAT = {  # fused wherever they run on CPU
    "Lie-LogEuclidean",
    "Riemannian-LogEuclidean-alpha-beta",
    "Lie-LogCholesky",
    "Lie-LogCholesky-power",
    "Lie-LogCholesky-untracked",
    "Lie-LogCholesky-no-bias",
    "Lie-LogCholesky-not-affine",
    "Riemannian-LogCholesky-detached",
    "Lie-AdaptiveLogEuclidean-learned",
    "Riemannian-Euclidean",
    "Gyro-Symmetric",
    "Lie-CorrelationEuclideanCholesky",
    "Lie-CorrelationLogEuclideanCholesky",
    "Gyro-CorrelationOffLog",
    "Riemannian-CorrelationLogScaling",
}
COMPILED = {  # fused with the compiled kernels
    "Riemannian-AffineInvariant",
    "Lie-AffineInvariant",
    "Riemannian-AffineInvariant-power",
    "BuresWasserstein",
    "Riemannian-BuresWasserstein-detached",
    "Riemannian-GeneralizedBuresWasserstein",
    "Lie-CholeskyRightInvariant",
    "Gyro-Grassmann",
}
# layers that move neither by a gyrotranslation nor by the transport that equals it
ONE_WAY = {"PoincareMidpoint", "Riemannian-Rotations", "Riemannian-Product-joint"}


def _fused() -> set[str]:
    return FLAT | COMPILED if _fused_kernels.usable(torch.zeros(1, 3, 3)) else FLAT


def _absent(name: str, layer: Any) -> set[str]:
    absent = TRACKED if "untracked" in name else {"eval_uses_the_batch"}
    one_way = name.startswith("Lie") or "direct" in name or "Bures" in name or name in ONE_WAY
    absent = absent | ({"transport_is_gyrotranslation"} if one_way else set())
    absent = absent | ({"channels_are_independent"} if layer.channels is None else set())
    absent = absent | (set() if name in _fused() else {"paths_agree"})
    return absent | OTHER.get(name, set())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NORMS)
def test_laws(name: str, dtype: torch.dtype) -> None:
    make, symmetries = NORMS[name]
    report = run_laws(laws_of_norm(make, symmetries=symmetries, dtype=dtype, name=name))
    report.assert_ok()
    assert {o.law for o in report.absent} == _absent(name, make())
    assert {o.law for o in report} == {f.__name__ for f in NORM_LAWS} | set(map(str, symmetries))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Lie-LogCholesky",
        "Lie-LogEuclidean",
        "Gyro-AffineInvariant",
        "Lie-AffineInvariant-learned-power",
        "BuresWasserstein",
        "Riemannian-Euclidean",
    ],
)
def test_compiled(name: str) -> None:
    (law,) = [law for law in laws_of_norm(NORMS[name][0], slow=True, name=name) if law.slow]
    law.assert_holds()
