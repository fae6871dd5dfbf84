/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding out what a shard holds from the shard itself: header by header, each payload block against
 * its CRC. Done at the first use of an open shard after a restart, of a sealed log or manifest, and
 * where a trailer is damaged.
 *
 *  D9  The end of an unsealed shard is the first append that is not whole, unless a later header
 *      proves that it once was: then it is damage, the blocks stay inside the length and reads of
 *      them say so (D4). Proof is a header of the same creation whose mark lies beyond: "completed"
 *      while the boot of creation lasts, "durable" after it (a power cut takes unsynced blocks in
 *      any order, that is no damage).
 *      A sealed (or cut, D14) shard has its recorded length whatever is found.
 *  D17 What a failed flush covered may be in the device's cache and never become durable, however
 *      often it is flushed (fsync error retried: the classic way to lose data). If the last process
 *      did not close the disk, that may have happened: what an open shard holds beyond its durable
 *      mark is written again, so that the next flush means something.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/planted.h"

#define APPEND_BLOCKS_MAX (APPEND_ENTRIES_MAX + 1)

/* --- Reading around bad sectors --------------------------------------------------------------- */

MAY_SUSPEND int local_read_blocks(
    struct local_disk *disk, void *buf, uint32_t count, uint64_t off_bytes)
{
    int r = env_file_read(disk->file, buf, (size_t)count * BLOCK_BYTES, off_bytes);
    if (r == 0)
        return 0;
    disk->base.error_count++;
    if (error_is_gone(r))
        return -EHOSTUNREACH;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *block = (uint8_t *)buf + (size_t)i * BLOCK_BYTES;
        r = env_file_read(disk->file, block, BLOCK_BYTES, off_bytes + (uint64_t)i * BLOCK_BYTES);
        if (error_is_gone(r))
            return -EHOSTUNREACH;
        if (r < 0)
            memset(block, 0, BLOCK_BYTES);
    }
    return 0;
}

/* --- The walk --------------------------------------------------------------------------------- */

struct walk {
    struct active *active;
    uint32_t limit; /* blocks looked at: the recorded length, else the capacity */
    uint8_t *window;
    uint32_t window_first, window_count;
    uint32_t *append_nos; /* by header block */
    uint32_t expected_no; /* of the header at the current place */
    uint32_t
        previous_crc; /* what it must name as its predecessor; not known behind a lost header */
    bool previous_known;
    uint32_t
        bad; /* start of the first append found bad and not proved damaged; UINT32_MAX = none */
    uint64_t *bad_at; /* bit per block: a bad append starts here */
    uint32_t durable; /* the highest mark seen */
};

/* The window holds [block, block + count) afterwards. */
static int look_at(struct walk *walk, uint32_t block, uint32_t count)
{
    if (block >= walk->window_first && block + count <= walk->window_first + walk->window_count)
        return 0;
    struct active *active = walk->active;
    walk->window_first = block;
    walk->window_count = MIN(WALK_WINDOW_BLOCKS, walk->limit - block);
    return local_read_blocks(active->disk, walk->window, walk->window_count,
        slot_block_off(active->disk, active_slot(active), block));
}

static const uint8_t *block_at(const struct walk *walk, uint32_t block)
{
    return walk->window + (size_t)(block - walk->window_first) * BLOCK_BYTES;
}

/* A valid header that belongs to this creation of this shard and stands where it says. */
static bool is_own_header(const struct walk *walk, uint32_t block, struct append_header *ret_header)
{
    struct append_header header;
    if (append_header_parse(block_at(walk, block), &header) < 0)
        return false;
    const struct table_slot *slot = active_slot(walk->active);
    if (!uuid_equal(&header.cluster, &walk->active->disk->super.cluster) ||
        header.nonce != slot->nonce || header.key.volume != slot->volume ||
        header.key.chunk != slot->chunk || header.key.index != slot->index)
        return false;
    if (header.kind != (enum shard_kind)slot->kind || header.code.k != slot->k ||
        header.code.m != slot->m || header.epoch < slot->epoch || header.off_blocks != block ||
        header.append_no < walk->expected_no)
        return false;
    if (header.entry_count >= walk->limit - block)
        return false;
    *ret_header = header;
    return true;
}

