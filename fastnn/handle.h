/* The type of compiled handles, `fastnn.prediction.Predictor`, and their own door.
 *
 * A call of a small network takes 0.2 us, of which the general door (two buffers through the buffer protocol, an
 * argument tuple) took 0.3 by itself. So this type is written out here instead of being a `cdef class`:
 *   - it is called by vectorcall, without a tuple (20 ns against 43 on Python 3.11, 22 against 87 on 3.12);
 *   - a NumPy array is judged by the fields of its public struct, which have not moved since NumPy 1.0 (all
 *     programs that are compiled against NumPy read them so). The struct is declared here, since one wheel
 *     serves all versions, and believed only after `handle_reads_array` has compared it with what Python
 *     says of some arrays;
 *   - a new output comes from NumPy's table of C functions (0.05 us; np.empty takes 0.25).
 * What is not exactly an aligned array of the model's dtype and shape goes to the careful door with its messages:
 * subclasses, other dtypes, memoryviews, negative strides, and all mistakes. So the result of this file is never an
 * error of its own.
 *
 * Limited API of 3.11. Vectorcall joined it in 3.12, but the flag and `__vectorcalloffset__` are the same
 * in 3.11, which does not change any more. */
#ifndef FASTNN_HANDLE_H
#define FASTNN_HANDLE_H

#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#define HANDLE_HAVE_VECTORCALL (1UL << 11)
#define HANDLE_OFFSET_BIT ((size_t)1 << (8 * sizeof(size_t) - 1)) /* of nargsf: PY_VECTORCALL_ARGUMENTS_OFFSET */

/* PyArrayObject_fields up to the last field that is read. */
typedef struct {
    PyObject_HEAD
    char *data;
    int ndim;
    Py_ssize_t *shape, *strides;
    PyObject *base, *descr;
    int flags;
} handle_array;

enum { ARRAY_C_CONTIGUOUS = 0x1, ARRAY_ALIGNED = 0x100, ARRAY_WRITEABLE = 0x400 };
enum { API_VERSION = 0, API_NEW_FROM_DESCR = 94 }; /* places in NumPy's table of C functions */

/* Runs the network on judged arrays; the GIL is held. Returns -1 with an exception set. */
typedef int (*handle_run_function)(void *net, const char *x, Py_ssize_t ld_x, Py_ssize_t rows, char *out);
typedef PyObject *(*handle_new_array)(PyTypeObject *, PyObject *, int, const Py_ssize_t *, const Py_ssize_t *, void *,
                                      int, PyObject *);

static struct {
    int is_open;            /* else all calls are careful */
    PyTypeObject *array;    /* numpy.ndarray */
    PyObject *real[2];      /* the native dtypes float32 and float64, one object each in a process */
    PyObject *label;        /* int64 */
    handle_new_array new_array;
    handle_run_function run;
    PyObject *careful;      /* class of the object behind the careful door */
    PyObject *out;          /* the interned name */
} handle_door;

typedef struct {
    PyObject_HEAD
    PyObject *(*call)(PyObject *, PyObject *const *, size_t, PyObject *);
    void *net;
    PyObject *descr;        /* borrowed from the door */
    Py_ssize_t n_in, n_out, itemsize;
    PyObject *careful;
} handle;

/* Whether the struct says of an array what Python says of it. */
static int handle_reads_array(PyObject *object, size_t data, int ndim, PyObject *descr, int flags, Py_ssize_t rows,
                              Py_ssize_t columns, Py_ssize_t row_stride, Py_ssize_t column_stride)
{
    const handle_array *a = (const handle_array *)object;
    const int known = ARRAY_C_CONTIGUOUS | ARRAY_ALIGNED | ARRAY_WRITEABLE;
    /* Nothing is followed before the fields beside it have proved to be where they are expected. */
    return (size_t)a->data == data && a->ndim == ndim && ndim == 2 && a->descr == descr && (a->flags & known) == flags &&
           a->shape[0] == rows && a->shape[1] == columns && a->strides[0] == row_stride &&
           a->strides[1] == column_stride;
}

static unsigned handle_numpy_abi(void *table)
{
    return ((unsigned (*)(void))((void **)table)[API_VERSION])();
}

static void handle_open_door(PyObject *array, PyObject *float32, PyObject *float64, PyObject *int64, void *table)
{
    Py_INCREF(array), Py_INCREF(float32), Py_INCREF(float64), Py_INCREF(int64);
    handle_door.label = int64;
    handle_door.array = (PyTypeObject *)array;
    handle_door.real[0] = float32, handle_door.real[1] = float64;
    handle_door.new_array = (handle_new_array)((void **)table)[API_NEW_FROM_DESCR];
    handle_door.is_open = 1;
}

