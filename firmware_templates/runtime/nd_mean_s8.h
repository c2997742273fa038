/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_MEAN_S8_H
#define ND_MEAN_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t outer; /* kept */
    int32_t inner;
    int32_t outer_step; /* bytes of in from one to the next */
    int32_t inner_step;
    int32_t rows; /* averaged, for each output */
    int32_t columns;
    int32_t row_step;
    int32_t column_step;
    int32_t bias; /* -(zero point of in) * rows * columns */
    int32_t mult;
    int32_t shift;
    int32_t out_zp;
} nd_mean_shape;

void nd_mean_s8(const nd_mean_shape *shape, const int8_t *in, int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
