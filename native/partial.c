/* Partial results: their layout, and how two of them merge. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static size_t partial_floats(const ppedge_pool_args *args) {
    return args->n_queries * args->values.width + 2 * count_heads(args);
}

size_t ppedge_partial_size(const ppedge_pool_args *args) {
    return ppedge_check_args(args, NULL) == PPEDGE_OK ? partial_floats(args) : 0;
}

float *ppedge_allocate_partials(const ppedge_pool_args *args, size_t count, size_t *stride,
                                void **allocation) {
    *stride = (partial_floats(args) + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
    *allocation = malloc(count * *stride * sizeof(float) + LINE_BYTES);
    if (*allocation == NULL) {
        return NULL;
    }
    const uintptr_t past_line = (uintptr_t)*allocation % LINE_BYTES;
    return (float *)((char *)*allocation + (past_line == 0 ? 0 : LINE_BYTES - past_line));
}

void ppedge_clear_partial(const ppedge_pool_args *args, float *partial) {
    memset(partial, 0, partial_floats(args) * sizeof *partial);
    const partial_view p = view_of(args, partial);
    for (size_t i = 0; i < count_heads(args); i++) {
        p.maxima[i] = -INFINITY;
    }
}

void ppedge_partial_merge(const ppedge_pool_args *args, float *into, const float *from) {
    const size_t width = args->values.width / args->n_heads;
    const partial_view to = view_of(args, into);
    const float *from_maxima = from + (to.maxima - into);
    const float *from_sums = from + (to.sums - into);
    for (size_t i = 0; i < count_heads(args); i++) {
        const float maximum = fmaxf(to.maxima[i], from_maxima[i]);
        if (maximum == -INFINITY) {
            continue; /* neither has seen a row */
        }
        const float keep = expf(to.maxima[i] - maximum);
        const float add = expf(from_maxima[i] - maximum);
        to.maxima[i] = maximum;
        to.sums[i] = to.sums[i] * keep + from_sums[i] * add;
        for (size_t j = i * width; j < (i + 1) * width; j++) {
            into[j] = into[j] * keep + from[j] * add;
        }
    }
}
