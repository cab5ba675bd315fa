"""Divided differences of acos(c) / sin(acos(c)) where angles vanish: every frame that shares a direction has one."""

from __future__ import annotations

import mpmath
import pytest
import torch

from manifoldnorm.linalg.functions_angles import ArcOverSine

ANGLES = [0.0, 1.5e-8, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.049, 0.051, 0.1, 0.3, 1.0, 1.5, 2.0, 2.8]


def exact(x: float, y: float) -> float:
    def value(c: mpmath.mpf) -> mpmath.mpf:
        angle = mpmath.acos(c)
        return angle / mpmath.sin(angle) if angle else mpmath.mpf(1)

    with mpmath.workdps(60):
        a, b = mpmath.mpf(x), mpmath.mpf(y)
        if a == b:
            b -= mpmath.mpf(10) ** -25
            a = a if a == 1 else a + mpmath.mpf(10) ** -25
        return float((value(a) - value(b)) / (a - b))


@pytest.mark.parametrize("angle", ANGLES)
def test_divided_differences_against_mpmath(angle: float) -> None:
    cosines = torch.tensor(ANGLES, dtype=torch.float64).cos()
    found = ArcOverSine().divided(cosines, None)[ANGLES.index(angle)]
    for cosine, value in zip(cosines.tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(exact(float(cosines[ANGLES.index(angle)]), cosine), rel=1e-12)
