/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/disks_impl.h"
#include "blockd/disks_records.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define OPEN_WARN_NS (60 * SECOND_NS) /* reading the table of a large disk takes seconds */

/* --- Entries --------------------------------------------------------------------------------- */

static struct disks_entry *entry_of_disk(struct disks *disks, const struct disk *disk)
{
    list_for_each (it, &disks->entries)
        if (list_entry(it, struct disks_entry, link)->disk == disk)
            return list_entry(it, struct disks_entry, link);
    return NULL;
}

static struct disks_entry *entry_of_uuid(struct disks *disks, const struct uuid *uuid)
{
    list_for_each (it, &disks->entries)
        if (uuid_equal(&list_entry(it, struct disks_entry, link)->record.uuid, uuid))
            return list_entry(it, struct disks_entry, link);
    return NULL;
}

static struct disks_entry *entry_of_number(struct disks *disks, uint32_t number)
{
    list_for_each (it, &disks->entries)
        if (list_entry(it, struct disks_entry, link)->record.number == number)
            return list_entry(it, struct disks_entry, link);
    return NULL;
}

/* By number, UUID or path. */
static struct disks_entry *entry_find(struct disks *disks, const char *which)
{
    struct uuid uuid;
    if (uuid_parse(which, &uuid) == 0)
        return entry_of_uuid(disks, &uuid);
    char *end;
    unsigned long number = strtoul(which, &end, 10);
    bool is_number = which[0] >= '0' && which[0] <= '9' && !*end;
    /* Of two on one path the one that is there is meant, not the one that was. */
    struct disks_entry *found = NULL;
    list_for_each (it, &disks->entries) {
        struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        bool match =
            is_number ? entry->record.number == number : strcmp(entry->record.path, which) == 0;
        if (match && (!found || !found->disk))
            found = entry;
    }
    return found;
}

static struct disks_entry *entry_new(struct disks *disks, const struct disk_record *record)
{
    struct disks_entry *entry = NEW(struct disks_entry);
    entry->disks = disks;
    entry->record = *record;
    entry->state = DISK_MISSING;
    entry->histories = store_histories(disks->store);
    struct list *at = &disks->entries;
    list_for_each (it, &disks->entries)
        if (list_entry(it, struct disks_entry, link)->record.number > record->number) {
            at = it;
            break;
        }
    list_insert_before(at, &entry->link);
    return entry;
}

static void entry_free(struct disks_entry *entry)
{
    list_remove(&entry->link);
    mem_free(entry->problem);
    mem_free(entry);
}

/* One that is missing is nobody's disk any more. */
static void settle_forgotten(struct disks_entry *entry)
{
    if (entry->forgotten && !entry->disk && !entry->leaving && entry->holds == 0)
        entry_free(entry);
}

void disks_entry_set(struct disks_entry *entry, enum disk_state state, char *problem)
{
    entry->state = state;
    mem_free(entry->problem);
    entry->problem = problem;
}

static void share_trailer_cache(struct disks *disks)
{
    list_for_each (it, &disks->entries) {
        struct disk *disk = list_entry(it, struct disks_entry, link)->disk;
        if (disk)
            local_disk_set_trailer_cache(
                disk, disks->options.trailer_cache_bytes / disks->present_count);
    }
}

/* The disk is open and has its number: volumes may use it. */
static void entry_present(struct disks_entry *entry, struct disk *disk)
{
    struct disks *disks = entry->disks;
    disk->number = entry->record.number;
    disk->state = entry->record.state;
    strcpy(disk->node, entry->record.node);
    if (disks->options.rack)
        strcpy(disk->rack, disks->options.rack);
    entry->disk = disk;
    disks_entry_set(entry, entry->record.state, NULL);
    disk_list_add(&disks->present, disk);
    disks->present_count++;
    share_trailer_cache(disks);
}

static void entry_absent(struct disks_entry *entry)
{
    struct disks *disks = entry->disks;
    disk_list_remove(&disks->present, entry->disk);
    entry->disk->number = 0;
    entry->disk = NULL;
    disks->present_count--;
    if (disks->present_count > 0)
        share_trailer_cache(disks);
}

