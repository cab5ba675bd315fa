"""Estimators for scikit-learn: SPD networks with any norm, for searches, pipelines and cross-validation.

Needs scikit-learn and skorch (extra ``sklearn``), which are imported when this module is.
"""

try:
    from manifoldnorm.sklearn._classifier import SPDNetClassifier
    from manifoldnorm.sklearn._norms import METRICS
except ImportError as error:
    raise ImportError(
        "manifoldnorm.sklearn needs scikit-learn and skorch, its extra 'sklearn': pip install 'manifoldnorm[sklearn]'."
    ) from error

__all__ = ["METRICS", "SPDNetClassifier"]
