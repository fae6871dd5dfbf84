/* SPDX-License-Identifier: Apache-2.0
 *
 * The manifest: the volume's own log of metadata changes, on m+1 copies.
 *
 * A manifest is a chain of chunks (usually one). Each append is durable on all copies before it
 * counts (S1). Its inline bytes are 8 bytes {u16 version, u16 flags, u32 bytes} and then the bytes
 * themselves, or, when they do not fit, nothing: the bytes stand in the payload blocks. A group of
 * records (what one manifest_commit makes durable) may take several appends; only the last one has
 * MANIFEST_LAST, and a group without it never happened. An append with MANIFEST_CONTINUE holds a
 * REC_CONTINUE record that names the chunk where the manifest goes on.
 *
 * Invariants
 *  N1 The state in memory is what the manifest says: records are applied after they are durable, in
 *     the order in which they stand there, under the mutex.
 *  N2 A copy that fails is never left behind silently: the manifest is written afresh on new shards
 *     and made
 *     current by a CAS of the root; nothing is appended to the old one from the snapshot on (S11,
 *     S13).
 *  N3 Shards of the old manifest are removed only after that CAS has succeeded.
 *  N4 One that is only full does not wait for the store: it goes on in one more chunk (S18).
 *  N5 An item of a row says which blocks the row has (docs/adr/0008-rows-are-named.md): when the row is lost
 *     before the map has it, its blocks alone are, and nothing older is returned for them (promise (e)).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/volume_impl.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define MANIFEST_VERSION 1
#define MANIFEST_LAST 1
#define MANIFEST_CONTINUE 2
#define INLINE_PREFIX 8
#define INLINE_BYTES_MAX (APPEND_BODY_BYTES - INLINE_PREFIX)
#define PAYLOAD_BLOCKS_MAX 240
#define COMPACT_BYTES_MIN (1u << 20)
#define RETRY_NS_MIN 20000000ull
#define RETRY_NS_MAX 1000000000ull
#define OPEN_TRIES 3 /* an open does not wait for disks here: reads are served meanwhile */

static struct shard_key manifest_key(uint64_t volume, uint64_t chunk, unsigned copy)
{
    return (struct shard_key){.volume = volume, .chunk = chunk, .index = (uint8_t)copy};
}

/* --- Appending --------------------------------------------------------------------------------- */

/* One append to all copies, waited for. */
static int append_all(struct volume *v, const struct copies_ref *ref, uint32_t off_blocks,
    unsigned flags, const void *bytes, size_t len_bytes, bool dsync, uint32_t *ret_blocks)
{
    uint8_t body[APPEND_BODY_BYTES];
    put_le16(body, MANIFEST_VERSION);
    put_le16(body + 2, (uint16_t)flags);
    put_le32(body + 4, (uint32_t)len_bytes);
    unsigned blocks = 0, inline_len = INLINE_PREFIX;
    struct shard_entry entries[PAYLOAD_BLOCKS_MAX];
    void *pages = NULL;
    struct iovec iov = {0};
    if (len_bytes <= INLINE_BYTES_MAX) {
        memcpy(body + INLINE_PREFIX, bytes, len_bytes);
        inline_len += (unsigned)len_bytes;
    } else {
        blocks = (unsigned)DIV_ROUND_UP(len_bytes, BLOCK_BYTES);
        CHECK(blocks <= PAYLOAD_BLOCKS_MAX);
        iov.iov_len = (size_t)blocks * BLOCK_BYTES;
        iov.iov_base = pages = mem_alloc_pages(iov.iov_len);
        memcpy(pages, bytes, len_bytes);
        memset((char *)pages + len_bytes, 0, iov.iov_len - len_bytes);
        for (unsigned i = 0; i < blocks; i++)
            entries[i] = (struct shard_entry){.address = i,
                .crc = crc32c(0, (char *)pages + (size_t)i * BLOCK_BYTES, BLOCK_BYTES)};
    }
    struct group_append appends[CODE_M_MAX + 1];
    struct fiber_group group;
    fiber_group_init(&group);
    int error = 0;
    for (unsigned i = 0; i < ref->count; i++) {
        struct disk *disk = volume_disk(v, ref->places[i].disk);
        appends[i].append.result = -EHOSTUNREACH;
        if (!disk) {
            error = -EHOSTUNREACH;
            continue;
        }
        appends[i].append = (struct shard_append){.disk = disk,
            .key = manifest_key(v->root.id, ref->chunk, i),
            .epoch = v->root.epoch,
            .off_blocks = off_blocks,
            .entries = entries,
            .entry_count = blocks,
            .inline_bytes = body,
            .inline_len_bytes = inline_len,
            .payload = &iov,
            .payload_count = blocks > 0,
            .flags = dsync ? SHARD_APPEND_DSYNC : 0};
        group_append_submit(&appends[i], &group);
    }
    int r = fiber_group_wait(&group);
    for (unsigned i = 0; i < ref->count; i++) {
        if (appends[i].append.result == -ESTALE)
            r = -ESTALE;
    }
    if (pages)
        mem_free_pages(pages, iov.iov_len);
    *ret_blocks = 1 + blocks;
    return r < 0 ? r : error;
}

