/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/pools.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/disks.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

/* --- Space ----------------------------------------------------------------------------------- */

/* t stripes of one byte a shard fit if every domain can give min(its bytes, t) and that makes
 * t * (k + m) together; the largest such t, by bisection. */
uint64_t pool_usable_bytes(const uint64_t *domain_bytes, unsigned count, struct shard_code code)
{
    uint64_t low = 0, high = 0;
    for (unsigned i = 0; i < count; i++)
        high += domain_bytes[i];
    high /= code.k + code.m;
    while (low < high) {
        uint64_t mid = low + (high - low + 1) / 2, sum = 0;
        for (unsigned i = 0; i < count; i++)
            sum += MIN(domain_bytes[i], mid);
        if (sum / (code.k + code.m) >= mid)
            low = mid;
        else
            high = mid - 1;
    }
    return low * code.k;
}

struct domains {
    const char **names; /* node or rack; NULL = each disk is one */
    uint64_t *size_bytes, *free_bytes;
    unsigned count;
};

static unsigned domain_of(struct domains *domains, const char *name)
{
    for (unsigned i = 0; name && i < domains->count; i++)
        if (strcmp(domains->names[i], name) == 0)
            return i;
    domains->names[domains->count] = name;
    return domains->count++;
}

static const char *domain_name(const struct pool *pool, const struct disk *disk)
{
    switch (pool->domain) {
    case DOMAIN_NODE:
        return disk->node;
    case DOMAIN_RACK:
        return disk->rack;
    default:
        return NULL;
    }
}

static bool of_class(const char *class_name, const struct disk *disk)
{
    return !class_name[0] || strcmp(class_name, disk->class_name) == 0;
}

static void domains_collect(struct domains *domains, const struct pool *pool,
    const char *class_name, struct disk_list *present, unsigned *ret_disks)
{
    unsigned count = 0;
    list_for_each (it, &present->all)
        count++;
    *domains = (struct domains){.names = mem_zalloc(count, sizeof(char *)),
        .size_bytes = mem_zalloc(count, sizeof(uint64_t)),
        .free_bytes = mem_zalloc(count, sizeof(uint64_t))};
    *ret_disks = 0;
    list_for_each (it, &present->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        if (disk->state != DISK_IN || disk->number == 0 || !of_class(class_name, disk))
            continue;
        unsigned i = domain_of(domains, domain_name(pool, disk));
        domains->size_bytes[i] += disk->size_bytes;
        domains->free_bytes[i] += disk->free_bytes;
        ++*ret_disks;
    }
}

static void domains_fini(struct domains *domains)
{
    mem_free(domains->names);
    mem_free(domains->size_bytes);
    mem_free(domains->free_bytes);
}

void pools_space(const struct pool *pool, struct disks *disks, struct pools_space *ret_space)
{
    struct domains domains;
    *ret_space = (struct pools_space){0};
    domains_collect(&domains, pool, pool->data_class, disks_present(disks), &ret_space->disks);
    for (unsigned i = 0; i < domains.count; i++) {
        ret_space->raw_size_bytes += domains.size_bytes[i];
        ret_space->raw_free_bytes += domains.free_bytes[i];
    }
    ret_space->size_bytes = pool_usable_bytes(domains.size_bytes, domains.count, pool->code);
    ret_space->free_bytes = pool_usable_bytes(domains.free_bytes, domains.count, pool->code);
    domains_fini(&domains);
}

/* --- Create, list ---------------------------------------------------------------------------- */

/* `what` takes `need` shards of one chunk. */
static int check_class(const struct pool *pool, const char *class_name, const char *what,
    unsigned need, struct disks *disks, char **ret_error)
{
    static const char *const things[] = {
        [DOMAIN_DISK] = "disks", [DOMAIN_NODE] = "nodes", [DOMAIN_RACK] = "racks"};
    static const char *const ways[] = {[DOMAIN_DISK] = "add disks ('holdfast disk add')",
        [DOMAIN_NODE] = "add disks on other nodes ('holdfast disk add' there)",
        [DOMAIN_RACK] = "add disks in other racks ([cluster] rack of their nodes)"};
    static const char *const domains_below[] = {[DOMAIN_DISK] = "",
        [DOMAIN_NODE] = " or --domain disk",
        [DOMAIN_RACK] = " or --domain node"};
    struct domains domains;
    unsigned disk_count;
    domains_collect(&domains, pool, class_name, disks_present(disks), &disk_count);
    unsigned have = domains.count;
    domains_fini(&domains);
    if (have >= need)
        return 0;
    *ret_error =
        mem_printf("pool '%s': code %u+%u puts its %u %s on %u different %s%s%s; there %s %u: %s, "
                   "or choose a smaller code%s",
            pool->name, pool->code.k, pool->code.m, need, what, need, things[pool->domain],
            class_name[0] ? " of class " : "", class_name, have == 1 ? "is" : "are", have,
            ways[pool->domain], domains_below[pool->domain]);
    return -EINVAL;
}

