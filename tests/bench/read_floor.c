/* The fastest that a core can read bytes: what no kernel that reads them can beat. Two loops, with
 * and without software prefetch; the benchmark takes the faster. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { STEP = 256, AHEAD = 2048 };

uint64_t read_plain(const char *bytes, size_t n) {
    uint64_t sums[STEP / 8] = {0};
    for (size_t i = 0; i + STEP <= n; i += STEP) {
        uint64_t words[STEP / 8];
        memcpy(words, bytes + i, STEP);
        for (int j = 0; j < STEP / 8; j++) {
            sums[j] ^= words[j];
        }
    }
    for (int j = 1; j < STEP / 8; j++) {
        sums[0] ^= sums[j];
    }
    return sums[0];
}

uint64_t read_prefetched(const char *bytes, size_t n) {
    uint64_t sums[STEP / 8] = {0};
    for (size_t i = 0; i + STEP <= n; i += STEP) {
        for (int line = 0; line < STEP; line += 64) {
            __builtin_prefetch((const void *)((uintptr_t)bytes + i + AHEAD + line));
        }
        uint64_t words[STEP / 8];
        memcpy(words, bytes + i, STEP);
        for (int j = 0; j < STEP / 8; j++) {
            sums[j] ^= words[j];
        }
    }
    for (int j = 1; j < STEP / 8; j++) {
        sums[0] ^= sums[j];
    }
    return sums[0];
}
