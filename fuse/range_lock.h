/* SPDX-License-Identifier: Apache-2.0
 *
 * Locks of byte ranges of one volume, for servers that take only aligned requests: a write of part
 * of a block reads the block first, and no other write to that block may come between. Granted in
 * the order of asking.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

struct range_locks {
    struct list all; /* held and waiting, in order of asking */
};

struct range_lock {
    struct list link; /* initialise with list_init() */
    uint64_t start_bytes, end_bytes;
    bool held;
    void (*granted)(struct range_lock *lock);
};

void range_locks_init(struct range_locks *locks);
/* Calls lock->granted, now or when the ranges before it that overlap are unlocked. */
void range_lock(struct range_locks *locks, struct range_lock *lock);
/* Harmless on a lock that was never asked for. Grants to those that waited, before it returns. */
void range_unlock(struct range_locks *locks, struct range_lock *lock);
