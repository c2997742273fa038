/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_SOFTMAX_S8_H
#define ND_SOFTMAX_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t rows;
    int32_t n;    /* classes */
    int32_t size; /* of the table, 1..256 */
} nd_softmax_shape;

void nd_softmax_s8(const nd_softmax_shape *shape,
                   const int8_t *in,
                   const int32_t *exp_table,
                   int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
