/* The stack is measured on Cortex-M only. */
#include "board/stack.h"
void stack_paint(void)
{
}
uint32_t stack_used(void)
{
    return 0;
}
