/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_COPY_S8_H
#define ND_COPY_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t rows;
    int32_t n;       /* bytes of a row */
    int32_t in_step; /* bytes from a row to the next one */
    int32_t out_step;
} nd_copy_shape;

void nd_copy_s8(const nd_copy_shape *shape, const int8_t *ND_RESTRICT in, int8_t *ND_RESTRICT out);

#ifdef __cplusplus
}
#endif

#endif
