/* The same door from plain C: softmax of the rows of a float64 array, in place. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fastnn_c_api.h"

static int softmax;

static PyObject *softmax_rows(PyObject *self, PyObject *array)
{
    (void)self;
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0)
        return NULL;
    int status = -1;
    if (view.ndim == 2 && view.itemsize == 8 && view.format && view.format[0] == 'd') {
        const Py_ssize_t rows = view.shape[0], columns = view.shape[1];
        Py_BEGIN_ALLOW_THREADS
        status = fastnn_activation_f64(softmax, rows, columns, view.buf, columns, view.buf, columns);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    if (status < 0) {
        PyErr_SetString(PyExc_ValueError, "array must be 2-D, of float64");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"softmax_rows", softmax_rows, METH_O, "softmax_rows(array, /)\n--\n\nSoftmax of each row of a (n, m), in place."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    (void)module;
    if (fastnn_import() < 0)
        return -1;
    softmax = fastnn_activation_id("softmax");
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "plain", .m_doc = "Softmax in place.", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit_plain(void) { return PyModuleDef_Init(&definition); }
