# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A perceptron of one hidden layer that trains by Adam: its loop never holds the GIL."""
from libc.stdint cimport int64_t, uint64_t

from fastnn.c_api cimport (
    fastnn_activation_backward_f32, fastnn_activation_id, fastnn_adam_f32, fastnn_bias_gradient_f32,
    fastnn_cross_entropy_f32, fastnn_import, fastnn_limit_threads, fastnn_linear_f32, fastnn_linear_input_gradient_f32,
    fastnn_linear_weight_gradient_f32, fastnn_uniform_f32,
)

import numpy as np

fastnn_import()  # once in each module that cimports fastnn.c_api; an ImportError says which versions do not fit
cdef int RELU = fastnn_activation_id(b"relu")


cdef class Perceptron:
    """n_in inputs, `hidden` units with relu, n_out logits; batches of `batch` rows.

    Parameters and their gradients are one vector each, in the order w1, b1, w2, b2: so Adam takes one call.
    """
    cdef readonly object parameters
    cdef float[::1] p, gradient, mean, square
    cdef float[:, ::1] a, z, d
    cdef double[::1] losses
    cdef ptrdiff_t n_in, hidden, n_out, batch
    cdef uint64_t steps

    def __init__(self, ptrdiff_t n_in, ptrdiff_t hidden, ptrdiff_t n_out, ptrdiff_t batch=64, uint64_t seed=0):
        cdef ptrdiff_t i, n = n_in * hidden + hidden + hidden * n_out + n_out
        self.n_in, self.hidden, self.n_out, self.batch = n_in, hidden, n_out, batch
        self.parameters = np.zeros(n, np.float32)
        self.p = self.parameters
        self.gradient, self.mean, self.square = [np.zeros(n, np.float32) for _ in range(3)]
        self.a, self.d = np.empty((batch, hidden), np.float32), np.empty((batch, hidden), np.float32)
        self.z, self.losses = np.empty((batch, n_out), np.float32), np.empty(batch)
        # uniform numbers of variance 2 / n_in and 1 / hidden; biases stay 0
        fastnn_uniform_f32(seed, 0, 0, n_in * hidden, &self.p[0])
        fastnn_uniform_f32(seed, 1, 0, hidden * n_out, &self.p[n_in * hidden + hidden])
        for i in range(n_in * hidden):
            self.p[i] = (2 * self.p[i] - 1) * (6.0 / n_in) ** 0.5
        for i in range(n_in * hidden + hidden, n - n_out):
            self.p[i] = (2 * self.p[i] - 1) * (3.0 / hidden) ** 0.5

    cdef int forward(self, const float *x, float *a, float *z, ptrdiff_t rows) noexcept nogil:
        cdef ptrdiff_t n1 = self.n_in * self.hidden, n2 = n1 + self.hidden
        cdef ptrdiff_t b2 = n2 + self.hidden * self.n_out
        if fastnn_linear_f32(rows, self.n_in, self.hidden, x, self.n_in, &self.p[0], self.hidden, &self.p[n1], RELU, a,
                             self.hidden):
            return -1
        return fastnn_linear_f32(rows, self.hidden, self.n_out, a, self.hidden, &self.p[n2], self.n_out, &self.p[b2], 0,
                                 z, self.n_out)

    cdef int step(self, const float *x, const int64_t *labels, double lr) noexcept nogil:
        """One step on a batch; -1 where a label is none."""
        cdef ptrdiff_t m = self.batch, n1 = self.n_in * self.hidden, n2 = n1 + self.hidden
        cdef ptrdiff_t b2 = n2 + self.hidden * self.n_out
        cdef float *a = &self.a[0, 0]
        cdef float *z = &self.z[0, 0]
        cdef float *d = &self.d[0, 0]
        cdef float *g = &self.gradient[0]
        self.forward(x, a, z, m)
        # the gradient takes the place of the logits
        if fastnn_cross_entropy_f32(m, self.n_out, z, self.n_out, labels, NULL, 1.0 / m, &self.losses[0], z, self.n_out):
            return -1
        fastnn_linear_weight_gradient_f32(m, self.hidden, self.n_out, a, self.hidden, z, self.n_out, g + n2, self.n_out)
        fastnn_bias_gradient_f32(m, self.n_out, z, self.n_out, g + b2)
        fastnn_linear_input_gradient_f32(m, self.hidden, self.n_out, z, self.n_out, &self.p[n2], self.n_out, d,
                                         self.hidden)
        fastnn_activation_backward_f32(RELU, m, self.hidden, a, self.hidden, d, self.hidden, d, self.hidden)
        fastnn_linear_weight_gradient_f32(m, self.n_in, self.hidden, x, self.n_in, d, self.hidden, g, self.hidden)
        fastnn_bias_gradient_f32(m, self.hidden, d, self.hidden, g + n1)
        self.steps += 1
        return fastnn_adam_f32(b2 + self.n_out, &self.p[0], g, &self.mean[0], &self.square[0], self.steps, lr, 0.9, 0.999,
                               1e-8, 0.0, 0)

    def fit(self, const float[:, ::1] x, const int64_t[::1] labels, int epochs=1, double lr=1e-3):
        """Train on whole batches in their order; gives the mean loss of the last epoch. The GIL is free meanwhile."""
        cdef ptrdiff_t step, i, n_steps = x.shape[0] // self.batch
        cdef int epoch, wrong = 0
        cdef double total = 0
        if x.shape[1] != self.n_in or labels.shape[0] != x.shape[0] or n_steps == 0:
            raise ValueError(f"x must have {self.n_in} columns and a label for each of {self.batch} or more rows")
        with nogil:
            for epoch in range(epochs):
                total = 0
                for step in range(n_steps):
                    wrong = self.step(&x[step * self.batch, 0], &labels[step * self.batch], lr)
                    if wrong:
                        break
                    for i in range(self.batch):
                        total += self.losses[i]
                if wrong:
                    break
        if wrong:
            raise ValueError(f"labels must be 0 .. {self.n_out - 1}")
        return total / (n_steps * self.batch)

    def predict(self, const float[:, ::1] x):
        """Logits of the rows of x."""
        cdef ptrdiff_t rows = x.shape[0]
        out, hidden = np.empty((rows, self.n_out), np.float32), np.empty((rows, self.hidden), np.float32)
        cdef float[:, ::1] z = out, a = hidden
        if x.shape[1] != self.n_in:
            raise ValueError(f"x must have {self.n_in} columns, got {x.shape[1]}")
        if rows:
            with nogil:
                self.forward(&x[0, 0], &a[0, 0], &z[0, 0], rows)
        return out


def limit_threads(int n):
    """Threads that calls from the calling thread use; 0: as many as any. Gives what it was."""
    return fastnn_limit_threads(n)
