/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fake_disk.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/env.h"
#include "common/mem.h"

struct fake_shard {
    struct list link;
    struct shard_info info;    /* length_blocks: end of completed appends */
    uint32_t submitted_blocks; /* end of accepted appends; never above failed_at */
    uint32_t append_no;
    uint32_t durable_blocks;
    struct shard_entry *entries; /* per block */
    uint32_t *header_crcs;       /* per block, of headers */
    bool *is_header;
    uint8_t *blocks;
};

/* One asynchronous operation under way. */
struct fake_op {
    struct env_timer timer;
    struct fake_disk *fake;
    int result; /* decided at submission; 0 = do it */
    struct shard_append *append;
    struct shard_read *read;
    struct shard_sync *sync;
};

static uint64_t next_random(struct fake_disk *fake)
{
    fake->seed ^= fake->seed << 13;
    fake->seed ^= fake->seed >> 7;
    fake->seed ^= fake->seed << 17;
    return fake->seed;
}

static uint64_t next_latency_ns(struct fake_disk *fake)
{
    return fake->latency_ns + next_random(fake) % (fake->latency_ns + 1);
}

static int begin_op(struct fake_disk *fake)
{
    fake->ops++;
    if (fake->error)
        return fake->error;
    bool fails = fake->fail_op_at && fake->ops >= fake->fail_op_at &&
                 fake->ops <= fake->fail_op_at + fake->fail_ops_more;
    return fails ? fake->fail_op_error : 0;
}

static struct fake_shard *find(struct fake_disk *fake, struct shard_key key)
{
    list_for_each (it, &fake->shards) {
        struct fake_shard *shard = list_entry(it, struct fake_shard, link);
        if (shard->info.key.volume == key.volume && shard->info.key.chunk == key.chunk &&
            shard->info.key.index == key.index)
            return shard;
    }
    return NULL;
}

static struct fake_shard *must_find(struct fake_disk *fake, struct shard_key key)
{
    struct fake_shard *shard = find(fake, key);
    CHECK_MSG(shard, "no shard %u on fake disk %u", key.index, fake->disk.number);
    return shard;
}

static void shard_free(struct fake_disk *fake, struct fake_shard *shard)
{
    fake->used_blocks -= shard->info.capacity_blocks;
    list_remove(&shard->link);
    mem_free(shard->entries);
    mem_free(shard->header_crcs);
    mem_free(shard->is_header);
    mem_free(shard->blocks);
    mem_free(shard);
}

static void update_free(struct fake_disk *fake)
{
    fake->disk.free_bytes = (fake->capacity_blocks - fake->used_blocks) * BLOCK_BYTES;
}

/* --- Asynchronous operations ---------------------------------------------------------------------- */

static void build_header(
    struct fake_shard *shard, struct shard_append *append, void *ret_block, uint32_t append_no)
{
    struct append_header header = {
        .key = append->key,
        .kind = shard->info.kind,
        .code = shard->info.code,
        .epoch = append->epoch,
        .append_no = append_no,
        .off_blocks = append->off_blocks,
        .nonce = shard->info.instance,
        .base_seq = append->base_seq,
        .entry_count = append->entry_count,
        .inline_len_bytes = append->inline_len_bytes,
    };
    append_header_build(ret_block, &header, append->entries, append->inline_bytes);
    append->ret_header_crc = header.header_crc;
}

static void gather_payload(const struct shard_append *append, uint8_t *dest)
{
    size_t total = 0;
    for (unsigned i = 0; i < append->payload_count; i++) {
        const struct iovec *iov = &append->payload[i];
        CHECK((uintptr_t)iov->iov_base % BLOCK_BYTES == 0 && iov->iov_len % BLOCK_BYTES == 0);
        memcpy(dest + total, iov->iov_base, iov->iov_len);
        total += iov->iov_len;
        CHECK(total <= (size_t)append->entry_count * BLOCK_BYTES);
    }
    CHECK(total == (size_t)append->entry_count * BLOCK_BYTES);
}

