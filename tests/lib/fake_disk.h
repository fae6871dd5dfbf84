/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk in memory behind struct disk_ops, for tests of what stands above shards. It keeps the rules
 * of shard.h that volumes depend on (appends at the end, one content per offset, fences, verified
 * reads, sealed and absent shards), composes real header blocks, and can be told to fail.
 *
 * Completions come from timers, never from inside submit, after `latency_ns` plus up to as much
 * again (by `seed`): so operations on several disks complete in any order. Works with any env that
 * has timers (tests/unit/fake_env.h, env_sim).
 */
#pragma once

#include "blockd/disk/shard.h"

struct fake_disk {
    struct disk disk; /* first */
    struct list shards;
    uint64_t capacity_blocks, used_blocks;
    uint64_t latency_ns;
    uint64_t seed;
    unsigned in_flight;

    /* Faults. `error` (e.g. -EIO, -EHOSTUNREACH) answers every operation; `fail_op_error` only the
     * operation that brings `ops` to `fail_op_at`, and `fail_ops_more` after it. */
    int error;
    uint64_t fail_op_at;
    int fail_op_error;
    uint64_t fail_ops_more;
    unsigned lose_create_answers; /* of so many of the next creates: done, answered -EHOSTUNREACH */

    uint64_t ops; /* all operations ever begun */
    uint64_t creates, appends, reads, read_blocks, syncs, seals, removes, fences;
};

/* disk.number = number; IN, local, class "ssd". */
struct fake_disk *fake_disk_new(uint32_t number, uint64_t capacity_blocks);
/* Nothing may be in flight (CHECKed). */
void fake_disk_free(struct fake_disk *fake);

/* Faults on one shard, which must be there (CHECKed). */
void fake_disk_lose_shard(struct fake_disk *fake, struct shard_key key); /* -ENOENT from now on */
/* One bit of a block (header or payload) flips: reads of it are -EBADMSG. */
void fake_disk_damage_block(struct fake_disk *fake, struct shard_key key, uint32_t block);
/* The block's recorded address becomes another, with all checksums right: a stale or misdirected
 * block that the disk itself cannot see. */
void fake_disk_stale_block(
    struct fake_disk *fake, struct shard_key key, uint32_t block, uint64_t address);
/* Cuts the shard's tail without a trace: -ERANGE beyond. */
void fake_disk_cut_shard(struct fake_disk *fake, struct shard_key key, uint32_t length_blocks);

/* The machine loses power: what was not synced is gone, open shards are suspect (S6). */
void fake_disk_lose_power(struct fake_disk *fake);

/* What is stored, unverified. NULL: no such shard. */
const void *fake_disk_block(struct fake_disk *fake, struct shard_key key, uint32_t block);
bool fake_disk_has(struct fake_disk *fake, struct shard_key key);
unsigned fake_disk_shard_count(const struct fake_disk *fake);
