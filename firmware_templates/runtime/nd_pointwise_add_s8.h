/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_POINTWISE_ADD_S8_H
#define ND_POINTWISE_ADD_S8_H

#include "nd_add.h"
#include "nd_pointwise_s8.h"

#ifdef __cplusplus
extern "C" {
#endif

void nd_pointwise_add_s8(const nd_pointwise_shape *shape,
                         const nd_add_factors *sum,
                         const int8_t *in,
                         const int8_t *ND_RESTRICT w,
                         const int32_t *ND_RESTRICT bias,
                         const int32_t *ND_RESTRICT mult,
                         const int8_t *ND_RESTRICT shift,
                         const int8_t *other,
                         int8_t *ND_RESTRICT scratch,
                         int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