static bool is_next_header(
    const struct walk *walk, uint32_t block, struct append_header *ret_header)
{
    struct append_header header;
    if (!is_own_header(walk, block, &header))
        return false;
    if (walk->previous_known &&
        (header.append_no != walk->expected_no || header.prev_header_crc != walk->previous_crc))
        return false;
    *ret_header = header;
    return true;
}

static void note_bad(struct walk *walk, uint32_t block)
{
    walk->bad_at[block / 64] |= UINT64_C(1) << (block % 64);
    if (walk->bad == UINT32_MAX)
        walk->bad = block;
}

/* A header says that all below `mark` was there: what is bad below it is damage, what is bad above
 * stays open. */
static void prove_damage(struct walk *walk, uint32_t mark)
{
    if (PLANTED(damage_is_absence))
        return;
    while (walk->bad != UINT32_MAX && walk->bad < mark) {
        local_report_damage(walk->active->disk, walk->active->slot_no, walk->bad);
        uint32_t next = walk->bad + 1;
        while (next < walk->limit && (walk->bad_at[next / 64] >> (next % 64) & 1) == 0)
            next++;
        walk->bad = next < walk->limit ? next : UINT32_MAX;
    }
}

/* Records an append found at `block`; false when a payload block does not match. */
static bool take_append(struct walk *walk, uint32_t block, const struct append_header *header)
{
    struct active *active = walk->active;
    const uint8_t *header_block = block_at(walk, block);
    active_reserve(active, block + 1 + header->entry_count);
    active->entries[block] = (struct shard_entry){.address = ENTRY_ADDRESS_HEADER,
        .crc = crc32c(0, header_block, BLOCK_BYTES),
        .aux = header->header_crc};
    active_set_header(active, block);
    walk->append_nos[block] = header->append_no;
    bool good = true;
    for (unsigned i = 0; i < header->entry_count; i++) {
        struct shard_entry entry = append_header_entry(header_block, i);
        active->entries[block + 1 + i] = entry;
        good = good && crc32c(0, block_at(walk, block + 1 + i), BLOCK_BYTES) == entry.crc;
    }
    return good;
}

/* Blocks whose header is gone: recorded with a CRC that they do not have. */
static void take_lost(struct walk *walk, uint32_t first, uint32_t end)
{
    struct active *active = walk->active;
    active_reserve(active, end);
    for (uint32_t block = first; block < end; block++) {
        bool seen = block < walk->window_first + walk->window_count;
        uint32_t crc = seen ? ~crc32c(0, block_at(walk, block), BLOCK_BYTES) : 0;
        active->entries[block] = (struct shard_entry){.address = ENTRY_ADDRESS_LOST, .crc = crc};
    }
}

/* The next header after a place that has none, no further away than one append reaches; 0 when
 * there is none. */
static int find_header_after(struct walk *walk, uint32_t block, uint32_t *ret_block)
{
    uint32_t count = MIN(APPEND_BLOCKS_MAX + 1, walk->limit - block);
    int r = look_at(walk, block, count);
    if (r < 0)
        return r;
    *ret_block = 0;
    for (uint32_t at = block + 1; at < block + count; at++) {
        struct append_header header;
        if (is_own_header(walk, at, &header)) {
            *ret_block = at;
            return 0;
        }
    }
    return 0;
}

/* One step: the append at `block`, or the gap up to the next header. *ret_next = where to go on, 0
 * = nowhere. */
