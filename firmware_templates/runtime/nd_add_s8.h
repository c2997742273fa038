/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_ADD_S8_H
#define ND_ADD_S8_H

#include "nd_add.h"
#include "nd_broadcast.h"

#ifdef __cplusplus
extern "C" {
#endif

void nd_add_s8(const nd_broadcast_shape *shape,
               const nd_add_factors *factors,
               const int8_t *a,
               const int8_t *b,
               int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