void disks_tell_changed(struct disks *disks)
{
    if (disks->options.changed)
        disks->options.changed(disks->options.ctx);
}

/* --- Told by disks ---------------------------------------------------------------------------- */

static void disk_failed(void *ctx, struct disk *disk, int error)
{
    struct disks *disks = ctx;
    struct disks_entry *entry = entry_of_disk(disks, disk);
    if (!entry || entry->leaving)
        return; /* being removed */
    if (disk->state == DISK_MISSING) {
        disks_entry_hangs(entry);
        return;
    }
    disks_entry_set(entry, DISK_FAILED,
        mem_printf("disk %" PRIu32 " (%s) has failed: %s; its data is rebuilt on the others: "
                   "replace it, then 'holdfast disk remove %" PRIu32 " --force'",
            entry->record.number, entry->record.path, local_disk_strerror(error),
            entry->record.number));
    disks_tell_changed(disks);
}

static void disk_damaged(void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct disks *disks = ctx;
    if (disks->options.damaged)
        disks->options.damaged(disks->options.ctx, disk, key, block);
}

/* --- Opening --------------------------------------------------------------------------------- */

static int open_disk(
    struct disks *disks, const char *path, struct disk **ret_disk, char **ret_error)
{
    struct local_disk_options options = {
        .trailer_cache_bytes = disks->options.trailer_cache_bytes / (disks->present_count + 1),
        .io_timeout_ns = disks->options.io_timeout_ns,
        .failed = disk_failed,
        .damaged = disk_damaged,
        .ctx = disks,
    };
    return local_disk_open(path, disks->options.cluster, &options, ret_disk, ret_error);
}

static void missing(struct disks_entry *entry, const char *reason)
{
    disks_entry_set(entry, DISK_MISSING,
        mem_printf("disk %" PRIu32
                   " is missing: %s; bring it back with 'holdfast disk add PATH', or "
                   "forget it with 'holdfast disk remove %" PRIu32 " --force'",
            entry->record.number, reason, entry->record.number));
}

/* Reads and writes have a deadline; the kernel's open() of a device that hangs has none. */
static void say_what_hangs(struct env_timer *timer)
{
    struct disks *disks = container_of(timer, struct disks, opening_timer);
    list_for_each (it, &disks->entries) {
        const struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->opening)
            log_error(
                "disk %" PRIu32 " (%s): the kernel has not opened it yet: the device or its "
                "driver hangs (see the kernel's log). The start waits for it; pull it out, or "
                "reset the machine",
                entry->record.number, entry->record.path);
    }
    env_timer_arm(timer, env_now_ns() + OPEN_WARN_NS);
}

static void entry_open(struct disks_entry *entry)
{
    struct disk *disk;
    CLEANUP_FREE char *error = NULL;
    entry->opening = true;
    if (open_disk(entry->disks, entry->record.path, &disk, &error) < 0) {
        missing(entry, error);
    } else if (!uuid_equal(&disk->uuid, &entry->record.uuid)) {
        CLEANUP_FREE char *reason = mem_printf("another disk is at %s now", entry->record.path);
        local_disk_close(disk);
        missing(entry, reason);
    } else {
        entry_present(entry, disk);
    }
    entry->opening = false;
    if (entry->state == DISK_MISSING)
        log_error("%s", entry->problem);
}

static void entry_open_fiber(void *arg)
{
    struct fiber_group *group = ((void **)arg)[1];
    entry_open(((void **)arg)[0]);
    mem_free(arg);
    fiber_group_done(group, 0);
}

/* Reading tables takes a while: all at once. */
static void open_entries(struct disks *disks)
{
    struct fiber_group group;
    fiber_group_init(&group);
    list_for_each (it, &disks->entries) {
        void **arg = mem_zalloc(2, sizeof(void *));
        arg[0] = list_entry(it, struct disks_entry, link);
        arg[1] = &group;
        fiber_group_add(&group, 1);
        fiber_spawn("disk open", entry_open_fiber, arg);
    }
    env_timer_arm(&disks->opening_timer, env_now_ns() + OPEN_WARN_NS);
    fiber_group_wait(&group);
    env_timer_cancel(&disks->opening_timer);
}

