/* SPDX-License-Identifier: Apache-2.0
 *
 * Front ends' calls: read, write, trim, flush, block status.
 *
 * Invariants
 *  I1 A block's newest version is looked for in the order memtable, delta table, frozen delta
 *     table,
 *     map, without a suspension before the map; what moves from one to the next is there before it
 *     leaves the former. So a look-up never misses a version that was there when it began.
 *  I2 Nothing is returned that is not acknowledged: a read that meets a younger record waits for
 *     it.
 *  I3 A write smaller than a block is a read-modify-write that starts again when anything touched
 *     the
 *     block between its read and its place in the order.
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define WRITE_BLOCKS_MAX 128 /* of one log record */
#define READ_JOBS_MAX 64     /* runs of one request read at the same time */
#define LOOKUP_TRIES 64
#define UNREACHABLE_RETRY_NS 100000000ull
#define UNREACHABLE_WAIT_NS 30000000000ull

static int io_enter(struct volume *v)
{
    while (PLANTED(outage_stops_io) && !volume_host_lease_valid(v->host) && !v->halted)
        env_sleep_ns(10000000);
    if (v->closed_to_io || v->halted)
        return -ESHUTDOWN;
    v->ios++;
    return 0;
}

void io_leave(struct volume *v)
{
    if (--v->ios == 0)
        fiber_queue_wake_all(&v->idle_waiters);
}

static bool is_within(const struct volume *v, uint64_t off_bytes, uint64_t len_bytes)
{
    uint64_t size = v->state.size_bytes;
    return off_bytes <= size && len_bytes <= size - off_bytes;
}

/* -EINVAL: beyond the end, which is an answer from what the volume has, as a read is: an owner that somebody has
 * deposed may know a size of before (X3). */
MAY_SUSPEND static int check_range(struct volume *v, uint64_t off_bytes, uint64_t len_bytes)
{
    if (is_within(v, off_bytes, len_bytes))
        return 0;
    int r = io_enter(v);
    if (r < 0)
        return r;
    r = ownership_wait(v);
    if (v->halted)
        r = -ESHUTDOWN;
    else if (r == 0 && !is_within(v, off_bytes, len_bytes))
        r = -EINVAL;
    io_leave(v);
    return r;
}

static void note_latency(uint64_t *sum, uint64_t *buckets, uint64_t start_ns)
{
    uint64_t ns = env_now_ns() - start_ns;
    *sum += ns;
    unsigned bucket = 0;
    for (uint64_t us = ns / 1000; us > 1 && bucket < 23; us >>= 1)
        bucket++;
    if (buckets)
        buckets[bucket]++;
}

/* --- Reading ----------------------------------------------------------------------------------- */

static void run_from_extmap(const struct extmap_run *run, struct map_run *ret_run)
{
    *ret_run = (struct map_run){.len = run->len,
        .type = run->kind == EXTMAP_TRIMMED ? MAP_TRIMMED : MAP_MAPPED,
        .entry = run->value};
}

int lookup_committed(struct volume *v, uint64_t block, uint64_t len_max, struct map_run *ret_run)
{
    struct extmap_run run;
    extmap_lookup(&v->delta, block, len_max, &run);
    if (run.kind == EXTMAP_GAP && v->delta_merging)
        extmap_lookup(&v->delta_frozen, block, run.len, &run);
    if (run.kind != EXTMAP_GAP) {
        run_from_extmap(&run, ret_run);
        return 0;
    }
    return map_lookup(v->map, block, run.len, ret_run);
}

