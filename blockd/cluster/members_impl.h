/* SPDX-License-Identifier: Apache-2.0
 *
 * Between members.c (nodes and sessions as the store tells), members_session.c (our own session) and
 * members_disks.c (the disks of the others).
 */
#pragma once

#include "blockd/cluster/members.h"

struct session_entry {
    struct list link;
    struct session_record record;
    uint64_t revision;
};

/* A disk record of another node. */
struct remote_entry {
    struct list link; /* by number */
    struct disk_record record;
    struct disk *disk;  /* NULL until its node's peer is known */
    bool removed;       /* B4: the disk stays, with number 0 */
    uint64_t histories; /* the store's when it had the record last */
    uint64_t gone_ns;   /* since when it has none, and another history (B6); 0 = it has one */
};

struct members {
    struct members_options options;
    struct list nodes;    /* struct member.link, by name */
    struct list sessions; /* struct session_entry.link */
    struct store_watch *watch_nodes, *watch_sessions, *watch_disks;
    bool started; /* the first picture is whole: changes are told from now on */

    uint64_t session;        /* 0 while there is none */
    uint64_t session_last;   /* the one before, or one whose put had no clear outcome */
    bool session_lost;       /* its key is gone, says the watch */
    uint64_t session_told;   /* to session_renewed() */
    uint64_t histories_told; /* of the store, likewise */
    bool telling_renewed;
    uint64_t lost_ns;
    struct node_record self_record; /* as last told */
    uint64_t self_histories;        /* the store's then */
    bool self_again;                /* is to be put again (B6) */

    struct list remotes; /* struct remote_entry.link */
    uint32_t disk_number_max;
    struct list refreshes; /* under way */

    bool stopping;
    unsigned fibers;
    struct fiber_queue wake;  /* the session's fiber, the refreshing one */
    struct fiber_queue ended; /* a fiber of ours, or a refresh, has */
};

void members_tell(struct members *members);
struct member *members_find_entry(const struct members *members, const char *name);

/* members_session.c */
/* B2. Before the first session. */
MAY_SUSPEND int members_remove_predecessor(struct members *members, char **ret_error);
/* The first one: -EHOSTUNREACH etc. with *ret_error. */
MAY_SUSPEND int members_session_begin(struct members *members, char **ret_error);
/* Keeps having one; fiber. */
void members_session_run(void *arg);
MAY_SUSPEND void members_session_end(struct members *members);

/* members_disks.c */
void members_disk_told(void *ctx, const struct store_value *value);
/* A node's record, session or connection changed: B3 for its disks. NULL = all nodes. */
void members_disks_judge(struct members *members, const char *node);
/* Asks for the disks' status once a second; fiber. */
void members_refresh_run(void *arg);
MAY_SUSPEND void members_disks_free(struct members *members);