static int walk_step(struct walk *walk, uint32_t block, uint32_t *ret_next)
{
    int r = look_at(walk, block, 1);
    if (r < 0)
        return r;
    struct append_header header;
    if (!is_next_header(walk, block, &header)) {
        note_bad(walk, block);
        r = find_header_after(walk, block, ret_next);
        if (r < 0 || *ret_next == 0)
            return r;
        take_lost(walk, block, *ret_next);
        walk->previous_known = false;
        return 0;
    }
    r = look_at(walk, block, 1 + header.entry_count);
    if (r < 0)
        return r;
    bool suspect = (active_slot(walk->active)->flags & TABLE_SUSPECT) != 0;
    prove_damage(walk, suspect ? header.durable_blocks : header.completed_blocks);
    walk->durable = MAX(walk->durable, header.durable_blocks);
    if (!take_append(walk, block, &header))
        note_bad(walk, block);
    walk->expected_no = header.append_no + 1;
    walk->previous_crc = header.header_crc;
    walk->previous_known = true;
    *ret_next = block + 1 + header.entry_count;
    return 0;
}

static void set_end(struct walk *walk, uint32_t end)
{
    struct active *active = walk->active;
    const struct table_slot *slot = active_slot(active);
    active_reserve(active, end);
    for (uint32_t block = end; block < active->entries_capacity; block++)
        active->header_bits[block / 64] &= ~(UINT64_C(1) << (block % 64));
    active->end_blocks = active->completed_blocks = end;
    active->durable_blocks = table_slot_has_length(slot) ? end : MIN(walk->durable, end);
    active->next_append_no = 0;
    active->last_header_crc = 0;
    for (uint32_t block = end; block-- > 0;) {
        if (!active_is_header(active, block))
            continue;
        active->next_append_no = walk->append_nos[block] + 1;
        active->last_header_crc = active->entries[block].aux;
        break;
    }
}

/* What hung may have lost what it had cached (D20): an append that was there, before a later one, and is not, although
 * no flush has covered it yet. None shall say that it does. */
static void limit_sync(struct walk *walk)
{
    struct active *active = walk->active;
    active->sync_max_blocks = UINT32_MAX;
    for (uint32_t block = active->durable_blocks; block < active->end_blocks; block++) {
        if ((walk->bad_at[block / 64] >> (block % 64) & 1) == 0)
            continue;
        active->sync_max_blocks = block;
        break;
    }
}

static int walk_all(struct walk *walk)
{
    struct active *active = walk->active;
    const struct table_slot *slot = active_slot(active);
    uint32_t block = 0;
    while (block < walk->limit) {
        uint32_t next;
        int r = walk_step(walk, block, &next);
        if (r < 0)
            return r;
        if (next == 0)
            break;
        block = next;
    }
    if (table_slot_has_length(slot)) {
        if (block < walk->limit)
            take_lost(walk, block, walk->limit);
        prove_damage(walk, walk->limit);
        block = walk->limit;
    } else if (walk->bad != UINT32_MAX) {
        block = walk->bad;
    }
    set_end(walk, block);
    return 0;
}

/* D17. Blocks that do not match stay as they are. */
static int write_again(struct walk *walk)
{
    struct active *active = walk->active;
    struct local_disk *disk = active->disk;
    walk->limit = active->end_blocks;
    for (uint32_t block = active->durable_blocks; block < walk->limit;) {
        int r = look_at(walk, block, 1);
        if (r < 0)
            return r;
        uint32_t window_end = MIN(walk->window_first + walk->window_count, walk->limit);
        uint32_t end = block;
        while (end < window_end &&
               crc32c(0, block_at(walk, end), BLOCK_BYTES) == active->entries[end].crc)
            end++;
        if (end > block)
            r = env_file_write(disk->file, block_at(walk, block), (end - block) * BLOCK_BYTES,
                slot_block_off(disk, active_slot(active), block), false);
        if (r < 0) {
            local_retire(disk, r, "writing unsynced blocks again failed");
            return 0; /* they can be read all the same */
        }
        block = MAX(end, block + 1);
    }
    return 0;
}

