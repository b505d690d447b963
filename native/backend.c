/* Which instruction set does the work: the environment's wish, else the CPU's best. */
#include <stdlib.h>
#include <string.h>

#ifdef PPEDGE_WITH_AVX2
#include <cpuid.h>
#endif

#include "kernels.h"
#include "platform.h"

static const char *const names[] = {"auto", "scalar", "avx2", "avx512", "neon"};
enum { N_BACKENDS = sizeof names / sizeof names[0] };

const char *ppedge_backend_name(ppedge_backend backend) {
    return (size_t)backend < N_BACKENDS ? names[backend] : NULL;
}

int ppedge_backend_from_name(const char *name, ppedge_backend *backend) {
    for (int i = 0; i < N_BACKENDS; i++) {
        if (strcmp(name, names[i]) == 0) {
            *backend = (ppedge_backend)i;
            return 0;
        }
    }
    return -1;
}

#ifdef PPEDGE_WITH_AVX2
/* Not every clang knows "f16c" in __builtin_cpu_supports. */
static int has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

/* __builtin_cpu_supports also asks whether the operating system saves the wide registers. */
static int runs_here(ppedge_backend backend) {
    switch (backend) {
    case PPEDGE_SCALAR:
        return 1;
#ifdef PPEDGE_WITH_AVX2
    case PPEDGE_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               has_f16c();
#endif
#ifdef PPEDGE_WITH_AVX512
    case PPEDGE_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
#ifdef PPEDGE_WITH_NEON
    case PPEDGE_NEON:
        return 1;
#endif
    default:
        return 0;
    }
}

static ppedge_backend widest(void) {
    static const ppedge_backend by_width[] = {PPEDGE_AVX512, PPEDGE_AVX2, PPEDGE_NEON};
    for (size_t i = 0; i < sizeof by_width / sizeof by_width[0]; i++) {
        if (runs_here(by_width[i])) {
            return by_width[i];
        }
    }
    return PPEDGE_SCALAR;
}

/* A backend that runs here, or PPEDGE_AUTO where PPEDGE_SIMD names none that does. */
static ppedge_backend chosen(void) {
    const char *name = getenv("PPEDGE_SIMD");
    if (name == NULL || name[0] == '\0' || strcmp(name, "auto") == 0) {
        return widest();
    }
    ppedge_backend wanted;
    if (ppedge_backend_from_name(name, &wanted) == 0 && runs_here(wanted)) {
        return wanted;
    }
    return PPEDGE_AUTO;
}

ppedge_status ppedge_backend_resolve(ppedge_backend wanted, ppedge_backend *resolved) {
    static ppedge_atomic_int choice_plus_1 = 0;
    if (wanted == PPEDGE_AUTO) {
        /* racing threads compute the same choice, so that either may store it */
        int known = ppedge_atomic_load(&choice_plus_1);
        if (known == 0) {
            known = (int)chosen() + 1;
            ppedge_atomic_store(&choice_plus_1, known);
        }
        wanted = (ppedge_backend)(known - 1);
    }
    if (!runs_here(wanted)) {
        return PPEDGE_BAD_BACKEND;
    }
    *resolved = wanted;
    return PPEDGE_OK;
}

const ppedge_kernels *ppedge_kernels_of(ppedge_backend resolved) {
    switch (resolved) {
#ifdef PPEDGE_WITH_AVX2
    case PPEDGE_AVX2:
        return &ppedge_kernels_avx2;
#endif
#ifdef PPEDGE_WITH_AVX512
    case PPEDGE_AVX512:
        return &ppedge_kernels_avx512;
#endif
#ifdef PPEDGE_WITH_NEON
    case PPEDGE_NEON:
        return &ppedge_kernels_neon;
#endif
    default:
        return &ppedge_kernels_scalar;
    }
}
