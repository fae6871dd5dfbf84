/* SPDX-License-Identifier: Apache-2.0
 *
 * Creating and sealing all shards of a chunk, in parallel.
 */
#include <errno.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/row_impl.h"
#include "common/check.h"

struct chunk_op {
    const struct row_io *io;
    const struct chunk_place *place;
    uint32_t epoch;
    struct shard_create create; /* chunk_create: what all have in common */
    struct disk *const *disks;
    const uint64_t *instances;
    uint32_t capacities[CODE_SHARDS_MAX];
    int results[CODE_SHARDS_MAX];
};

static unsigned shard_count(const struct chunk_place *place)
{
    return place->code.k + place->code.m;
}

/* The first one, but -ESTALE (deposed) wins. */
static int first_error(const struct chunk_op *op)
{
    int error = 0;
    for (unsigned i = 0; i < shard_count(op->place); i++) {
        if (op->results[i] == -ESTALE)
            return -ESTALE;
        if (error == 0)
            error = op->results[i];
    }
    return error;
}

static void create_one(void *ctx, unsigned i)
{
    struct chunk_op *op = ctx;
    if (!op->disks[i])
        return;
    struct shard_create create = op->create;
    struct shard_info info;
    create.key = chunk_shard_key(op->place, i);
    create.instance = op->instances[i];
    op->results[i] = shard_create(op->disks[i], &create, &info);
    if (op->results[i] == 0)
        op->capacities[i] = info.capacity_blocks;
    else
        row_trouble(op->io, op->place, i, op->results[i], 0);
}

/* A create without a clear answer may have happened: naming the instance makes removal safe. Its result is then the
 * removal's. */
static void uncreate_one(void *ctx, unsigned i)
{
    struct chunk_op *op = ctx;
    int r = op->results[i];
    if (op->disks[i] && (r == 0 || r == -EIO || r == -EHOSTUNREACH))
        op->results[i] =
            shard_remove(op->disks[i], chunk_shard_key(op->place, i), op->instances[i], op->epoch);
}

int chunk_create(const struct row_io *io, struct chunk_place *place, struct disk *const *disks,
    const uint64_t *instances, uint32_t capacity_blocks, uint32_t capacity_blocks_min,
    enum shard_priority priority)
{
    unsigned shards = shard_count(place);
    struct chunk_op op = {
        .io = io,
        .place = place,
        .epoch = place->epoch,
        .create =
            {
                .kind = place->kind,
                .code = place->code,
                .epoch = place->epoch,
                .capacity_blocks = capacity_blocks,
                .capacity_blocks_min = capacity_blocks_min,
                .priority = priority,
            },
        .disks = disks,
        .instances = instances,
    };
    fanout_run("chunk create", shards, shards, create_one, &op);
    int r = first_error(&op);
    if (r < 0) {
        fanout_run("chunk uncreate", shards, shards, uncreate_one, &op);
        /* Something may have stayed, whatever the create failed for: the caller has to know (L1). */
        for (unsigned i = 0; i < shards && r != -ESTALE; i++) {
            if (op.results[i] == -EHOSTUNREACH || op.results[i] == -EIO)
                r = -EHOSTUNREACH;
        }
        return r;
    }

    place->capacity_blocks = UINT32_MAX;
    place->length_blocks = 0;
    place->sealed = false;
    place->row_count = 0;
    for (unsigned i = 0; i < shards; i++) {
        struct chunk_shard *shard = &place->shards[i];
        *shard = (struct chunk_shard){.state = CHUNK_SHARD_LOST};
        if (!disks[i])
            continue;
        *shard = (struct chunk_shard){
            .place = {.disk = disks[i]->number, .instance = instances[i]},
            .state = CHUNK_SHARD_OK,
        };
        place->capacity_blocks = MIN(place->capacity_blocks, op.capacities[i]);
    }
    CHECK_MSG(place->capacity_blocks != UINT32_MAX, "a chunk without any disk");
    return 0;
}

static void seal_one(void *ctx, unsigned i)
{
    struct chunk_op *op = ctx;
    if (op->place->shards[i].state == CHUNK_SHARD_LOST)
        return;
    struct disk *disk = row_disk(op->io, op->place, i, &op->results[i]);
    if (disk)
        op->results[i] =
            shard_seal(disk, chunk_shard_key(op->place, i), op->epoch, op->place->length_blocks);
    if (op->results[i] < 0)
        row_trouble(op->io, op->place, i, op->results[i], op->place->length_blocks);
}

int chunk_seal(const struct row_io *io, const struct chunk_place *place, uint32_t epoch)
{
    struct chunk_op op = {.io = io, .place = place, .epoch = epoch};
    fanout_run("chunk seal", shard_count(place), shard_count(place), seal_one, &op);
    return first_error(&op);
}
