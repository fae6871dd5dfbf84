/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of attachments share. Only blockd/attach*.c include this.
 */
#pragma once

#include "blockd/attach.h"

struct attach {
    struct attach_options options; /* with the defaults filled in */
    struct list attachments;
    struct list waiters; /* struct attach_waiter.link */
};

struct attachment {
    struct list link; /* attach->attachments */
    struct attach *attach;
    uint64_t id;
    char name[NAME_BYTES_MAX];
    struct volume *volume; /* ours, counted; NULL while another node owns it */
    struct volumes_listener listener;
    const struct attachment_events *events;
    void *ctx;
};
