/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard table on disk: read at open, written by group commit.
 *
 *  D8  Table blocks are written, durably, from the state in memory at the time of the write, one
 *      round in flight at a time: an entry on disk never goes back to an earlier state. A waiter is
 *      answered by a round that began after its change.
 *  D17 Here: if the last process did not close the disk, the whole table is written again before
 *      anything is answered from it.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

void local_table_dirty(struct local_disk *disk, uint32_t slot_no)
{
    uint32_t block = slot_no / TABLE_BLOCK_ENTRIES;
    disk->table_dirty[block / 64] |= UINT64_C(1) << (block % 64);
    disk->table_generation++;
}

/* --- Group commit ----------------------------------------------------------------------------- */

struct table_write {
    struct env_io io;
    struct iovec iov;
    struct fiber_group *group;
};

static void table_write_done(struct env_io *io)
{
    struct table_write *write = container_of(io, struct table_write, io);
    fiber_group_done(write->group, io->result < 0 ? (int)io->result : 0);
}

static void encode_block(struct local_disk *disk, uint32_t block, uint8_t *ret_block)
{
    static const uint8_t earlier_boot[16]; /* which one does not matter any more */
    for (uint32_t i = 0; i < TABLE_BLOCK_ENTRIES; i++) {
        uint32_t slot_no = block * TABLE_BLOCK_ENTRIES + i;
        bool old = (disk->table.slots[slot_no].flags & TABLE_OLD_BOOT) != 0;
        table_entry_encode(&disk->table, slot_no, old ? earlier_boot : disk->boot_id,
            ret_block + i * TABLE_ENTRY_BYTES);
    }
}

/* The next dirty block at or after `from`, marked clean; the table's block count when there is
 * none. */
static uint32_t take_dirty(struct local_disk *disk, uint32_t from)
{
    uint32_t block_count = disk->table.entry_count / TABLE_BLOCK_ENTRIES;
    for (uint32_t block = from; block < block_count; block++) {
        uint64_t word = disk->table_dirty[block / 64] >> (block % 64);
        if (word == 0) {
            block |= 63;
            continue;
        }
        block += (uint32_t)__builtin_ctzll(word);
        disk->table_dirty[block / 64] &= ~(UINT64_C(1) << (block % 64));
        return block;
    }
    return block_count;
}

/* Writes up to TABLE_COMMIT_BLOCKS dirty blocks from `*from` on, neighbours in one write. */
static int write_some(struct local_disk *disk, uint32_t *from)
{
    struct table_write writes[TABLE_COMMIT_BLOCKS];
    uint32_t block_count = disk->table.entry_count / TABLE_BLOCK_ENTRIES;
    unsigned write_count = 0, blocks = 0;
    uint32_t last = 0;
    struct fiber_group group;
    fiber_group_init(&group);
    while (blocks < TABLE_COMMIT_BLOCKS) {
        *from = take_dirty(disk, *from);
        if (*from == block_count)
            break;
        uint8_t *buf = (uint8_t *)disk->table_buffer + blocks * BLOCK_BYTES;
        encode_block(disk, *from, buf);
        if (write_count > 0 && *from == last + 1) {
            writes[write_count - 1].iov.iov_len += BLOCK_BYTES;
        } else {
            struct table_write *write = &writes[write_count++];
            *write = (struct table_write){
                .iov = {.iov_base = buf, .iov_len = BLOCK_BYTES}, .group = &group};
            write->io = (struct env_io){
                .op = ENV_IO_WRITE_DSYNC,
                .file = disk->file,
                .iov = &write->iov,
                .iov_count = 1,
                .off_bytes = disk->super.table_off_bytes + (uint64_t)*from * BLOCK_BYTES,
                .done = table_write_done,
            };
        }
        last = (*from)++;
        blocks++;
    }
    fiber_group_add(&group, write_count);
    for (unsigned i = 0; i < write_count; i++)
        env_io_submit(&writes[i].io);
    return fiber_group_wait(&group);
}

static int write_round(struct local_disk *disk)
{
    uint32_t block_count = disk->table.entry_count / TABLE_BLOCK_ENTRIES;
    for (uint32_t from = 0; from < block_count;) {
        int r = write_some(disk, &from);
        if (r < 0)
            return r;
    }
    return 0;
}

