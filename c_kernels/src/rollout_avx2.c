/* Rollout path for x86-64 machines with AVX2; rollout.c takes it only where the processor has it. FMA is not
 * used: its rounding differs from multiply-then-add, and every path must give the same bits. */
#include "rollout_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>

#define TARGET __attribute__((target("avx2")))

typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef double f64x4 __attribute__((vector_size(32)));
typedef int64_t i64x4 __attribute__((vector_size(32)));

#define V_ABOVE(a, b) ((a) > (b))
#define SPLAT(a) ((VEC){0} + (REAL)(a))

#define REAL float
#define LANES 8
#define VEC f32x8
#define MASK i32x8
#define V_SQRT(a) ((VEC)_mm256_sqrt_ps((__m256)(a)))
#define V_MAX(a, b) ((VEC)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define V_MIN(a, b) ((VEC)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define V_SELECT(mask, a, b) ((VEC)_mm256_blendv_ps((__m256)(b), (__m256)(a), (__m256)(mask)))
#define VECTORS 6
#define NAME(x) x##_avx2_wide_f32
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_avx2_narrow_f32
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#undef REAL
#undef LANES
#undef VEC
#undef MASK
#undef V_SQRT
#undef V_MAX
#undef V_MIN
#undef V_SELECT

#define REAL double
#define LANES 4
#define VEC f64x4
#define MASK i64x4
#define V_SQRT(a) ((VEC)_mm256_sqrt_pd((__m256d)(a)))
#define V_MAX(a, b) ((VEC)_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define V_MIN(a, b) ((VEC)_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#define V_SELECT(mask, a, b) ((VEC)_mm256_blendv_pd((__m256d)(b), (__m256d)(a), (__m256d)(mask)))
#define VECTORS 6
#define NAME(x) x##_avx2_wide_f64
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_avx2_narrow_f64
#include "rollout_template.h"

const struct path fsw_rollout_avx2_f32 = {48, 8, roll_avx2_wide_f32, roll_avx2_narrow_f32};
const struct path fsw_rollout_avx2_f64 = {24, 4, roll_avx2_wide_f64, roll_avx2_narrow_f64};

#else
typedef int rollout_avx2_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
