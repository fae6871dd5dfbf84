/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk of another node behind struct disk_ops: shard operations as RPCs of that node.
 *
 * Each answers as the disk there does; -EHOSTUNREACH when there is no connection, when it broke, or
 * when the deadline passed (nothing is known then of the operation). A group commit is one message
 * a copy. Blocks that come back are checked against the CRCs that come with them.
 */
#pragma once

#include "blockd/cluster/peers.h"

struct remote_disk_options {
    uint64_t timeout_ns; /* of an operation; 0 = 10 s */
};

/* state begins as DISK_MISSING: whoever holds the list of disks sets it, from the record, the node's
 * session and the connection. `record` is copied. */
struct disk *remote_disk_new(
    struct peer *peer, const struct disk_record *record, const struct remote_disk_options *options);
/* No operation is in flight, no volume knows it. */
void remote_disk_free(struct disk *disk);

/* Takes over what METHOD_DISK_STATUS answered into the disks of `peer` among `disks` (struct
 * disk.link), called about once a second a peer. */
MAY_SUSPEND int remote_disks_refresh(struct peer *peer, struct list *disks);