/* An array's fields if it is exactly an ndarray in C order of reals of that size, or of labels (0); else NULL. */
static inline const handle_array *handle_right_array(PyObject *object, int real_size)
{
    const handle_array *a = (const handle_array *)object;
    const int wanted = ARRAY_C_CONTIGUOUS | ARRAY_ALIGNED;
    if (!handle_door.is_open || Py_TYPE(object) != handle_door.array || (a->flags & wanted) != wanted)
        return NULL;
    return a->descr == (real_size ? handle_door.real[real_size == 8] : handle_door.label) ? a : NULL;
}

/* The result, or NULL: with an exception, or without one where the careful door has to look. */
static inline PyObject *handle_call_direct(const handle *h, PyObject *x_, PyObject *out_)
{
    const handle_array *x = (const handle_array *)x_, *out = (const handle_array *)out_;
    if (!handle_door.is_open || Py_TYPE(x_) != handle_door.array || x->ndim != 2 || x->descr != h->descr ||
        x->shape[1] != h->n_in || !(x->flags & ARRAY_ALIGNED))
        return NULL;
    const Py_ssize_t rows = x->shape[0], stride = x->strides[0];
    if (rows < 1 || stride < 0 || stride % h->itemsize || (h->n_in > 1 && x->strides[1] != h->itemsize))
        return NULL;
    PyObject *fresh = NULL;
    if (out_) {
        const int wanted = ARRAY_C_CONTIGUOUS | ARRAY_ALIGNED | ARRAY_WRITEABLE;
        if (Py_TYPE(out_) != handle_door.array || out->ndim != 2 || out->descr != h->descr || out->shape[0] != rows ||
            out->shape[1] != h->n_out || (out->flags & wanted) != wanted)
            return NULL;
        const size_t x_first = (size_t)x->data, out_first = (size_t)out->data;
        const size_t x_end = x_first + (size_t)((rows - 1) * stride + h->n_in * h->itemsize);
        if (x_first < out_first + (size_t)(rows * h->n_out * h->itemsize) && out_first < x_end)
            return NULL; /* overlap */
        Py_INCREF(out_);
    } else {
        const Py_ssize_t shape[2] = {rows, h->n_out};
        Py_INCREF(h->descr); /* it steals one */
        out_ = fresh = handle_door.new_array(handle_door.array, h->descr, 2, shape, NULL, NULL, 0, NULL);
        if (!fresh)
            return NULL;
        out = (const handle_array *)fresh;
    }
    if (handle_door.run(h->net, x->data, stride / h->itemsize, rows, out->data) < 0) {
        Py_DECREF(out_);
        return NULL;
    }
    return out_;
}

/* All other calls, wrong ones too: as Python calls a function (self, x, out=None). */
static PyObject *handle_call_careful(const handle *h, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    const Py_ssize_t n_names = names ? PyTuple_Size(names) : 0;
    PyObject *tuple = PyTuple_New(n), *keywords = n_names ? PyDict_New() : NULL, *result = NULL;
    int ok = tuple && (keywords || !n_names);
    for (Py_ssize_t i = 0; ok && i < n; i++) {
        Py_INCREF(args[i]);
        ok = PyTuple_SetItem(tuple, i, args[i]) == 0;
    }
    for (Py_ssize_t i = 0; ok && i < n_names; i++)
        ok = PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[n + i]) == 0;
    if (ok)
        result = PyObject_Call(h->careful, tuple, keywords);
    Py_XDECREF(tuple);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *handle_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    const handle *h = (const handle *)self;
    const Py_ssize_t n = (Py_ssize_t)(nargsf & ~HANDLE_OFFSET_BIT);
    const int named = names && PyTuple_Size(names) == 1 && PyTuple_GetItem(names, 0) == handle_door.out;
    if (n + named >= 1 && n + named <= 2 && n >= 1 && (!names || named)) {
        PyObject *out = n + named == 2 && args[1] != Py_None ? args[1] : NULL;
        PyObject *result = handle_call_direct(h, args[0], out);
        if (result || PyErr_Occurred())
            return result;
    }
    return handle_call_careful(h, args, n, names);
}

static PyObject *handle_call(PyObject *self, PyObject *args, PyObject *keywords)
{
    return PyObject_Call(((handle *)self)->careful, args, keywords);
}