static uint32_t group_blocks(size_t len_bytes)
{
    if (len_bytes <= INLINE_BYTES_MAX)
        return 1;
    size_t per_append = (size_t)PAYLOAD_BLOCKS_MAX * BLOCK_BYTES;
    return (uint32_t)(DIV_ROUND_UP(len_bytes, BLOCK_BYTES) + DIV_ROUND_UP(len_bytes, per_append));
}

/* A whole group at `*length_blocks`, which is advanced. */
static int append_group(struct volume *v, const struct copies_ref *ref, uint32_t *length_blocks,
    const struct records *records, bool dsync)
{
    size_t at = 0;
    do {
        size_t n = MIN(records->len_bytes - at, (size_t)PAYLOAD_BLOCKS_MAX * BLOCK_BYTES);
        bool last = at + n == records->len_bytes;
        uint32_t blocks;
        int r = append_all(v, ref, *length_blocks, last ? MANIFEST_LAST : 0, records->bytes + at, n,
            dsync, &blocks);
        if (r < 0)
            return r;
        *length_blocks += blocks;
        at += n;
    } while (at < records->len_bytes);
    return 0;
}

static int sync_all(struct volume *v, const struct copies_ref *ref, uint32_t length_blocks)
{
    struct group_sync syncs[CODE_M_MAX + 1];
    struct fiber_group group;
    fiber_group_init(&group);
    int error = 0;
    for (unsigned i = 0; i < ref->count; i++) {
        syncs[i].sync = (struct shard_sync){.disk = volume_disk(v, ref->places[i].disk),
            .key = manifest_key(v->root.id, ref->chunk, i),
            .epoch = v->root.epoch,
            .length_blocks = length_blocks,
            .result = -EHOSTUNREACH};
        if (syncs[i].sync.disk)
            group_sync_submit(&syncs[i], &group);
        else
            error = -EHOSTUNREACH;
    }
    int r = fiber_group_wait(&group);
    for (unsigned i = 0; i < ref->count; i++) {
        if (syncs[i].sync.result == -ESTALE)
            return -ESTALE;
    }
    return r < 0 ? r : error;
}

void copies_remove(struct volume *v, const struct copies_ref *ref)
{
    for (unsigned i = 0; i < ref->count; i++)
        leftover_remove(v, ref->places[i].disk, manifest_key(v->root.id, ref->chunk, i),
            ref->places[i].instance);
}

/* --- Rewriting --------------------------------------------------------------------------------- */

