/* SPDX-License-Identifier: Apache-2.0
 *
 * Between env_sim_disk.c (disks, faults, images) and env_sim_io.c (files and operations).
 */
#pragma once

#include "common/env_sim_impl.h"

struct sim_disk {
    struct list link; /* machine->disks */
    struct sim *sim;
    struct sim_machine *machine;
    char *path;
    struct sim_media media;
    struct sim_disk_latency latency;
    struct list faults;
    uint64_t faults_applied;
    unsigned open_count;
    bool locked, removed, hung;
    struct list ios; /* under way, by any node */
};

struct sim_file {
    struct env_file file;
    struct sim_disk *disk;
    struct list link; /* node->files */
    bool holds_lock;
    unsigned io_count;
};

/* One env_io under way. */
struct sim_io {
    struct sim_event event;
    struct list link, disk_link; /* node->ios, disk->ios */
    struct sim_disk *disk;
    struct sim_file *file;
    struct env_io *io;
    int error;            /* known at submission: a malformed request */
    uint64_t hash;        /* of what is to be written (V3) */
    uint64_t sync_number; /* SYNC: the last write it covers */
    uint64_t len_bytes;
    bool abandoned; /* a write whose buffers may be gone */
};

/* The rule that applies to the operation now, if any; DELAY rules apply at submission, others at
 * completion. */
const struct sim_fault *sim_fault_find(const struct sim_io *sio, bool at_submission);

struct sim_disk *sim_disk_lookup(struct sim_machine *machine, const char *path);

/* A write whose bytes may have reached the medium although it never completed; adds it so. */
bool sim_io_may_change(const struct sim_io *sio);
void sim_io_add_under_way(struct sim_io *sio, struct sim_media *media, uint64_t number);
