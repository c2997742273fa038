/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_POINTWISE_S8_H
#define ND_POINTWISE_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t pixels;
    int32_t c_in;
    int32_t c_out;
    int32_t down; /* 1: from the last pixel to the first, 0: upwards */
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_pointwise_shape;

void nd_pointwise_s8(const nd_pointwise_shape *shape,
                     const int8_t *in,
                     const int8_t *ND_RESTRICT w,
                     const int32_t *ND_RESTRICT bias,
                     const int32_t *ND_RESTRICT mult,
                     const int8_t *ND_RESTRICT shift,
                     int8_t *ND_RESTRICT scratch,
                     int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