int disks_open_all(struct disks *disks, char **ret_error)
{
    struct store_value *values;
    unsigned count;
    int r = store_list(disks->store, KEY_PREFIX_DISKS, &values, &count);
    if (r < 0) {
        *ret_error = mem_printf("the store does not list the disks: %s", store_strerror(r));
        return r;
    }
    char other[sizeof(((struct disk_record *)0)->node)] = "";
    for (unsigned i = 0; i < count; i++) {
        struct disk_record record;
        CLEANUP_FREE char *error = NULL;
        if (disk_record_decode(values[i].data, &record, &error) < 0)
            log_error("store: %s: %s; the disk is not used", values[i].key, error);
        else if (strcmp(record.node, disks->options.node_name) == 0)
            entry_new(disks, &record);
        else
            strcpy(other, record.node);
    }
    store_list_free(values, count);
    if (disks->options.alone && *other && list_empty(&disks->entries))
        log_warn(
            "no disk is recorded for node '%s', but some are for '%s': if this host was renamed, "
            "set [node] name = %s",
            disks->options.node_name, other, other);
    open_entries(disks);
    return 0;
}

/* --- Add ------------------------------------------------------------------------------------- */

int disks_format(struct disks *disks, const char *path, uint64_t size_bytes, const char *class_name,
    bool force, struct uuid *ret_uuid, uint64_t *ret_size_bytes, char **ret_error)
{
    struct disks_entry *entry = entry_find(disks, path);
    if (entry && entry->disk) {
        *ret_error = mem_printf("%s: is disk %" PRIu32 " of this node; remove it first: 'holdfast "
                                "disk remove %" PRIu32 "'",
            path, entry->record.number, entry->record.number);
        return -EBUSY;
    }
    int r = local_disk_format(path, size_bytes, disks->options.cluster, disks->options.node,
        class_name, force, ret_uuid, ret_error);
    if (r < 0)
        return r;
    struct local_disk_superblock super;
    r = local_disk_probe(path, disks->options.io_timeout_ns, &super, ret_error);
    if (r == 0)
        *ret_size_bytes = super.size_bytes;
    return r;
}

static void drop_entry(struct disks *disks, struct disks_entry *entry, bool force)
{
    struct disk *disk = entry->disk;
    entry->leaving = true;
    /* Volumes may still have operations on a disk that held shards: it fails them, and is closed
     * when no volume is open any more. */
    if (disk && force)
        local_disk_fail(disk, -ENODEV);
    while (entry->holds > 0)
        fiber_queue_wait(&disks->released);
    if (disk) {
        entry_absent(entry);
        if (force)
            list_push_back(&disks->removed, &disk->link);
        else
            local_disk_close(disk);
    }
    log_info("disk %" PRIu32 " removed: %s", entry->record.number, entry->record.path);
    entry_free(entry);
}

MAY_SUSPEND static int add_new(struct disks *disks, const char *path, struct disk *disk)
{
    struct disk_record record = {.uuid = disk->uuid, .state = DISK_IN};
    strcpy(record.path, path);
    strcpy(record.node, disks->options.node_name);
    strcpy(record.class_name, disk->class_name);
    int r = disk_record_make(disks->store, &record);
    if (r == 0)
        entry_present(entry_new(disks, &record), disk);
    return r;
}

/* Of an open one: neither has it failed nor does it hang. */
static bool is_well(const struct disk *disk)
{
    return disk->state != DISK_FAILED && disk->state != DISK_MISSING;
}

/* One that has a record (N5). It is in the list before the store says that it is ours, and nothing is placed there until
 * then: so there is no moment in which its number seems to be that of a disk that was removed. The list finds the other
 * node's first, as long as that is there. */
MAY_SUSPEND static int add_known(
    struct disks *disks, const char *path, struct disk *disk, struct disk_record *record)
{
    log_info("disk %" PRIu32 " was at %s of node '%s'", record->number, record->path, record->node);
    strcpy(record->path, path);
    strcpy(record->node, disks->options.node_name);
    struct disks_entry *entry = entry_new(disks, record);
    entry->taking = true; /* what watches tell of the record meanwhile is old */
    entry_present(entry, disk);
    disk->state = entry->state = DISK_OUT;
    int r = disk_record_take(disks->store, record);
    entry->taking = false;
    if (r < 0)
        drop_entry(disks, entry, true);
    else if (is_well(disk))
        disk->state = entry->state = record->state;
    return r;
}

