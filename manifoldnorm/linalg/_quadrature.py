"""Gauss-Legendre quadrature."""

from __future__ import annotations

import math


def gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Return the ascending nodes and the weights of the rule on (0, 1).

    Newton's iteration on Legendre's polynomial in Python's own floats, which compilers fold into constants.
    """
    nodes, weights = [], []
    for k in range(count):
        x, slope = -math.cos(math.pi * (k + 0.75) / (count + 0.5)), 1.0
        for _ in range(6):
            before, value = 0.0, 1.0
            for degree in range(1, count + 1):
                before, value = value, ((2 * degree - 1) * x * value - (degree - 1) * before) / degree
            slope = count * (x * value - before) / (x * x - 1)
            x -= value / slope
        nodes.append((1 + x) / 2)
        weights.append(1 / ((1 - x * x) * slope * slope))
    return nodes, weights