/* S8: an append repeated with the same bytes succeeds, with others never. */
static int repeat_append(struct fake_shard *shard, struct shard_append *append)
{
    uint32_t off = append->off_blocks, count = append->entry_count;
    if (off + 1 + count > shard->info.length_blocks || !shard->is_header[off])
        return -ERANGE;
    uint32_t append_no = 0;
    for (uint32_t i = 0; i < off; i++)
        append_no += shard->is_header[i];
    CLEANUP_FREE uint8_t *header = mem_alloc(BLOCK_BYTES);
    build_header(shard, append, header, append_no);
    return append->ret_header_crc == shard->header_crcs[off] ? 0 : -ERANGE;
}

static int append_admit(struct fake_disk *fake, struct shard_append *append)
{
    struct fake_shard *shard = find(fake, append->key);
    uint32_t end = append->off_blocks + 1 + append->entry_count;
    CHECK(append->entry_count <= APPEND_ENTRIES_MAX);
    if (!shard || shard->info.tombstone)
        return -ENOENT;
    if (append->epoch < shard->info.fence_epoch)
        return -ESTALE;
    if (shard->info.sealed)
        return -EROFS;
    if (shard->info.suspect)
        return -EREMOTEIO;
    if (append->off_blocks == shard->submitted_blocks && end <= shard->info.capacity_blocks) {
        shard->submitted_blocks = end;
        return 0;
    }
    return append->off_blocks < shard->info.length_blocks ? 0 : -ERANGE;
}

static int append_apply(struct fake_disk *fake, struct shard_append *append)
{
    struct fake_shard *shard = find(fake, append->key);
    uint32_t off = append->off_blocks;
    if (!shard)
        return -ENOENT;
    if (off < shard->info.length_blocks)
        return repeat_append(shard, append);
    if (off >= shard->submitted_blocks) /* an earlier one failed meanwhile */
        return -ERANGE;
    uint8_t *block = shard->blocks + (size_t)off * BLOCK_BYTES;
    build_header(shard, append, block, shard->append_no);
    gather_payload(append, block + BLOCK_BYTES);
    for (unsigned i = 0; i < append->entry_count; i++) {
        uint8_t *payload = block + (size_t)(1 + i) * BLOCK_BYTES;
        CHECK_MSG(crc32c(0, payload, BLOCK_BYTES) == append->entries[i].crc,
            "append to shard %u: entry %u carries a wrong CRC", append->key.index, i);
        shard->entries[off + 1 + i] = append->entries[i];
        shard->is_header[off + 1 + i] = false;
    }
    shard->entries[off] = (struct shard_entry){.address = UINT64_MAX};
    shard->header_crcs[off] = append->ret_header_crc;
    shard->is_header[off] = true;
    shard->append_no++;
    shard->info.length_blocks = off + 1 + append->entry_count;
    if ((append->flags & SHARD_APPEND_DSYNC) && shard->durable_blocks == off)
        shard->durable_blocks = shard->info.length_blocks;
    return 0;
}

static int read_verified(struct fake_shard *shard, struct shard_read *read, uint32_t i, void *dest)
{
    uint32_t block = read->off_blocks + i;
    const uint8_t *stored = shard->blocks + (size_t)block * BLOCK_BYTES;
    struct append_header header;
    bool good = shard->is_header[block]
                    ? append_header_parse(stored, &header) == 0
                    : crc32c(0, stored, BLOCK_BYTES) == shard->entries[block].crc;
    if (!good) {
        read->ret_damaged_block = block;
        return -EBADMSG;
    }
    memcpy(dest, stored, BLOCK_BYTES);
    if (read->ret_entries)
        read->ret_entries[i] = shard->entries[block];
    return 0;
}