int read_mapped(
    struct volume *v, uint64_t entry, uint32_t count, uint64_t block, void *buf, bool leave)
{
    uint32_t linear = map_entry_linear(entry);
    if (map_entry_layer(entry) != 0)
        return -EIO;
    while (count > 0) {
        struct lchunk *chunk = state_chunk(&v->state, map_entry_chunk(entry));
        uint32_t at, run;
        if (!chunk || chunk->place->freeing || chunk_translate(chunk, linear, count, &at, &run) < 0)
            return -ENOENT;
        uint64_t place_chunk = chunk->place->chunk;
        struct chunk_place place;
        place_expand(&v->state, chunk->place, &place);
        chunk->place->readers++;
        int r = row_read_leaving(&v->row_io, &place, at, run, block, buf, leave);
        struct place *p = state_place(&v->state, place_chunk);
        CHECK(p && p->readers > 0); /* a place with readers is not freed */
        if (--p->readers == 0 && p->freeing)
            fiber_queue_wake_all(&v->reader_waiters);
        if (r < 0)
            return r;
        linear += run;
        count -= run;
        block += run;
        buf = (char *)buf + (size_t)run * BLOCK_BYTES;
    }
    return 0;
}

struct read_job {
    struct volume *volume;
    uint64_t block;
    uint32_t count;
    uint64_t entry;
    void *buf;
    bool leave; /* it may be left behind (T2) */
    struct fiber_group *group;
};

static int read_blocks(
    struct volume *v, uint64_t block, uint64_t count, void *buf, bool leave, unsigned tries);

/* Reads a run; when its place was freed under it, looks the blocks up again. */
static int read_run(struct volume *v, uint64_t entry, uint32_t count, uint64_t block, void *buf,
    bool leave, unsigned tries)
{
    int r = read_mapped(v, entry, count, block, buf, leave);
    if (r == -ENOENT && tries > 0)
        return read_blocks(v, block, count, buf, leave, tries - 1);
    if (r == -ENOENT) {
        log_error_limited("volume %s: block %llu: the map names chunk %llu, which is not there",
            v->root.name, (unsigned long long)block, (unsigned long long)map_entry_chunk(entry));
        r = -EIO;
    }
    return r;
}

static void read_job_run(void *arg)
{
    struct read_job job = *(struct read_job *)arg;
    mem_free(arg);
    fiber_group_done(job.group,
        read_run(job.volume, job.entry, job.count, job.block, job.buf, job.leave, LOOKUP_TRIES));
}

static void read_job_start(struct volume *v, struct fiber_group *group, uint64_t entry,
    uint32_t count, uint64_t block, void *buf, bool leave)
{
    struct read_job *job = NEW(struct read_job);
    *job = (struct read_job){.volume = v,
        .block = block,
        .count = count,
        .entry = entry,
        .buf = buf,
        .leave = leave,
        .group = group};
    fiber_group_add(group, 1);
    fiber_spawn("read run", read_job_run, job);
}

struct found {
    enum memtable_kind kind; /* never MISS */
    uint64_t entry, len;
};

/* The version of `block` that a read returns now; DATA is copied to buf at once (it is one block).
 * */
static int find_version(
    struct volume *v, uint64_t block, uint64_t len_max, void *buf, struct found *ret)
{
    for (;;) {
        struct memtable_hit hit;
        memtable_lookup(&v->memtable, block, len_max, &hit);
        if (hit.kind != MEMTABLE_MISS && hit.seq > v->acked_seq &&
            !PLANTED(read_unacked)) { /* I2 */
            int r = log_wait_acked(v, hit.seq);
            if (r < 0)
                return r;
            continue;
        }
        if (hit.kind == MEMTABLE_DATA && buf)
            memcpy(buf, hit.data, BLOCK_BYTES);
        *ret = (struct found){.kind = hit.kind, .entry = hit.entry, .len = hit.len};
        if (hit.kind != MEMTABLE_MISS)
            return 0;
        struct map_run run;
        int r = lookup_committed(v, block, hit.len, &run); /* I1 */
        if (r < 0)
            return r;
        ret->kind = run.type == MAP_MAPPED ? MEMTABLE_MAPPED : MEMTABLE_TRIMMED;
        ret->entry = run.entry;
        ret->len = run.len;
        return 0;
    }
}

