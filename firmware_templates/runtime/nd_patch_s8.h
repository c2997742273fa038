/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_PATCH_S8_H
#define ND_PATCH_S8_H

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
    int32_t c_out;
    int32_t kh;
    int32_t kw;
    int32_t stride_h;
    int32_t stride_w;
    int32_t dilation_h;
    int32_t dilation_w;
    int32_t pad_top; /* what is missing at the bottom and on the right is padding too */
    int32_t pad_left;
    int32_t down; /* 1: from the last pixel to the first, 0: upwards */
    int32_t in_zp;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_conv_shape;

void nd_patch_s8(const nd_conv_shape *shape,
                 int32_t pixel,
                 const int8_t *ND_RESTRICT in,
                 int8_t *ND_RESTRICT patch);

#ifdef __cplusplus
}
#endif

#endif
