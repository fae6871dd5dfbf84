/* SPDX-License-Identifier: Apache-2.0
 *
 * Golden files: the bytes of each format version, as text that a person can read and compare. Lines are
 * `# comment`, `length BYTES`, and `OFFSET HH HH ...` (16 bytes, hexadecimal); lines of zeros are left out.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define GOLDEN_BYTES_MAX 8192

/* Into `ret_bytes` (GOLDEN_BYTES_MAX); returns the length. Fails the test when the file is not readable. */
size_t golden_load(const char *name, uint8_t *ret_bytes);
/* Fails, naming the first offset that differs, unless the file has these bytes. With HOLDFAST_GOLDEN_WRITE in the
 * environment a file that does not exist is written (never one that does). */
void golden_compare(const char *name, const char *comment, const void *bytes, size_t len_bytes);