static int new_chunk(
    struct volume *v, uint32_t blocks_wanted, struct copies_ref *ret_ref, uint32_t *ret_capacity)
{
    struct copies_ref ref = {0};
    struct chunk_shard shards[CODE_M_MAX + 1];
    unsigned copies;
    uint32_t wanted = (uint32_t)MIN(LOG_CAPACITY_BLOCKS_MAX, MAX(256u, blocks_wanted));
    int r = copies_create(v, SHARD_MANIFEST, v->pool.code.m + 1u,
        MIN(v->pool.log_copies_min, v->pool.code.m + 1u), wanted, MIN(wanted, 64u),
        SHARD_PRIORITY_SYSTEM, &ref.chunk, shards, &copies, ret_capacity);
    if (r < 0)
        return r;
    ref.count = (uint8_t)copies;
    for (unsigned i = 0; i < copies; i++)
        ref.places[i] = shards[i].place;
    *ret_ref = ref;
    return 0;
}

struct chain {
    struct copies_ref *refs;
    unsigned count;
    uint32_t capacity_blocks, length_blocks; /* of the last one */
};

static void chain_add(struct chain *chain, const struct copies_ref *ref)
{
    chain->refs = mem_realloc(chain->refs, (chain->count + 1) * sizeof(*chain->refs));
    chain->refs[chain->count++] = *ref;
}

static bool chain_has(const struct chain *chain, uint64_t chunk)
{
    for (unsigned i = 0; i < chain->count; i++) {
        if (chain->refs[i].chunk == chunk)
            return true;
    }
    return false;
}

/* Closes the last chunk of the chain with a pointer to a new one. */
static int chain_extend(struct volume *v, struct chain *chain, uint32_t blocks_wanted, bool dsync)
{
    struct copies_ref next;
    uint32_t capacity, blocks;
    int r = new_chunk(v, blocks_wanted, &next, &capacity);
    if (r < 0)
        return r;
    chain_add(chain, &next);
    if (chain->count > 1) {
        struct records records = {0};
        record_continue(&records, &next);
        const struct copies_ref *last = &chain->refs[chain->count - 2];
        r = append_all(v, last, chain->length_blocks, MANIFEST_CONTINUE, records.bytes,
            records.len_bytes, dsync, &blocks);
        records_fini(&records);
        if (r == 0 && !dsync)
            r = sync_all(v, last, chain->length_blocks + blocks);
        if (r < 0)
            return r;
    }
    chain->capacity_blocks = capacity;
    chain->length_blocks = 0;
    return 0;
}

/* Writes the snapshot as one group, over as many chunks as it takes, and syncs it. */
static int chain_write(struct volume *v, struct chain *chain, const struct records *snapshot)
{
    size_t at = 0;
    uint32_t total = group_blocks(snapshot->len_bytes);
    int r = chain_extend(v, chain, total * 2 + 512, false);
    while (r == 0) {
        /* Room for this append and for the one that continues. */
        uint32_t room = chain->capacity_blocks - chain->length_blocks;
        if (room < 4) {
            r = chain_extend(v, chain, total * 2 + 512, false);
            continue;
        }
        size_t n = MIN(snapshot->len_bytes - at,
            (size_t)MIN((uint32_t)PAYLOAD_BLOCKS_MAX, room - 3) * BLOCK_BYTES);
        bool last = at + n == snapshot->len_bytes;
        uint32_t blocks;
        r = append_all(v, &chain->refs[chain->count - 1], chain->length_blocks,
            last ? MANIFEST_LAST : 0, snapshot->bytes + at, n, false, &blocks);
        if (r < 0)
            break;
        chain->length_blocks += blocks;
        at += n;
        if (last)
            return sync_all(v, &chain->refs[chain->count - 1], chain->length_blocks);
    }
    return r;
}

static void chain_remove(struct volume *v, struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++)
        copies_remove(v, &chain->refs[i]);
    mem_free(chain->refs);
    *chain = (struct chain){0};
}

struct switched {
    struct copies_ref manifest;
    uint64_t size_bytes;  /* the root's copy may be old: a grow that ended in the middle */
    uint64_t loss_time_s; /* S6; 0 = nothing to say */
};

