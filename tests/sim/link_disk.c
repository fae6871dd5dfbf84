/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/link_disk.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define PATIENCE_NS 200000000ull
#define CUT_STEP_NS 2000000ull

struct link_disk {
    struct disk base;
    struct disk *real;
    struct rng *rng;
    uint64_t delay_ns_max, due_ns;
    uint32_t lose_ppm;
    bool cut;
    struct list queue; /* struct errand.link: in order of arrival */
    unsigned on_the_way;
};

enum errand_type { CREATE, APPEND, READ, SYNC, SEAL, REMOVE, FENCE, STAT, LIST };

/* One operation, on a fiber of its own; what it needs is copied, for the host may have given up. */
struct errand {
    struct list link;
    struct link_disk *disk;
    enum errand_type type;
    uint64_t due_ns;
    unsigned refs; /* the errand's fiber, who waits for it */
    bool done;
    int result;
    struct fiber_queue waiter;
    struct shard_create create;
    struct shard_key key;
    uint64_t instance, volume;
    uint32_t epoch, length;
    struct shard_info info;
    struct shard_info *list;
    unsigned count;
    struct shard_append append, *host_append;
    struct shard_read read, *host_read;
    struct shard_sync *host_sync;
    void *payload;
    size_t payload_bytes;
    struct iovec iov;
    struct shard_entry *entries;
    void *inline_bytes;
};

static struct link_disk *disk_of(struct disk *base)
{
    return container_of(base, struct link_disk, base);
}

static void errand_put(struct errand *e)
{
    if (--e->refs > 0)
        return;
    mem_free(e->entries);
    mem_free(e->inline_bytes);
    if (e->payload)
        mem_free_pages(e->payload, e->payload_bytes);
    mem_free(e);
}

static int execute(struct errand *e)
{
    struct disk *real = e->disk->real;
    switch (e->type) {
    case CREATE:
        return shard_create(real, &e->create, &e->info);
    case APPEND:
        return shard_append(&e->append);
    case READ:
        return shard_read(real, e->key, e->read.off_blocks, e->read.count, e->payload, e->entries);
    case SYNC:
        return shard_sync(real, e->key, e->epoch, e->length);
    case SEAL:
        return shard_seal(real, e->key, e->epoch, e->length);
    case REMOVE:
        return shard_remove(real, e->key, e->instance, e->epoch);
    case FENCE:
        return shard_fence(real, e->key, e->epoch, &e->info);
    case STAT:
        return shard_stat(real, e->key, &e->info);
    case LIST:
        return shard_list(real, e->volume, &e->list, &e->count);
    }
    return -EINVAL;
}

static uint64_t some_delay(struct link_disk *disk)
{
    return disk->delay_ns_max ? rng_below(disk->rng, disk->delay_ns_max) : 0;
}

static void errand_main(void *arg)
{
    struct errand *e = arg;
    struct link_disk *disk = e->disk;
    bool held = false;
    while (env_now_ns() < e->due_ns)
        env_sleep_ns(e->due_ns - env_now_ns());
    while (disk->cut || disk->queue.next != &e->link) {
        held = held || disk->cut;
        env_sleep_ns(disk->cut ? CUT_STEP_NS : 1000);
    }
    list_remove(&e->link);
    /* What waited in a broken connection arrives or not; what is only late arrives. */
    bool lost = held && rng_one_in(disk->rng, 2);
    if (!lost) {
        e->result = execute(e);
        uint64_t delay_ns = some_delay(disk);
        if (delay_ns)
            env_sleep_ns(delay_ns);
    }
    disk->base.free_bytes = disk->real->free_bytes;
    if (disk->real->state == DISK_FAILED)
        disk->base.state = DISK_FAILED;
    lost = lost || disk->cut || rng_below(disk->rng, 1000000) < disk->lose_ppm;
    if (!lost) {
        e->done = true;
        fiber_queue_wake_all(&e->waiter);
    }
    disk->on_the_way--;
    errand_put(e);
}

/* Appends and syncs of a host come in the order in which they were sent. */
static struct errand *send(struct disk *base, enum errand_type type)
{
    struct link_disk *disk = disk_of(base);
    struct errand *e = NEW(struct errand);
    e->disk = disk;
    e->type = type;
    e->refs = 2;
    disk->due_ns = MAX(disk->due_ns + 1, env_now_ns() + some_delay(disk));
    e->due_ns = disk->due_ns;
    fiber_queue_init(&e->waiter);
    disk->on_the_way++;
    list_push_back(&disk->queue, &e->link);
    return e;
}

static MAY_SUSPEND int wait_for(struct errand *e)
{
    fiber_spawn("link errand", errand_main, e);
    uint64_t until_ns = env_now_ns() + PATIENCE_NS;
    while (!e->done && fiber_queue_wait_until(&e->waiter, until_ns) != -ETIMEDOUT)
        ;
    return e->done ? e->result : -EHOSTUNREACH;
}

/* --- Operations -------------------------------------------------------------------------------- */

static MAY_SUSPEND int link_create(
    struct disk *base, const struct shard_create *create, struct shard_info *ret_info)
{
    struct errand *e = send(base, CREATE);
    e->create = *create;
    int r = wait_for(e);
    if (r == 0 && ret_info)
        *ret_info = e->info;
    errand_put(e);
    return r;
}

static MAY_SUSPEND int link_seal(
    struct disk *base, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    struct errand *e = send(base, SEAL);
    e->key = key;
    e->epoch = epoch;
    e->length = length_blocks;
    int r = wait_for(e);
    errand_put(e);
    return r;
}