/* What model.predict asks first. */
static PyObject *handle_attempt(PyObject *self, PyObject *x)
{
    PyObject *result = handle_call_direct((const handle *)self, x, NULL);
    if (result || PyErr_Occurred())
        return result;
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *handle_attribute(PyObject *self, void *name)
{
    return PyObject_GetAttrString(((handle *)self)->careful, name);
}

static PyObject *handle_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *arguments = PyObject_GetAttrString(((handle *)self)->careful, "arguments");
    if (!arguments)
        return NULL;
    PyObject *both = PyTuple_New(2), *type = (PyObject *)Py_TYPE(self);
    if (!both) {
        Py_DECREF(arguments);
        return NULL;
    }
    Py_INCREF(type);
    PyTuple_SetItem(both, 0, type);
    PyTuple_SetItem(both, 1, arguments);
    return both;
}

static PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *careful = PyObject_Call(handle_door.careful, args, keywords);
    if (!careful)
        return NULL;
    handle *h = (handle *)PyType_GenericAlloc(type, 0);
    PyObject *n_in = PyObject_GetAttrString(careful, "n_in"), *n_out = PyObject_GetAttrString(careful, "n_out");
    PyObject *itemsize = PyObject_GetAttrString(careful, "itemsize"), *net = PyObject_GetAttrString(careful, "address");
    if (h && n_in && n_out && itemsize && net) {
        h->call = handle_vectorcall;
        h->n_in = PyLong_AsSsize_t(n_in);
        h->n_out = PyLong_AsSsize_t(n_out);
        h->itemsize = PyLong_AsSsize_t(itemsize);
        h->net = PyLong_AsVoidPtr(net);
        h->descr = handle_door.real[h->itemsize == 8];
        h->careful = careful;
        careful = NULL;
    }
    Py_XDECREF(careful);
    Py_XDECREF(n_in), Py_XDECREF(n_out), Py_XDECREF(itemsize), Py_XDECREF(net);
    if (PyErr_Occurred()) {
        Py_XDECREF((PyObject *)h);
        return NULL;
    }
    return (PyObject *)h;
}

static void handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((handle *)self)->careful);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef handle_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(handle, call), READONLY, NULL},
    {"n_in", T_PYSSIZET, offsetof(handle, n_in), READONLY, "Columns of x."},
    {"n_out", T_PYSSIZET, offsetof(handle, n_out), READONLY, "Columns of the result."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef handle_attributes[] = {
    {"steps", handle_attribute, NULL, "What was compiled.", "steps"},
    {"dtype", handle_attribute, NULL, "Of x, of the result and of all arithmetic.", "dtype"},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef handle_methods[] = {
    {"attempt", handle_attempt, METH_O,
     "attempt($self, x, /)\n--\n\nThe result where x needs no care: an aligned array of this dtype and shape; else None."},
    {"__reduce__", handle_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* The type, made once; `careful` is the class of what stands behind the careful door. */
static PyObject *handle_type(PyObject *careful, handle_run_function run, const char *doc)
{
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)doc},
        {Py_tp_new, handle_new},
        {Py_tp_dealloc, handle_dealloc},
        {Py_tp_call, handle_call},
        {Py_tp_members, handle_members},
        {Py_tp_getset, handle_attributes},
        {Py_tp_methods, handle_methods},
        {0, NULL},
    };
    PyType_Spec spec = {"fastnn.prediction.Predictor", sizeof(handle), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | HANDLE_HAVE_VECTORCALL, slots};
    Py_INCREF(careful);
    handle_door.careful = careful;
    handle_door.run = run;
    handle_door.out = PyUnicode_InternFromString("out");
    return handle_door.out ? PyType_FromSpec(&spec) : NULL;
}

/* Closes or opens the direct door, for tests of the careful one; gives what it was. */
static int handle_set_door(int open)
{
    const int was = handle_door.is_open;
    handle_door.is_open = open && handle_door.new_array;
    return was;
}

/* Predictions that run without the GIL now. */
static int handle_at_work;
static int handle_begin_work(void) { return __atomic_add_fetch(&handle_at_work, 1, __ATOMIC_RELAXED); }
/* Never below none: a signal handler may fork in the middle of a prediction, which then ends in the child too. */
static void handle_end_work(void)
{
    int n = __atomic_load_n(&handle_at_work, __ATOMIC_RELAXED);
    while (n > 0 && !__atomic_compare_exchange_n(&handle_at_work, &n, n - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
/* For children of fork: other threads' predictions never end there, and would be taken for work for ever. */
static void handle_forget_work(void) { __atomic_store_n(&handle_at_work, 0, __ATOMIC_RELAXED); }

#endif
