/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_FULLY_CONNECTED_S8_H
#define ND_FULLY_CONNECTED_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t c_in;
    int32_t c_out;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_fully_connected_shape;

void nd_fully_connected_s8(const nd_fully_connected_shape *shape,
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
