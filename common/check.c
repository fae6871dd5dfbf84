/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a process that has lost an invariant. Uses no memory and no lock of ours: whatever
 * broke may be what we would need.
 */
#include "common/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/fiber.h"

void check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    char detail[512];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);

    char text[1024];
    const struct fiber *self = fiber_self();
    int len = snprintf(text, sizeof(text), "%s:%d: CHECK failed: %s%s%s (fiber: %s)\n", file, line,
        condition, detail[0] ? ": " : "", detail, self ? fiber_name(self) : "none");
    if (len > (int)sizeof(text) - 1)
        len = sizeof(text) - 1;
    if (write(STDERR_FILENO, text, len) < 0) {
        /* nothing left to tell it to */
    }
    abort();
}