MAY_SUSPEND int local_table_commit(struct local_disk *disk)
{
    uint64_t wanted = disk->table_generation;
    while (!disk->failed && disk->table_durable_generation < wanted) {
        if (disk->table_writing) {
            fiber_queue_wait(&disk->table_written);
            continue;
        }
        disk->table_writing = true;
        uint64_t generation = disk->table_generation;
        int r = write_round(disk);
        disk->table_writing = false;
        if (r < 0)
            local_retire(disk, r, "writing the shard table failed");
        else
            disk->table_durable_generation = generation;
        fiber_queue_wake_all(&disk->table_written);
    }
    return disk->failed ? local_retired_error(disk) : 0;
}

/* --- Load ------------------------------------------------------------------------------------- */

#define LINK_BATCH 8192u /* some milliseconds */
#define REPAIRS_MAX 4096 /* after so many in vain this is no rot of bits, and time matters */

struct load {
    struct local_disk *disk;
    unsigned lost, repaired, suspects, conflicts;
};

static void lose(struct load *load, uint32_t slot_no)
{
    load->disk->table.slots[slot_no] = (struct table_slot){.state = TABLE_LOST};
    load->lost++;
}

/* Two entries cannot both be right about the same shard: the one fenced or made later is kept, as
 * damaged. */
static void resolve_duplicate(struct load *load, uint32_t first, uint32_t second)
{
    struct table *table = &load->disk->table;
    struct table_slot *a = &table->slots[first], *b = &table->slots[second];
    bool keep_second = slot_epoch_min(b) > slot_epoch_min(a);
    if (keep_second) {
        table_unlink(table, first);
        table_link_expected(table, second);
    } else {
        table_forget_expected(table, second);
    }
    table->slots[keep_second ? second : first].flags |= TABLE_DAMAGED;
    lose(load, keep_second ? first : second);
    load->conflicts++;
}

static void load_entry(struct load *load, uint32_t slot_no, const uint8_t *entry)
{
    struct local_disk *disk = load->disk;
    struct table_slot *slot = &disk->table.slots[slot_no];
    uint8_t boot_id[16];
    int r = table_entry_decode(&disk->table, slot_no, entry, disk->unit_total, slot, boot_id);
    if (r < 0 && load->lost < REPAIRS_MAX) {
        r = table_entry_repair(&disk->table, slot_no, entry, disk->unit_total, slot, boot_id);
        load->repaired += r == 0;
        if (r == 0)
            local_table_dirty(disk, slot_no);
    }
    if (r < 0) {
        lose(load, slot_no);
        return;
    }
    if (slot->state == TABLE_FREE)
        return;
    if (slot->state == TABLE_LOST) {
        load->lost++;
        return;
    }
    if (PLANTED(wash_suspect) && memcmp(boot_id, disk->boot_id, sizeof(boot_id)) == 0)
        slot->flags &= (uint8_t)~TABLE_SUSPECT;
    if (memcmp(boot_id, disk->boot_id, sizeof(boot_id)) != 0) {
        if (!PLANTED(wash_suspect))
            slot->flags |= TABLE_OLD_BOOT;
        /* S6: made durable before the open is answered. */
        if (slot->state == TABLE_OPEN && (slot->flags & TABLE_SUSPECT) == 0 &&
            !PLANTED(trust_suspect)) {
            slot->flags |= TABLE_SUSPECT;
            local_table_dirty(disk, slot_no);
            load->suspects++;
        }
    }
}

static MAY_SUSPEND void link_entries(struct load *load)
{
    struct table *table = &load->disk->table;
    table_expect(table);
    for (uint32_t i = 0; i < table->entry_count; i++) {
        const struct table_slot *slot = &table->slots[i];
        if (slot->state == TABLE_FREE || slot->state == TABLE_LOST)
            continue;
        uint32_t other = table_find(table, table_slot_key(slot));
        if (other != TABLE_NONE)
            resolve_duplicate(load, other, i);
        else
            table_link_expected(table, i);
        if (i % LINK_BATCH == LINK_BATCH - 1)
            fiber_yield();
    }
}

/* Every entry whose units overlap those of `slot_no` loses the right to write them. The blocks
 * themselves tell whose they are when they are read. */
static void mark_overlaps(struct load *load, uint32_t slot_no)
{
    struct table *table = &load->disk->table;
    const struct table_slot *slot = &table->slots[slot_no];
    uint32_t end = slot->first_unit + slot->unit_count;
    for (uint32_t i = 0; i < table->entry_count; i++) {
        struct table_slot *other = &table->slots[i];
        if (other->unit_count == 0 || other->first_unit >= end ||
            slot->first_unit >= other->first_unit + other->unit_count)
            continue;
        /* The units stay taken until the next open: neither may free them. */
        other->flags |= TABLE_NO_EXTENT;
        load->conflicts++;
    }
}

