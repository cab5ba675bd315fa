"""Grassmann manifolds against the numbers of the GyroBN code and of an independent implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import manifoldnorm as mn
from manifoldnorm.nn import published

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "gyro" / "grassmann_prims_n6p2.npz"
M = mn.Grassmann(6, 2)
Arrays = dict[str, Tensor]


@pytest.fixture(scope="module")
def golden() -> Arrays:
    if not FILE.is_file():
        pytest.skip("the golden numbers (../shared/golden/gyro) are not here")
    with np.load(FILE) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key], dtype=np.float64)) for key in arrays.files}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def span(x: Tensor) -> Tensor:
    return M.to_projector(x)


def test_exponential_and_logarithm(golden: Arrays) -> None:
    u, v, d = golden["U"], golden["V"], golden["D"]
    e = M.origin(dtype=u.dtype)
    close(M.log(u, v), golden["ref_log"])
    close(M.log(u, v), golden["off_log"])
    close(M.log(e, u), golden["off_log_id"])
    close(span(M.exp(u, d)), golden["ref_exp_proj"])
    close(M.exp(u, d), golden["off_exp"])
    close(span(M.geodesic(u, v, golden["t"].flatten())), span(golden["off_geodesic"][:, 0]))
    close(M.dist(u, v), golden["ref_dist"])
    close(M.dist(e, u), golden["off_dist_id"])


def test_transport(golden: Arrays) -> None:
    u, v, d, b = golden["U"], golden["V"], golden["D"], golden["B"]
    close(M.transport(u, v, d), golden["ref_PT_U_to_V"])
    at_origin = torch.cat([torch.zeros(6, 2, 2, dtype=b.dtype), b], -2)
    close(M.from_origin(u, at_origin), golden["ref_PT_I_to_U"])
    close(M.to_origin(u, golden["ref_PT_I_to_U"]), at_origin)
    # the code returns the same vector in another frame
    close(M.from_origin(u, at_origin) @ u.mT, golden["off_PT_from_I"] @ (u @ _factor(u).mT).mT)


def _factor(u: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(u[:, :2])
    return left @ right


def test_gyro_operations(golden: Arrays) -> None:
    u, v, f, t = golden["U"], golden["V"], golden["F"], golden["t"].flatten()
    close(M.gyroadd(u, v), golden["ref_gyroadd"])
    close(M.gyrosub(u, v), golden["ref_leftinvtrans"])
    close(span(M.gyroscale(t, u)), golden["ref_gyroscal_proj"])
    close(span(M.gyroneg(u)), golden["ref_gyroinv_proj"])
    close(span(M.gyration(u, v, f)), golden["ref_gyration_proj"])
    close(span(M.gyroadd(u, v)), golden["ref_PP_gyroadd"])
    official = {"gyroadd": M.gyroadd(u, v), "leftinvtrans": M.gyrosub(u, v), "gyroscal": M.gyroscale(t, u)}
    official |= {"gyroinv": M.gyroneg(u), "gyration": M.gyration(u, v, f)}
    for name, value in official.items():
        close(span(value), span(golden[f"off_{name}_expm"]))


def test_cayley_operations_of_the_code(golden: Arrays) -> None:
    m = published.CayleyGrassmann(6, 2)
    u, v, f, t = golden["U"], golden["V"], golden["F"], golden["t"].flatten()
    close(m.gyroadd(u, v), golden["off_gyroadd_cayley"])
    close(m.gyrosub(u, v), golden["off_leftinvtrans_cayley"])
    close(m.gyroscale(t, u), golden["off_gyroscal_cayley"])
    close(m.gyroneg(u), golden["off_gyroinv_cayley"])
    close(m.gyration(u, v, f), golden["off_gyration_cayley"])
    assert float((span(m.gyroadd(u, v)) - golden["ref_PP_gyroadd"]).abs().max()) > 0.1


def test_means(golden: Arrays) -> None:
    x = golden["X"]
    mean = M.frechet_mean(x)
    close(span(mean), golden["ref_mean_proj"])
    close(span(mean), span(golden["off_mean_karcher200"]))
    close(M.squared_dist(mean, x).mean(), golden["off_var"].squeeze())
    close(span(published.FirstSampleKarcher(1)(M, x)), span(golden["off_mean_karcher1"]))


def test_projections(golden: Arrays) -> None:
    u, d = golden["U"], golden["D"]
    close(span(M.retract(u, d)), span(golden["off_retr"]))
    close(M.project_tangent(u, golden["V"]), golden["off_proju"])


def test_projector_view(golden: Arrays) -> None:
    """The logarithm at the origin as a tangent vector of projectors, ``D e^T + e D^T``."""
    u = golden["U"]
    e = M.origin(dtype=u.dtype)
    log = M.log(e, u)
    close(log @ e.mT + e @ log.mT, golden["ref_PP_log_id"])
    omega = log @ e.mT - e @ log.mT
    close(omega, golden["off_omega"])


def test_gradients_against_differences_of_the_reference(golden: Arrays) -> None:
    """Tangential gradients of the golden operations, by fourth-order differences along geodesics."""
    u, v = golden["U"], golden["V"]
    weight = torch.randn(6, 6, 6, dtype=u.dtype)
    direction = M.project_tangent(u, golden["F"])
    for f in (M.gyroadd, M.gyrosub, lambda a, b: M.geodesic(a, b, 0.4)):
        leaf = u.clone().requires_grad_()
        (span(f(leaf, v)) * weight).sum().backward()

        def value(t: float, f: object = f) -> Tensor:
            return (span(f(M.exp(u, t * direction), v)) * weight).sum()  # type: ignore[operator]

        h = 2e-3
        coefficients = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
        expected = sum(c * (value(k * h) - value(-k * h)) for k, c in coefficients.items()) / h
        assert leaf.grad is not None
        assert abs(float((leaf.grad * direction).sum() - expected)) < 1e-10
