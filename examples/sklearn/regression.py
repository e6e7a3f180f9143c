"""Progress of diabetes by a pipeline of scaling and a perceptron: plain scikit-learn.

python regression.py; or, on compiled steps, python -m fastnn.sklearn regression.py
"""

from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = load_diabetes(return_X_y=True)
network = MLPRegressor(
    hidden_layer_sizes=(32, 16), activation="tanh", solver="sgd", learning_rate="adaptive", max_iter=100,
    learning_rate_init=0.01, alpha=0.1, random_state=1,
)  # fmt: skip
model = TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())
scores = cross_val_score(model, x, y, cv=5)
print("r2", *scores)
print("mean", scores.mean())
