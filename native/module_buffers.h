/* The buffers of one call of the Python binding: taken, checked and let go. For module.c alone. */
#ifndef PPEDGE_MODULE_BUFFERS_H
#define PPEDGE_MODULE_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    QUERY, KEYS, VALUES, BIAS, KEY_SCALES, VALUE_SCALES, OUT, WEIGHTS, LOG_SUM_EXP, N_BUFFERS
};

static const char *const names[N_BUFFERS] = {"query",        "keys",    "values",
                                             "bias",         "key_scales", "value_scales",
                                             "out",          "weights", "log_sum_exp"};

static int is_output(int which) { return which >= OUT; }

/* The views of one call; a view whose obj is NULL was None. `copies` holds floats that had to be
 * moved to an aligned address. */
typedef struct buffers {
    Py_buffer views[N_BUFFERS];
    float *copies[N_BUFFERS];
} buffers;

static void release(buffers *b) {
    for (int i = 0; i < N_BUFFERS; i++) {
        if (b->views[i].obj != NULL) {
            PyBuffer_Release(&b->views[i]);
        }
        PyMem_Free(b->copies[i]);
    }
}

/* The type character of a one-element native or little-endian format, else '\0'. */
static char format_of(const Py_buffer *view) {
    const char *format = view->format == NULL ? "B" : view->format;
#if PY_BIG_ENDIAN
    const char *prefixes = "@=>";
#else
    const char *prefixes = "@=<";
#endif
    if (format[0] != '\0' && strchr(prefixes, format[0]) != NULL) {
        format++;
    }
    return format[0] != '\0' && format[1] == '\0' ? format[0] : '\0';
}

static int acquire(buffers *b, PyObject *const objects[N_BUFFERS]) {
    for (int i = 0; i < N_BUFFERS; i++) {
        if (objects[i] == Py_None) {
            continue;
        }
        const int flags = is_output(i) ? PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE
                                       : PyBUF_STRIDED_RO | PyBUF_FORMAT;
        if (PyObject_GetBuffer(objects[i], &b->views[i], flags) != 0) {
            b->views[i].obj = NULL;
            PyErr_Format(PyExc_TypeError,
                         is_output(i) ? "`%s` must be a writable buffer"
                                      : "`%s` gives no buffer of numbers; bfloat16 goes as a "
                                        "uint16 view, with dtype=\"bfloat16\"",
                         names[i]);
            return -1;
        }
    }
    return 0;
}

static Py_ssize_t elements(const Py_buffer *view) {
    Py_ssize_t n = 1;
    for (int i = 0; i < view->ndim; i++) {
        n *= view->shape[i];
    }
    return n;
}

static int is_contiguous(const Py_buffer *view) { return PyBuffer_IsContiguous(view, 'C'); }

/* A C-contiguous float32 buffer of `n` elements; NULL for None, and with an error set. Does nothing
 * after an error, so that a caller may take several and ask once. */
static float *floats(buffers *b, int which, Py_ssize_t n) {
    Py_buffer *view = &b->views[which];
    if (view->obj == NULL || PyErr_Occurred()) {
        return NULL;
    }
    if (format_of(view) != 'f') {
        PyErr_Format(PyExc_TypeError, "`%s` must be float32, got format '%s'; convert it",
                     names[which], view->format == NULL ? "B" : view->format);
        return NULL;
    }
    if (!is_contiguous(view)) {
        PyErr_Format(PyExc_ValueError, "`%s` must be C-contiguous; make a copy of it",
                     names[which]);
        return NULL;
    }
    if (elements(view) != n) {
        PyErr_Format(PyExc_ValueError, "`%s` must hold %zd numbers, got %zd", names[which], n,
                     elements(view));
        return NULL;
    }
    if ((uintptr_t)view->buf % sizeof(float) == 0) {
        return view->buf;
    }
    if (is_output(which)) {
        PyErr_Format(PyExc_ValueError, "`%s` must be aligned to %zu bytes", names[which],
                     sizeof(float));
        return NULL;
    }
    b->copies[which] = PyMem_Malloc((size_t)view->len);
    if (b->copies[which] == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(b->copies[which], view->buf, (size_t)view->len);
    return b->copies[which];
}

#endif
