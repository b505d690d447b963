/* Runs the fuzz target on inputs from a fixed seed, for compilers without libFuzzer. */
#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RUNS = 20000, SIZE = 4096 };

int main(void) {
    static uint8_t data[SIZE];
    uint64_t state = 2026;
    for (int run = 0; run < RUNS; run++) {
        size_t size = 0;
        do {
            state = state * 6364136223846793005u + 1442695040888963407u;
            data[size++] = (uint8_t)(state >> 40);
        } while (size < SIZE && (state >> 50) % 2048 != 0);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%d inputs\n", RUNS);
    return 0;
}
