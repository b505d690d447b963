/* ppedge.attention._native: the Python binding of pool.h. Keeps to the limited API of CPython 3.11;
 * the build sets Py_LIMITED_API.
 *
 * It takes buffers and checks what only Python can get wrong (formats, ranks, lengths); the rest
 * is pool.c's. ppedge/attention/pooling.py is its only caller and allocates the outputs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "module_buffers.h"
#include "ppedge/pool.h"

/* Rows of this size take about 5 us, less than it takes to wake another thread: letting go of the
 * lock for less could not let anyone run. */
static const size_t RELEASE_BYTES = 64 * 1024;

/* --- rows ------------------------------------------------------------------------------------ */

static int dtype_of(const Py_buffer *view, const char *name, int uint16_is_bfloat16,
                    ppedge_dtype *dtype) {
    switch (format_of(view)) {
    case 'f':
        *dtype = PPEDGE_F32;
        return 0;
    case 'e':
        *dtype = PPEDGE_F16;
        return 0;
    case 'b':
        *dtype = PPEDGE_I8;
        return 0;
    case 'H':
        if (uint16_is_bfloat16) {
            *dtype = PPEDGE_BF16;
            return 0;
        }
        PyErr_Format(PyExc_TypeError,
                     "`%s` is uint16; pass dtype=\"bfloat16\" if it holds bfloat16", name);
        return -1;
    default:
        PyErr_Format(PyExc_TypeError,
                     "`%s` must be float32, float16, int8, or bfloat16 seen as uint16, "
                     "got format '%s'; convert it",
                     name, view->format == NULL ? "B" : view->format);
        return -1;
    }
}

static int rows_of(const buffers *b, int which, int uint16_is_bfloat16, ppedge_rows *rows) {
    const Py_buffer *view = &b->views[which];
    const char *name = names[which];
    if (view->obj == NULL) {
        PyErr_Format(PyExc_TypeError, "`%s` must be a buffer, got None", name);
        return -1;
    }
    if (dtype_of(view, name, uint16_is_bfloat16, &rows->dtype) != 0) {
        return -1;
    }
    if (view->ndim != 2) {
        PyErr_Format(PyExc_ValueError, "`%s` must have 2 axes [n, width], got %d", name,
                     view->ndim);
        return -1;
    }
    if (view->shape[1] == 0) {
        PyErr_Format(PyExc_ValueError, "`%s` has rows of width 0", name);
        return -1;
    }
    if (view->shape[1] > 1 && view->strides[1] != view->itemsize) {
        PyErr_Format(PyExc_ValueError,
                     "`%s` must have contiguous rows: its elements of %zd bytes lie %zd bytes "
                     "apart; make a copy of it",
                     name, view->itemsize, view->strides[1]);
        return -1;
    }
    const Py_ssize_t row_bytes = view->shape[1] * view->itemsize;
    if (view->shape[0] > 1 && view->strides[0] < row_bytes) {
        PyErr_Format(PyExc_ValueError,
                     "`%s` must have rows one after another: they are %zd bytes long and lie "
                     "%zd bytes apart; make a copy of it",
                     name, row_bytes, view->strides[0]);
        return -1;
    }
    rows->data = view->buf;
    rows->width = (size_t)view->shape[1];
    rows->stride = (size_t)(view->shape[0] > 1 ? view->strides[0] : row_bytes);
    return 0;
}

static int check_scales(const buffers *b, int rows, int scales, ppedge_dtype dtype) {
    const int given = b->views[scales].obj != NULL;
    if (given == (dtype == PPEDGE_I8)) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError,
                 given ? "`%s` is given, but `%s` is not int8"
                       : "`%s` is required: `%s` is int8, and each row needs its scale",
                 names[scales], names[rows]);
    return -1;
}

/* --- the call -------------------------------------------------------------------------------- */

static int fill_rows(const buffers *b, Py_ssize_t heads, const char *dtype,
                     ppedge_pool_args *args) {
    const int bfloat16 = dtype != NULL && strcmp(dtype, "bfloat16") == 0;
    if (dtype != NULL && !bfloat16) {
        PyErr_Format(PyExc_ValueError, "`dtype` must be None or \"bfloat16\", got \"%s\"", dtype);
        return -1;
    }
    if (heads < 1) {
        PyErr_Format(PyExc_ValueError, "`heads` must be at least 1, got %zd", heads);
        return -1;
    }
    if (rows_of(b, KEYS, bfloat16, &args->keys) != 0 ||
        rows_of(b, VALUES, bfloat16, &args->values) != 0) {
        return -1;
    }
    if (bfloat16 && args->keys.dtype != PPEDGE_BF16 && args->values.dtype != PPEDGE_BF16) {
        PyErr_SetString(PyExc_TypeError,
                        "`dtype` is \"bfloat16\", but neither `keys` nor `values` is uint16");
        return -1;
    }
    const Py_ssize_t n = b->views[KEYS].shape[0];
    if (b->views[VALUES].shape[0] != n) {
        PyErr_Format(PyExc_ValueError, "`keys` has %zd rows, but `values` has %zd", n,
                     b->views[VALUES].shape[0]);
        return -1;
    }
    if (n == 0) {
        PyErr_SetString(PyExc_ValueError, "`keys` has no rows; pooling needs at least one");
        return -1;
    }
    args->n_rows = (size_t)n;
    args->n_heads = (size_t)heads;
    return check_scales(b, KEYS, KEY_SCALES, args->keys.dtype) != 0 ||
                   check_scales(b, VALUES, VALUE_SCALES, args->values.dtype) != 0
               ? -1
               : 0;
}

