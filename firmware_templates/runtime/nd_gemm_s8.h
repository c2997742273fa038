/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_GEMM_S8_H
#define ND_GEMM_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t k; /* products of one sum */
    int32_t c_out;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_gemm_shape;

/* First pixel of block i, two pixels each: from the first one on or, `down`, from the last. */
static inline int32_t nd_gemm_pixel(int32_t pixels, int32_t down, int32_t i)
{
    return 2 * ((down != 0) ? (pixels - 1) / 2 - i : i);
}

void nd_gemm_s8(const nd_gemm_shape *shape,
                int32_t rows,
                const int8_t *ND_RESTRICT in,
                const int8_t *ND_RESTRICT w,
                const int32_t *ND_RESTRICT bias,
                const int32_t *ND_RESTRICT mult,
                const int8_t *ND_RESTRICT shift,
                int8_t *ND_RESTRICT out);

#ifdef __cplusplus
}
#endif

#endif
