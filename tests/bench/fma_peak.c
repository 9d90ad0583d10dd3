/* The most multiply-adds that this core does in 32-bit arithmetic, for the benchmark only. */
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* Twelve chains hide the latency of two units; each call does 24 * LANES flops per round. */
#define PEAK(name, isa, vec, set, fma)                                         \
    __attribute__((target(isa))) float name(int64_t rounds)                    \
    {                                                                          \
        vec chain[12], factor = set(0.999f), addend = set(0.001f);             \
        for (int i = 0; i < 12; i++)                                           \
            chain[i] = set((float)i);                                          \
        for (int64_t round = 0; round < rounds; round++) {                     \
            for (int i = 0; i < 12; i++)                                       \
                chain[i] = fma(chain[i], factor, addend);                      \
            __asm__ volatile("" : : "r"(round)); /* keeps the loop */          \
        }                                                                      \
        float sum = 0.0f;                                                      \
        for (int i = 0; i < 12; i++)                                           \
            sum += chain[i][0];                                                \
        return sum;                                                            \
    }

PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)

int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

int has_avx512(void)
{
    return !!__builtin_cpu_supports("avx512f");
}
#endif