static MAY_SUSPEND int link_remove(
    struct disk *base, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    struct errand *e = send(base, REMOVE);
    e->key = key;
    e->instance = instance;
    e->epoch = epoch;
    int r = wait_for(e);
    errand_put(e);
    return r;
}

static MAY_SUSPEND int with_info(struct errand *e, struct shard_info *ret_info)
{
    int r = wait_for(e);
    if (r == 0 && ret_info)
        *ret_info = e->info;
    errand_put(e);
    return r;
}

static MAY_SUSPEND int link_fence(
    struct disk *base, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    struct errand *e = send(base, FENCE);
    e->key = key;
    e->epoch = epoch;
    return with_info(e, ret_info);
}

static MAY_SUSPEND int link_stat(
    struct disk *base, struct shard_key key, struct shard_info *ret_info)
{
    struct errand *e = send(base, STAT);
    e->key = key;
    return with_info(e, ret_info);
}

static MAY_SUSPEND int link_list(
    struct disk *base, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    struct errand *e = send(base, LIST);
    e->volume = volume;
    int r = wait_for(e);
    if (r == 0) {
        *ret_list = e->list;
        *ret_count = e->count;
    }
    errand_put(e);
    return r;
}

static void append_wait(void *arg)
{
    struct errand *e = arg;
    struct shard_append *append = e->host_append;
    append->result = wait_for(e);
    append->ret_header_crc = e->append.ret_header_crc;
    errand_put(e);
    append->done(append);
}

static void link_append(struct shard_append *append)
{
    struct errand *e = send(append->disk, APPEND);
    e->host_append = append;
    e->append = *append;
    e->append.disk = e->disk->real;
    e->payload_bytes = (size_t)append->entry_count * BLOCK_BYTES;
    if (e->payload_bytes > 0)
        e->payload = mem_alloc_pages(e->payload_bytes);
    size_t at = 0;
    for (unsigned i = 0; i < append->payload_count; i++) {
        memcpy((char *)e->payload + at, append->payload[i].iov_base, append->payload[i].iov_len);
        at += append->payload[i].iov_len;
    }
    e->iov = (struct iovec){.iov_base = e->payload, .iov_len = e->payload_bytes};
    e->append.payload = &e->iov;
    e->append.payload_count = append->entry_count > 0;
    e->entries = mem_alloc((append->entry_count + 1) * sizeof(*e->entries));
    memcpy(e->entries, append->entries, append->entry_count * sizeof(*e->entries));
    e->append.entries = e->entries;
    e->inline_bytes = mem_alloc(append->inline_len_bytes + 1);
    if (append->inline_len_bytes > 0)
        memcpy(e->inline_bytes, append->inline_bytes, append->inline_len_bytes);
    e->append.inline_bytes = e->inline_bytes;
    fiber_spawn("link append", append_wait, e);
}

static void read_wait(void *arg)
{
    struct errand *e = arg;
    struct shard_read *read = e->host_read;
    read->result = wait_for(e);
    size_t at = 0;
    for (unsigned i = 0; i < read->iov_count && read->result == 0; i++) {
        memcpy(read->iov[i].iov_base, (char *)e->payload + at, read->iov[i].iov_len);
        at += read->iov[i].iov_len;
    }
    if (read->result == 0 && read->ret_entries)
        memcpy(read->ret_entries, e->entries, read->count * sizeof(*e->entries));
    errand_put(e);
    read->done(read);
}

static void link_read(struct shard_read *read)
{
    struct errand *e = send(read->disk, READ);
    e->host_read = read;
    e->key = read->key;
    e->read = *read;
    e->payload_bytes = (size_t)read->count * BLOCK_BYTES;
    e->payload = mem_alloc_pages(e->payload_bytes);
    e->entries = mem_alloc((read->count + 1) * sizeof(*e->entries));
    fiber_spawn("link read", read_wait, e);
}

static void sync_wait(void *arg)
{
    struct errand *e = arg;
    struct shard_sync *sync = e->host_sync;
    sync->result = wait_for(e);
    errand_put(e);
    sync->done(sync);
}

static void link_sync(struct shard_sync *sync)
{
    struct errand *e = send(sync->disk, SYNC);
    e->host_sync = sync;
    e->key = sync->key;
    e->epoch = sync->epoch;
    e->length = sync->length_blocks;
    fiber_spawn("link sync", sync_wait, e);
}

static const struct disk_ops LINK_DISK_OPS = {
    .create = link_create,
    .append = link_append,
    .read = link_read,
    .sync = link_sync,
    .seal = link_seal,
    .remove = link_remove,
    .fence = link_fence,
    .stat = link_stat,
    .list = link_list,
};

/* --- The disk ---------------------------------------------------------------------------------- */

struct link_disk *link_disk_new(struct disk *real, struct rng *rng, uint64_t delay_ns_max)
{
    struct link_disk *disk = NEW(struct link_disk);
    disk->base = *real;
    disk->base.ops = &LINK_DISK_OPS;
    list_init(&disk->base.link);
    list_init(&disk->queue);
    disk->real = real;
    disk->rng = rng;
    disk->delay_ns_max = delay_ns_max;
    return disk;
}

struct disk *link_disk_base(struct link_disk *disk)
{
    return &disk->base;
}

void link_disk_cut(struct link_disk *disk, bool cut)
{
    disk->cut = cut;
}

bool link_disk_is_cut(const struct link_disk *disk)
{
    return disk->cut;
}

void link_disk_lose_answers(struct link_disk *disk, uint32_t ppm)
{
    disk->lose_ppm = ppm;
}

bool link_disk_idle(const struct link_disk *disk)
{
    return disk->on_the_way == 0;
}
