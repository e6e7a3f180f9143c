"""Train on handwritten digits, look at the loss and serve single rows. Needs scikit-learn for the images."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastnn as fn

images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0, stratify=labels
)

model = fn.Sequential(fn.Dense(128, activation="relu"), fn.Dropout(0.2), fn.Dense(10))
trainer = fn.Trainer(model, loss="cross_entropy", optimizer=fn.Adam(lr=2e-3), seed=0)
history = trainer.fit(x, y, epochs=40, batch_size=32)
print(model.summary())
print(f"loss: {history['loss'][0]:.3f} in the first epoch, {history['loss'][-1]:.5f} in the last")

accuracy = (model.predict(x_test).argmax(axis=1) == y_test).mean()
print(f"test accuracy: {100 * accuracy:.2f} %")

# A compiled handle is a snapshot for services: it writes into an array of yours and allocates nothing.
handle = model.compile()
out = np.empty((1, 10), np.float32)
print(f"first test image: {handle(x_test[:1], out).argmax()}, in truth {y_test[0]}")