MAY_SUSPEND static int add_recorded(
    struct disks *disks, const char *path, struct disk *disk, bool *ret_kept, char **ret_error)
{
    struct disk_record record;
    int r = disk_record_find(disks->store, &disk->uuid, &record);
    if (r == -ENOENT)
        return add_new(disks, path, disk);
    if (r == 0)
        r = disk_record_check_left(
            disks->store, &record, disks->options.node_name, path, ret_error);
    *ret_kept = r == 0; /* also if it is in vain: volumes may have it in hand */
    return r == 0 ? add_known(disks, path, disk, &record) : r;
}

/* A missing one that is there again, perhaps elsewhere. */
MAY_SUSPEND static int move_entry(struct disks_entry *entry, const char *path)
{
    entry->holds++;
    int r = disk_record_move(entry->disks->store, &entry->record, path);
    entry->holds--;
    return r;
}

static int add_open_disk(
    struct disks *disks, const char *path, struct disk *disk, bool *ret_kept, char **ret_error)
{
    struct disks_entry *entry = entry_of_uuid(disks, &disk->uuid);
    int r = entry ? move_entry(entry, path) : 0;
    if (entry && entry->forgotten) {
        settle_forgotten(entry);
        entry = NULL;
    }
    if (entry && r == 0)
        entry_present(entry, disk);
    else if (!entry)
        r = add_recorded(disks, path, disk, ret_kept, ret_error);
    if (r < 0 && !*ret_error)
        *ret_error =
            mem_printf("%s: the disk was not recorded in the store: %s", path, store_strerror(r));
    if (r == 0)
        log_info("disk %" PRIu32 " added: %s", disk->number, path);
    return r;
}

/* Said before the lock of our own open disk says "in use by another process". */
static int refuse_present(struct disks *disks, const char *path, char **ret_error)
{
    struct disks_entry *entry = entry_find(disks, path);
    struct local_disk_superblock super;
    if (!entry || !entry->disk) {
        if (local_disk_probe(path, disks->options.io_timeout_ns, &super, ret_error) < 0)
            return -EINVAL;
        entry = entry_of_uuid(disks, &super.disk);
    }
    if (!entry || !entry->disk)
        return 0;
    *ret_error = entry->problem
                     ? mem_strdup(entry->problem)
                     : mem_printf("%s: is disk %" PRIu32 " already", path, entry->record.number);
    return -EEXIST;
}

int disks_add(
    struct disks *disks, const char *path, struct disk_record *ret_record, char **ret_error)
{
    if (strlen(path) >= sizeof(ret_record->path)) {
        *ret_error = mem_printf("a path has at most %zu bytes", sizeof(ret_record->path) - 1);
        return -ENAMETOOLONG;
    }
    fiber_mutex_lock(&disks->changing);
    struct disk *disk;
    int r = refuse_present(disks, path, ret_error);
    if (r == 0)
        r = open_disk(disks, path, &disk, ret_error);
    if (r == 0) {
        bool kept = false;
        r = add_open_disk(disks, path, disk, &kept, ret_error);
        if (r < 0 && !kept)
            local_disk_close(disk);
        else if (r == 0)
            *ret_record = entry_of_disk(disks, disk)->record;
    }
    fiber_mutex_unlock(&disks->changing);
    if (r == 0)
        disks_tell_changed(disks);
    return r;
}

/* --- Remove ---------------------------------------------------------------------------------- */

/* Shards that are more than tombstones. */
static int live_shards(struct disk *disk, unsigned *ret_count)
{
    struct shard_info *shards;
    unsigned count, live = 0;
    int r = shard_list(disk, 0, &shards, &count);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++)
        live += !shards[i].tombstone;
    mem_free(shards);
    *ret_count = live;
    return 0;
}

/* Takes an empty disk out of use and sees that it stays empty: a volume may just have been creating
 * a shard there. */
