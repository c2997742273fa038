/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_MUL_S8_H
#define ND_MUL_S8_H

#include "nd_broadcast.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t a_zp;
    int32_t b_zp;
    int32_t mult;
    int32_t shift;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_mul_factors;

void nd_mul_s8(const nd_broadcast_shape *shape,
               const nd_mul_factors *factors,
               const int8_t *a,
               const int8_t *b,
               int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
