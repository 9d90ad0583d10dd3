/* Rollout path for x86-64 machines with AVX-512; rollout.c takes it only where the processor has it. FMA is not
 * used: its rounding differs from multiply-then-add, and every path must give the same bits. */
#include "rollout_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>

#define TARGET __attribute__((target("avx512f")))

typedef float f32x16 __attribute__((vector_size(64)));
typedef double f64x8 __attribute__((vector_size(64)));

#define SPLAT(a) ((VEC){0} + (REAL)(a))

#define REAL float
#define LANES 16
#define VEC f32x16
#define MASK __mmask16
#define V_SQRT(a) ((VEC)_mm512_sqrt_ps((__m512)(a)))
#define V_MAX(a, b) ((VEC)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define V_MIN(a, b) ((VEC)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define V_SELECT(mask, a, b) ((VEC)_mm512_mask_blend_ps((mask), (__m512)(b), (__m512)(a)))
#define V_ABOVE(a, b) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_GT_OQ)
#define VECTORS 4
#define NAME(x) x##_avx512_wide_f32
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_avx512_narrow_f32
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
#undef V_ABOVE

#define REAL double
#define LANES 8
#define VEC f64x8
#define MASK __mmask8
#define V_SQRT(a) ((VEC)_mm512_sqrt_pd((__m512d)(a)))
#define V_MAX(a, b) ((VEC)_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#define V_MIN(a, b) ((VEC)_mm512_min_pd((__m512d)(a), (__m512d)(b)))
#define V_SELECT(mask, a, b) ((VEC)_mm512_mask_blend_pd((mask), (__m512d)(b), (__m512d)(a)))
#define V_ABOVE(a, b) _mm512_cmp_pd_mask((__m512d)(a), (__m512d)(b), _CMP_GT_OQ)
#define VECTORS 4
#define NAME(x) x##_avx512_wide_f64
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_avx512_narrow_f64
#include "rollout_template.h"

const struct path fsw_rollout_avx512_f32 = {64, 16, roll_avx512_wide_f32, roll_avx512_narrow_f32};
const struct path fsw_rollout_avx512_f64 = {32, 8, roll_avx512_wide_f64, roll_avx512_narrow_f64};

#else
typedef int rollout_avx512_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
