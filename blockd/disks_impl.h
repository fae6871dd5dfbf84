/* SPDX-License-Identifier: Apache-2.0
 *
 * Between disks.c (records, open, add, remove) and disks_return.c (disks that hang, and come back: N7).
 */
#pragma once

#include "blockd/disks.h"
#include "common/env.h"

struct disks {
    struct store *store;
    struct disks_options options;
    struct list entries; /* by number */
    struct disk_list present;
    struct list removed; /* struct disk.link: failed and forgotten, closed at the end */
    unsigned present_count;
    struct env_timer opening_timer;
    struct fiber_mutex changing; /* one add or remove at a time */
    struct fiber_queue released;
    struct fiber_queue returning; /* the fibers of disks_return.c wait here */
    unsigned looks;               /* fibers of disks_forgotten() */
    unsigned returns;             /* fibers of disks_return.c */
    unsigned reopening;           /* of these */
    bool closing;
};

/* disks.c */
/* `problem` is stolen. */
void disks_entry_set(struct disks_entry *entry, enum disk_state state, char *problem);
void disks_tell_changed(struct disks *disks);

/* disks_return.c */
/* The disk hangs: sees to its coming back, or has it fail for good. From the env's loop or a fiber. */
void disks_entry_hangs(struct disks_entry *entry);
