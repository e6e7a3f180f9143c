# Included by prediction.pyx: the compiled handle, and the door by which it reads NumPy's arrays itself.

cdef class _Careful:
    """What a handle stands on: it owns the network, and takes or refuses whatever the direct door does not know."""
    cdef Net net
    cdef Array held_parameters, held_buffers
    cdef object block, buffers
    cdef readonly tuple steps
    cdef readonly object dtype

    def __init__(self, steps, parameters, buffers=None):
        if self.held_parameters is not None:
            raise TypeError("made once")
        self.steps, self.block, self.buffers = tuple(steps), parameters, buffers
        self.held_parameters = Array(parameters)
        self.dtype = np.dtype(np.float32 if self.held_parameters.itemsize == 4 else np.float64)
        self.held_buffers = Array(buffers, False, False, "buffers") if buffers is not None else None
        describe(&self.net, self.steps, self.held_parameters, self.held_buffers)

    def __dealloc__(self):
        forget(&self.net)

    @property
    def n_in(self):
        return self.net.n_in

    @property
    def n_out(self):
        return self.net.n_out

    @property
    def itemsize(self):
        return self.net.size

    @property
    def address(self):
        return <uintptr_t>&self.net

    @property
    def arguments(self):
        """What another one is made of."""
        return self.steps, np.array(self.block), None if self.buffers is None else np.array(self.buffers)

    def __call__(self, x, out=None):
        cdef Array x_ = Array(memory_of("x", x, False), False, True, "x")
        if out is None:
            out = np.empty((x_.rows, self.net.n_out), self.dtype)
        predict(&self.net, x_, Array(memory_of("out", out, True), True, False, "out"))
        return out


cdef object memory_of(str name, value, bint written):
    """What has the buffer protocol: the value, or an array of the same memory where that is one of another library."""
    if PyObject_CheckBuffer(value):
        return value
    from fastnn import foreign
    return foreign.memory(name, value, written)


cdef int run_direct(void *net, const char *x, Py_ssize_t ld_x, Py_ssize_t rows, char *out) except -1:
    return predict_rows(<Net *>net, x, False, ld_x, rows, out)


Predictor = handle_type(_Careful, run_direct, b"""Predictor(steps, parameters, buffers=None)
--

An immutable snapshot of a network for the hot path: `h(x, out=None)` returns `out`.

x (rows, n_in) and out (rows, n_out) are arrays of the model's dtype with columns side by side; arrays of
other libraries too where they lie so in memory. Anything else is a ValueError or TypeError, and nothing is converted.

steps : tuple of `fastnn.layers.Step`
parameters : array (n,) float32 or float64 that belongs to this object from now on; elements after the
    last parameter, if any, are room that kernels may read.
buffers : array of that dtype, likewise, or None
    The running statistics of batch normalisation.
Safe to call from many threads at once.
""")


def _open_direct_door():
    """Open the handles' direct door if NumPy's arrays and its table of functions are what handle.h declares."""
    cdef void *table
    cdef int flags
    try:
        umath = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        umath = importlib.import_module("numpy.core._multiarray_umath")  # before NumPy 2
    if np.ndarray.__basicsize__ < <Py_ssize_t>sizeof(handle_array):
        return False
    samples = [np.zeros((2, 3), dtype) for dtype in (np.float32, np.float64)]
    samples += [np.zeros((5, 8), np.float64)[::2, 1:], np.zeros((4, 3), np.float32)[::-1, ::2]]
    samples += [np.zeros((7, 2), np.float32).T, np.zeros(50, np.uint8)[1:49].view(np.float64).reshape(2, 3)]
    samples[0].flags.writeable = False
    for array in samples:
        interface = array.__array_interface__
        flags = ARRAY_C_CONTIGUOUS if array.flags.c_contiguous else 0
        flags |= (ARRAY_ALIGNED if array.flags.aligned else 0) | (ARRAY_WRITEABLE if array.flags.writeable else 0)
        descr = np.dtype(array.dtype.type)
        if not handle_reads_array(array, interface["data"][0], array.ndim, descr, flags, array.shape[0], array.shape[1],
                                  array.strides[0], array.strides[1]):
            return False
    table = PyCapsule_GetPointer(umath._ARRAY_API, NULL)
    if handle_numpy_abi(table) not in (0x1000009, 0x2000000):  # of NumPy 1 and 2
        return False
    handle_open_door(np.ndarray, np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64), table)
    return True


cdef bint right_array(object array, int real_size, Right *out) noexcept:
    cdef const handle_array *a = handle_right_array(array, real_size)
    if a == NULL or not 1 <= a.ndim <= 2:
        return False
    out.data, out.ndim, out.rows, out.columns = a.data, a.ndim, a.shape[0], a.shape[a.ndim - 1] if a.ndim == 2 else 1
    return True


def use_direct_door(bint use):
    """Whether handles judge NumPy's arrays themselves, from now on; gives how it was. For tests."""
    return handle_set_door(use)


def _after_fork():
    """In a child of fork: the parent's predictions are not at work here."""
    handle_forget_work()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
HAS_DIRECT_DOOR = _open_direct_door()
