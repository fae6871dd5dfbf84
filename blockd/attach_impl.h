/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of attachments share. Only blockd/attach*.c include this.
 *
 *   attach.c          get and put; the calls: ours, or attach_remote.c's
 *   attach_remote.c   a volume that another node owns: forwarding to it, news from it, handoff
 *   attach_service.c  the other end: requests of other nodes on volumes of ours
 *
 * A remote is shared by all attachments of this node to one volume at one owner and epoch. Its fiber
 * (remote_main) lives as long as it does: asks for news, asks for a handoff, and in the end tells
 * the owner that nobody holds the volume here any more.
 */
#pragma once

#include "blockd/attach.h"
#include "blockd/cluster/wire_volume.h"

struct attach {
    struct attach_options options; /* with the defaults filled in */
    struct list attachments;
    struct list waiters;     /* struct attach_waiter.link */
    struct list remotes;     /* struct remote.link */
    struct list sessions;    /* struct attach_session.link */
    unsigned executing;      /* fibers of requests of other nodes (F5) */
    struct list waiting;     /* struct waiting_call: until one of them ends */
    struct list recent;      /* struct handed: volumes that were handed to us a short while ago */
    struct fiber_queue gone; /* woken when a remote has ended */
    uint64_t number;         /* of the last remote */
    struct attach_stats stats;

    /* Buffers of reads that other nodes wait for (A5). */
    struct bufpool *buffers; /* made when first needed */
    uint64_t out_bytes;      /* also of those that are not from there */
    struct fiber_queue buffers_put;
};

struct attachment {
    struct list link; /* attach->attachments */
    struct attach *attach;
    uint64_t id;
    char name[NAME_BYTES_MAX];
    struct volume *volume;   /* ours, counted; NULL while another node owns it: */
    struct remote *remote;   /* counted */
    struct list remote_link; /* remote->attachments */
    struct volumes_listener listener;
    const struct attachment_events *events;
    void *ctx;
};

struct remote {
    struct list link; /* attach->remotes */
    struct attach *attach;
    char node[64];
    char name[NAME_BYTES_MAX];
    uint64_t number; /* of our attachment, for the owner */
    uint64_t volume_id;
    uint64_t size_bytes;
    uint32_t epoch;
    bool attached;     /* the owner has answered */
    bool gone;         /* the owner serves it no more, or is out of reach: -ESHUTDOWN */
    bool handing_over; /* to us */
    unsigned users;
    struct list attachments; /* attachment.remote_link */
    struct fiber_queue tick; /* remote_main's */
    uint64_t heard_ns;       /* when the owner's last word came */

    /* Since the attach: by us, and by all (attach_traffic, as the owner last said); at the window's start. */
    uint64_t mine, all, window_mine, window_all, window_ns, handoff_next_ns;
};

struct handed {
    struct list link;
    uint64_t volume_id, until_ns;
};

/* attach_remote.c: the volume's owner is `owner`. 0 with *ret_remote counted; -EAGAIN or the owner's
 * error, with *ret_error. */
MAY_SUSPEND int forwarded_get(struct attach *attach, const char *name,
    const struct volume_owner *owner, struct remote **ret_remote, char **ret_error);
void forwarded_put(struct remote *remote);
/* The volume is on its way to us. */
bool forwarded_handing_over(const struct attach *attach, const char *name);

MAY_SUSPEND int forwarded_read(
    struct remote *remote, uint64_t off_bytes, uint64_t len_bytes, void *buf);
MAY_SUSPEND int forwarded_write(struct remote *remote, uint64_t off_bytes, uint64_t len_bytes,
    const void *buf, unsigned flags, struct request_id id);
/* TRIM, WRITE_ZEROES, FLUSH: nothing but numbers. */
MAY_SUSPEND int forwarded_mark(struct remote *remote, uint16_t method, uint64_t off_bytes,
    uint64_t len_bytes, unsigned flags, struct request_id id);
MAY_SUSPEND int forwarded_block_status(struct remote *remote, uint64_t off_bytes,
    uint64_t len_bytes, struct volume_extent *ret_extents, unsigned max, unsigned *ret_count);

/* Volumes that were handed to this node lately stay for a while. */
void handed_note(struct attach *attach, uint64_t volume_id);
bool handed_lately(struct attach *attach, uint64_t volume_id);
