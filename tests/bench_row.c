/* SPDX-License-Identifier: Apache-2.0
 *
 * What rows cost in CPU above the disks: writing full rows, reading single blocks, reading with a
 * shard lost. The disks do nothing (reads leave the buffer as it is). Not a test: prints figures.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "blockd/volume/row.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "tests/unit/fake_env.h"

#define ROUNDS 200

/* Operations wait on a list and complete from a timer, as they would from a ring. */
static struct list pending_appends, pending_reads;
static struct env_timer completion;

static void complete(struct env_timer *timer)
{
    struct list *it;
    while ((it = list_pop_front(&pending_appends))) {
        struct shard_append *append = list_entry(it, struct shard_append, link);
        append->result = 0;
        append->done(append);
    }
    while ((it = list_pop_front(&pending_reads))) {
        struct shard_read *read = list_entry(it, struct shard_read, link);
        read->result = 0;
        for (uint32_t i = 0; read->ret_entries && i < read->count; i++)
            read->ret_entries[i] = (struct shard_entry){.address = read->off_blocks - 1 + i};
        read->done(read);
    }
}

static void null_append(struct shard_append *append)
{
    list_push_back(&pending_appends, &append->link);
    env_timer_arm(&completion, env_now_ns());
}

static void null_read(struct shard_read *read)
{
    list_push_back(&pending_reads, &read->link);
    env_timer_arm(&completion, env_now_ns());
}

static const struct disk_ops null_ops = {.append = null_append, .read = null_read};

static struct volume_host host;
static struct disk_list disks;
static struct disk disk_of[CODE_SHARDS_MAX];
static struct row_io io = {.host = &host};
static struct chunk_place place;

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void bench_code(unsigned k, unsigned m)
{
    place = (struct chunk_place){.volume = 1, .chunk = 1, .kind = SHARD_DATA, .epoch = 1};
    place.code = (struct shard_code){(uint8_t)k, (uint8_t)m};
    place.capacity_blocks = 1024;
    for (unsigned i = 0; i < k + m; i++)
        place.shards[i].place.disk = i + 1;
    uint32_t count = k * APPEND_ENTRIES_MAX;
    uint8_t *data = mem_alloc_pages((size_t)count * BLOCK_BYTES);
    struct row_block *blocks = mem_zalloc(count, sizeof(*blocks));
    memset(data, 0x5a, (size_t)count * BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) /* not adjacent, as in a memtable */
        blocks[i] = (struct row_block){
            .address = i, .seq = i, .data = data + (size_t)(i * 7919u % count) * BLOCK_BYTES};

    uint64_t begin = cpu_ns();
    for (unsigned i = 0; i < ROUNDS; i++)
        CHECK(row_write(&io, &place, 0, blocks, count, true, NULL, NULL) == 0);
    double ns = (double)(cpu_ns() - begin) / ROUNDS;
    printf("%u+%u: row of %u blocks: %.0f us, %.0f ns a block, %.1f GB/s\n", k, m, count, ns / 1e3,
        ns / count, (double)count * BLOCK_BYTES / ns);

    place.row_count = 1;
    place.row_len[0] = APPEND_ENTRIES_MAX;
    place.length_blocks = 1 + APPEND_ENTRIES_MAX;
    begin = cpu_ns();
    for (unsigned i = 0; i < ROUNDS * 100; i++)
        CHECK(row_read(&io, &place, i % 200, 1, i % 200, data) == 0);
    printf("%u+%u: read of a block: %.0f ns\n", k, m, (double)(cpu_ns() - begin) / ROUNDS / 100);
    if (m > 0) {
        place.shards[0].state = CHUNK_SHARD_LOST;
        begin = cpu_ns();
        for (unsigned i = 0; i < ROUNDS * 100; i++)
            CHECK(row_read(&io, &place, i % 200, 1, UINT64_MAX, data) == 0);
        printf("%u+%u: degraded read of a block: %.0f ns\n", k, m,
            (double)(cpu_ns() - begin) / ROUNDS / 100);
    }
    mem_free(blocks);
    mem_free_pages(data, (size_t)count * BLOCK_BYTES);
}

static void bench(void *arg)
{
    list_init(&pending_appends);
    list_init(&pending_reads);
    disk_list_init(&disks);
    env_timer_init(&completion, complete);
    for (unsigned i = 0; i < CODE_SHARDS_MAX; i++) {
        disk_of[i] = (struct disk){.ops = &null_ops, .number = i + 1, .local = true};
        disk_list_add(&disks, &disk_of[i]);
    }
    host.disks = &disks;
    io.buffers = bufpool_new(64 << 20);
    io.codes = row_codes_new();
    bench_code(1, 2);
    bench_code(2, 1);
    bench_code(4, 2);
    bench_code(8, 3);
    bench_code(16, 4);
    row_codes_free(io.codes);
    bufpool_free(io.buffers);
}

int main(void)
{
    static struct fake_env fake;
    fiber_sched_init(64);
    fake_env_init(&fake);
    fake.env.mem_track = false;
    fake_env_run(&fake, bench, NULL);
    return 0;
}
