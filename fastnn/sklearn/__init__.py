"""scikit-learn's MLPClassifier and MLPRegressor on compiled steps."""

from .estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
