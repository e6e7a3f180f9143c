"""Width, penalty and rate of a perceptron by a grid search: plain scikit-learn.

python grid_search.py; or, on compiled steps, python -m fastnn.sklearn grid_search.py
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

x, y = load_digits(return_X_y=True)
grid = {"hidden_layer_sizes": [(16,), (32,)], "alpha": [1e-4, 1e-2], "learning_rate_init": [1e-3, 1e-2]}
search = GridSearchCV(MLPClassifier(max_iter=15, random_state=0), grid, cv=3, n_jobs=2)
search.fit(x[:800] / 16.0, y[:800])
print("best", search.best_score_)
for name, value in sorted(search.best_params_.items()):
    print(name, value)
print("scores", *search.cv_results_["mean_test_score"])