static int read_blocks(
    struct volume *v, uint64_t block, uint64_t count, void *buf, bool leave, unsigned tries)
{
    struct fiber_group group;
    fiber_group_init(&group);
    int error = 0;
    while (count > 0 && error == 0) {
        struct found found;
        error = find_version(v, block, count, buf, &found);
        if (error < 0)
            break;
        if (found.kind == MEMTABLE_TRIMMED) {
            memset(buf, 0, found.len * BLOCK_BYTES);
        } else if (found.kind == MEMTABLE_MAPPED) {
            found.len = MIN(found.len, (uint64_t)16384);
            if (found.len == count && group.pending == 0)
                error = read_run(v, found.entry, (uint32_t)found.len, block, buf, leave, tries);
            else if (group.pending >= READ_JOBS_MAX || fiber_helpers(1) == 0)
                error = read_run(v, found.entry, (uint32_t)found.len, block, buf, leave, tries);
            else
                read_job_start(v, &group, found.entry, (uint32_t)found.len, block, buf, leave);
        }
        block += found.len;
        count -= found.len;
        buf = (char *)buf + found.len * BLOCK_BYTES;
    }
    int r = fiber_group_wait(&group);
    return error < 0 ? error : r;
}

static bool aligned(const void *buf)
{
    return (uintptr_t)buf % BLOCK_BYTES == 0;
}

/* Any alignment, through a bounce buffer of at most BOUNCE_BLOCKS. */
#define BOUNCE_BLOCKS 64

static int read_bounced(struct volume *v, uint64_t off, uint64_t len, void *buf)
{
    size_t bounce_bytes = BOUNCE_BLOCKS * BLOCK_BYTES;
    uint64_t last = (off + len - 1) / BLOCK_BYTES;
    if (last - off / BLOCK_BYTES < BOUNCE_BLOCKS)
        bounce_bytes = (last - off / BLOCK_BYTES + 1) * BLOCK_BYTES;
    uint8_t *bounce = mem_alloc_pages(bounce_bytes);
    int r = 0;
    while (len > 0 && r == 0) {
        uint64_t block = off / BLOCK_BYTES, skip = off % BLOCK_BYTES;
        uint64_t n = MIN(len, bounce_bytes - skip);
        r = read_blocks(v, block, DIV_ROUND_UP(skip + n, BLOCK_BYTES), bounce, false, LOOKUP_TRIES);
        if (r == 0)
            memcpy(buf, bounce + skip, n);
        off += n;
        len -= n;
        buf = (char *)buf + n;
    }
    mem_free_pages(bounce, bounce_bytes);
    return r;
}

static int read_range(struct volume *v, uint64_t off, uint64_t len, void *buf, bool leave)
{
    if (off % BLOCK_BYTES == 0 && len % BLOCK_BYTES == 0 && aligned(buf))
        return read_blocks(v, off / BLOCK_BYTES, len / BLOCK_BYTES, buf, leave, LOOKUP_TRIES);
    return read_bounced(v, off, len, buf);
}

/* Among many nodes an error counts only when it is the owner's: what a deposed one looks for may be
 * gone. And disks that are away come back, or the rest is repaired: that is latency, for a while. */
struct again {
    uint64_t until_ns;
    bool confirmed;
};

/* What has come to `r` is looked up again: 1. Else what is to be answered. */
static int look_again(struct volume *v, struct again *again, int r)
{
    if (r == 0 || !v->host->lease.id || v->halted)
        return r < 0 && v->halted ? -ESHUTDOWN : r;
    if (again->until_ns == 0)
        again->until_ns = env_now_ns() + UNREACHABLE_WAIT_NS;
    if ((again->confirmed && r != -EHOSTUNREACH) || env_now_ns() >= again->until_ns)
        return r;
    if (v->closed_to_io)
        return -ESHUTDOWN; /* the front end holds it meanwhile */
    if (again->confirmed)
        env_sleep_ns(UNREACHABLE_RETRY_NS);
    int owner = ownership_confirm(v);
    again->confirmed = true;
    return owner < 0 ? owner : 1;
}

