/* SPDX-License-Identifier: Apache-2.0
 * nd_runtime.c - words for a status.
 */
#include "nd_runtime.h"

const char *nd_status_str(nd_status status)
{
    switch (status) {
    case ND_OK:
        return "ok";
    case ND_ERR_NULL:
        return "null pointer";
    case ND_ERR_ARENA_SIZE:
        return "arena too small";
    case ND_ERR_ARENA_ALIGN:
        return "arena not aligned";
    case ND_ERR_INDEX:
        return "no such input or output";
    case ND_ERR_SELFTEST:
        return "selftest failed";
    default:
        return "unknown status";
    }
}
