/* SPDX-License-Identifier: Apache-2.0
 */
#include "tests/lib/fake_volume.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define PAGE_BYTES 4096ull
/* Pages hang from a table of tables, so that a large volume costs nothing. */
#define TABLE_PAGES 512ull
#define SEEN_MAX 256

/* One volume, over all its incarnations. */
struct fake_data {
    struct list link;
    char name[NAME_BYTES_MAX];
    uint64_t id, size_bytes;
    struct volumes *owner;     /* whose `open` is */
    struct volumes *successor; /* it was handed over to this one, which has not opened it yet */
    uint32_t epoch;
    char ***tables;
    uint64_t table_count;
    struct fake_faults faults;
    struct fake_counts counts;
    struct volume *open;   /* what volumes_get() gives; NULL = none */
    struct volume *halted; /* what was deposed and is still held */
    unsigned users;
    uint64_t calls;
    struct request_id seen[SEEN_MAX]; /* the last ones that changed it */
    unsigned seen_next;
};

struct volume {
    struct fake_data *data;
    unsigned users;
    bool deposed;
    uint32_t epoch;
    struct list listeners;
    struct volume_stats stats;
};

struct fake_cluster {
    struct list all; /* fake_data.link */
    uint64_t next_id;
};

struct volumes {
    struct fake_cluster *cluster;
    char node[64];
    bool joined; /* the cluster is another's */
    bool recalls;
};

/* --- Registry ----------------------------------------------------------------------------------
 */

struct volumes *fake_volumes_new(void)
{
    struct volumes *volumes = NEW(struct volumes);
    volumes->cluster = NEW(struct fake_cluster);
    list_init(&volumes->cluster->all);
    strcpy(volumes->node, "n1");
    return volumes;
}

struct volumes *fake_volumes_join(struct volumes *first, const char *node)
{
    struct volumes *volumes = NEW(struct volumes);
    volumes->cluster = first->cluster;
    volumes->joined = true;
    strncpy(volumes->node, node, sizeof(volumes->node) - 1);
    return volumes;
}

static void resize_tables(struct fake_data *d, uint64_t size_bytes)
{
    uint64_t count = DIV_ROUND_UP(size_bytes, PAGE_BYTES * TABLE_PAGES);
    d->tables = mem_realloc(d->tables, (count + 1) * sizeof(*d->tables));
    memset(d->tables + d->table_count, 0, (count - d->table_count) * sizeof(*d->tables));
    d->table_count = count;
    d->size_bytes = size_bytes;
}

void fake_volumes_add(struct volumes *volumes, const char *name, uint64_t size_bytes)
{
    struct fake_data *d = NEW(struct fake_data);
    strncpy(d->name, name, sizeof(d->name) - 1);
    d->id = ++volumes->cluster->next_id;
    resize_tables(d, size_bytes);
    list_push_back(&volumes->cluster->all, &d->link);
}

static void data_free(struct fake_data *d)
{
    CHECK_MSG(d->users == 0, "volume %s has %u users", d->name, d->users);
    mem_free(d->open);
    for (uint64_t i = 0; i < d->table_count; i++) {
        for (uint64_t j = 0; d->tables[i] && j < TABLE_PAGES; j++)
            mem_free_pages(d->tables[i][j], PAGE_BYTES);
        mem_free(d->tables[i]);
    }
    mem_free(d->tables);
    mem_free(d);
}

void fake_volumes_free(struct volumes *volumes)
{
    struct list *link;
    while (!volumes->joined && (link = list_pop_front(&volumes->cluster->all)))
        data_free(list_entry(link, struct fake_data, link));
    if (!volumes->joined)
        mem_free(volumes->cluster);
    mem_free(volumes);
}

static struct fake_data *find(struct volumes *volumes, const char *name)
{
    list_for_each (link, &volumes->cluster->all) {
        struct fake_data *d = list_entry(link, struct fake_data, link);
        if (strcmp(d->name, name) == 0)
            return d;
    }
    return NULL;
}