int volume_read(struct volume *v, uint64_t off, uint64_t len, void *buf)
{
    return volume_read_leaving(v, off, len, buf, false);
}

int volume_read_leaving(struct volume *v, uint64_t off, uint64_t len, void *buf, bool leave)
{
    int r = check_range(v, off, len);
    if (r < 0 || (r = io_enter(v)) < 0)
        return r;
    uint64_t start_ns = env_now_ns();
    r = ownership_wait(v); /* X3 */
    struct again again = {0};
    if (r == 0 && len > 0) {
        do
            r = read_range(v, off, len, buf, leave);
        while ((r = look_again(v, &again, r)) == 1);
    }
    if (v->halted)
        r = -ESHUTDOWN;
    if (r == -EBADMSG || r == -ENOENT || r == -EIO)
        v->damaged_ranges = true; /* what is only away or busy is not */
    if (r == -EBADMSG || r == -ENOENT || r == -EHOSTUNREACH || r == -ENOMEM)
        r = -EIO;
    v->stats.reads++;
    v->stats.read_bytes += len;
    note_latency(&v->stats.read_latency_ns_sum, v->stats.read_latency_us, start_ns);
    io_leave(v);
    return r;
}

/* --- Writing ----------------------------------------------------------------------------------- */

struct partial {
    struct list link;
    uint64_t block;
    bool touched;
};

/* I3: something takes its place in the order over these blocks. */
void partials_touch(struct volume *v, uint64_t block, uint64_t count)
{
    list_for_each (it, &v->partials) {
        struct partial *partial = list_entry(it, struct partial, link);
        if (partial->block - block < count)
            partial->touched = true;
    }
}

/* Row space and buffers for `count` blocks; -ECANCELED: given up (E4). Nothing suspends between this and the
 * place in the order of a write of whole blocks. */
static int get_room(
    struct volume *v, unsigned count, const struct request *request, void **ret_data)
{
    int r = space_reserve(v, count, request);
    if (r < 0)
        return r;
    r = volume_get_blocks(v, count, request->given_up, ret_data);
    if (r == 0 && request_given_up(request)) {
        volume_put_blocks(v, ret_data, count);
        r = -ECANCELED;
    }
    if (r < 0)
        space_unreserve(v, count);
    return r;
}

/* Gives `count` blocks in `data` (taken over) their place in the order and waits for the log. */
static int place_blocks(struct volume *v, uint64_t block, unsigned count, void **data,
    const struct shard_entry *entries, unsigned flags, struct request *request)
{
    bool froze = false;
    struct memtable_gen *gen = memtable_active(&v->memtable, count, env_now_ns(), &froze);
    struct commit commit = {.record = {.type = LOG_WRITE,
                                .block = block,
                                .count = count,
                                .session = request->session,
                                .number = request->number},
        .seq = v->next_seq,
        .block_count = count,
        .data = data,
        .entries = entries,
        .fua = flags & VOLUME_FUA};
    partials_touch(v, block, count);
    for (unsigned i = 0; i < count; i++)
        memtable_put(&v->memtable, gen, block + i, data[i], entries[i].crc, commit.seq);
    space_unreserve(v, count);
    request_note(request, block + count, commit.seq);
    log_enqueue(v, &commit);
    if (froze)
        fiber_queue_wake_all(&v->destager_wake);
    int r = log_wait(v, &commit);
    if (r == 0 && (flags & VOLUME_FUA))
        r = log_sync_to(v, commit.seq);
    return r;
}

