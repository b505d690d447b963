/* Pools four rows by one query, from C. */
#include <stdio.h>

#include "ppedge/pool.h"

enum { N = 4, D_K = 3, D_V = 2 };

int main(void) {
    const float keys[N][D_K] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 0}};
    const float values[N][D_V] = {{1, 0}, {0, 1}, {5, 5}, {1, 1}};
    const float query[D_K] = {0.1f, 0.2f, 3.0f};
    float out[D_V], weights[N], log_sum_exp;

    const ppedge_pool_args args = {
        .n_rows = N,
        .n_queries = 1,
        .n_heads = 1,
        .keys = {.data = keys, .width = D_K, .stride = sizeof keys[0], .dtype = PPEDGE_F32},
        .values = {.data = values, .width = D_V, .stride = sizeof values[0], .dtype = PPEDGE_F32},
        .queries = query,
        .scale = 1.0f,
        .out = out,
        .weights = weights,
        .log_sum_exp = &log_sum_exp,
        .n_threads = 1,
    };
    ppedge_fault fault;
    const ppedge_status status = ppedge_pool(&args, &fault);
    if (status != PPEDGE_OK) {
        char text[200];
        fprintf(stderr, "pool: %s\n", ppedge_describe(status, &fault, text, sizeof text));
        return 1;
    }

    int heaviest = 0;
    for (int i = 0; i < N; i++) {
        printf("weight of row %d: %.4f\n", i, (double)weights[i]);
        heaviest = weights[i] > weights[heaviest] ? i : heaviest;
    }
    ppedge_backend backend;
    ppedge_backend_resolve(PPEDGE_AUTO, &backend);
    printf("pooled: %.4f %.4f, log-sum-exp: %.4f, by %s\n", (double)out[0], (double)out[1],
           (double)log_sum_exp, ppedge_backend_name(backend));
    printf("heaviest row: %d\n", heaviest);
    return 0;
}
