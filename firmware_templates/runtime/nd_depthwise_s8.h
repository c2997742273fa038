/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_DEPTHWISE_S8_H
#define ND_DEPTHWISE_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t in_h;
    int32_t in_w;
    int32_t c_in;
    int32_t out_h;
    int32_t out_w;
    int32_t multiplier;
    int32_t kh;
    int32_t kw;
    int32_t stride_h;
    int32_t stride_w;
    int32_t dilation_h;
    int32_t dilation_w;
    int32_t pad_top; /* what is missing at the bottom and on the right is padding too */
    int32_t pad_left;
    int32_t band; /* rows of output formed at a time */
    int32_t in_zp;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_depthwise_shape;

void nd_depthwise_s8(const nd_depthwise_shape *shape,
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
