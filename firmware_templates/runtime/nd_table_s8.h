/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_TABLE_S8_H
#define ND_TABLE_S8_H

#include "nd_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t n; /* bytes */
} nd_table_shape;

void nd_table_s8(const nd_table_shape *shape, const int8_t *in, const int8_t *table, int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
