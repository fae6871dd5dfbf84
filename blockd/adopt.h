/* SPDX-License-Identifier: Apache-2.0
 *
 * Adoption: a volume repairs itself while it is open, so one that has lost shards, or has damaged
 * ones, and that nobody has open is opened for it, and held until it is whole or gets no further.
 */
#pragma once

#include "blockd/volumes.h"

struct adopt;

/* `may` (NULL = always): whether this node shall open the volume, which it has not open: nobody else
 * owns it, nor cares for it. It must not suspend. */
struct adopt_options {
    bool (*may)(void *ctx, const struct volumes_name *volume);
    /* The same of one that damage is reported of: whoever found it may repair it (1), unless somebody
     * else has the volume: then that one is told (0; also when the volume is gone). -EAGAIN: nobody could be told just
     * now; the report stays, and this is asked again. May suspend. */
    int (*may_damaged)(void *ctx, struct shard_key key, uint32_t disk_number, uint32_t block);
    void *ctx;
};
struct adopt *adopt_start(struct volumes *volumes, const struct adopt_options *options);
/* Disks came or went: all volumes are looked at, `delay_ns` from now (a disk that is missing may
 * come back). A call with an earlier time than the one pending takes its place. */
void adopt_all(struct adopt *adopt, uint64_t delay_ns);
/* A block of a shard is damaged. From the env's loop or a fiber. */
void adopt_damaged(struct adopt *adopt, struct shard_key key, uint32_t disk_number, uint32_t block);
/* Reports of damage that nobody has taken yet. */
unsigned adopt_report_count(const struct adopt *adopt);
/* The volume being held for repair; NULL = none. */
const char *adopt_current(const struct adopt *adopt);
MAY_SUSPEND void adopt_stop(struct adopt *adopt);
