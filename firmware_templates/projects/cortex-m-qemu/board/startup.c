/* SPDX-License-Identifier: Apache-2.0
 * startup.c - from reset to main() on Cortex-M0, M3, M4, M7 and M55: no libc, no vendor code.
 *
 * Switches FPU and MVE on, copies .data, clears .bss, calls main() and ends QEMU with what it
 * returned. Any exception is reported on one line, FAULT exception=..., and ends QEMU with 100 +
 * its number. The linker script gives the addresses.
 */
#include "semihost.h"
#include "stack.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SCB_CFSR          0xE000ED28U /* why: usage, bus and memory faults */
#define SCB_HFSR          0xE000ED2CU
#define SCB_BFAR          0xE000ED38U  /* the address of a precise bus fault */
#define SCB_CPACR         0xE000ED88U  /* who may use coprocessors */
#define CP10_AND_CP11     (0xFU << 20) /* the FPU, and MVE with it */

#define INTERRUPTS 64

typedef void (*handler)(void);

extern const uint32_t image_data_load[];
extern uint32_t image_data_start[];
extern uint32_t image_data_end[];
extern uint32_t image_bss_start[];
extern uint32_t image_bss_end[];

int main(void);
void reset_handler(void);
void fault_report(const uint32_t *frame, uint32_t exception);

/* frame: r0-r3, r12, lr, pc, xpsr as the core pushed them. */
__attribute__((noreturn, used)) void fault_report(const uint32_t *frame, uint32_t exception)
{
    host_print("FAULT exception=");
    host_print_number(exception);
    host_print(" pc=");
    host_print_hex(frame[6]);
    host_print(" lr=");
    host_print_hex(frame[5]);
#if !defined(__ARM_ARCH_6M__) /* M0 has no such registers */
    host_print(" CFSR=");
    host_print_hex(REGISTER(SCB_CFSR));
    host_print(" HFSR=");
    host_print_hex(REGISTER(SCB_HFSR));
    host_print(" BFAR=");
    host_print_hex(REGISTER(SCB_BFAR));
#endif
    host_print("\n");
    host_exit(100 + (int)exception);
}

/* Naked: the stack pointer must still show the frame. */
__attribute__((naked)) static void default_handler(void)
{
    __asm volatile("mov r0, sp\n\t"
                   "mrs r1, ipsr\n\t"
                   "ldr r2, =fault_report\n\t"
                   "bx r2\n\t"
                   ".ltorg");
}

__attribute__((section(".vectors"), used)) static const handler vectors[16 + INTERRUPTS] = {
    (handler)(uintptr_t)stack_top,
    reset_handler,
    [2 ... 16 + INTERRUPTS - 1] = default_handler,
};

/* Not inlined: the compiler may move data through FPU or MVE registers here. */
__attribute__((noinline)) static void prepare_memory(void)
{
    const uint32_t *from = image_data_load;
    for (uint32_t *to = image_data_start; to < image_data_end; ++to) {
        *to = *from++;
    }
    for (uint32_t *to = image_bss_start; to < image_bss_end; ++to) {
        *to = 0;
    }
}

__attribute__((noreturn)) void reset_handler(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    REGISTER(SCB_CPACR) |= CP10_AND_CP11;
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
    prepare_memory();
    host_exit(main());
}
