/* SPDX-License-Identifier: Apache-2.0
 *
 * What one mount has: made by main.c, used by every other file. Everything runs in the loop's
 * thread (admin_queue.c has the only other one).
 */
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/list.h"
#include "fuse/admin_queue.h"
#include "fuse/loop.h"
#include "fuse/session.h"

/* The kernel's largest WRITE and READ (256 pages). */
#define MOUNT_IO_BYTES_MAX (1u << 20)

struct mount {
    struct loop *loop;
    struct admin_queue *admin;
    /* Of names that this mount has not met: while the store does not answer, each takes blockd some seconds,
     * which the others must not wait for. */
    struct admin_queue *admin_new_names;
    struct session_config session_config;
    uid_t uid;
    gid_t gid;
    mode_t file_mode;

    struct fuse_session *fuse;
    struct loop_source device; /* /dev/fuse */
    struct fuse_buf received;  /* the request being processed */
    bool received_taken;       /* ... by mount_take_received() */
    unsigned requests;         /* reads, writes and so on not replied to */
    bool paused;               /* too much memory in use: /dev/fuse is not read */

    struct list volumes; /* that the kernel knows, or that are open */
    struct list waiters; /* see waiter.h */
    struct loop_timer waiters_timer;
    struct statvfs last_statfs; /* answered while blockd is away */
    time_t started;
};

/* Inside a FUSE operation: the buffer that holds this request's payload is the caller's from now
 * on, to be given back by buffer_put_received(). */
struct fuse_buf mount_take_received(struct mount *mount);
