/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding shards' disks, telling of their troubles, keeping the codes' tables.
 */
#include <errno.h>

#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

bool row_shard_lost(const struct chunk_place *place, unsigned shard)
{
    return place->shards[shard].state == CHUNK_SHARD_LOST;
}

struct disk *row_disk(
    const struct row_io *io, const struct chunk_place *place, unsigned shard, int *ret_error)
{
    if (row_shard_lost(place, shard)) {
        *ret_error = -EIO;
        return NULL;
    }
    return row_disk_even_lost(io, place, shard, ret_error);
}

struct disk *row_disk_even_lost(
    const struct row_io *io, const struct chunk_place *place, unsigned shard, int *ret_error)
{
    const struct chunk_shard *s = &place->shards[shard];
    if (s->place.disk == 0) {
        *ret_error = -EIO;
        return NULL;
    }
    struct disk *disk = volume_host_disk(io->host, s->place.disk);
    if (!disk || disk->state == DISK_MISSING) {
        *ret_error = -EHOSTUNREACH;
        return NULL;
    }
    return disk;
}

bool row_shard_good(const struct row_io *io, const struct chunk_place *place, unsigned shard)
{
    int error;
    const struct disk *disk = row_disk(io, place, shard, &error);
    return disk && disk->state != DISK_FAILED && place->shards[shard].state == CHUNK_SHARD_OK;
}

bool row_shard_slow(const struct row_io *io, const struct chunk_place *place, unsigned shard)
{
    int error;
    const struct disk *disk = row_disk(io, place, shard, &error);
    if (!disk || disk->latency_ewma_ns <= DISK_SLOW_FLOOR_NS)
        return false;
    uint64_t now_ns = env_now_ns(), latency_ns = disk_latency_ns(disk, now_ns);
    unsigned faster = 0;
    for (unsigned i = 0; i < place->code.k + place->code.m; i++) {
        const struct disk *other = row_disk(io, place, i, &error);
        faster += other && row_shard_good(io, place, i) &&
                  disk_latency_ns(other, now_ns) * DISK_SLOW_FACTOR < latency_ns;
    }
    return latency_ns > DISK_SLOW_FLOOR_NS && faster >= place->code.k;
}

void row_trouble(const struct row_io *io, const struct chunk_place *place, unsigned shard,
    int error, uint32_t block)
{
    if (!io->trouble || error == -ESTALE || place->shards[shard].state == CHUNK_SHARD_LOST)
        return;
    io->trouble(io->ctx, place, shard, error == -ERANGE ? -EBADMSG : error, block);
}

struct row_codes {
    struct ec *ecs[CODE_K_MAX + 1][CODE_M_MAX + 1];
};

struct row_codes *row_codes_new(void)
{
    return NEW(struct row_codes);
}

void row_codes_free(struct row_codes *codes)
{
    for (unsigned k = 0; k <= CODE_K_MAX; k++) {
        for (unsigned m = 0; m <= CODE_M_MAX; m++)
            ec_free(codes->ecs[k][m]);
    }
    mem_free(codes);
}

struct ec *row_ec_get(const struct row_io *io, struct shard_code code)
{
    CHECK(code.k >= 1 && code.k <= CODE_K_MAX && code.m <= CODE_M_MAX);
    if (!io->codes)
        return ec_new(code.k, code.m);
    struct ec **ec = &io->codes->ecs[code.k][code.m];
    if (!*ec)
        *ec = ec_new(code.k, code.m);
    return *ec;
}

void row_ec_put(const struct row_io *io, struct ec *ec)
{
    if (!io->codes)
        ec_free(ec);
}
