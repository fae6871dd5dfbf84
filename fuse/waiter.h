/* SPDX-License-Identifier: Apache-2.0
 *
 * FUSE requests that wait for blockd (metadata and opens): while it is away their callers can still
 * be killed.
 */
#pragma once

#include "fuse/mount.h"

struct waiter {
    struct list link;
    fuse_req_t fuse;
    /* The caller is being killed: reply EINTR and forget the request. */
    void (*cancel)(struct waiter *waiter);
};

void waiter_add(struct mount *mount, struct waiter *waiter, fuse_req_t fuse,
    void (*cancel)(struct waiter *waiter));
void waiter_remove(struct waiter *waiter);

/* True if the process that made `fuse` is being killed. A mere signal (a timer of the program's, a
 * runtime's preemption) does not count: such a caller sees only latency. */
bool caller_is_dying(fuse_req_t fuse);
