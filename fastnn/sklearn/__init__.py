"""scikit-learn's MLPClassifier and MLPRegressor on compiled steps, for unchanged scripts.

>>> from fastnn.sklearn import MLPClassifier
>>> MLPClassifier(solver="lbfgs", random_state=0).fit([[0.0], [1.0]], ["no", "yes"]).predict([[1.0]]).item()
'yes'

`patch` replaces the classes everywhere in a process; ``python -m fastnn.sklearn script.py`` runs a script so.
"""

try:
    import sklearn as _sklearn  # noqa: F401 (absolute: the real one)
except ImportError:
    raise ImportError("fastnn.sklearn needs scikit-learn: pip install 'fastnn-core[sklearn]'") from None

from .convert import from_sklearn, to_fastnn, to_sklearn
from .estimators import MLPClassifier, MLPRegressor
from .patching import is_patched, patch, unpatch

__all__ = [
    "MLPClassifier",
    "MLPRegressor",
    "from_sklearn",
    "is_patched",
    "patch",
    "to_fastnn",
    "to_sklearn",
    "unpatch",
]
