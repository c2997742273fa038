/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_CONV_S8_H
#define ND_CONV_S8_H

#include "nd_patch_s8.h"

#ifdef __cplusplus
extern "C" {
#endif

void nd_conv_s8(const nd_conv_shape *shape,
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
