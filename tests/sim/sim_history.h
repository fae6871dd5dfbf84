/* SPDX-License-Identifier: Apache-2.0
 *
 * A history of reads and writes of one register by several clients, and whether it is linearizable:
 * whether each operation can be given a moment between its begin and its end so that every read
 * returns what was written last before it. A write without an answer may have happened at any time
 * after its begin, once, or never.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define HISTORY_OPS_MAX 64

struct history_op {
    uint64_t begin, end; /* any clock of the world; end UINT64_MAX: no answer */
    uint32_t value;      /* written, or returned */
    bool write;
    bool given_up; /* a write that has happened before `end`, or never will */
};

struct history {
    struct history_op ops[HISTORY_OPS_MAX];
    unsigned count;
    uint32_t first; /* the register's value before all of them */
};

bool history_is_linearizable(const struct history *history);
