/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ND_AVERAGE_POOL_S8_H
#define ND_AVERAGE_POOL_S8_H

#include "nd_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

void nd_average_pool_s8(const nd_pool_shape *shape, const int8_t *in, int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