static int write_log(struct volume *v, uint64_t block, unsigned count, const uint8_t *buf,
    unsigned flags, struct request *request)
{
    void *data[WRITE_BLOCKS_MAX];
    struct shard_entry entries[WRITE_BLOCKS_MAX];
    int r = get_room(v, count, request, data);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++) {
        memcpy(data[i], buf + (size_t)i * BLOCK_BYTES, BLOCK_BYTES); /* the one private copy */
        entries[i] =
            (struct shard_entry){.address = block + i, .crc = crc32c(0, data[i], BLOCK_BYTES)};
    }
    return place_blocks(v, block, count, data, entries, flags, request);
}

static int write_partial(struct volume *v, uint64_t off, unsigned len, const uint8_t *buf,
    unsigned flags, struct request *request)
{
    struct partial partial = {.block = off / BLOCK_BYTES};
    void *data[1];
    int r = get_room(v, 1, request, data);
    if (r < 0)
        return r;
    struct again again = {0};
    list_push_back(&v->partials, &partial.link);
    do {
        partial.touched = false;
        r = look_again(v, &again, read_blocks(v, partial.block, 1, data[0], false, LOOKUP_TRIES));
    } while (!request_given_up(request) &&
             (r == 1 || (r == 0 && partial.touched && !PLANTED(lost_update))));
    list_remove(&partial.link);
    if (request_given_up(request)) /* E4 */
        r = -ECANCELED;
    if (r < 0) {
        volume_put_block(v, data[0]);
        space_unreserve(v, 1);
        return r;
    }
    if (buf)
        memcpy((uint8_t *)data[0] + off % BLOCK_BYTES, buf, len);
    else
        memset((uint8_t *)data[0] + off % BLOCK_BYTES, 0, len);
    struct shard_entry entry = {.address = partial.block, .crc = crc32c(0, data[0], BLOCK_BYTES)};
    return place_blocks(v, partial.block, 1, data, &entry, flags, request);
}

/* Large enough to go straight to a chunk? */
static bool is_large(const struct volume *v, uint64_t count)
{
    return v->bypass_blocks_min > 0 && count >= v->bypass_blocks_min;
}

static int write_step(struct volume *v, uint64_t off, uint64_t len, const uint8_t *buf,
    unsigned flags, struct request *request, uint64_t *ret_done)
{
    uint64_t block = off / BLOCK_BYTES, skip = off % BLOCK_BYTES;
    if (skip != 0 || len < BLOCK_BYTES) {
        *ret_done = MIN(len, BLOCK_BYTES - skip);
        return write_partial(v, off, (unsigned)*ret_done, buf, flags, request);
    }
    uint64_t count = len / BLOCK_BYTES;
    if (is_large(v, count)) {
        count = MIN(count, (uint64_t)v->pool.code.k * v->row_blocks);
        *ret_done = count * BLOCK_BYTES;
        return large_write(v, block, (unsigned)count, buf, flags, request);
    }
    count = MIN(count, (uint64_t)MIN(WRITE_BLOCKS_MAX, v->gen_blocks));
    *ret_done = count * BLOCK_BYTES;
    return write_log(v, block, (unsigned)count, buf, flags, request);
}

static int write_range(struct volume *v, uint64_t off, uint64_t len, const void *buf,
    unsigned flags, struct request *request)
{
    v->has_written = true;
    int r = 0;
    while (len > 0 && r == 0) {
        uint64_t done = 0;
        r = write_step(v, off, len, buf, flags, request, &done);
        off += done;
        len -= done;
        buf = (const char *)buf + done;
    }
    return r;
}

/* S19. 0: to be done from *ret_skip on. 1 or an error: what it came to when it came before. */
static int begin(struct volume *v, const struct request_id *id, uint64_t off, uint64_t len,
    unsigned flags, struct request *ret_request, uint64_t *ret_skip)
{
    uint64_t from;
    int r = request_begin(&v->requests, id, ret_request, &from);
    if (r != 0 || from == 0)
        return r;
    uint64_t end = from * BLOCK_BYTES;
    *ret_skip = end > off ? MIN(end - off, len) : 0;
    /* What is skipped has to be as durable as the rest. */
    return flags & VOLUME_FUA ? log_sync_to(v, v->acked_seq) : 0;
}