static void set_manifest(struct volume_root *root, const void *arg)
{
    const struct switched *to = arg;
    root->manifest = to->manifest;
    root->size_bytes = to->size_bytes;
    root->tail_log = 0; /* the manifest says it */
    root->tail_blocks = 0;
    if (to->loss_time_s) {
        root->loss_epoch = root->epoch;
        root->loss_time_s = to->loss_time_s;
    }
}

static int rewrite_locked(struct volume *v)
{
    struct records snapshot = {0};
    uint64_t delay_ns = RETRY_NS_MIN;
    unsigned failures = 0;
    struct chain chain = {0};
    state_snapshot(&v->state, &snapshot); /* nothing is appended from here on: the mutex is held */
    for (;;) {
        int r = chain_write(v, &chain, &snapshot);
        if (r == 0)
            break;
        chain_remove(v, &chain);
        if (r == -ESTALE || v->halted || (!v->serving && ++failures == OPEN_TRIES)) {
            records_fini(&snapshot);
            return v->halted ? -ESHUTDOWN : r;
        }
        v->trouble_ns = env_now_ns();
        snprintf(v->problem, sizeof(v->problem), "cannot write a new manifest: %s", strerror(-r));
        log_warn_limited("volume %s: %s: trying again", v->root.name, v->problem);
        env_sleep_ns(delay_ns);
        delay_ns = MIN(delay_ns * 2, RETRY_NS_MAX);
    }
    v->problem[0] = 0;
    struct switched to = {.manifest = chain.refs[0], .size_bytes = v->state.size_bytes};
    if (v->possible_loss)
        to.loss_time_s = env_realtime_ns() / 1000000000;
    int r = root_change(v, set_manifest, &to);
    if (r == 0) {
        struct chain old = {.refs = v->manifest.chain, .count = v->manifest.chain_count};
        v->manifest.ref = chain.refs[chain.count - 1];
        v->manifest.chain = chain.refs;
        v->manifest.chain_count = chain.count;
        v->manifest.capacity_blocks = chain.capacity_blocks;
        v->manifest.length_blocks = chain.length_blocks;
        v->manifest.snapshot_bytes = v->manifest.bytes = snapshot.len_bytes;
        v->manifest.broken = v->possible_loss = false;
        chain_remove(v, &old);
    } else {
        mem_free(chain.refs); /* not ours to remove: the outcome belongs to who took over */
    }
    records_fini(&snapshot);
    return r;
}

static int halt_deposed(struct volume *v)
{
    volume_deposed(v);
    return -ESHUTDOWN;
}

int manifest_rewrite(struct volume *v)
{
    fiber_mutex_lock(&v->manifest.mutex);
    int r = v->halted ? -ESHUTDOWN : rewrite_locked(v);
    if (r == -ESTALE)
        r = halt_deposed(v);
    fiber_mutex_unlock(&v->manifest.mutex);
    return r;
}

/* Whether writing it afresh, which needs the root, is likely to get through at once (S18). Nobody knows how long
 * it would take otherwise, and meanwhile nothing is recorded. */
bool manifest_store_answers(struct volume *v)
{
    struct volume_root root;
    return volume_host_lease_valid(v->host) &&
           volume_root_load(v->host->store, v->root.id, &root) == 0;
}

/* Goes on in one more chunk. */
static int extend(struct volume *v, uint32_t need)
{
    struct manifest *m = &v->manifest;
    struct chain chain = {.refs = m->chain,
        .count = m->chain_count,
        .capacity_blocks = m->capacity_blocks,
        .length_blocks = m->length_blocks};
    int r = chain_extend(v, &chain, need * 2 + 512, true);
    m->chain = chain.refs;
    m->chain_count = chain.count;
    m->ref = chain.refs[chain.count - 1];
    m->capacity_blocks = chain.capacity_blocks;
    m->length_blocks = chain.length_blocks;
    return r;
}

