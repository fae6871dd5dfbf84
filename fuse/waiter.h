/* SPDX-License-Identifier: Apache-2.0
 *
 * FUSE requests that wait for blockd (metadata and opens): while it is away their callers can still
 * be killed.
 */
#pragma once

#include "fuse/mount.h"

/* Who made a request: zero at first. Its thread may end before its asynchronous requests do, so the
 * process is found out at the first look. */
struct caller {
    pid_t process;
};

/* True if the process that made `fuse` is being killed. A mere signal (a timer of the program's, a
 * runtime's preemption) does not count: such a caller sees only latency. Nor is the kernel's INTERRUPT
 * asked: it tells of one signal only, and nothing of asynchronous requests, whose process waits for
 * them in its exit. */
bool caller_is_dying(struct caller *caller, fuse_req_t fuse);

struct waiter {
    struct list link;
    struct caller caller;
    fuse_req_t fuse;
    /* The caller is being killed: reply EINTR and forget the request. */
    void (*cancel)(struct waiter *waiter);
};

void waiter_add(struct mount *mount, struct waiter *waiter, fuse_req_t fuse,
    void (*cancel)(struct waiter *waiter));
void waiter_remove(struct waiter *waiter);
