/* Fuzzes pool.h: any bytes become arguments, with every buffer an exact heap block. Whatever they
 * are, the call must return a listed status; and where it pools, the result is a mean of the rows:
 * finite, and within the range of the values. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ppedge/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A cursor that hands out bytes, and zeros behind the end. */
typedef struct input {
    const uint8_t *at;
    size_t left;
} input;

static void take(input *in, void *to, size_t n) {
    const size_t have = n < in->left ? n : in->left;
    memset(to, 0, n);
    if (have > 0) {
        memcpy(to, in->at, have);
    }
    in->at += have;
    in->left -= have;
}

static unsigned take_byte(input *in) {
    uint8_t byte;
    take(in, &byte, 1);
    return byte;
}

static void *take_block(input *in, size_t bytes) {
    void *block = malloc(bytes > 0 ? bytes : 1);
    if (block == NULL) {
        abort();
    }
    take(in, block, bytes);
    return block;
}

/* Small integers from bytes: finite and of any sign, where take_block gives any bit pattern. */
static float *take_floats(input *in, size_t n, int wild) {
    float *x = take_block(in, n * sizeof *x);
    for (size_t i = 0; !wild && i < n; i++) {
        int8_t small;
        memcpy(&small, &x[i], sizeof small);
        x[i] = (float)small / 16.0f;
    }
    return x;
}

static void *take_rows(input *in, ppedge_rows *rows, size_t n, size_t width, int wild) {
    const size_t offset = take_byte(in) % 4;
    rows->dtype = (ppedge_dtype)(take_byte(in) % 5); /* 4 is unknown */
    rows->width = width;
    const size_t row = width * (rows->dtype < 4 ? ppedge_dtype_size(rows->dtype) : 1);
    const size_t gap = take_byte(in) % 3;
    rows->stride = row + gap;
    const size_t bytes = offset + (n > 0 ? n * rows->stride - gap : 0);
    char *block = take_block(in, bytes);
    if (rows->dtype == PPEDGE_F32 && !wild) {
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < width; j++) {
                char *at = block + offset + i * rows->stride + 4 * j;
                const float x = (float)(int8_t)*at / 16.0f;
                memcpy(at, &x, sizeof x);
            }
        }
    }
    rows->data = block + offset;
    return block;
}

static void check_mean(const ppedge_pool_args *args) {
    for (size_t i = 0; i < args->n_queries * args->values.width; i++) {
        if (!isfinite(args->out[i])) {
            abort();
        }
    }
    for (size_t i = 0; i < args->n_queries * args->n_heads; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < args->n_rows; j++) {
            const float weight = args->weights[i * args->n_rows + j];
            if (!(weight >= 0.0f && weight <= 1.0f)) {
                abort();
            }
            sum += (double)weight;
        }
        if (fabs(sum - 1.0) > 1e-4 || !isfinite(args->log_sum_exp[i])) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    ppedge_pool_args args = {0};
    const int wild = take_byte(&in) % 2;
    args.n_rows = take_byte(&in) % 150;
    args.n_queries = take_byte(&in) % 4;
    args.n_heads = take_byte(&in) % 4;
    args.n_threads = (int)take_byte(&in) % 3;
    args.backend = (ppedge_backend)(take_byte(&in) % 6);
    take(&in, &args.scale, sizeof args.scale);
    args.scale = wild ? args.scale : 0.25f;
    const size_t heads = args.n_heads > 0 ? args.n_heads : 1;
    const size_t d_k = take_byte(&in) % 24 * heads + take_byte(&in) % 16 / 15;
    const size_t d_v = take_byte(&in) % 24 * heads;
    void *keys = take_rows(&in, &args.keys, args.n_rows, d_k, wild);
    void *values = take_rows(&in, &args.values, args.n_rows, d_v, wild);
    float *queries = take_floats(&in, args.n_queries * d_k, wild);
    float *bias = take_floats(&in, args.n_rows, wild);
    float *key_scales = take_floats(&in, args.n_rows, wild);
    float *value_scales = take_floats(&in, args.n_rows, wild);
    args.queries = queries;
    args.bias = take_byte(&in) % 2 ? bias : NULL;
    args.keys.scales = args.keys.dtype == PPEDGE_I8 ? key_scales : NULL;
    args.values.scales = args.values.dtype == PPEDGE_I8 ? value_scales : NULL;
    args.out = take_block(&in, args.n_queries * d_v * sizeof *args.out);
    args.weights = take_block(&in, args.n_queries * heads * args.n_rows * sizeof *args.weights);
    args.log_sum_exp = take_block(&in, args.n_queries * heads * sizeof *args.log_sum_exp);
    ppedge_fault fault;
    const ppedge_status status = ppedge_pool(&args, &fault);
    char text[160];
    if (status == PPEDGE_OK) {
        check_mean(&args);
    } else if (status < PPEDGE_OK || status > PPEDGE_NO_MEMORY || fault.field == NULL ||
               ppedge_describe(status, &fault, text, sizeof text)[0] == '\0') {
        abort();
    }
    void *blocks[] = {keys,     values,       queries,      bias,         key_scales,
                      value_scales, args.out, args.weights, args.log_sum_exp};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        free(blocks[i]);
    }
    return 0;
}
