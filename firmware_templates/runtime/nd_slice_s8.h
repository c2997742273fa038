/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_SLICE_S8_H
#define ND_SLICE_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t n;    /* bytes of a row of out */
    int32_t rows; /* in a plane */
    int32_t planes;
    int32_t step; /* bytes of in from one byte of a row to the next one; any sign, as all steps */
    int32_t row_step;
    int32_t plane_step;
} nd_slice_shape;

void nd_slice_s8(const nd_slice_shape *shape,
                 const int8_t *ND_RESTRICT in,
                 int8_t *ND_RESTRICT out);

#ifdef __cplusplus
}
#endif

#endif