static int check_disks(const struct pool *pool, struct disks *disks, char **ret_error)
{
    int r = check_class(
        pool, pool->data_class, "shards", pool->code.k + pool->code.m, disks, ret_error);
    return r < 0 ? r
                 : check_class(pool, pool->log_class, "copies of a log", pool->code.m + 1u, disks,
                       ret_error);
}

int pools_create(
    struct store *store, struct disks *disks, const struct pool *pool, char **ret_error)
{
    int r = check_disks(pool, disks, ret_error);
    if (r < 0)
        return r;
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = pool_encode(pool, NULL);
    struct store_compare compare = {key_pool(pool->name, key), 0};
    struct store_op op = {STORE_PUT, key, text, strlen(text), false};
    r = store_txn(store, &compare, 1, &op, 1, NULL);
    if (r == -ECANCELED) {
        *ret_error =
            mem_printf("there is a pool named '%s' already; choose another name", pool->name);
        return -EEXIST;
    }
    if (r < 0)
        *ret_error = mem_printf("pool '%s' was not stored: %s", pool->name, store_strerror(r));
    return r;
}

int pools_list(struct store *store, struct pool **ret_pools, unsigned *ret_count)
{
    struct store_value *values;
    unsigned value_count, count = 0;
    int r = store_list(store, KEY_PREFIX_POOLS, &values, &value_count);
    if (r < 0)
        return r;
    struct pool *pools = mem_zalloc(value_count, sizeof(*pools));
    for (unsigned i = 0; i < value_count; i++) {
        CLEANUP_FREE char *error = NULL;
        if (pool_decode(values[i].data, &pools[count], &error) == 0)
            count++;
        else
            log_error_limited("store: %s: %s; the pool cannot be listed", values[i].key, error);
    }
    store_list_free(values, value_count);
    *ret_pools = pools;
    *ret_count = count;
    return 0;
}

/* --- Delete ---------------------------------------------------------------------------------- */

static char *volume_of_pool(const struct store_value *value, const char *pool)
{
    struct volume_root root;
    CLEANUP_FREE char *error = NULL;
    if (volume_root_decode(value->data, &root, &error) < 0)
        return mem_strdup(value->key); /* damaged: it might be */
    return strcmp(root.pool, pool) == 0 ? mem_strdup(root.name) : NULL;
}

#define VOLUMES_PAGE 256

/* Name of a volume of the pool (mem_free), also of one being deleted; NULL when there is none. */
static int first_volume(struct store *store, const char *pool, char **ret_name)
{
    char after[KEY_BYTES_MAX] = "";
    unsigned count = VOLUMES_PAGE;
    *ret_name = NULL;
    while (count == VOLUMES_PAGE && !*ret_name) {
        struct store_value *values;
        int r = store_list_page(
            store, KEY_PREFIX_VOLUMES, after[0] ? after : NULL, VOLUMES_PAGE, &values, &count);
        if (r < 0)
            return r;
        for (unsigned i = 0; i < count && !*ret_name; i++)
            *ret_name = volume_of_pool(&values[i], pool);
        if (count > 0)
            snprintf(after, sizeof(after), "%s", values[count - 1].key);
        store_list_free(values, count);
        fiber_yield();
    }
    return 0;
}

/* -ECANCELED: the record has changed, so a volume may have been made: look again. */
static int try_delete(struct store *store, const char *name, char **ret_error)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    CLEANUP_FREE char *volume = NULL;
    int r = store_get(store, key_pool(name, key), &value);
    if (r == -ENOENT)
        *ret_error = mem_printf("no pool named '%s'; see 'holdfast pool list'", name);
    else if (r < 0)
        *ret_error =
            mem_printf("pool '%s' cannot be looked up in the store: %s", name, store_strerror(r));
    if (r < 0)
        return r;
    r = first_volume(store, name, &volume);
    if (r == 0 && volume) {
        *ret_error =
            mem_printf("pool '%s' holds volumes ('%s' for one); delete those first", name, volume);
        r = -EBUSY;
    } else if (r == 0) {
        struct store_compare compare = {key, value.revision};
        struct store_op op = {.type = STORE_DELETE, .key = key};
        r = store_txn(store, &compare, 1, &op, 1, NULL);
        if (r < 0 && r != -ECANCELED)
            *ret_error =
                mem_printf("pool '%s' was not deleted from the store: %s", name, store_strerror(r));
    } else {
        *ret_error =
            mem_printf("pool '%s' cannot be looked up in the store: %s", name, store_strerror(r));
    }
    store_value_fini(&value);
    return r;
}

int pools_delete(struct store *store, const char *name, char **ret_error)
{
    int r;
    do
        r = try_delete(store, name, ret_error);
    while (r == -ECANCELED);
    return r;
}
