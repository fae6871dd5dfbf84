/* SPDX-License-Identifier: Apache-2.0
 *
 * What volumes that are being opened may hold of a node's memory. They fill memtables and cannot
 * destage yet: two that both need more than is left would wait for each other for ever.
 *
 *  Y1 At most OPEN_READERS_MAX opens read at a time, each with one window for its manifest or log. Fences
 *     come before: a disk that does not answer costs no reader's place.
 *  Y2 What volumes that do not take writes yet have been given for their logs is at most half of the budget's blocks, or
 *     what one of them got while no other was replaying. Rows that have to be read again (row data
 *     that lost shards with the power) are not known before: one volume at a time goes beyond for them.
 *  Y3 Nobody waits in here for what waits for it: readers end with the timeouts of their disks; who
 *     cannot have more while it replays fails with -EAGAIN and gives back what it has.
 */
#include <errno.h>

#include "blockd/volume/volume_impl.h"
#include "common/bufpool.h"
#include "common/check.h"

#define OPEN_READERS_MAX 8

void open_memory_init(struct open_memory *memory)
{
    *memory = (struct open_memory){0};
    fiber_queue_init(&memory->reader_queue);
    fiber_queue_init(&memory->block_queue);
}

void open_reader_begin(struct memory_budget *budget)
{
    struct open_memory *memory = &budget->opens;
    while (memory->readers >= OPEN_READERS_MAX)
        fiber_queue_wait(&memory->reader_queue);
    memory->readers++;
}

void open_reader_end(struct memory_budget *budget)
{
    struct open_memory *memory = &budget->opens;
    CHECK(memory->readers > 0 && memory->readers <= OPEN_READERS_MAX); /* Y1 */
    memory->readers--;
    fiber_queue_wake_one(&memory->reader_queue);
}

static bool fits(const struct memory_budget *budget, uint64_t blocks)
{
    uint64_t most = bufpool_cap_bytes(budget->blocks) / BLOCK_BYTES / 2;
    return budget->opens.blocks + blocks <= most;
}

void open_replay_begin(struct volume *v, uint64_t blocks)
{
    struct open_memory *memory = &v->host->budget->opens;
    CHECK(!v->replaying && v->replay_blocks == 0);
    while (!fits(v->host->budget, blocks) && memory->replaying > 0)
        fiber_queue_wait(&memory->block_queue);
    CHECK(fits(v->host->budget, blocks) || memory->replaying == 0); /* Y2 */
    memory->replaying++;
    memory->blocks += blocks;
    v->replay_blocks = blocks;
    v->replaying = true;
}

int open_replay_more(struct volume *v, uint64_t blocks)
{
    struct open_memory *memory = &v->host->budget->opens;
    CHECK(v->replaying);
    if (!fits(v->host->budget, blocks)) {
        if (memory->over && memory->over != v)
            return -EAGAIN; /* Y3 */
        memory->over = v;
    }
    memory->blocks += blocks;
    v->replay_blocks += blocks;
    return 0;
}

void open_replay_end(struct volume *v)
{
    struct open_memory *memory = &v->host->budget->opens;
    if (!v->replaying)
        return;
    v->replaying = false;
    if (memory->over == v)
        memory->over = NULL;
    memory->replaying--;
    fiber_queue_wake_all(&memory->block_queue);
}

void open_memory_release(struct volume *v)
{
    struct open_memory *memory = &v->host->budget->opens;
    open_replay_end(v);
    CHECK(memory->blocks >= v->replay_blocks);
    memory->blocks -= v->replay_blocks;
    v->replay_blocks = 0;
    fiber_queue_wake_all(&memory->block_queue);
}
