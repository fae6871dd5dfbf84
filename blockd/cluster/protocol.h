/* SPDX-License-Identifier: Apache-2.0
 *
 * The methods between blockds (docs/PROTOCOL.md). Bodies are encoded in wire_*.c.
 */
#pragma once

enum cluster_method {
    METHOD_SHARD_CREATE = 1,
    METHOD_SHARD_APPEND = 2,
    METHOD_SHARD_READ = 3,
    METHOD_SHARD_SYNC = 4,
    METHOD_SHARD_SEAL = 5,
    METHOD_SHARD_REMOVE = 6,
    METHOD_SHARD_FENCE = 7,
    METHOD_SHARD_STAT = 8,
    METHOD_SHARD_LIST = 9,
    METHOD_DISK_STATUS = 16, /* of all disks of the node: free space, errors, latency, state */

    METHOD_VOLUME_ATTACH = 32, /* size, epoch; counts as a user of the volume until the detach */
    METHOD_VOLUME_DETACH = 33,
    METHOD_VOLUME_READ = 34,
    METHOD_VOLUME_WRITE = 35,
    METHOD_VOLUME_TRIM = 36,
    METHOD_VOLUME_WRITE_ZEROES = 37,
    METHOD_VOLUME_FLUSH = 38,
    METHOD_VOLUME_BLOCK_STATUS = 39,
    METHOD_VOLUME_HANDOFF = 40,
    METHOD_VOLUME_STATUS = 41, /* the owner's news, for attachments that have nothing else to ask */

    METHOD_ADMIN = 64, /* an admin request (JSON) for what only that node can do */
};
