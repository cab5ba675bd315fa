"""scikit-learn's own estimator checks, on rows of numbers turned into positive-definite matrices."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra sklearn")
pytest.importorskip("skorch", reason="needs the extra sklearn")

from sklearn.utils.estimator_checks import estimator_checks_generator

from manifoldnorm.sklearn import SPDNetClassifier


def matrices(rows: Any) -> Any:
    """Diagonal matrices of positive numbers that grow with those of each row; anything else is passed on."""
    try:
        array = np.asarray(rows)
        numbers = array.astype(float)
    except (TypeError, ValueError):
        return rows
    if array.ndim != 2 or array.dtype.kind == "c" or hasattr(rows, "nnz"):
        return rows
    values = np.exp(np.arcsinh(numbers) / 2)
    return (values[:, :, None] * np.eye(array.shape[1])).astype(object if array.dtype == object else float)


class OnRows(SPDNetClassifier):
    """The estimator on rows: what scikit-learn makes up for its checks."""

    def __init__(self, epochs: int = 8, batch_size: int = 16, lr: float = 5e-2, random_state: Any = 0) -> None:
        super().__init__("logeuclid", epochs=epochs, batch_size=batch_size, lr=lr, random_state=random_state)

    def fit(self, X: Any, y: Any, domain: Any = None) -> Any:
        return super().fit(matrices(X), y, domain)

    def predict_proba(self, X: Any, domain: Any = None) -> Any:
        return super().predict_proba(matrices(X), domain)

    def adapt(self, X: Any, domain: Any = None) -> Any:
        return super().adapt(matrices(X), domain)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


WHY_NOT = {
    "check_complex_data": "complex matrices and signals are supported",
    "check_estimators_empty_data_messages": "asks for the message about rows without columns",
}


def checks() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(estimator_checks_generator(OnRows()))
    return [pytest.param(*each, id=getattr(each[1], "func", each[1]).__name__) for each in found]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    name = getattr(check, "func", check).__name__
    if name in WHY_NOT:
        pytest.skip(WHY_NOT[name])
    check(estimator)