static int retire_empty(struct disks_entry *entry, char **ret_error)
{
    struct disk *disk = entry->disk;
    unsigned shards = 0;
    disk->state = DISK_OUT;
    int r = live_shards(disk, &shards);
    if (r == 0 && shards == 0) {
        disk_list_set_number(&entry->disks->present, disk, 0); /* N2 */
        env_sleep_ns(SECOND_NS);
        r = live_shards(disk, &shards);
    }
    if (r == 0 && shards == 0)
        return 0;
    disk_list_set_number(&entry->disks->present, disk, entry->record.number);
    disk->state = entry->state;
    *ret_error =
        r < 0 ? mem_strdup(entry->problem ? entry->problem : strerror(-r))
              : mem_printf(
                    "disk %" PRIu32 " (%s) holds %u shards; moving them away is not built yet: "
                    "--force gives them up, and their volumes rebuild them on the other disks",
                    entry->record.number, entry->record.path, shards);
    return -EBUSY;
}

static int check_removable(struct disks_entry *entry, bool force, char **ret_error)
{
    if (force)
        return 0;
    if (entry->disk && entry->state != DISK_FAILED && entry->state != DISK_MISSING)
        return retire_empty(entry, ret_error);
    *ret_error = mem_strdup(entry->problem);
    return -EBUSY;
}

int disks_remove(struct disks *disks, const char *which, bool force, char **ret_error)
{
    fiber_mutex_lock(&disks->changing);
    struct disks_entry *entry = entry_find(disks, which);
    int r = entry ? check_removable(entry, force, ret_error) : -ENOENT;
    if (!entry)
        *ret_error = mem_printf("there is no disk '%s'; see 'holdfast disk list'", which);
    if (r == 0) {
        entry->removing = true;
        r = disk_record_delete(disks->store, entry->record.number);
        entry->removing = false;
        if (r < 0 && entry->forgotten) /* no answer, but the watch has told */
            r = 0;
        if (r < 0) {
            *ret_error = mem_printf("disk %" PRIu32 " was not removed from the store: %s",
                entry->record.number, store_strerror(r));
            if (entry->disk) {
                disk_list_set_number(&disks->present, entry->disk, entry->record.number);
                entry->disk->state = entry->state;
            }
        } else {
            drop_entry(disks, entry, force);
        }
    }
    fiber_mutex_unlock(&disks->changing);
    if (r == 0)
        disks_tell_changed(disks);
    return r;
}

/* --- Told by the store ------------------------------------------------------------------------- */

static void forget(struct disks_entry *entry)
{
    struct disks *disks = entry->disks;
    entry->forgotten = true;
    if (entry->removing)
        return;
    log_error("disk %" PRIu32 " (%s) was removed from the cluster by another node",
        entry->record.number, entry->record.path);
    if (entry->disk) {
        local_disk_fail(entry->disk, -ENODEV);
        disks_entry_set(entry, DISK_FAILED,
            mem_printf(
                "disk %" PRIu32
                " (%s) was removed from this node by another one, while it was away: nothing "
                "is written to it any more, and its data is rebuilt on the others; 'holdfast "
                "disk remove %" PRIu32 " --force' forgets it here as well",
                entry->record.number, entry->record.path, entry->record.number));
    }
    settle_forgotten(entry);
    disks_tell_changed(disks);
}

struct look {
    struct disks *disks;
    uint32_t number;
};

/* N6 */
MAY_SUSPEND static void record_again(struct disks *disks, uint32_t number)
{
    fiber_mutex_lock(&disks->changing);
    struct disks_entry *entry = entry_of_number(disks, number);
    if (entry && !entry->leaving && !entry->forgotten) {
        struct disk_record record = entry->record;
        entry->holds++;
        int r = disk_record_again(disks->store, &disks->options.cluster, &record, entry->disk);
        entry->holds--;
        if (r == 0)
            entry->histories = store_histories(disks->store);
        if (r == 0)
            log_warn("disk %" PRIu32 " (%s): the store has been set back (restored from a "
                     "backup?) and had no record of it: it is recorded again",
                number, record.path);
        else if (r == -EEXIST && !entry->forgotten)
            forget(entry);
        else
            log_error("disk %" PRIu32
                      " (%s): the store has been set back (restored from a backup?) and takes "
                      "no record of it: %s; 'holdfast disk add %s' after the daemon's restart, "
                      "once the store answers, gives it another number",
                number, record.path, store_strerror(r), record.path);
    }
    fiber_mutex_unlock(&disks->changing);
}

