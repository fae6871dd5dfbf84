/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk of another node behind struct disk_ops: shard operations as RPCs of that node.
 *
 * Each answers as the disk there does; -EHOSTUNREACH when there is no connection, when it broke, or
 * when the deadline passed (nothing is known then of the operation: it may be executed later still).
 * A group commit is one message a copy.
 *
 *  R1 Appends of one shard that are submitted in order arrive in order (C2) and are submitted there in
 *     order. An append may only follow its shard's create (or come before its seal) once that was
 *     answered: those run on fibers of their own there.
 *  R2 Every block that comes back is checked again, against the CRC that the storing node has on
 *     record for it. What does not match, and an answer that makes no sense, is -EIO and logged: the
 *     frame was whole (C4), so the peer or this process is at fault, and nothing is known of the shard.
 *  R3 Retrying after -EHOSTUNREACH is safe for every operation: each is idempotent (S8, S9), and what
 *     was sent over an earlier connection has ended before the server takes the next (C3).
 */
#pragma once

#include "blockd/cluster/peers.h"
#include "blockd/disk/disk_list.h"

struct remote_disk_options {
    uint64_t timeout_ns; /* of an operation; 0 = 10 s */
};

/* state begins as DISK_MISSING: whoever holds the list of disks sets it, from the record, the node's
 * session, the connection and home_state. `record` is copied; peer (never reachable then) and options
 * may be NULL. */
struct disk *remote_disk_new(
    struct peer *peer, const struct disk_record *record, const struct remote_disk_options *options);
/* No operation is in flight, no volume knows it. */
void remote_disk_free(struct disk *disk);

/* Takes over what METHOD_DISK_STATUS answered into the disks of `peer` among `disks` (struct
 * disk.link), called about once a second a peer. Negative errno when it did not answer. A
 * disk that it did not name gets home_state DISK_MISSING. */
MAY_SUSPEND int remote_disks_refresh(struct peer *peer, struct disk_list *disks);