static int end(struct volume *v, struct request *request, int r)
{
    r = r == 1 ? 0 : r;
    request_end(&v->requests, request, r);
    return r;
}

int volume_write(struct volume *v, uint64_t off, uint64_t len, const void *buf, unsigned flags,
    struct request_id id)
{
    int r = check_range(v, off, len);
    if (r < 0 || (r = io_enter(v)) < 0)
        return r;
    uint64_t start_ns = env_now_ns();
    struct request request;
    uint64_t skip = 0;
    r = begin(v, &id, off, len, flags, &request, &skip);
    if (r == 0 && len > skip)
        r = write_range(v, off + skip, len - skip, (const char *)buf + skip, flags, &request);
    r = end(v, &request, r);
    v->stats.writes++;
    v->stats.written_bytes += len;
    note_latency(&v->stats.write_latency_ns_sum, v->stats.write_latency_us, start_ns);
    io_leave(v);
    return r == -EBADMSG || r == -ENOENT || r == -EHOSTUNREACH || r == -ENOMEM ? -EIO : r;
}

/* --- Trim, write zeroes ------------------------------------------------------------------------ */

static int trim_blocks(
    struct volume *v, uint64_t block, uint64_t count, unsigned flags, struct request *request)
{
    bool froze = false;
    if (request_given_up(request)) /* E4: its first part may have waited */
        return -ECANCELED;
    struct memtable_gen *gen = memtable_active(&v->memtable, 0, env_now_ns(), &froze);
    struct commit commit = {.record = {.type = LOG_TRIM,
                                .block = block,
                                .count = count,
                                .session = request->session,
                                .number = request->number},
        .seq = v->next_seq,
        .fua = flags & VOLUME_FUA};
    partials_touch(v, block, count);
    memtable_put_trim(gen, block, count, commit.seq);
    request_note(request, block + count, commit.seq);
    log_enqueue(v, &commit);
    if (froze)
        fiber_queue_wake_all(&v->destager_wake);
    int r = log_wait(v, &commit);
    if (r == 0 && (flags & VOLUME_FUA))
        r = log_sync_to(v, commit.seq);
    return r;
}

static int zero_range(
    struct volume *v, uint64_t off, uint64_t len, unsigned flags, struct request *request)
{
    uint64_t head = MIN(len, (BLOCK_BYTES - off % BLOCK_BYTES) % BLOCK_BYTES);
    int r = head > 0 ? write_partial(v, off, (unsigned)head, NULL, flags, request) : 0;
    off += head;
    len -= head;
    if (r == 0 && len >= BLOCK_BYTES)
        r = trim_blocks(v, off / BLOCK_BYTES, len / BLOCK_BYTES, flags, request);
    off += ROUND_DOWN(len, BLOCK_BYTES);
    len %= BLOCK_BYTES;
    if (r == 0 && len > 0) {
        /* The last block of a volume whose size is no multiple of 4 KiB ends with the volume. */
        if (off + len == v->state.size_bytes)
            return trim_blocks(v, off / BLOCK_BYTES, 1, flags, request);
        r = write_partial(v, off, (unsigned)len, NULL, flags, request);
    }
    return r;
}

static int write_zero_data(
    struct volume *v, uint64_t off, uint64_t len, unsigned flags, struct request *request)
{
    size_t zero_bytes = MIN(ROUND_UP(len + BLOCK_BYTES, (uint64_t)BLOCK_BYTES), (uint64_t)1 << 20);
    void *zeroes = mem_alloc_pages(zero_bytes);
    memset(zeroes, 0, zero_bytes);
    int r = 0;
    while (len > 0 && r == 0) {
        uint64_t n = MIN(len, zero_bytes - off % BLOCK_BYTES);
        r = write_range(v, off, n, zeroes, flags | VOLUME_STABLE, request);
        off += n;
        len -= n;
    }
    mem_free_pages(zeroes, zero_bytes);
    return r;
}

