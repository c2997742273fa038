/* SPDX-License-Identifier: Apache-2.0
 * stack.h - how much stack one call takes: paint, call, measure.
 */
#ifndef STACK_H
#define STACK_H

#include <stdint.h>

/* From the linker script: the stack grows from stack_top down, at most to stack_limit. */
extern uint32_t stack_limit[];
extern uint32_t stack_top[];

/* Paints what is free of the stack, up to the caller's own frame. */
void stack_paint(void);

/* Bytes below the caller's frame that were written to since stack_paint() of the same function. */
uint32_t stack_used(void);

#endif
