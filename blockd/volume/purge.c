/* SPDX-License-Identifier: Apache-2.0
 *
 * Freeing what a deleted volume has on disks.
 *
 * Invariants
 *  Z1 The root of a deleted volume stays until every disk that was in the cluster when the first purge
 *     began has answered that it holds nothing of the volume, or was removed from the cluster. A disk
 *     that is away, or has failed and may come back, is waited for; those that have answered are not
 *     asked again (the record "purges").
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

struct numbers {
    uint32_t *values;
    unsigned count;
};

static bool has(const struct numbers *numbers, uint32_t value)
{
    for (unsigned i = 0; i < numbers->count; i++) {
        if (numbers->values[i] == value)
            return true;
    }
    return false;
}

static void add(struct numbers *numbers, uint32_t value)
{
    if (value == 0 || has(numbers, value))
        return;
    numbers->values =
        mem_realloc(numbers->values, (numbers->count + 1) * sizeof(numbers->values[0]));
    numbers->values[numbers->count++] = value;
}

/* What the store records (also of disks that are away) and what is open. */
static int disks_of_cluster(struct volume_host *host, struct numbers *ret)
{
    struct store_value *values;
    unsigned count;
    int r = store_list(host->store, KEY_PREFIX_DISKS, &values, &count);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count && r == 0; i++) {
        struct disk_record record;
        CLEANUP_FREE char *error = NULL;
        r = disk_record_decode(values[i].data, &record, &error);
        if (r == 0)
            add(ret, record.number);
        else
            log_error("store: %s: %s; deleted volumes keep their space until it can be read",
                values[i].key, error);
    }
    store_list_free(values, count);
    list_for_each (it, &host->disks->all)
        add(ret, list_entry(it, struct disk, link)->number);
    return r;
}

/* Everything that the disk has of the volume, whoever made it: the root says that all of it goes.
 * */
static int purge_disk(struct volume_host *host, uint32_t number, uint64_t id)
{
    struct disk *disk = volume_host_disk(host, number);
    if (!disk_usable(disk))
        return -EHOSTUNREACH;
    struct shard_info *list;
    unsigned count;
    int r = shard_list(disk, id, &list, &count);
    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < count; i++) {
        uint32_t epoch = MAX(list[i].fence_epoch, list[i].epoch);
        r = shard_remove(disk, list[i].key, list[i].instance, epoch);
        if (r == -ENOENT)
            r = 0;
    }
    mem_free(list);
    return r;
}

/* Which disks have not answered yet; all of the cluster where no purge has noted any. */
static int left_load(
    struct volume_host *host, const char *key, struct numbers *ret_left, uint64_t *ret_revision)
{
    struct numbers all = {0}, noted = {0};
    struct store_value value;
    CLEANUP_FREE char *error = NULL;
    int r = disks_of_cluster(host, &all);
    if (r == 0)
        r = store_get(host->store, key, &value);
    if (r == -ENOENT) {
        *ret_revision = 0;
        *ret_left = all;
        return 0;
    }
    if (r == 0) {
        r = purge_record_decode(value.data, &noted.values, &noted.count, &error);
        if (r < 0)
            log_error("store: %s: %s", key, error);
        *ret_revision = value.revision;
        store_value_fini(&value);
    }
    for (unsigned i = 0; r == 0 && i < noted.count; i++) {
        if (has(&all, noted.values[i]))
            add(ret_left, noted.values[i]);
    }
    mem_free(all.values);
    mem_free(noted.values);
    return r;
}

static int left_save(struct volume_host *host, uint64_t id, const char *key,
    const struct numbers *left, uint64_t revision)
{
    CLEANUP_FREE char *text = purge_record_encode(left->values, left->count);
    struct store_compare compare = {.key = key, .revision = revision};
    struct store_op op = {.type = STORE_PUT, .key = key, .data = text, .len_bytes = strlen(text)};
    int r = store_txn(host->store, &compare, 1, &op, 1, NULL);
    if (r == 0)
        log_warn(
            "deleted volume %016llx: %u disks that may hold something of it are away, the first is "
            "disk %u: bring them back, or forget them with 'holdfast disk remove N --force'",
            (unsigned long long)id, left->count, left->values[0]);
    return r;
}

/* Nothing is left: the root goes, and with it the last that names the volume. */
static int root_remove(
    struct volume_host *host, uint64_t id, const char *purge_key, uint64_t revision)
{
    char key[KEY_BYTES_MAX], deleted_key[KEY_BYTES_MAX];
    struct volume_root root;
    int r = volume_root_load(host->store, id, &root);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    struct store_compare compares[] = {{.key = key_volume(id, key), .revision = root.revision},
        {.key = purge_key, .revision = revision}};
    struct store_op ops[] = {{.type = STORE_DELETE, .key = key},
        {.type = STORE_DELETE, .key = key_deleted(id, deleted_key)},
        {.type = STORE_DELETE, .key = purge_key}};
    return store_txn(host->store, compares, 2, ops, revision ? 3 : 2, NULL);
}

int volume_purge(struct volume_host *host, uint64_t id)
{
    char key[KEY_BYTES_MAX];
    struct numbers left = {0};
    uint64_t revision = 0;
    int result = left_load(host, key_purge(id, key), &left, &revision);
    if (result < 0)
        return result;
    unsigned asked = left.count, n = 0;
    for (unsigned i = 0; i < asked; i++) {
        int r = purge_disk(host, left.values[i], id);
        result = result == 0 ? r : result;
        if (r < 0)
            left.values[n++] = left.values[i];
    }
    left.count = n;
    if (n == 0) {
        result = root_remove(host, id, key, revision);
    } else if (n < asked || revision == 0) {
        int r = left_save(host, id, key, &left, revision);
        result = r < 0 && r != -ECANCELED ? r : result;
    }
    mem_free(left.values);
    return result;
}