static int zero_call(struct volume *v, uint64_t off, uint64_t len, unsigned flags,
    struct request_id id, bool allocate)
{
    int r = check_range(v, off, len);
    if (r < 0 || (r = io_enter(v)) < 0)
        return r;
    v->has_written = true;
    struct request request;
    uint64_t skip = 0;
    r = begin(v, &id, off, len, flags, &request, &skip);
    if (r == 0 && len > skip && allocate)
        r = write_zero_data(v, off + skip, len - skip, flags, &request);
    else if (r == 0 && len > skip)
        r = zero_range(v, off + skip, len - skip, flags, &request);
    r = end(v, &request, r);
    v->stats.trims++;
    v->stats.trimmed_bytes += len;
    io_leave(v);
    return r == -EBADMSG || r == -ENOENT || r == -EHOSTUNREACH || r == -ENOMEM ? -EIO : r;
}

int volume_trim(struct volume *v, uint64_t off, uint64_t len, unsigned flags, struct request_id id)
{
    return zero_call(v, off, len, flags, id, false);
}

int volume_write_zeroes(
    struct volume *v, uint64_t off, uint64_t len, unsigned flags, struct request_id id)
{
    return zero_call(v, off, len, flags, id, flags & VOLUME_NO_HOLE);
}

/* --- Flush ------------------------------------------------------------------------------------- */

int volume_flush(struct volume *v)
{
    int r = io_enter(v);
    if (r < 0)
        return r;
    uint64_t start_ns = env_now_ns();
    log_learn_flush(v);
    r = ownership_wait(v); /* it covers what a later owner acknowledged, too (S4) */
    if (r == 0)
        r = log_sync_to(v, v->acked_seq - (PLANTED(flush_ignores_others) && v->acked_seq > 0));
    if (v->halted)
        r = -ESHUTDOWN;
    v->stats.flushes++;
    note_latency(&v->stats.flush_latency_ns_sum, NULL, start_ns);
    io_leave(v);
    return r;
}

/* --- Block status ------------------------------------------------------------------------------ */

static int status_step(
    struct volume *v, uint64_t block, uint64_t count, bool *ret_hole, uint64_t *ret_len)
{
    struct found found;
    struct again again = {0};
    int r;
    do
        r = find_version(v, block, count, NULL, &found);
    while ((r = look_again(v, &again, r)) == 1);
    if (r < 0)
        return r;
    *ret_hole = found.kind == MEMTABLE_TRIMMED;
    *ret_len = found.len;
    return 0;
}

int volume_block_status(struct volume *v, uint64_t off, uint64_t len,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count)
{
    int r = check_range(v, off, len);
    if (r < 0 || len == 0 || max == 0)
        return r < 0 ? r : -EINVAL;
    if ((r = io_enter(v)) < 0)
        return r;
    unsigned count = 0;
    uint64_t at = off, end = off + len;
    r = ownership_wait(v);
    while (r == 0 && at < end) {
        bool hole = false;
        uint64_t blocks = 0, block = at / BLOCK_BYTES;
        r = status_step(v, block, DIV_ROUND_UP(end, BLOCK_BYTES) - block, &hole, &blocks);
        if (r < 0)
            break;
        uint64_t to = MIN(end, (block + blocks) * BLOCK_BYTES);
        if (count > 0 && ret_extents[count - 1].hole == hole) {
            ret_extents[count - 1].len_bytes += to - at;
        } else if (count == max) {
            break;
        } else {
            ret_extents[count++] = (struct volume_extent){.len_bytes = to - at, .hole = hole};
        }
        at = to;
    }
    bool halted = v->halted;
    io_leave(v);
    if (halted)
        return -ESHUTDOWN;
    if (r < 0 && count == 0)
        return r == -ESHUTDOWN ? r : -EIO;
    *ret_count = count;
    return 0;
}
