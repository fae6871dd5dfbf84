/* SPDX-License-Identifier: Apache-2.0
 *
 * Life of one disk: shards in use, what happens when the device fails (D2) or hangs (D19), answers that
 * are known at once.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/log.h"
#include "common/mem.h"

/* --- Answers given later ---------------------------------------------------------------------- */

static void answer_later(struct env_timer *timer)
{
    struct local_disk *disk = container_of(timer, struct local_disk, later);
    struct list appends, reads, syncs;
    list_init(&appends);
    list_init(&reads);
    list_init(&syncs);
    list_splice_back(&appends, &disk->later_appends);
    list_splice_back(&reads, &disk->later_reads);
    list_splice_back(&syncs, &disk->later_syncs);
    struct list *link;
    while ((link = list_pop_front(&appends)) != NULL) {
        struct shard_append *append = list_entry(link, struct shard_append, link);
        disk->ops_in_flight--;
        append->done(append);
    }
    while ((link = list_pop_front(&reads)) != NULL) {
        struct shard_read *read = list_entry(link, struct shard_read, link);
        disk->ops_in_flight--;
        read->done(read);
    }
    while ((link = list_pop_front(&syncs)) != NULL) {
        struct shard_sync *sync = list_entry(link, struct shard_sync, link);
        disk->ops_in_flight--;
        sync->done(sync);
    }
}

static void arm_later(struct local_disk *disk)
{
    disk->ops_in_flight++;
    if (!env_timer_armed(&disk->later))
        env_timer_arm(&disk->later, env_now_ns());
}

void local_append_later(struct local_disk *disk, struct shard_append *append, int result)
{
    append->result = result;
    list_push_back(&disk->later_appends, &append->link);
    arm_later(disk);
}

void local_read_later(struct local_disk *disk, struct shard_read *read, int result)
{
    read->result = result;
    list_push_back(&disk->later_reads, &read->link);
    arm_later(disk);
}

void local_sync_later(struct local_disk *disk, struct shard_sync *sync, int result)
{
    sync->result = result;
    list_push_back(&disk->later_syncs, &sync->link);
    arm_later(disk);
}

/* --- Shards in use ---------------------------------------------------------------------------- */

uint32_t local_slot_no(const struct local_disk *disk, const struct table_slot *slot)
{
    return (uint32_t)(slot - disk->table.slots);
}

struct table_slot *local_find(struct local_disk *disk, struct shard_key key, int *ret_error)
{
    uint32_t slot_no = table_find(&disk->table, key);
    if (slot_no != TABLE_NONE && (disk->table.slots[slot_no].flags & TABLE_REMOVING) == 0)
        return &disk->table.slots[slot_no];
    bool may_be_lost = slot_no == TABLE_NONE && disk->table.lost_count > 0;
    *ret_error = may_be_lost ? -EBADMSG : -ENOENT;
    return NULL;
}

static struct active *active_new(struct local_disk *disk, uint32_t slot_no)
{
    struct list *link = list_pop_front(&disk->free_actives);
    struct active *active =
        link != NULL ? list_entry(link, struct active, hash_link) : NEW(struct active);
    *active = (struct active){.disk = disk, .slot_no = slot_no, .sync_max_blocks = UINT32_MAX};
    list_init(&active->idle_link);
    list_init(&active->in_flight);
    list_init(&active->parked_appends);
    list_init(&active->parked_reads);
    list_init(&active->parked_syncs);
    fiber_queue_init(&active->changed);
    fiber_mutex_init(&active->control);
    list_push_front(&disk->actives[slot_no % ACTIVE_BUCKETS], &active->hash_link);
    disk->active_count++;
    return active;
}

struct active *active_get(struct local_disk *disk, uint32_t slot_no)
{
    struct list *chain = &disk->actives[slot_no % ACTIVE_BUCKETS];
    list_for_each (it, chain) {
        struct active *active = list_entry(it, struct active, hash_link);
        if (active->slot_no != slot_no)
            continue;
        if (active->refs++ == 0 && !list_empty(&active->idle_link)) {
            list_remove(&active->idle_link);
            disk->idle_bytes -= active->entries_capacity * sizeof(struct shard_entry);
        }
        return active;
    }
    struct active *active = active_new(disk, slot_no);
    active->refs = 1;
    return active;
}