static struct fake_data *must_find(struct volumes *volumes, const char *name)
{
    struct fake_data *d = find(volumes, name);
    CHECK_MSG(d, "no volume %s", name);
    return d;
}

struct fake_faults *fake_volume_faults(struct volumes *volumes, const char *name)
{
    return &must_find(volumes, name)->faults;
}

const struct fake_counts *fake_volume_counts(struct volumes *volumes, const char *name)
{
    return &must_find(volumes, name)->counts;
}

unsigned fake_volume_users(struct volumes *volumes, const char *name)
{
    return must_find(volumes, name)->users;
}

static void orphan(struct volume *volume)
{
    if (volume->users > 0 || volume->data->open == volume)
        return;
    if (volume->data->halted == volume)
        volume->data->halted = NULL;
    mem_free(volume);
}

void fake_volume_depose(struct volumes *volumes, const char *name)
{
    struct fake_data *d = must_find(volumes, name);
    struct volume *volume = d->open;
    if (!volume)
        return;
    CHECK(!d->halted);
    volume->deposed = true;
    d->open = NULL;
    d->halted = volume;
    orphan(volume);
}

/* Held meanwhile: the last of its listeners may let go of it. */
static void tell_halted(struct volume *volume)
{
    volume->users++;
    list_for_each_safe (link, &volume->listeners) {
        struct volumes_listener *listener = list_entry(link, struct volumes_listener, link);
        if (listener->halted)
            listener->halted(listener);
    }
    volume->users--;
    orphan(volume);
}

static void open_here(struct volumes *volumes, struct fake_data *d)
{
    d->open = NEW(struct volume);
    d->open->data = d;
    d->open->epoch = ++d->epoch;
    list_init(&d->open->listeners);
    d->owner = volumes;
    d->successor = NULL;
}

static int is_elsewhere(
    const struct fake_data *d, struct volumes *at, struct volume_owner *ret_owner)
{
    *ret_owner = (struct volume_owner){.session = d->open ? 1 : 0, .epoch = d->epoch};
    strcpy(ret_owner->node, at->node);
    return -EBUSY;
}

int volumes_acquire(struct volumes *volumes, const char *name, uint64_t id,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error)
{
    struct fake_data *d = find(volumes, name);
    if (!d)
        return -ENOENT;
    while (d->halted && d->owner == volumes) { /* V3 of volumes.h */
        tell_halted(d->halted);
        env_sleep_ns(1000000);
    }
    if ((d->open || d->halted) && d->owner != volumes)
        return is_elsewhere(d, d->owner, ret_owner);
    if (!d->open && d->successor && d->successor != volumes)
        return is_elsewhere(d, d->successor, ret_owner);
    if (!d->open && d->faults.open_error) {
        *ret_error = mem_strdup("a fault of the test");
        return d->faults.open_error;
    }
    if (!d->open)
        open_here(volumes, d);
    d->open->users++;
    d->users++;
    *ret_volume = d->open;
    return 0;
}

int volumes_get(
    struct volumes *volumes, const char *name, struct volume **ret_volume, char **ret_error)
{
    struct volume_owner owner;
    return volumes_acquire(volumes, name, 0, ret_volume, &owner, ret_error);
}

int volumes_handoff(struct volumes *volumes, uint64_t id, uint32_t epoch, const char *successor,
    uint64_t *ret_pause_ns, char **ret_error)
{
    struct fake_data *d = NULL;
    list_for_each (link, &volumes->cluster->all)
        if (list_entry(link, struct fake_data, link)->id == id)
            d = list_entry(link, struct fake_data, link);
    if (!d || !d->open || d->owner != volumes || d->epoch != epoch)
        return -ENOENT;
    uint64_t start_ns = env_now_ns();
    d->successor = d->faults.successor; /* what its name stands for */
    d->halted = d->open;
    d->open->deposed = true;
    d->open = NULL;
    env_sleep_ns(5000000);
    if (d->halted)
        tell_halted(d->halted);
    while (d->halted && d->halted->users > 0)
        env_sleep_ns(1000000);
    if (d->halted)
        orphan(d->halted);
    *ret_pause_ns = env_now_ns() - start_ns;
    d->counts.handoffs++;
    return 0;
}

