/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes and durations as people write and read them.
 */
#pragma once

#include <stdint.h>

/* "4096", "512MiB", "10GiB", "10G", "1.5T", "4k", any case, a space before the unit allowed: powers
 * of 1024 (K, KiB, KB ... up to P). -EINVAL, -ERANGE beyond 2^63-1. */
int size_parse(const char *text, uint64_t *ret_bytes);
#define SIZE_TEXT_BYTES 32
/* Three significant digits or all of a whole number: "0 B", "512 MiB", "1.50 TiB". */
const char *size_format(uint64_t bytes, char ret_text[SIZE_TEXT_BYTES]);

/* "90" (seconds), "5s", "250ms", "10min", "2h", "7d", "1w". -EINVAL, -ERANGE beyond 2^63-1 ns. */
int duration_parse(const char *text, uint64_t *ret_ns);
#define DURATION_TEXT_BYTES 48
/* The two largest units: "3d 4h", "2m 05s", "1.2 s", "350 ms". */
const char *duration_format(uint64_t ns, char ret_text[DURATION_TEXT_BYTES]);
