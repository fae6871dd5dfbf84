/* SPDX-License-Identifier: Apache-2.0
 *
 * A fuzz target is one function of libFuzzer's form, linked with replay.c (the suite `fuzz`: the
 * corpus, then a fixed number of mutations of it) or with libFuzzer itself:
 *   clang -g -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_NAME.c
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes);