static int commit_locked(struct volume *v, const struct records *records)
{
    struct manifest *m = &v->manifest;
    for (;;) {
        if (v->halted)
            return -ESHUTDOWN;
        uint32_t need = group_blocks(records->len_bytes);
        bool full = m->length_blocks + need + 2 > m->capacity_blocks;
        bool large = m->bytes > MAX((uint64_t)COMPACT_BYTES_MIN, 4 * m->snapshot_bytes);
        if (PLANTED(outage_skips_record) && m->broken && !volume_host_lease_valid(v->host))
            return 0;
        if (m->broken || ((full || large) && manifest_store_answers(v))) {
            int r = rewrite_locked(v);
            if (r < 0)
                return r == -ESTALE ? halt_deposed(v) : r;
        }
        if (m->length_blocks + need + 2 > m->capacity_blocks && extend(v, need) < 0) {
            m->broken = true;
            continue;
        }
        int r = append_group(v, &m->ref, &m->length_blocks, records, !PLANTED(unsynced_manifest));
        if (r == 0)
            return 0;
        if (r == -ESTALE)
            return halt_deposed(v);
        log_warn("volume %s: a copy of the manifest failed (%s): writing it afresh on other disks",
            v->root.name, strerror(-r));
        m->broken = true;
    }
}

int manifest_commit(
    struct volume *v, const struct records *records, manifest_applied_fn *applied, void *ctx)
{
    if (records->len_bytes == 0) {
        if (applied)
            applied(ctx);
        return 0;
    }
    fiber_mutex_lock(&v->manifest.mutex);
    int r = commit_locked(v, records);
    if (r == 0) {
        v->manifest.bytes += records->len_bytes;
        char error[256];
        r = state_apply(&v->state, records->bytes, records->len_bytes, error);
        CHECK_MSG(r == 0, "volume %s: own record refused: %s", v->root.name, error);
        if (applied)
            applied(ctx);
    }
    fiber_mutex_unlock(&v->manifest.mutex);
    return r;
}

/* --- Loading ----------------------------------------------------------------------------------- */

struct loader {
    struct volume_host *host;
    const struct volume_root *root;
    struct state *state;
    struct copies_ref ref;
    struct copies_set copies;
    struct records group; /* bytes of a group whose end has not come yet */
    uint8_t *window;
    char **ret_error;
};

#define WINDOW_BLOCKS 256

/* Fences every copy of the chunk. */
static int loader_fence(struct loader *l)
{
    struct chunk_shard shards[CODE_M_MAX + 1];
    for (unsigned i = 0; i < l->ref.count; i++)
        shards[i] = (struct chunk_shard){.place = l->ref.places[i]};
    int r = copies_fence(
        &l->copies, l->host, l->root->id, l->ref.chunk, shards, l->ref.count, l->root->epoch);
    if (r == 0 && copies_set_back(&l->copies, l->root->epoch))
        r = -ESTALE;
    if (r == -ESTALE)
        *l->ret_error = mem_printf(
            "the manifest was fenced by epoch %u or a later one before: the store has been set "
            "back (restored from a backup?); the volume stays closed",
            l->root->epoch);
    else if (r < 0)
        *l->ret_error =
            mem_printf("none of the %u copies of the manifest can be read%s", l->ref.count,
                r == -ENOENT ? " (all are gone)"
                             : ": bring back the disks that hold them (see 'holdfast disk list')");
    return r;
}

static int bad_append(struct loader *l, uint32_t off, const char *what)
{
    *l->ret_error = mem_printf("manifest append at block %u: %s", off, what);
    return -EBADMSG;
}

