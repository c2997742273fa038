/* SPDX-License-Identifier: Apache-2.0
 * stack.c - see stack.h.
 *
 * Both functions are naked: they must not have a frame of their own in what they paint and read.
 * Thumb-1 only, so that Cortex-M0 has them too.
 */
#include "stack.h"

__attribute__((naked, noinline)) void stack_paint(void)
{
    __asm volatile("ldr r0, =stack_limit\n\t"
                   "ldr r1, =0xA5A5A5A5\n\t"
                   "mov r2, sp\n"
                   "1:\n\t"
                   "cmp r0, r2\n\t"
                   "bcs 2f\n\t"
                   "stmia r0!, {r1}\n\t"
                   "b 1b\n"
                   "2:\n\t"
                   "bx lr\n\t"
                   ".ltorg");
}

__attribute__((naked, noinline)) uint32_t stack_used(void)
{
    __asm volatile("ldr r0, =stack_limit\n\t"
                   "ldr r1, =0xA5A5A5A5\n\t"
                   "mov r2, sp\n"
                   "1:\n\t"
                   "cmp r0, r2\n\t"
                   "bcs 2f\n\t"
                   "ldr r3, [r0]\n\t"
                   "cmp r3, r1\n\t"
                   "bne 2f\n\t"
                   "add r0, #4\n\t"
                   "b 1b\n"
                   "2:\n\t"
                   "sub r0, r2, r0\n\t"
                   "bx lr\n\t"
                   ".ltorg");
}
