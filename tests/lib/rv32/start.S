# QEMU's virt board, machine mode, hart 0: stack, main(), exit. A trap exits with 100 + its cause.
    .option arch, +zicsr
    .section .vectors, "ax"
    .global reset_handler
reset_handler:
    la   t0, trap
    csrw mtvec, t0
    la   sp, stack_top
    call main
    tail host_exit
    .balign 4
trap:
    csrr a0, mcause
    addi a0, a0, 100
    tail host_exit