void active_reserve(struct active *active, uint32_t end_blocks)
{
    if (end_blocks <= active->entries_capacity)
        return;
    uint32_t capacity = MAX(active->entries_capacity, 256u);
    while (capacity < end_blocks)
        capacity *= 2;
    active->entries = mem_realloc(active->entries, capacity * sizeof(struct shard_entry));
    active->header_bits = mem_realloc(active->header_bits, capacity / 8);
    memset((uint8_t *)active->header_bits + active->entries_capacity / 8, 0,
        (capacity - active->entries_capacity) / 8);
    active->entries_capacity = capacity;
}

void active_drop_entries(struct active *active)
{
    mem_free(active->entries);
    mem_free(active->header_bits);
    active->entries = NULL;
    active->header_bits = NULL;
    active->entries_capacity = 0;
    active->loaded = false;
}

static void active_free(struct active *active)
{
    struct local_disk *disk = active->disk;
    CHECK(active->refs == 0 && list_empty(&active->in_flight));
    if (!list_empty(&active->idle_link)) {
        list_remove(&active->idle_link);
        disk->idle_bytes -= active->entries_capacity * sizeof(struct shard_entry);
    }
    active_drop_entries(active);
    list_remove(&active->hash_link);
    list_push_back(&disk->free_actives, &active->hash_link);
    disk->active_count--;
}

/* The shard is gone from the table on disk, and nobody reads it: its space may be used again (D5).
 */
static void finish_removal(struct active *active)
{
    struct local_disk *disk = active->disk;
    struct table_slot *slot = active_slot(active);
    if (slot->unit_count > 0 && (slot->flags & TABLE_NO_EXTENT) == 0)
        slab_free(&disk->slabs, slot->first_unit, slot->unit_count);
    if (active->has_tail)
        slab_free(&disk->slabs, active->tail_first, active->tail_units);
    uint32_t slot_no = active->slot_no;
    active_free(active);
    table_release(&disk->table, slot_no);
    local_update_space(disk);
}

/* Entries of shards that are not open are a cache: they have a quarter of the cap, trailers the
 * rest. */
static void trim_idle(struct local_disk *disk)
{
    while (disk->idle_bytes > disk->options.trailer_cache_bytes / 4 && !list_empty(&disk->idle))
        active_free(list_entry(disk->idle.next, struct active, idle_link));
}

void active_put(struct active *active)
{
    struct local_disk *disk = active->disk;
    CHECK(active->refs > 0);
    if (--active->refs > 0)
        return;
    if (active->removed) {
        finish_removal(active);
        return;
    }
    if (!active->loaded) {
        active_free(active);
        return;
    }
    if (active_slot(active)->state == TABLE_OPEN)
        return;
    list_push_back(&disk->idle, &active->idle_link);
    disk->idle_bytes += active->entries_capacity * sizeof(struct shard_entry);
    trim_idle(disk);
}

MAY_SUSPEND void active_wait_appends(struct active *active)
{
    while (!list_empty(&active->in_flight))
        fiber_queue_wait(&active->changed);
}

MAY_SUSPEND int active_acquire(
    struct local_disk *disk, struct shard_key key, struct active **ret_active)
{
    for (;;) {
        int error;
        struct table_slot *slot = local_find(disk, key, &error);
        if (slot == NULL)
            return error;
        struct active *active = active_get(disk, local_slot_no(disk, slot));
        fiber_mutex_lock(&active->control);
        if ((active_slot(active)->flags & TABLE_REMOVING) == 0) {
            *ret_active = active;
            return 0;
        }
        active_release(active);
    }
}

void active_release(struct active *active)
{
    fiber_mutex_unlock(&active->control);
    active_put(active);
}

void local_fill_info(const struct local_disk *disk, const struct table_slot *slot,
    const struct active *active, struct shard_info *ret_info)
{
    bool tombstone = slot->state == TABLE_TOMBSTONE;
    *ret_info = (struct shard_info){
        .key = table_slot_key(slot),
        .kind = (enum shard_kind)slot->kind,
        .code = {.k = slot->k, .m = slot->m},
        .instance = slot->instance,
        .epoch = slot->epoch,
        .fence_epoch = slot->fence_epoch,
        .capacity_blocks = tombstone ? 0 : shard_capacity_blocks(slot->kind, slot->unit_count),
        .sealed = slot->state == TABLE_SEALED,
        .suspect = (slot->flags & TABLE_SUSPECT) != 0,
        .tombstone = tombstone,
        .damaged =
            (slot->flags & (TABLE_DAMAGED | TABLE_NO_EXTENT)) != 0 || slot->state == TABLE_LOST,
    };
    if (slot->state == TABLE_SEALED)
        ret_info->length_blocks = slot->length_blocks;
    else if (active != NULL && active->loaded)
        ret_info->length_blocks = active->completed_blocks;
}

