"""A package that computes with the kernels of fastnn: a perceptron in Cython, a softmax in C."""

from .perceptron import Perceptron
from .plain import softmax_rows

__all__ = ["Perceptron", "softmax_rows"]