static int fill_floats(buffers *b, ppedge_pool_args *args) {
    const Py_buffer *query = &b->views[QUERY];
    const Py_ssize_t d_k = (Py_ssize_t)args->keys.width;
    if (query->ndim < 1 || query->ndim > 2 || query->shape[query->ndim - 1] != d_k) {
        PyErr_Format(PyExc_ValueError,
                     "`query` must have shape [%zd] or [q, %zd], like rows of `keys`", d_k, d_k);
        return -1;
    }
    const Py_ssize_t q = query->ndim == 1 ? 1 : query->shape[0];
    if (q == 0) {
        PyErr_SetString(PyExc_ValueError, "`query` has no rows");
        return -1;
    }
    const Py_ssize_t n = (Py_ssize_t)args->n_rows, heads = (Py_ssize_t)args->n_heads;
    if (q > PY_SSIZE_T_MAX / 4 / n / heads ||
        q > PY_SSIZE_T_MAX / 4 / (Py_ssize_t)args->values.width) {
        PyErr_SetString(PyExc_ValueError, "`query` has too many rows");
        return -1;
    }
    args->n_queries = (size_t)q;
    args->queries = floats(b, QUERY, q * d_k);
    args->bias = floats(b, BIAS, n);
    args->keys.scales = floats(b, KEY_SCALES, n);
    args->values.scales = floats(b, VALUE_SCALES, n);
    args->out = floats(b, OUT, q * (Py_ssize_t)args->values.width);
    args->weights = floats(b, WEIGHTS, q * heads * n);
    args->log_sum_exp = floats(b, LOG_SUM_EXP, q * heads);
    return PyErr_Occurred() ? -1 : 0;
}

static int fill_backend(const char *name, ppedge_backend *backend) {
    *backend = PPEDGE_AUTO;
    if (name != NULL && ppedge_backend_from_name(name, backend) != 0) {
        PyErr_Format(PyExc_ValueError,
                     "`backend` must be auto, scalar, avx2, avx512 or neon, got \"%s\"", name);
        return -1;
    }
    return 0;
}

static int run(const ppedge_pool_args *args) {
    const size_t bytes = args->n_rows * (args->keys.width * ppedge_dtype_size(args->keys.dtype) +
                                         args->values.width *
                                             ppedge_dtype_size(args->values.dtype));
    ppedge_fault fault;
    ppedge_status status;
    if (bytes < RELEASE_BYTES / args->n_queries) {
        status = ppedge_pool(args, &fault);
    } else {
        Py_BEGIN_ALLOW_THREADS
        status = ppedge_pool(args, &fault);
        Py_END_ALLOW_THREADS
    }
    if (status == PPEDGE_OK) {
        return 0;
    }
    if (status == PPEDGE_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    char text[256];
    PyErr_SetString(PyExc_ValueError, ppedge_describe(status, &fault, text, sizeof text));
    return -1;
}

PyDoc_STRVAR(pool_doc,
             "pool(query, keys, values, bias, key_scales, value_scales, out, weights, "
             "log_sum_exp, scale, heads, n_threads, dtype, backend)\n--\n\n"
             "Pools into `out`, `weights` and `log_sum_exp`; see ppedge.attention.pooling.pool.");

static PyObject *pool(PyObject *module, PyObject *call_args) {
    (void)module;
    PyObject *objects[N_BUFFERS];
    double scale;
    Py_ssize_t heads;
    int n_threads;
    const char *dtype, *backend;
    if (!PyArg_ParseTuple(call_args, "OOOOOOOOOdnizz:pool", &objects[QUERY], &objects[KEYS],
                          &objects[VALUES], &objects[BIAS], &objects[KEY_SCALES],
                          &objects[VALUE_SCALES], &objects[OUT], &objects[WEIGHTS],
                          &objects[LOG_SUM_EXP], &scale, &heads, &n_threads, &dtype, &backend)) {
        return NULL;
    }
    buffers b = {0};
    ppedge_pool_args args = {.scale = (float)scale, .n_threads = n_threads};
    const int failed = acquire(&b, objects) != 0 || fill_backend(backend, &args.backend) != 0 ||
                       fill_rows(&b, heads, dtype, &args) != 0 || fill_floats(&b, &args) != 0 ||
                       run(&args) != 0;
    release(&b);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(backend_doc, "backend()\n--\n\nThe name of the backend that \"auto\" stands for.");

static PyObject *backend(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    ppedge_backend resolved;
    if (ppedge_backend_resolve(PPEDGE_AUTO, &resolved) != PPEDGE_OK) {
        const ppedge_fault fault = {"PPEDGE_SIMD", PPEDGE_NOWHERE, PPEDGE_NOWHERE};
        char text[256];
        PyErr_SetString(PyExc_ValueError,
                        ppedge_describe(PPEDGE_BAD_BACKEND, &fault, text, sizeof text));
        return NULL;
    }
    return PyUnicode_FromString(ppedge_backend_name(resolved));
}

PyDoc_STRVAR(backends_doc, "backends()\n--\n\nThe names of all backends that run here.");

static PyObject *backends(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    ppedge_backend resolved;
    for (int i = PPEDGE_SCALAR; ppedge_backend_name((ppedge_backend)i) != NULL; i++) {
        if (ppedge_backend_resolve((ppedge_backend)i, &resolved) != PPEDGE_OK) {
            continue;
        }
        PyObject *name = PyUnicode_FromString(ppedge_backend_name(resolved));
        if (name == NULL || PyList_Append(list, name) != 0) {
            Py_XDECREF(name);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(name);
    }
    return list;
}

/* --- the module ------------------------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"pool", pool, METH_VARARGS, pool_doc},
    {"backend", backend, METH_NOARGS, backend_doc},
    {"backends", backends, METH_NOARGS, backends_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ppedge.attention._native",
    .m_doc = "The pooling kernel; ppedge.attention.pooling is its Python face.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