void volumes_put(struct volumes *volumes, struct volume *volume)
{
    CHECK(volume->users > 0);
    volume->users--;
    volume->data->users--;
    orphan(volume);
}

void volumes_listen(struct volumes *volumes, struct volumes_listener *listener)
{
    list_push_back(&listener->volume->listeners, &listener->link);
}

void volumes_unlisten(struct volumes_listener *listener)
{
    list_remove(&listener->link);
}

int volumes_list(struct volumes *volumes, struct volumes_name **ret_names, unsigned *ret_count)
{
    unsigned count = 0;
    list_for_each (link, &volumes->cluster->all)
        count++;
    struct volumes_name *names = mem_zalloc(count + 1, sizeof(*names));
    count = 0;
    list_for_each (link, &volumes->cluster->all) {
        struct fake_data *d = list_entry(link, struct fake_data, link);
        memcpy(names[count].name, d->name, sizeof(d->name));
        names[count].id = d->id;
        names[count++].size_bytes = d->size_bytes;
    }
    *ret_names = names;
    *ret_count = count;
    return 0;
}

void fake_volumes_recall(struct volumes *volumes)
{
    volumes->recalls = true;
}

bool volumes_store_away(const struct volumes *volumes)
{
    return false;
}

bool volumes_recall(const struct volumes *volumes, const char *name, struct volumes_name *ret_name)
{
    return false;
}

static void name_fill(const struct fake_data *d, struct volumes_name *ret_name)
{
    *ret_name = (struct volumes_name){.id = d->id, .size_bytes = d->size_bytes};
    memcpy(ret_name->name, d->name, sizeof(d->name));
}

int volumes_find(struct volumes *volumes, const char *name, struct volumes_name *ret_name)
{
    struct fake_data *d = find(volumes, name);
    if (!d)
        return -ENOENT;
    name_fill(d, ret_name);
    return 0;
}

int volumes_find_only(struct volumes *volumes, struct volumes_name *ret_name)
{
    unsigned count = 0;
    if (volumes->recalls)
        return -EHOSTUNREACH;
    list_for_each (link, &volumes->cluster->all) {
        name_fill(list_entry(link, struct fake_data, link), ret_name);
        count++;
    }
    return count == 1 ? 0 : count == 0 ? -ENOENT : -EEXIST;
}

int volumes_list_or_recall(struct volumes *volumes, struct volumes_name **ret_names,
    unsigned *ret_count, bool *ret_recalled)
{
    *ret_recalled = volumes->recalls;
    return volumes_list(volumes, ret_names, ret_count);
}

void volumes_remember(struct volumes *volumes, const struct volumes_name *name)
{
}

int volumes_resize(struct volumes *volumes, const char *name, uint64_t size_bytes, char **ret_error)
{
    struct fake_data *d = find(volumes, name);
    if (!d || size_bytes < d->size_bytes)
        return d ? -EINVAL : -ENOENT;
    resize_tables(d, size_bytes);
    if (!d->open)
        return 0;
    list_for_each_safe (link, &d->open->listeners) {
        struct volumes_listener *listener = list_entry(link, struct volumes_listener, link);
        listener->resized(listener);
    }
    return 0;
}

int volumes_delete(struct volumes *volumes, const char *name, bool force, char **ret_error)
{
    struct fake_data *d = find(volumes, name);
    if (!d)
        return -ENOENT;
    if (d->users > 0 && !force)
        return -EBUSY;
    list_remove(&d->link);
    if (d->open) {
        list_for_each_safe (link, &d->open->listeners) {
            struct volumes_listener *listener = list_entry(link, struct volumes_listener, link);
            listener->removed(listener);
        }
    }
    while (d->users > 0)
        env_sleep_ns(1000000);
    data_free(d);
    return 0;
}

