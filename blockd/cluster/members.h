/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is in the cluster, who is alive, and all disks: this node's view of the store, as a plain
 * value that watches keep up to date.
 *
 * A process that serves has a session: a key holdfast/sessions/<session>, put with the store's
 * session (lease), which names its node, address, boot id and incarnation. It is absent exactly when
 * the process cannot be serving by lease any more; takeover (S10) compares on its absence.
 *
 * Invariants
 *  B1 A session number names one lease of one process: it is drawn anew whenever the lease was lost.
 *  B2 A node deletes a session key other than its own only if that was its own predecessor, on this
 *     machine in this boot, and dead: this process holds the lock of the state directory and of
 *     every disk that the predecessor had open (S10).
 *  B3 A remote disk is DISK_IN/DISK_OUT (as recorded) only while its node is connected; otherwise
 *     DISK_MISSING. Its session does not matter: after an outage of the store all sessions are gone for a
 *     moment, and no disk is. Nothing is concluded from that but where not to write.
 *  B4 The list of disks only grows while a volume is open; a removed disk stays with number 0.
 *  B5 A session is put only while the node's record is there: a node that was removed while it was away serves
 *     nothing that others could not take over.
 *  B6 What a store that was set back (restored from a snapshot) does not have was not removed: a node puts its own
 *     record again, and those of its disks (disks.h, N6). So disks of other nodes count as removed only when their nodes have
 *     had time for that.
 */
#pragma once

#include "blockd/cluster/peers.h"
#include "blockd/cluster/records.h"
#include "blockd/disk/disk_list.h"

struct disks;
struct members;
struct peer;

/* A node of the cluster. Valid until the caller next suspends. */
struct member {
    struct list link; /* by name */
    struct node_record record;
    uint64_t session;  /* 0: none: it is down */
    uint64_t since_ns; /* env_now_ns() since when its session has been there, as far as we know */
    uint64_t down_since_ns;        /* the same, since when it has had none */
    struct session_record process; /* of its session, or of its last one; id 0: none was seen */
};

struct members_options {
    struct store *store;
    struct rpc_identity self;
    const char *address;  /* our RPC server's, NULL without a cluster */
    const char *software; /* our version, for people */
    uint64_t session_ttl_ns;
    struct disks *disks;    /* of this node */
    struct peers *peers;    /* NULL without a cluster */
    uint64_t peers_wait_ns; /* of members_wait; 0 = 2 s */
    /* A node or disk came, went or changed. From a fiber; must not suspend. */
    void (*changed)(void *ctx);
    /* Our session ended and a new one exists: volumes re-read their roots before they read by lease
     * again (S16). May suspend. */
    void (*session_renewed)(void *ctx, uint64_t session);
    void *ctx;
};

/* Starts the session and the watches; returns with the whole picture as the store has it. */
MAY_SUSPEND int members_start(
    const struct members_options *options, struct members **ret_members, char **ret_error);
/* Waits, for peers_wait_ns at most, until the nodes that are up are connected and have said how their
 * disks are. */
MAY_SUSPEND void members_wait(struct members *members);
/* Ends the session: the key goes. Volumes are closed; remote disks go with it, peers stay. */
MAY_SUSPEND void members_stop(struct members *members);

/* peers_options.changed: a connection came or went. */
void members_peer_changed(struct members *members, struct peer *peer);

/* Our session now; 0 while there is none. */
uint64_t members_session(const struct members *members);
/* CLOCK_BOOTTIME until which it is surely alive (S16); 0 = none. */
uint64_t members_valid_until_ns(const struct members *members);
/* All disks of the cluster: for struct volume_host. It is disks_present() of the
 * local registry, to which the remote ones are added. */
struct disk_list *members_disks(struct members *members);
/* Of a disk of another node; NULL: no such disk is recorded. Valid until the caller next suspends. */
const struct disk_record *members_disk_record(const struct members *members, uint32_t number);
/* Whether a disk of this number has ever been recorded, as far as we know: one that has, and is not in
 * the list, was removed; one that has not is news that we do not have yet. */
bool members_disk_known(const struct members *members, uint32_t number);
struct list *members_all(struct members *members);
const struct member *members_find(const struct members *members, const char *name);
/* Whether the session's key is there, as last seen; only a transaction knows. */
bool members_session_alive(const struct members *members, uint64_t session);
/* Which of the nodes that are alive shall care for the volume while nobody owns it (repair, purge):
 * the same answer on every node that sees the same members (rendezvous hashing). */
bool members_volume_is_ours(const struct members *members, uint64_t volume_id);