static int read_apply(struct fake_disk *fake, struct shard_read *read)
{
    struct fake_shard *shard = find(fake, read->key);
    if (!shard || shard->info.tombstone)
        return -ENOENT;
    if (read->off_blocks + read->count > shard->info.length_blocks)
        return -ERANGE;
    uint32_t i = 0;
    for (unsigned v = 0; v < read->iov_count; v++) {
        CHECK((uintptr_t)read->iov[v].iov_base % BLOCK_BYTES == 0);
        for (size_t at = 0; at < read->iov[v].iov_len; at += BLOCK_BYTES, i++) {
            CHECK(i < read->count);
            int r = read_verified(shard, read, i, (char *)read->iov[v].iov_base + at);
            if (r < 0) { /* undefined contents: make them so */
                memset(read->iov[v].iov_base, 0xdb, read->iov[v].iov_len);
                return r;
            }
        }
    }
    CHECK(i == read->count);
    fake->read_blocks += read->count;
    return 0;
}

static int sync_apply(struct fake_disk *fake, struct shard_sync *sync)
{
    struct fake_shard *shard = find(fake, sync->key);
    if (!shard || shard->info.tombstone)
        return -ENOENT;
    if (sync->epoch < shard->info.fence_epoch)
        return -ESTALE;
    if (shard->info.suspect && !shard->info.sealed)
        return -EREMOTEIO;
    if (sync->length_blocks > shard->info.length_blocks)
        return -ERANGE;
    shard->durable_blocks = MAX(shard->durable_blocks, sync->length_blocks);
    return 0;
}

static void append_failed(struct fake_disk *fake, const struct shard_append *append)
{
    struct fake_shard *shard = find(fake, append->key);
    if (shard && append->off_blocks >= shard->info.length_blocks)
        shard->submitted_blocks = MIN(shard->submitted_blocks, append->off_blocks);
}

static void op_fired(struct env_timer *timer)
{
    struct fake_op *op = container_of(timer, struct fake_op, timer);
    struct fake_disk *fake = op->fake;
    int r = op->result;
    /* Appends of one shard complete in order: one whose predecessor is not there yet waits on. */
    if (op->append && r == 0) {
        struct fake_shard *shard = find(fake, op->append->key);
        if (shard && op->append->off_blocks > shard->info.length_blocks &&
            op->append->off_blocks < shard->submitted_blocks) {
            env_timer_arm(timer, env_now_ns() + next_latency_ns(fake));
            return;
        }
    }
    fake->in_flight--;
    struct fake_op copy = *op;
    mem_free(op);
    if (copy.append) {
        copy.append->result = r ? r : append_apply(fake, copy.append);
        if (copy.append->result < 0)
            append_failed(fake, copy.append);
        copy.append->done(copy.append);
    } else if (copy.read) {
        copy.read->result = r ? r : read_apply(fake, copy.read);
        copy.read->done(copy.read);
    } else {
        copy.sync->result = r ? r : sync_apply(fake, copy.sync);
        copy.sync->done(copy.sync);
    }
}

static void start(struct fake_disk *fake, struct fake_op op)
{
    struct fake_op *copy = NEW(struct fake_op);
    *copy = op;
    copy->fake = fake;
    fake->in_flight++;
    env_timer_init(&copy->timer, op_fired);
    env_timer_arm(&copy->timer, env_now_ns() + next_latency_ns(fake));
}

static void fake_append(struct shard_append *append)
{
    struct fake_disk *fake = (struct fake_disk *)append->disk;
    fake->appends++;
    int r = begin_op(fake);
    if (r == 0)
        r = append_admit(fake, append);
    else
        append_failed(fake, append);
    start(fake, (struct fake_op){.append = append, .result = r});
}

static void fake_read(struct shard_read *read)
{
    struct fake_disk *fake = (struct fake_disk *)read->disk;
    fake->reads++;
    start(fake, (struct fake_op){.read = read, .result = begin_op(fake)});
}

static void fake_sync(struct shard_sync *sync)
{
    struct fake_disk *fake = (struct fake_disk *)sync->disk;
    fake->syncs++;
    start(fake, (struct fake_op){.sync = sync, .result = begin_op(fake)});
}

/* --- Suspending operations ------------------------------------------------------------------------ */

static MAY_SUSPEND int enter(struct disk *disk, uint64_t *counter)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    (*counter)++;
    int r = begin_op(fake);
    fake->in_flight++;
    env_sleep_ns(next_latency_ns(fake));
    fake->in_flight--;
    return r;
}

