/* What the fuzz drivers share: a promise that ends the program when it is broken, and octets at random. */
#ifndef FSW_FUZZ_H
#define FSW_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(truth)                                                        \
    do {                                                                      \
        if (!(truth)) {                                                       \
            fprintf(stderr, "broken promise, line %d: %s\n", __LINE__, #truth); \
            abort();                                                          \
        }                                                                     \
    } while (0)

/* Next word of xorshift64 (Marsaglia 2003); `random` is never 0. */
static inline uint64_t next_word(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

#endif
