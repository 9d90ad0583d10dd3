/* Rollout paths that every machine has: scalar, and 128-bit vectors (SSE2, NEON, or what the compiler makes). */
#include "rollout_internal.h"

#include <math.h>
#include <stddef.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TARGET

/* Scalar: the same operations on one lane. */
#define LANES 1
#define VECTORS 1
#define MASK int
#define V_MAX(a, b) ((a) > (b) ? (a) : (b))
#define V_MIN(a, b) ((a) < (b) ? (a) : (b))
#define V_ABOVE(a, b) ((a) > (b))
#define V_SELECT(mask, a, b) ((mask) ? (a) : (b))
#define SPLAT(a) ((REAL)(a))

#define NAME(x) x##_scalar_f32
#define REAL float
#define VEC float
#define V_SQRT(a) sqrtf(a)
#include "rollout_template.h"
#undef NAME
#undef REAL
#undef VEC
#undef V_SQRT

#define NAME(x) x##_scalar_f64
#define REAL double
#define VEC double
#define V_SQRT(a) sqrt(a)
#include "rollout_template.h"
#undef NAME
#undef REAL
#undef VEC
#undef V_SQRT

#undef LANES
#undef VECTORS
#undef MASK
#undef V_MAX
#undef V_MIN
#undef V_SELECT
#undef SPLAT

const struct path fsw_rollout_scalar_f32 = {1, 1, roll_scalar_f32, roll_scalar_f32};
const struct path fsw_rollout_scalar_f64 = {1, 1, roll_scalar_f64, roll_scalar_f64};

/* 128-bit vectors. */
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef double f64x2 __attribute__((vector_size(16)));
typedef int64_t i64x2 __attribute__((vector_size(16)));

#define V_SELECT(mask, a, b) ((VEC)(((mask) & (MASK)(a)) | (~(mask) & (MASK)(b))))
#define SPLAT(a) ((VEC){0} + (REAL)(a))

#define REAL float
#define LANES 4
#define VEC f32x4
#define MASK i32x4
#if defined(__x86_64__)
#define V_SQRT(a) ((VEC)_mm_sqrt_ps((__m128)(a)))
#define V_MAX(a, b) ((VEC)_mm_max_ps((__m128)(a), (__m128)(b)))
#define V_MIN(a, b) ((VEC)_mm_min_ps((__m128)(a), (__m128)(b)))
#else
#if defined(__aarch64__)
#define V_SQRT(a) ((VEC)vsqrtq_f32((float32x4_t)(a)))
#else
#define V_SQRT(a) ((VEC){sqrtf((a)[0]), sqrtf((a)[1]), sqrtf((a)[2]), sqrtf((a)[3])})
#endif
#define V_MAX(a, b) V_SELECT((a) > (b), a, b)
#define V_MIN(a, b) V_SELECT((a) < (b), a, b)
#endif
#define VECTORS 4
#define NAME(x) x##_base_wide_f32
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_base_narrow_f32
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

#define REAL double
#define LANES 2
#define VEC f64x2
#define MASK i64x2
#if defined(__x86_64__)
#define V_SQRT(a) ((VEC)_mm_sqrt_pd((__m128d)(a)))
#define V_MAX(a, b) ((VEC)_mm_max_pd((__m128d)(a), (__m128d)(b)))
#define V_MIN(a, b) ((VEC)_mm_min_pd((__m128d)(a), (__m128d)(b)))
#else
#if defined(__aarch64__)
#define V_SQRT(a) ((VEC)vsqrtq_f64((float64x2_t)(a)))
#else
#define V_SQRT(a) ((VEC){sqrt((a)[0]), sqrt((a)[1])})
#endif
#define V_MAX(a, b) V_SELECT((a) > (b), a, b)
#define V_MIN(a, b) V_SELECT((a) < (b), a, b)
#endif
#define VECTORS 4
#define NAME(x) x##_base_wide_f64
#include "rollout_template.h"
#undef VECTORS
#undef NAME
#define VECTORS 1
#define NAME(x) x##_base_narrow_f64
#include "rollout_template.h"

const struct path fsw_rollout_base_f32 = {16, 4, roll_base_wide_f32, roll_base_narrow_f32};
const struct path fsw_rollout_base_f64 = {8, 2, roll_base_wide_f64, roll_base_narrow_f64};