static int fake_create(
    struct disk *disk, const struct shard_create *create, struct shard_info *ret_info)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    int r = enter(disk, &fake->creates);
    if (r < 0)
        return r;
    struct fake_shard *shard = find(fake, create->key);
    if (shard && create->epoch < shard->info.fence_epoch)
        return -ESTALE;
    if (shard && shard->info.tombstone) {
        shard_free(fake, shard);
        shard = NULL;
    }
    if (shard) {
        if (shard->info.instance != create->instance || shard->info.epoch != create->epoch)
            return -EEXIST;
        if (ret_info)
            *ret_info = shard->info;
        return 0;
    }
    uint64_t free_blocks = fake->capacity_blocks - fake->used_blocks;
    uint32_t capacity = MIN(create->capacity_blocks, free_blocks);
    if (capacity < create->capacity_blocks_min)
        return -ENOSPC;
    shard = NEW(struct fake_shard);
    shard->info = (struct shard_info){
        .key = create->key,
        .kind = create->kind,
        .code = create->code,
        .instance = create->instance,
        .epoch = create->epoch,
        .capacity_blocks = capacity,
    };
    shard->entries = mem_zalloc(capacity, sizeof(*shard->entries));
    shard->header_crcs = mem_zalloc(capacity, sizeof(*shard->header_crcs));
    shard->is_header = mem_zalloc(capacity, sizeof(*shard->is_header));
    shard->blocks = mem_zalloc(capacity, BLOCK_BYTES);
    list_push_back(&fake->shards, &shard->link);
    fake->used_blocks += capacity;
    update_free(fake);
    if (fake->lose_create_answers > 0) {
        fake->lose_create_answers--;
        return -EHOSTUNREACH;
    }
    if (ret_info)
        *ret_info = shard->info;
    return 0;
}

static int fake_seal(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    int r = enter(disk, &fake->seals);
    if (r < 0)
        return r;
    struct fake_shard *shard = find(fake, key);
    if (!shard || shard->info.tombstone)
        return -ENOENT;
    if (epoch < shard->info.fence_epoch)
        return -ESTALE;
    if (shard->info.sealed)
        return shard->info.length_blocks == length_blocks ? 0 : -EROFS;
    if (length_blocks > shard->info.length_blocks)
        return -ERANGE;
    CHECK(length_blocks == shard->info.length_blocks || shard->is_header[length_blocks]);
    CHECK(shard->submitted_blocks == shard->info.length_blocks);
    shard->info.sealed = true;
    shard->info.length_blocks = shard->submitted_blocks = shard->durable_blocks = length_blocks;
    return 0;
}

static int fake_remove(struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    int r = enter(disk, &fake->removes);
    if (r < 0)
        return r;
    struct fake_shard *shard = find(fake, key);
    if (!shard || shard->info.tombstone || (instance && shard->info.instance != instance))
        return -ENOENT;
    if (epoch < shard->info.fence_epoch)
        return -ESTALE;
    shard_free(fake, shard);
    update_free(fake);
    return 0;
}

static int fake_fence(
    struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    int r = enter(disk, &fake->fences);
    if (r < 0)
        return r;
    struct fake_shard *shard = find(fake, key);
    if (!shard) {
        shard = NEW(struct fake_shard);
        shard->info = (struct shard_info){.key = key, .tombstone = true};
        list_push_back(&fake->shards, &shard->link);
    }
    if (epoch < shard->info.fence_epoch)
        return -ESTALE;
    shard->info.fence_epoch = epoch;
    if (shard->info.tombstone)
        return -ENOENT;
    if (ret_info)
        *ret_info = shard->info;
    return 0;
}

static int fake_stat(struct disk *disk, struct shard_key key, struct shard_info *ret_info)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    uint64_t counter = 0;
    int r = enter(disk, &counter);
    if (r < 0)
        return r;
    struct fake_shard *shard = find(fake, key);
    if (!shard)
        return -ENOENT;
    *ret_info = shard->info;
    return 0;
}

