/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_RESIZE_NEAREST_S8_H
#define ND_RESIZE_NEAREST_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t in_row; /* bytes of a row of in */
    int32_t out_h;
    int32_t out_w;
    int32_t channels;
} nd_resize_nearest_shape;

void nd_resize_nearest_s8(const nd_resize_nearest_shape *shape,
                          const int8_t *ND_RESTRICT in,
                          const uint16_t *ND_RESTRICT rows,
                          const uint16_t *ND_RESTRICT columns,
                          int8_t *ND_RESTRICT out);

#ifdef __cplusplus
}
#endif

#endif