void local_update_space(struct local_disk *disk)
{
    disk->base.free_bytes = (uint64_t)disk->slabs.free_units * SLAB_UNIT_BYTES;
}

/* --- Damage and failure ----------------------------------------------------------------------- */

void local_report_damage(struct local_disk *disk, uint32_t slot_no, uint32_t block)
{
    struct table_slot *slot = &disk->table.slots[slot_no];
    slot->flags |= TABLE_DAMAGED;
    disk->base.damage_count++;
    log_error_limited("disk %s: shard %016llx/%016llx.%u: block %u is damaged",
        local_disk_path(&disk->base), (unsigned long long)slot->volume,
        (unsigned long long)slot->chunk, slot->index, block);
    if (disk->options.damaged != NULL)
        disk->options.damaged(disk->options.ctx, &disk->base, table_slot_key(slot), block);
}

static void tell_retired(struct local_disk *disk, int error)
{
    if (disk->options.failed != NULL)
        disk->options.failed(disk->options.ctx, &disk->base, error);
}

void local_retire(struct local_disk *disk, int error, const char *what)
{
    if (error < 0)
        disk->base.error_count++;
    if (disk->failed)
        return;
    disk->failed = true;
    if (disk->gone) { /* local_disk_reopen() says so */
        disk->write_failed = disk->write_failed || error != -ETIMEDOUT;
        return;
    }
    disk->base.state = DISK_FAILED;
    log_error(
        "disk %s: %s: %s; the disk is retired: it takes no more writes until blockd opens it anew, "
        "its data is rebuilt elsewhere",
        disk->path, what, local_disk_strerror(error));
    tell_retired(disk, error);
}

static void file_hung(void *ctx)
{
    struct local_disk *disk = ctx;
    disk->base.error_count++;
    if (disk->failed || disk->gone) {
        disk->failed = true;
        return;
    }
    disk->failed = disk->hung = true;
    disk->base.state = DISK_MISSING;
    disk->base.missing_since_ns = env_now_ns();
    log_error("disk %s: it hangs: %s; it is not used until all its I/O is back", disk->path,
        local_disk_strerror(-ETIMEDOUT));
    tell_retired(disk, -ETIMEDOUT);
}

const char *local_disk_strerror(int error)
{
    if (error == -ETIMEDOUT)
        return "an I/O does not come back within [disk] io_timeout: the device or its driver hangs "
               "(see the kernel's log)";
    return strerror(-error);
}

void local_disk_fail(struct disk *base, int error)
{
    struct local_disk *disk = local_disk_of(base);
    if (!disk->hung) {
        local_retire(disk, error, "retired by request");
        return;
    }
    disk->failed = true; /* it may be in the middle of coming back */
    disk->hung = false;
    base->state = DISK_FAILED;
    base->missing_since_ns = 0;
    log_error("disk %s: it does not come back: %s; its data is rebuilt elsewhere", disk->path,
        local_disk_strerror(error));
    tell_retired(disk, error);
}

/* --- Life ------------------------------------------------------------------------------------- */