/* Sealed or removed while it waited or read: what was found may be of another state. */
static int run_walk(struct active *active)
{
    const struct table_slot *slot = active_slot(active);
    if (slot->state != TABLE_OPEN && slot->state != TABLE_SEALED)
        return -ENOENT;
    bool has_length = table_slot_has_length(slot);
    uint32_t limit =
        has_length ? slot->length_blocks : shard_capacity_blocks(slot->kind, slot->unit_count);
    if (active->disk->walk_window == NULL)
        active->disk->walk_window = mem_alloc_pages(WALK_WINDOW_BLOCKS * BLOCK_BYTES);
    struct walk walk = {
        .active = active,
        .limit = limit,
        .window = active->disk->walk_window,
        .append_nos = mem_alloc((limit + 1) * sizeof(uint32_t)),
        .bad_at = mem_zalloc(limit / 64 + 1, sizeof(uint64_t)),
        .previous_known = true,
        .bad = UINT32_MAX,
    };
    int r = walk_all(&walk);
    if (r == 0 && active->disk->came_back)
        limit_sync(&walk);
    if (r == 0 && slot->state == TABLE_OPEN && active->disk->in_doubt && !active->disk->failed)
        r = write_again(&walk);
    mem_free(walk.bad_at);
    mem_free(walk.append_nos);
    CHECK(has_length == table_slot_has_length(slot)); /* seal loads first */
    if (r < 0)
        active_drop_entries(active);
    else
        active->loaded = true;
    return r;
}

/* --- Who waits for it ------------------------------------------------------------------------- */

static void fail_parked(struct active *active, int error)
{
    struct local_disk *disk = active->disk;
    struct list *link;
    while ((link = list_pop_front(&active->parked_appends)) != NULL) {
        disk->ops_in_flight--;
        local_append_later(disk, list_entry(link, struct shard_append, link), error);
    }
    while ((link = list_pop_front(&active->parked_reads)) != NULL) {
        disk->ops_in_flight--;
        local_read_later(disk, list_entry(link, struct shard_read, link), error);
    }
    while ((link = list_pop_front(&active->parked_syncs)) != NULL) {
        disk->ops_in_flight--;
        local_sync_later(disk, list_entry(link, struct shard_sync, link), error);
    }
}

/* Submits what waited, in its order; everything is checked again. */
static void resume_parked(struct active *active)
{
    struct local_disk *disk = active->disk;
    struct list *link;
    while ((link = list_pop_front(&active->parked_appends)) != NULL) {
        disk->ops_in_flight--;
        local_append(list_entry(link, struct shard_append, link));
    }
    while ((link = list_pop_front(&active->parked_reads)) != NULL) {
        disk->ops_in_flight--;
        local_read(list_entry(link, struct shard_read, link));
    }
    while ((link = list_pop_front(&active->parked_syncs)) != NULL) {
        disk->ops_in_flight--;
        local_sync(list_entry(link, struct shard_sync, link));
    }
}

MAY_SUSPEND int active_load(struct active *active)
{
    while (active->walking)
        fiber_queue_wait(&active->changed);
    if (active->loaded)
        return 0;
    active->walking = true;
    active->refs++;
    fiber_mutex_lock(&active->disk->walk_lock);
    int r = run_walk(active);
    fiber_mutex_unlock(&active->disk->walk_lock);
    active->walking = false;
    fiber_queue_wake_all(&active->changed);
    if (r < 0)
        fail_parked(active, r);
    else
        resume_parked(active);
    active_put(active);
    return r;
}

static void load_fiber(void *arg)
{
    struct active *active = arg;
    (void)active_load(active);
    active_put(active);
}

void active_load_start(struct active *active)
{
    if (active->walking)
        return;
    active->refs++;
    fiber_spawn("shard-walk", load_fiber, active);
}