static void take_extents(struct load *load)
{
    struct local_disk *disk = load->disk;
    for (uint32_t i = 0; i < disk->table.entry_count; i++) {
        struct table_slot *slot = &disk->table.slots[i];
        if (slot->state != TABLE_OPEN && slot->state != TABLE_SEALED)
            continue;
        disk->table.shard_count++;
        if (slab_take(&disk->slabs, slot->first_unit, slot->unit_count) < 0)
            mark_overlaps(load, i);
    }
}

/* What a conflict's second claimant names beyond the first's units must stay reserved too. */
static void reserve_conflicts(struct load *load)
{
    struct local_disk *disk = load->disk;
    for (uint32_t i = 0; load->conflicts > 0 && i < disk->table.entry_count; i++) {
        const struct table_slot *slot = &disk->table.slots[i];
        if ((slot->flags & TABLE_NO_EXTENT) == 0)
            continue;
        for (uint32_t unit = 0; unit < slot->unit_count; unit++)
            (void)slab_take(
                &disk->slabs, slot->first_unit + unit, 1); /* taken already is as good */
    }
}

static int read_entries(struct load *load, void *buf, uint32_t buf_blocks, char **ret_error)
{
    struct local_disk *disk = load->disk;
    uint32_t block_count = disk->table.entry_count / TABLE_BLOCK_ENTRIES;
    for (uint32_t block = 0; block < block_count; block += buf_blocks) {
        uint32_t count = MIN(buf_blocks, block_count - block);
        int r = local_read_blocks(
            disk, buf, count, disk->super.table_off_bytes + (uint64_t)block * BLOCK_BYTES);
        if (r < 0) {
            *ret_error = mem_printf(
                "%s: the device went away while its shard table was read; check its cable "
                "and the kernel log, then open it again",
                env_file_path(disk->file));
            return r;
        }
        for (uint32_t i = 0; i < count * TABLE_BLOCK_ENTRIES; i++)
            load_entry(
                load, block * TABLE_BLOCK_ENTRIES + i, (uint8_t *)buf + i * TABLE_ENTRY_BYTES);
    }
    return 0;
}

static void log_load(const struct load *load)
{
    const char *path = env_file_path(load->disk->file);
    if (load->lost > 0)
        log_error("disk %s: %u of %u shard table entries are damaged; their shards cannot be read, "
                  "and any shard "
                  "not found here counts as damaged, not as absent",
            path, load->lost, load->disk->table.entry_count);
    if (load->repaired > 0)
        log_warn(
            "disk %s: %u shard table entries had a flipped bit; put right", path, load->repaired);
    if (load->conflicts > 0)
        log_error("disk %s: %u shard table entries contradict each other; their shards are damaged",
            path, load->conflicts);
    if (load->suspects > 0)
        log_info("disk %s: %u open shards of an earlier boot are suspect", path, load->suspects);
}

MAY_SUSPEND int local_table_load(struct local_disk *disk, char **ret_error)
{
    struct load load = {.disk = disk};
    uint32_t buf_blocks = WALK_WINDOW_BLOCKS;
    void *buf = mem_alloc_pages(buf_blocks * BLOCK_BYTES);
    int r = read_entries(&load, buf, buf_blocks, ret_error);
    mem_free_pages(buf, buf_blocks * BLOCK_BYTES);
    if (r < 0)
        return r;
    link_entries(&load);
    if (load.lost > disk->table.entry_count / 2) {
        *ret_error = mem_printf(
            "%s: %u of %u entries of the shard table are damaged, more than half: the disk is not "
            "opened; its shards can be rebuilt from the other disks, then format it again",
            env_file_path(disk->file), load.lost, disk->table.entry_count);
        return -EBADMSG;
    }
    take_extents(&load);
    reserve_conflicts(&load);
    table_build_free_list(&disk->table);
    disk->table.lost_count = load.lost;
    disk->base.damage_count += load.lost + load.conflicts;
    local_update_space(disk);
    log_load(&load);
    if (disk->in_doubt) {
        for (uint32_t i = 0; i < disk->table.entry_count; i += TABLE_BLOCK_ENTRIES)
            local_table_dirty(disk, i);
    }
    return local_table_commit(disk);
}