void local_disk_inside_init(
    struct local_disk *disk, struct env_file *file, const struct superblock *super)
{
    disk->file = file;
    if (disk->options.io_timeout_ns > 0)
        env_file_on_hung(file, file_hung, disk);
    disk->super = *super;
    table_init(&disk->table, super->table_entry_count, &super->disk);
    slab_map_init(&disk->slabs, super->slab_count);
    disk->unit_total = (uint64_t)super->slab_count * SLAB_UNITS;
    disk->table_dirty = mem_zalloc(DIV_ROUND_UP(super->table_entry_count / TABLE_BLOCK_ENTRIES, 64),
        sizeof(*disk->table_dirty));
    disk->table_generation = disk->table_durable_generation = 0;
    fiber_queue_init(&disk->table_written);
    disk->table_buffer = mem_alloc_pages(TABLE_COMMIT_BLOCKS * BLOCK_BYTES);
    disk->actives = mem_alloc(ACTIVE_BUCKETS * sizeof(struct list));
    for (unsigned i = 0; i < ACTIVE_BUCKETS; i++)
        list_init(&disk->actives[i]);
    list_init(&disk->idle);
    trailer_cache_init(&disk->trailers, disk->options.trailer_cache_bytes / 4 * 3);
    fiber_mutex_init(&disk->walk_lock);
    disk->walk_window = NULL;
    list_init(&disk->flush_waiting);
    list_init(&disk->flush_served);
    list_init(&disk->free_appends);
    list_init(&disk->free_reads);
    list_init(&disk->free_syncs);
    list_init(&disk->free_actives);
}

struct local_disk *local_disk_new(
    struct env_file *file, const struct superblock *super, const struct local_disk_options *options)
{
    struct local_disk *disk = NEW(struct local_disk);
    disk->base = (struct disk){
        .ops = &local_disk_ops,
        .uuid = super->disk,
        .state = DISK_IN,
        .local = true,
        .size_bytes = (uint64_t)super->slab_count * SLAB_BYTES,
    };
    memcpy(disk->base.class_name, super->class_name, sizeof(disk->base.class_name));
    list_init(&disk->base.link);
    disk->path = mem_strdup(env_file_path(file));
    disk->options = *options;
    env_boot_id(disk->boot_id);
    env_timer_init(&disk->later, answer_later);
    list_init(&disk->later_appends);
    list_init(&disk->later_reads);
    list_init(&disk->later_syncs);
    local_disk_inside_init(disk, file, super);
    return disk;
}

void local_disk_inside_fini(struct local_disk *disk)
{
    for (unsigned i = 0; i < ACTIVE_BUCKETS; i++) {
        list_for_each_safe (it, &disk->actives[i])
            active_free(list_entry(it, struct active, hash_link));
    }
    struct list *link;
    while ((link = list_pop_front(&disk->free_actives)) != NULL)
        mem_free(list_entry(link, struct active, hash_link));
    local_append_pool_free(disk);
    local_read_pool_free(disk);
    local_sync_pool_free(disk);
    trailer_cache_fini(&disk->trailers);
    mem_free_pages(disk->walk_window, WALK_WINDOW_BLOCKS * BLOCK_BYTES);
    mem_free(disk->actives);
    mem_free_pages(disk->table_buffer, TABLE_COMMIT_BLOCKS * BLOCK_BYTES);
    mem_free(disk->table_dirty);
    slab_map_fini(&disk->slabs);
    table_fini(&disk->table);
}

void local_disk_delete(struct local_disk *disk)
{
    if (!disk->gone)
        local_disk_inside_fini(disk);
    env_timer_cancel(&disk->later);
    mem_free(disk->path);
    mem_free(disk);
}

MAY_SUSPEND void local_disk_close(struct disk *base)
{
    struct local_disk *disk = local_disk_of(base);
    CHECK_MSG(disk->ops_in_flight == 0 && !disk->flush_in_flight && !disk->table_writing,
        "disk %s closed with operations in flight", disk->path);
    struct env_file *file = disk->file;
    if (!disk->failed) {
        disk->super.clean = 1;
        if (local_write_superblocks(file, &disk->super) < 0)
            log_warn("disk %s: writing the superblock at close failed", disk->path);
    }
    if (file && disk->options.io_timeout_ns > 0)
        env_file_on_hung(file, NULL, NULL);
    local_disk_delete(disk);
    if (file)
        env_file_close(file);
}

const char *local_disk_path(const struct disk *base)
{
    return container_of(base, const struct local_disk, base)->path;
}

unsigned local_disk_shard_count(const struct disk *base)
{
    return container_of(base, const struct local_disk, base)->table.shard_count;
}

void local_disk_set_trailer_cache(struct disk *base, uint64_t cap_bytes)
{
    struct local_disk *disk = local_disk_of(base);
    disk->options.trailer_cache_bytes = cap_bytes;
    if (disk->gone)
        return;
    trailer_cache_set_cap(&disk->trailers, cap_bytes / 4 * 3);
    trim_idle(disk);
}