static void look_for_record(void *arg)
{
    struct look look = *(struct look *)arg;
    mem_free(arg);
    bool gone = disk_record_is_gone(look.disks->store, &look.disks->options.cluster,
        look.disks->options.node_name, look.number);
    struct disks_entry *entry = entry_of_number(look.disks, look.number);
    if (gone && entry && !entry->leaving && !entry->forgotten) {
        if (entry->histories == store_histories(look.disks->store) || entry->removing)
            forget(entry);
        else
            record_again(look.disks, look.number);
    }
    look.disks->looks--;
    fiber_queue_wake_all(&look.disks->released);
}

void disks_forgotten(struct disks *disks, uint32_t number)
{
    struct disks_entry *entry = entry_of_number(disks, number);
    if (!entry || entry->leaving || entry->forgotten || entry->taking)
        return;
    struct look *look = NEW(struct look);
    *look = (struct look){.disks = disks, .number = number};
    disks->looks++;
    fiber_spawn("disk forgotten", look_for_record, look);
}

void disks_recorded(struct disks *disks, uint32_t number)
{
    struct disks_entry *entry = entry_of_number(disks, number);
    if (!entry)
        return;
    entry->recorded = true;
    entry->histories = store_histories(disks->store);
}

void disks_all_recorded(struct disks *disks)
{
    list_for_each_safe (it, &disks->entries) {
        struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (!entry->recorded)
            disks_forgotten(disks, entry->record.number);
    }
}

/* --- Life ------------------------------------------------------------------------------------ */

struct disks *disks_new(struct store *store, const struct disks_options *options)
{
    struct disks *disks = NEW(struct disks);
    disks->store = store;
    disks->options = *options;
    list_init(&disks->entries);
    disk_list_init(&disks->present);
    list_init(&disks->removed);
    env_timer_init(&disks->opening_timer, say_what_hangs);
    fiber_mutex_init(&disks->changing);
    fiber_queue_init(&disks->released);
    fiber_queue_init(&disks->returning);
    return disks;
}

void disks_free(struct disks *disks)
{
    disks->options.changed = NULL;
    disks->options.damaged = NULL;
    disks->closing = true;
    fiber_queue_wake_all(&disks->returning);
    while (disks->looks > 0 || disks->returns > 0)
        fiber_queue_wait(&disks->released);
    while (!list_empty(&disks->entries)) {
        struct disks_entry *entry = list_entry(disks->entries.next, struct disks_entry, link);
        struct disk *disk = entry->disk;
        if (disk) {
            entry_absent(entry);
            local_disk_close(disk);
        }
        entry_free(entry);
    }
    while (!list_empty(&disks->removed)) {
        struct list *item = list_pop_front(&disks->removed);
        local_disk_close(list_entry(item, struct disk, link));
    }
    mem_free(disks);
}

struct disks_entry *disks_hold_next(struct disks *disks, uint32_t number)
{
    list_for_each (it, &disks->entries) {
        struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->record.number <= number || entry->leaving)
            continue;
        entry->holds++;
        return entry;
    }
    return NULL;
}

struct disks_entry *disks_hold_open(struct disks *disks, uint32_t number)
{
    list_for_each (it, &disks->entries) {
        struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->record.number != number)
            continue;
        /* The disk's own number is 0 while its removal looks whether it is empty (N2). */
        if (!entry->disk || entry->disk->number != number || entry->leaving)
            return NULL;
        entry->holds++;
        return entry;
    }
    return NULL;
}

void disks_release(struct disks_entry *entry)
{
    CHECK(entry->holds > 0);
    entry->holds--;
    fiber_queue_wake_all(&entry->disks->released);
    settle_forgotten(entry);
}

struct disk_list *disks_present(struct disks *disks)
{
    return &disks->present;
}

struct list *disks_entries(struct disks *disks)
{
    return &disks->entries;
}
