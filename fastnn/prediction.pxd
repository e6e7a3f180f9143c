# cython: language_level=3
"""Prediction through a network of `fastnn.inference`."""
from fastnn.inference cimport Net
from fastnn.kernels cimport Array

# Fills out with what the last layer gives for x. Safe in many threads at once: it writes to memory of its own.
cdef int predict(Net *net, Array x, Array out) except -1

# What an array in C order holds; columns of a 1-D one: 1.
cdef struct Right:
    char *data
    int ndim
    ptrdiff_t rows, columns

# Whether it is exactly an ndarray of one or two dimensions in C order, aligned, of reals of that size or, with 0, of
# labels (int64). False too where NumPy's arrays are not those that handle.h knows. Never raises.
cdef bint right_array(object array, int real_size, Right *out) noexcept