static int fake_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    struct fake_disk *fake = (struct fake_disk *)disk;
    uint64_t counter = 0;
    int r = enter(disk, &counter);
    if (r < 0)
        return r;
    struct shard_info *infos = mem_zalloc(fake_disk_shard_count(fake) + 1, sizeof(*infos));
    unsigned count = 0;
    list_for_each (it, &fake->shards) {
        const struct fake_shard *shard = list_entry(it, struct fake_shard, link);
        if (volume == 0 || shard->info.key.volume == volume)
            infos[count++] = shard->info;
    }
    *ret_list = infos;
    *ret_count = count;
    return 0;
}

static const struct disk_ops fake_disk_ops = {
    .create = fake_create,
    .append = fake_append,
    .read = fake_read,
    .sync = fake_sync,
    .seal = fake_seal,
    .remove = fake_remove,
    .fence = fake_fence,
    .stat = fake_stat,
    .list = fake_list,
};

/* --- For tests ------------------------------------------------------------------------------------ */

struct fake_disk *fake_disk_new(uint32_t number, uint64_t capacity_blocks)
{
    struct fake_disk *fake = NEW(struct fake_disk);
    fake->disk.ops = &fake_disk_ops;
    fake->disk.number = number;
    fake->disk.state = DISK_IN;
    fake->disk.local = true;
    strcpy(fake->disk.class_name, "ssd");
    fake->disk.size_bytes = capacity_blocks * BLOCK_BYTES;
    fake->capacity_blocks = capacity_blocks;
    fake->latency_ns = 1000;
    fake->seed = 0x9e3779b97f4a7c15 * (number + 1);
    list_init(&fake->shards);
    list_init(&fake->disk.link);
    update_free(fake);
    return fake;
}

void fake_disk_free(struct fake_disk *fake)
{
    CHECK(fake->in_flight == 0);
    while (!list_empty(&fake->shards))
        shard_free(fake, list_entry(fake->shards.next, struct fake_shard, link));
    list_remove(&fake->disk.link);
    mem_free(fake);
}

void fake_disk_lose_shard(struct fake_disk *fake, struct shard_key key)
{
    shard_free(fake, must_find(fake, key));
}

void fake_disk_damage_block(struct fake_disk *fake, struct shard_key key, uint32_t block)
{
    struct fake_shard *shard = must_find(fake, key);
    CHECK(block < shard->info.length_blocks);
    uint64_t bit = next_random(fake) % (BLOCK_BYTES * 8);
    shard->blocks[(size_t)block * BLOCK_BYTES + bit / 8] ^= 1u << bit % 8;
}

void fake_disk_stale_block(
    struct fake_disk *fake, struct shard_key key, uint32_t block, uint64_t address)
{
    must_find(fake, key)->entries[block].address = address;
}

void fake_disk_cut_shard(struct fake_disk *fake, struct shard_key key, uint32_t length_blocks)
{
    struct fake_shard *shard = must_find(fake, key);
    shard->info.length_blocks = shard->submitted_blocks = length_blocks;
}

void fake_disk_lose_power(struct fake_disk *fake)
{
    list_for_each (it, &fake->shards) {
        struct fake_shard *shard = list_entry(it, struct fake_shard, link);
        if (shard->info.sealed || shard->info.tombstone)
            continue;
        shard->info.suspect = true;
        shard->info.length_blocks = shard->submitted_blocks = shard->durable_blocks;
    }
}

const void *fake_disk_block(struct fake_disk *fake, struct shard_key key, uint32_t block)
{
    struct fake_shard *shard = find(fake, key);
    if (!shard || block >= shard->info.length_blocks)
        return NULL;
    return shard->blocks + (size_t)block * BLOCK_BYTES;
}

bool fake_disk_has(struct fake_disk *fake, struct shard_key key)
{
    return find(fake, key);
}

unsigned fake_disk_shard_count(const struct fake_disk *fake)
{
    unsigned count = 0;
    list_for_each (it, &fake->shards)
        count++;
    return count;
}
