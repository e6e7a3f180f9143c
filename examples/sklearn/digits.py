"""Handwritten digits by a multilayer perceptron: plain scikit-learn.

python digits.py; or, on compiled steps, python -m fastnn.sklearn digits.py
"""

from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

digits = load_digits()
x_train, x_test, y_train, y_test = train_test_split(digits.data / 16.0, digits.target, random_state=0)
model = MLPClassifier(hidden_layer_sizes=(64,), max_iter=60, early_stopping=True, random_state=0)
model.fit(x_train, y_train)
print("epochs", model.n_iter_)
print("train", model.score(x_train, y_train))
print("test", model.score(x_test, y_test))
print(confusion_matrix(y_test, model.predict(x_test)))
