/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding what need not be copied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The volume's block: what is zero is decided block by block. */
#define ZERO_BLOCK_BYTES 4096u

bool zero_is(const void *data, size_t len_bytes);
/* Length of the run at the start of `data` that is all zero blocks, or none of them, which
 * *ret_zero says. The last block may be short. 0 only for len_bytes 0. */
size_t zero_run(const void *data, size_t len_bytes, bool *ret_zero);
