/* SPDX-License-Identifier: Apache-2.0
 * nd_broadcast.h - how a kernel of two operands walks through them where one or both are repeated.
 *
 * The output is formed in order, in rows of n bytes; `n_plane` rows are a plane, `n_block` planes a
 * block. Operands move by fixed steps, 0 along a dimension in which an operand has one element.
 */
#ifndef ND_BROADCAST_H
#define ND_BROADCAST_H

#include "nd_common.h"

typedef struct {
    int32_t rows; /* of the output */
    int32_t n;
    int32_t n_plane;
    int32_t n_block;
    int32_t a_step;  /* from byte to byte in a row: 0 or 1 */
    int32_t a_row;   /* from a row to the next one, */
    int32_t a_plane; /* more after each plane, */
    int32_t a_block; /* more after each block */
    int32_t b_step;
    int32_t b_row;
    int32_t b_plane;
    int32_t b_block;
} nd_broadcast_shape;

/* A row: where it begins in each operand, and its place in the plane and in the block. */
typedef struct {
    int32_t a;
    int32_t b;
    int32_t row;
    int32_t plane;
} nd_broadcast_place;

static inline void nd_broadcast_next(const nd_broadcast_shape *shape, nd_broadcast_place *at)
{
    at->a += shape->a_row;
    at->b += shape->b_row;
    if (++at->row < shape->n_plane) {
        return;
    }
    at->row = 0;
    at->a += shape->a_plane;
    at->b += shape->b_plane;
    if (++at->plane < shape->n_block) {
        return;
    }
    at->plane = 0;
    at->a += shape->a_block;
    at->b += shape->b_block;
}

#endif