/* One append whose blocks stand at `block`; *ret_blocks = how many it takes. */
static int loader_append(
    struct loader *l, uint32_t off, const uint8_t *block, uint32_t available, uint32_t *ret_blocks)
{
    struct append_header header;
    int r = append_header_parse(block, &header);
    if (r < 0)
        return bad_append(l, off, "not a header");
    *ret_blocks = 1 + header.entry_count;
    if (*ret_blocks > available)
        return 1; /* more is needed */
    const uint8_t *body = append_header_inline(block, &header);
    if (header.inline_len_bytes < INLINE_PREFIX || get_le16(body) != MANIFEST_VERSION)
        return bad_append(l, off, "of a version that this daemon does not know");
    unsigned flags = get_le16(body + 2);
    uint32_t len = get_le32(body + 4);
    const uint8_t *bytes = header.entry_count > 0 ? block + BLOCK_BYTES : body + INLINE_PREFIX;
    size_t room = header.entry_count > 0 ? (size_t)header.entry_count * BLOCK_BYTES
                                         : header.inline_len_bytes - INLINE_PREFIX;
    if (len > room)
        return bad_append(l, off, "longer than its blocks");
    char error[256];
    if (flags & MANIFEST_CONTINUE) {
        r = state_apply(l->state, bytes, len, error);
        return r < 0 ? bad_append(l, off, error) : 0;
    }
    struct records *group = &l->group;
    if (group->len_bytes + len > group->capacity_bytes) {
        group->capacity_bytes = MAX(2 * group->capacity_bytes, group->len_bytes + len);
        group->bytes = mem_realloc(group->bytes, group->capacity_bytes);
    }
    memcpy(group->bytes + group->len_bytes, bytes, len);
    group->len_bytes += len;
    if (flags & MANIFEST_LAST) {
        r = state_apply(l->state, group->bytes, group->len_bytes, error);
        records_clear(group);
        if (r < 0)
            return bad_append(l, off, error);
    }
    return 0;
}

static int loader_read(struct loader *l)
{
    int r;
    uint32_t length = l->copies.length_max;
    for (uint32_t off = 0; off < length;) {
        uint32_t count = MIN(length - off, (uint32_t)WINDOW_BLOCKS), bad;
        r = copies_read(&l->copies, off, count, l->window, &bad);
        if (r < 0) {
            *l->ret_error =
                r == -EHOSTUNREACH
                    ? mem_strdup("the manifest's disks went away while it was read")
                    : mem_printf("block %u of the manifest is damaged in every copy", bad);
            return r;
        }
        uint32_t at = 0;
        while (at < count) {
            uint32_t blocks;
            r = loader_append(
                l, off + at, l->window + (size_t)at * BLOCK_BYTES, count - at, &blocks);
            if (r < 0)
                return r;
            if (r > 0)
                break;
            at += blocks;
        }
        if (at == 0)
            return bad_append(l, off, "runs beyond the manifest's end");
        off += at;
    }
    return 0;
}

static int loader_chunk(struct loader *l)
{
    int r = loader_fence(l);
    if (r < 0)
        return r;
    open_reader_begin(l->host->budget);
    l->window = mem_alloc_pages(WINDOW_BLOCKS * BLOCK_BYTES);
    r = loader_read(l);
    mem_free_pages(l->window, WINDOW_BLOCKS * BLOCK_BYTES);
    open_reader_end(l->host->budget);
    return r;
}

int manifest_load(struct volume_host *host, const struct volume_root *root, struct state *ret_state,
    struct copies_ref **ret_chain, unsigned *ret_chain_count, char **ret_error)
{
    struct loader l = {.host = host,
        .root = root,
        .state = ret_state,
        .ref = root->manifest,
        .ret_error = ret_error};
    struct chain chain = {0};
    int r;
    for (;;) {
        if (chain_has(&chain, l.ref.chunk)) {
            *ret_error = mem_printf("the manifest goes round in a circle");
            r = -EBADMSG;
            break;
        }
        chain_add(&chain, &l.ref);
        ret_state->continued = (struct copies_ref){0};
        r = loader_chunk(&l);
        if (r < 0 || ret_state->continued.chunk == 0)
            break;
        l.ref = ret_state->continued;
    }
    if (r == 0 && ret_state->size_bytes == 0) {
        *ret_error = mem_printf("the manifest has no volume record");
        r = -EBADMSG;
    }
    records_fini(&l.group);
    if (r < 0) {
        mem_free(chain.refs);
        return r;
    }
    *ret_chain = chain.refs;
    *ret_chain_count = chain.count;
    return 0;
}
