/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_PAD_S8_H
#define ND_PAD_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t bytes;  /* of out */
    int32_t fill;   /* int8 */
    int32_t first;  /* byte of out where in begins */
    int32_t n;      /* bytes of a row of in */
    int32_t rows;   /* in a plane */
    int32_t planes; /* in a block */
    int32_t blocks;
    int32_t row_step; /* bytes of out from a row to the next one */
    int32_t plane_step;
    int32_t block_step;
} nd_pad_shape;

void nd_pad_s8(const nd_pad_shape *shape, const int8_t *ND_RESTRICT in, int8_t *ND_RESTRICT out);

#ifdef __cplusplus
}
#endif

#endif