/* --- Calls -------------------------------------------------------------------------------------
 */

/* What every call does first: faults, in the order delay, being stuck, deposed, error. */
MAY_SUSPEND static int enter(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes)
{
    struct fake_data *d = volume->data;
    CHECK_MSG(volume->users > 0, "call of a volume that nobody holds");
    if (volume->deposed)
        return -ESHUTDOWN;
    d->calls++;
    d->counts.calls_now++;
    if (d->faults.delay_ns > 0 && (!d->faults.delay_every || d->calls % d->faults.delay_every == 0))
        env_sleep_ns(d->faults.delay_ns);
    while (d->faults.stuck && !volume->deposed)
        env_sleep_ns(1000000);
    d->counts.calls_now--;
    if (volume->deposed)
        return -ESHUTDOWN;
    return off_bytes > d->size_bytes || len_bytes > d->size_bytes - off_bytes ? -EINVAL : 0;
}

/* False: it was done before (S19). */
static bool note_write(struct volume *volume, unsigned flags, struct request_id id)
{
    struct fake_data *d = volume->data;
    d->counts.fua_calls += flags & VOLUME_FUA;
    d->counts.last_id = id;
    for (unsigned i = 0; i < SEEN_MAX && id.session; i++) {
        if (id.session != d->seen[i].session || id.number != d->seen[i].number)
            continue;
        d->counts.duplicates++;
        return false;
    }
    d->seen[d->seen_next++ % SEEN_MAX] = id;
    return true;
}

static char **page_at(struct fake_data *d, uint64_t off_bytes, bool make)
{
    uint64_t page = off_bytes / PAGE_BYTES;
    char ***table = &d->tables[page / TABLE_PAGES];
    if (!*table && make)
        *table = mem_zalloc(TABLE_PAGES, sizeof(**table));
    if (!*table)
        return NULL;
    char **slot = &(*table)[page % TABLE_PAGES];
    if (!*slot && make) {
        *slot = mem_alloc_pages(PAGE_BYTES);
        memset(*slot, 0, PAGE_BYTES);
    }
    return *slot ? slot : NULL;
}

/* One page's share of [off, off + len). */
static uint64_t in_page(uint64_t off_bytes, uint64_t len_bytes)
{
    return MIN(PAGE_BYTES - off_bytes % PAGE_BYTES, len_bytes);
}

int volume_read(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, void *buf)
{
    struct fake_data *d = volume->data;
    int rc = enter(volume, off_bytes, len_bytes);
    if (rc < 0 || d->faults.error)
        return rc < 0 ? rc : d->faults.error;
    d->counts.reads++;
    volume->stats.reads++;
    volume->stats.read_bytes += len_bytes;
    for (uint64_t n; len_bytes > 0; off_bytes += n, len_bytes -= n, buf = (char *)buf + n) {
        n = in_page(off_bytes, len_bytes);
        char **page = page_at(d, off_bytes, false);
        if (page)
            memcpy(buf, *page + off_bytes % PAGE_BYTES, n);
        else
            memset(buf, 0, n);
    }
    return 0;
}

int volume_read_leaving(
    struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, void *buf, bool leave)
{
    return volume_read(volume, off_bytes, len_bytes, buf);
}

