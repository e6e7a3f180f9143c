# cython: language_level=3
"""Prediction through a network of `fastnn.inference`."""
from fastnn.inference cimport Net
from fastnn.kernels cimport Array

# Fills out with what the last layer gives for x. Safe in many threads at once: it writes to memory of its own.
cdef int predict(Net *net, Array x, Array out) except -1
