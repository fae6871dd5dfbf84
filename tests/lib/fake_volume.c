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

/* One volume, over all its incarnations. */
struct fake_data {
    struct list link;
    char name[NAME_BYTES_MAX];
    uint64_t id, size_bytes;
    char ***tables;
    uint64_t table_count;
    struct fake_faults faults;
    struct fake_counts counts;
    struct volume *open;   /* what volumes_get() gives; NULL = none */
    struct volume *halted; /* what was deposed and is still held */
    unsigned users;
    uint64_t calls;
};

struct volume {
    struct fake_data *data;
    unsigned users;
    bool deposed;
    struct list listeners;
};

struct volumes {
    struct list all; /* fake_data.link */
    uint64_t next_id;
};

/* --- Registry ----------------------------------------------------------------------------------
 */

struct volumes *fake_volumes_new(void)
{
    struct volumes *volumes = NEW(struct volumes);
    list_init(&volumes->all);
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
    d->id = ++volumes->next_id;
    resize_tables(d, size_bytes);
    list_push_back(&volumes->all, &d->link);
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
    while ((link = list_pop_front(&volumes->all)))
        data_free(list_entry(link, struct fake_data, link));
    mem_free(volumes);
}

static struct fake_data *find(struct volumes *volumes, const char *name)
{
    list_for_each (link, &volumes->all) {
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

int volumes_get(
    struct volumes *volumes, const char *name, struct volume **ret_volume, char **ret_error)
{
    struct fake_data *d = find(volumes, name);
    if (!d)
        return -ENOENT;
    while (d->halted) { /* V3 of volumes.h */
        list_for_each_safe (link, &d->halted->listeners) {
            struct volumes_listener *listener = list_entry(link, struct volumes_listener, link);
            listener->halted(listener);
        }
        env_sleep_ns(1000000);
    }
    if (!d->open && d->faults.open_error) {
        *ret_error = mem_strdup("a fault of the test");
        return d->faults.open_error;
    }
    if (!d->open) {
        d->open = NEW(struct volume);
        d->open->data = d;
        list_init(&d->open->listeners);
    }
    d->open->users++;
    d->users++;
    *ret_volume = d->open;
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
    list_for_each (link, &volumes->all)
        count++;
    struct volumes_name *names = mem_zalloc(count + 1, sizeof(*names));
    count = 0;
    list_for_each (link, &volumes->all) {
        struct fake_data *d = list_entry(link, struct fake_data, link);
        memcpy(names[count].name, d->name, sizeof(d->name));
        names[count].id = d->id;
        names[count++].size_bytes = d->size_bytes;
    }
    *ret_names = names;
    *ret_count = count;
    return 0;
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
    if (off_bytes > d->size_bytes || len_bytes > d->size_bytes - off_bytes)
        return -EINVAL;
    d->calls++;
    d->counts.calls_now++;
    if (d->faults.delay_ns > 0 && (!d->faults.delay_every || d->calls % d->faults.delay_every == 0))
        env_sleep_ns(d->faults.delay_ns);
    while (d->faults.stuck && !volume->deposed)
        env_sleep_ns(1000000);
    d->counts.calls_now--;
    return volume->deposed ? -ESHUTDOWN : 0;
}

static void note_write(struct fake_data *d, unsigned flags, struct request_id id)
{
    d->counts.fua_calls += flags & VOLUME_FUA;
    if (id.session == d->counts.last_id.session && id.number == d->counts.last_id.number)
        d->counts.duplicates++;
    d->counts.last_id = id;
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

int volume_write(struct volume *volume, uint64_t off_bytes, uint64_t len_bytes, const void *buf,
    unsigned flags, struct request_id id)
{
    struct fake_data *d = volume->data;
    if (flags & VOLUME_STABLE)
        CHECK((uintptr_t)buf % PAGE_BYTES == 0);
    int rc = enter(volume, off_bytes, len_bytes);
    if (rc < 0 || d->faults.error)
        return rc < 0 ? rc : d->faults.error;
    note_write(d, flags, id);
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
    note_write(volume->data, flags, id);
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
    note_write(volume->data, flags, id);
    volume->data->counts.zeroes++;
    volume->data->counts.no_hole += flags & VOLUME_NO_HOLE ? 1 : 0;
    clear(volume->data, off_bytes, len_bytes, flags & VOLUME_NO_HOLE);
    return 0;
}

int volume_flush(struct volume *volume)
{
    int rc = enter(volume, 0, 0);
    if (rc == 0)
        volume->data->counts.flushes++;
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
