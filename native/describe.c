/* A failed call in one line of plain words. */
#include <stdio.h>

#include "ppedge/pool.h"

static const char *explain(ppedge_status status) {
    switch (status) {
    case PPEDGE_OK:
        return "no error";
    case PPEDGE_NULL_POINTER:
        return "is NULL; it is required";
    case PPEDGE_NO_ROWS:
        return "has no rows; pooling needs at least one";
    case PPEDGE_BAD_SHAPE:
        return "has a size that is 0, no multiple of the number of heads, or too large";
    case PPEDGE_BAD_STRIDE:
        return "has a row stride shorter than its rows";
    case PPEDGE_BAD_DTYPE:
        return "has an unknown element type";
    case PPEDGE_BAD_SCALES:
        return "must be given for int8 rows, one float32 a row, and for no others";
    case PPEDGE_NOT_FINITE:
        return "is NaN or infinite; every number must be finite";
    case PPEDGE_OUT_OF_RANGE:
        return "gives a result beyond float32, though every number is finite; scale it down";
    case PPEDGE_ALL_MASKED:
        return "is -inf for every row; at least one row must stay unmasked";
    case PPEDGE_BAD_BACKEND:
        return "names no backend that is built in and runs on this CPU";
    case PPEDGE_NO_MEMORY:
        return "out of memory";
    }
    return "unknown status";
}

const char *ppedge_describe(ppedge_status status, const ppedge_fault *fault, char *text,
                            size_t size) {
    if (size == 0) {
        return text;
    }
    const char *what = explain(status);
    if (fault == NULL || status == PPEDGE_OK || status == PPEDGE_NO_MEMORY) {
        snprintf(text, size, "%s", what);
    } else if (fault->row == PPEDGE_NOWHERE) {
        snprintf(text, size, "`%s` %s", fault->field, what);
    } else if (fault->column == PPEDGE_NOWHERE) {
        snprintf(text, size, "`%s`, row %zu: %s", fault->field, fault->row, what);
    } else {
        snprintf(text, size, "`%s`, row %zu, column %zu: %s", fault->field, fault->row,
                 fault->column, what);
    }
    return text;
}