int volume_write(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, const void *buf,
    unsigned flags, struct request_id id)
{
    struct fake_data *d = volume->data;
    if (flags & VOLUME_STABLE)
        CHECK((uintptr_t)buf % PAGE_BYTES == 0);
    int rc = enter(volume, off_bytes, len_bytes);
    while (rc == 0 && d->faults.full && !(id.given_up && *id.given_up)) {
        env_sleep_ns(1000000);
        rc = volume->deposed ? -ESHUTDOWN : 0;
    }
    if (rc < 0 || d->faults.error)
        return rc < 0 ? rc : d->faults.error;
    volume->stats.writes++;
    volume->stats.written_bytes += len_bytes;
    if (id.given_up && *id.given_up)
        return -ECANCELED;
    if (!note_write(volume, flags, id))
        return 0;
    d->counts.writes++;
    d->counts.stable_writes += flags & VOLUME_STABLE ? 1 : 0;
    for (uint64_t n; len_bytes > 0; off_bytes += n, len_bytes -= n, buf = (const char *)buf + n) {
        n = in_page(off_bytes, len_bytes);
        memcpy(*page_at(d, off_bytes, true) + off_bytes % PAGE_BYTES, buf, n);
    }
    return 0;
}

static void clear(struct fake_data *d, uint64_t off_bytes, uint64_t len_bytes, bool keep)
{
    for (uint64_t n; len_bytes > 0; off_bytes += n, len_bytes -= n) {
        n = in_page(off_bytes, len_bytes);
        char **page = page_at(d, off_bytes, keep);
        if (!page)
            continue;
        memset(*page + off_bytes % PAGE_BYTES, 0, n);
        if (n == PAGE_BYTES && !keep) {
            mem_free_pages(*page, PAGE_BYTES);
            *page = NULL;
        }
    }
}

int volume_trim(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, unsigned flags,
    struct request_id id)
{
    int rc = enter(volume, off_bytes, len_bytes);
    if (rc < 0)
        return rc;
    volume->stats.trims++;
    if (id.given_up && *id.given_up)
        return -ECANCELED;
    if (!note_write(volume, flags, id))
        return 0;
    volume->data->counts.trims++;
    clear(volume->data, off_bytes, len_bytes, false);
    return 0;
}

int volume_write_zeroes(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    int rc = enter(volume, off_bytes, len_bytes);
    if (rc < 0)
        return rc;
    volume->stats.trims++;
    if (id.given_up && *id.given_up)
        return -ECANCELED;
    if (!note_write(volume, flags, id))
        return 0;
    volume->data->counts.zeroes++;
    volume->data->counts.no_hole += flags & VOLUME_NO_HOLE ? 1 : 0;
    clear(volume->data, off_bytes, len_bytes, flags & VOLUME_NO_HOLE);
    return 0;
}

int volume_flush(struct volume *volume)
{
    int rc = enter(volume, 0, 0);
    if (rc == 0) {
        volume->data->counts.flushes++;
        volume->stats.flushes++;
    }
    return rc;
}

int volume_block_status(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count)
{
    struct fake_data *d = volume->data;
    unsigned count = 0;
    int rc = enter(volume, off_bytes, len_bytes);
    if (rc < 0)
        return rc;
    d->counts.statuses++;
    for (uint64_t n; len_bytes > 0; off_bytes += n, len_bytes -= n) {
        n = in_page(off_bytes, len_bytes);
        bool hole = !page_at(d, off_bytes, false);
        if (count > 0 && ret_extents[count - 1].hole == hole) {
            ret_extents[count - 1].len_bytes += n;
            continue;
        }
        if (count == max)
            break;
        ret_extents[count++] = (struct volume_extent){n, hole};
    }
    *ret_count = count;
    return 0;
}

/* --- Questions ---------------------------------------------------------------------------------
 */

uint64_t volume_id(const struct volume *volume)
{
    return volume->data->id;
}

const char *volume_name(const struct volume *volume)
{
    return volume->data->name;
}

uint64_t volume_size_bytes(const struct volume *volume)
{
    return volume->data->size_bytes;
}

uint32_t volume_epoch(const struct volume *volume)
{
    return volume->epoch;
}

const struct volume_stats *volume_stats(const struct volume *volume)
{
    return &volume->stats;
}
