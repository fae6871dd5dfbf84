/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/zero.h"

#include <string.h>

#include "common/check.h"

bool zero_is(const void *data, size_t len_bytes)
{
    /* Compares the data with itself one byte further: memcmp is the fastest reader there is. */
    const unsigned char *p = data;
    return len_bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, len_bytes - 1) == 0);
}

size_t zero_run(const void *data, size_t len_bytes, bool *ret_zero)
{
    const char *p = data;
    size_t run = MIN(len_bytes, ZERO_BLOCK_BYTES);
    bool zero = zero_is(p, run);
    while (run < len_bytes) {
        size_t block = MIN(len_bytes - run, ZERO_BLOCK_BYTES);
        if (zero_is(p + run, block) != zero)
            break;
        run += block;
    }
    *ret_zero = zero;
    return run;
}
