/* Runs the fuzz target on inputs from a fixed seed, for compilers without libFuzzer; the first
 * argument is how many. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RUNS = 20000, SIZE = 4096 };

int main(int argc, char **argv) {
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : RUNS;
    static uint8_t data[SIZE];
    uint64_t state = 2026;
    for (long run = 0; run < runs; run++) {
        size_t size = 0;
        do {
            state = state * 6364136223846793005u + 1442695040888963407u;
            data[size++] = (uint8_t)(state >> 40);
        } while (size < SIZE && (state >> 50) % 2048 != 0);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld inputs\n", runs);
    return 0;
}
