/* What arguments are refused, and whom to blame for a result that is not finite. */
#include <stdint.h>

#include "elements.h"
#include "internal.h"
#include "kernels.h"

ppedge_status ppedge_fail(ppedge_fault *fault, ppedge_status status, const char *field, size_t row,
                          size_t column) {
    if (fault != NULL) {
        *fault = (ppedge_fault){field, row, column};
    }
    return status;
}

ppedge_status ppedge_fail_field(ppedge_fault *fault, ppedge_status status, const char *field) {
    return ppedge_fail(fault, status, field, PPEDGE_NOWHERE, PPEDGE_NOWHERE);
}

/* --- before the walk -------------------------------------------------------------------------- */

size_t ppedge_dtype_size(ppedge_dtype dtype) {
    static const size_t sizes[PPEDGE_DTYPES] = {4, 2, 2, 1};
    return (size_t)dtype < PPEDGE_DTYPES ? sizes[dtype] : 0;
}

/* Whether a * b * c * d bytes can be addressed; no factor is 0. */
static int product_fits(size_t a, size_t b, size_t c, size_t d) {
    return a <= PTRDIFF_MAX / b && a * b <= PTRDIFF_MAX / c && a * b * c <= PTRDIFF_MAX / d;
}

static ppedge_status check_rows(const ppedge_rows *rows, const char *field,
                                const char *scales_field, const ppedge_pool_args *args,
                                ppedge_fault *fault) {
    const size_t size = ppedge_dtype_size(rows->dtype);
    if (size == 0) {
        return ppedge_fail_field(fault, PPEDGE_BAD_DTYPE, field);
    }
    if (rows->data == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, field);
    }
    if (rows->width == 0 || rows->width % args->n_heads != 0 ||
        !product_fits(rows->width, sizeof(float), 1, 1)) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, field);
    }
    if (rows->stride < rows->width * size) {
        return ppedge_fail_field(fault, PPEDGE_BAD_STRIDE, field);
    }
    if (!product_fits(args->n_rows, rows->stride, 1, 1)) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, field);
    }
    if ((rows->dtype == PPEDGE_I8) != (rows->scales != NULL)) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SCALES, scales_field);
    }
    return PPEDGE_OK;
}

/* All that can be refused without reading a buffer. */
ppedge_status ppedge_check_args(const ppedge_pool_args *args, ppedge_fault *fault) {
    if (args == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, "args");
    }
    if (args->n_rows == 0) {
        return ppedge_fail_field(fault, PPEDGE_NO_ROWS, "keys");
    }
    if (args->n_queries == 0) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, "queries");
    }
    if (args->n_heads == 0) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, "heads");
    }
    ppedge_status status = check_rows(&args->keys, "keys", "key_scales", args, fault);
    if (status == PPEDGE_OK) {
        status = check_rows(&args->values, "values", "value_scales", args, fault);
    }
    if (status != PPEDGE_OK) {
        return status;
    }
    if (args->queries == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, "queries");
    }
    if (args->out == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, "out");
    }
    if (!isfinite(args->scale)) {
        return ppedge_fail_field(fault, PPEDGE_NOT_FINITE, "scale");
    }
    /* a head has at least one value column, so that its partial is at most 3 floats a column, and
     * rounding that up to whole lines at most LINE_FLOATS times as many */
    const size_t d_v = args->values.width;
    const size_t most_bytes = 3 * sizeof(float) * LINE_FLOATS;
    if (!product_fits(args->n_queries, args->keys.width, sizeof(float), 1) ||
        !product_fits(args->n_queries, d_v, most_bytes, MAX_CHUNKS + MAX_THREADS + 1) ||
        !product_fits(args->n_queries, args->n_heads, args->n_rows, sizeof(float))) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, "queries");
    }
    return PPEDGE_OK;
}

ppedge_status ppedge_check_queries(const ppedge_pool_args *args, ppedge_fault *fault) {
    const size_t width = args->keys.width;
    for (size_t i = 0; i < args->n_queries * width; i++) {
        if (!isfinite(args->queries[i])) {
            return ppedge_fail(fault, PPEDGE_NOT_FINITE, "queries", i / width, i % width);
        }
    }
    return PPEDGE_OK;
}

/* --- by their effect -------------------------------------------------------------------------- */

static size_t first_not_finite(const ppedge_rows *rows, size_t row) {
    const size_t size = ppedge_dtype_size(rows->dtype);
    for (size_t j = 0; j < rows->width; j++) {
        if (!isfinite(ppedge_read(rows->dtype, row_at(rows, row) + j * size))) {
            return j;
        }
    }
    return PPEDGE_NOWHERE;
}

/* A score came out as NaN or infinite: which of its inputs is to blame? */
ppedge_status ppedge_blame_score(const ppedge_pool_args *args, size_t row, ppedge_fault *fault) {
    if (args->bias != NULL && !isfinite(args->bias[row])) {
        return ppedge_fail(fault, PPEDGE_NOT_FINITE, "bias", row, PPEDGE_NOWHERE);
    }
    if (args->keys.scales != NULL && !isfinite(args->keys.scales[row])) {
        return ppedge_fail(fault, PPEDGE_NOT_FINITE, "key_scales", row, PPEDGE_NOWHERE);
    }
    const size_t column = first_not_finite(&args->keys, row);
    if (column != PPEDGE_NOWHERE) {
        return ppedge_fail(fault, PPEDGE_NOT_FINITE, "keys", row, column);
    }
    return ppedge_fail(fault, PPEDGE_OUT_OF_RANGE, "keys", row, PPEDGE_NOWHERE);
}

/* A pooled value came out as NaN or infinite. Each is a sum with every unmasked row in it, so the
 * rows are asked in order. */
ppedge_status ppedge_blame_value(const ppedge_pool_args *args, ppedge_fault *fault) {
    const ppedge_rows *values = &args->values;
    for (size_t row = 0; row < args->n_rows; row++) {
        if (is_masked(args, row)) {
            continue;
        }
        if (values->scales != NULL && !isfinite(values->scales[row])) {
            return ppedge_fail(fault, PPEDGE_NOT_FINITE, "value_scales", row, PPEDGE_NOWHERE);
        }
        const size_t column = first_not_finite(values, row);
        if (column != PPEDGE_NOWHERE) {
            return ppedge_fail(fault, PPEDGE_NOT_FINITE, "values", row, column);
        }
    }
    return ppedge_fail_field(fault, PPEDGE_OUT_OF_RANGE, "values");
}
