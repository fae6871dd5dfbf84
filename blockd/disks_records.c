/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disks_records.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

/* Whoever waits for an answer of the store has the disk open already. */
#define TAKE_TRIES 20u
#define TAKE_PAUSE_NS 500000000ull

/* The cluster's record; *ret_value is the caller's when that is 0. */
MAY_SUSPEND static int cluster_get(
    struct store *store, struct cluster_record *ret_cluster, struct store_value *ret_value)
{
    CLEANUP_FREE char *error = NULL;
    int r = store_get(store, key_cluster(), ret_value);
    if (r < 0)
        return r;
    r = cluster_record_decode(ret_value->data, ret_cluster, &error);
    if (r < 0) {
        log_error("store: %s: %s", ret_value->key, error);
        store_value_fini(ret_value);
    }
    return r;
}

/* The record of a disk that has none, and that of the cluster in place of `value`, in one transaction. -ECANCELED: one of
 * the two is not as it was. */
MAY_SUSPEND static int put_new(struct store *store, const struct cluster_record *cluster,
    const struct store_value *value, const struct disk_record *record)
{
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *cluster_text = cluster_record_encode(cluster, value->data);
    CLEANUP_FREE char *text = disk_record_encode(record, NULL);
    struct store_compare compares[] = {
        {key_cluster(), value->revision}, {key_disk(record->number, key), 0}};
    struct store_op ops[] = {{STORE_PUT, key_cluster(), cluster_text, strlen(cluster_text), false},
        {STORE_PUT, key, text, strlen(text), false}};
    return store_txn(store, compares, 2, ops, 2, NULL);
}

/* Which no record has: a cluster's record that was put back by hand may name one that was given out. */
MAY_SUSPEND static int next_number(
    struct store *store, struct cluster_record *cluster, uint32_t *ret_number)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    int r;
    do {
        *ret_number = cluster->disk_number_next++;
        r = store_get(store, key_disk(*ret_number, key), &value);
        if (r == 0)
            store_value_fini(&value);
    } while (r == 0);
    return r == -ENOENT ? 0 : r;
}

/* The next number and the record, in one transaction (N1). -ECANCELED: another node was faster. */
MAY_SUSPEND static int make_try(struct store *store, struct disk_record *record)
{
    struct store_value value;
    struct cluster_record cluster;
    int r = cluster_get(store, &cluster, &value);
    if (r < 0)
        return r;
    r = next_number(store, &cluster, &record->number);
    if (r == 0)
        r = put_new(store, &cluster, &value, record);
    store_value_fini(&value);
    return r;
}

int disk_record_make(struct store *store, struct disk_record *record)
{
    int r;
    do
        r = make_try(store, record);
    while (r == -ECANCELED);
    return r;
}

/* --- Of a disk that has one ------------------------------------------------------------------------ */

/* -ENOENT: none has the UUID. */
MAY_SUSPEND static int find(struct store *store, const struct uuid *uuid,
    struct disk_record *ret_record, struct store_value *ret_value)
{
    struct store_value *values;
    unsigned count;
    int r = store_list(store, KEY_PREFIX_DISKS, &values, &count);
    if (r < 0)
        return r;
    r = -ENOENT;
    for (unsigned i = 0; i < count && r < 0; i++) {
        CLEANUP_FREE char *error = NULL;
        struct disk_record record;
        if (disk_record_decode(values[i].data, &record, &error) < 0 ||
            !uuid_equal(&record.uuid, uuid))
            continue;
        *ret_record = record;
        *ret_value = values[i];
        values[i] = (struct store_value){0};
        r = 0;
    }
    store_list_free(values, count);
    return r;
}

/* Puts the record anew if it is as `value` has it. */
MAY_SUSPEND static int change(
    struct store *store, const struct disk_record *record, const struct store_value *value)
{
    CLEANUP_FREE char *text = disk_record_encode(record, value->data);
    struct store_compare compare = {value->key, value->revision};
    struct store_op op = {STORE_PUT, value->key, text, strlen(text), false};
    return store_txn(store, &compare, 1, &op, 1, NULL);
}

int disk_record_find(struct store *store, const struct uuid *uuid, struct disk_record *ret_record)
{
    struct store_value value;
    int r = find(store, uuid, ret_record, &value);
    if (r == 0)
        store_value_fini(&value);
    return r;
}

int disk_record_check_left(struct store *store, const struct disk_record *record,
    const char *node_name, const char *path, char **ret_error)
{
    int r = strcmp(record->node, node_name) == 0 ? 0 : node_session_alive(store, record->node);
    if (r == 1)
        *ret_error = mem_printf("%s: is disk %" PRIu32 " of node '%s', which is up; stop that "
                                "node's holdfast-blockd, then this node can take the disk over "
                                "with all it has",
            path, record->number, record->node);
    return r == 1 ? -EBUSY : r;
}

int disk_record_take(struct store *store, const struct disk_record *wanted)
{
    struct disk_record have;
    struct store_value value;
    int r = -ETIMEDOUT;
    for (unsigned tries = 0; (r == -ETIMEDOUT || r == -EHOSTUNREACH) && tries < TAKE_TRIES;
         tries++) {
        if (tries > 0)
            env_sleep_ns(TAKE_PAUSE_NS);
        r = find(store, &wanted->uuid, &have, &value);
        if (r < 0)
            continue;
        r = have.number == wanted->number ? change(store, wanted, &value) : -ECANCELED;
        store_value_fini(&value);
    }
    return r;
}

/* It has no record: of its number neither. */
MAY_SUSPEND static int put_absent(
    struct store *store, const struct uuid *cluster_uuid, const struct disk_record *record)
{
    char key[KEY_BYTES_MAX];
    struct store_value value, other;
    struct cluster_record cluster;
    int r = cluster_get(store, &cluster, &value);
    if (r < 0)
        return r;
    if (!uuid_equal(&cluster.uuid, cluster_uuid))
        r = -EXDEV;
    if (r == 0 && store_get(store, key_disk(record->number, key), &other) == 0) {
        store_value_fini(&other);
        r = -EEXIST;
    }
    if (r == 0) {
        cluster.disk_number_next = MAX(cluster.disk_number_next, record->number + 1); /* N1 */
        r = put_new(store, &cluster, &value, record);
    }
    store_value_fini(&value);
    return r;
}

MAY_SUSPEND static int again_try(struct store *store, const struct uuid *cluster_uuid,
    const struct disk_record *record, bool here)
{
    struct disk_record have;
    struct store_value value;
    int r = find(store, &record->uuid, &have, &value);
    if (r == -ENOENT)
        return put_absent(store, cluster_uuid, record);
    if (r < 0)
        return r;
    bool ours = strcmp(have.node, record->node) == 0;
    if (have.number != record->number || (!ours && !here))
        r = -EEXIST;
    else if (!ours)
        r = change(store, record, &value);
    store_value_fini(&value);
    return r;
}

int disk_record_again(struct store *store, const struct uuid *cluster_uuid,
    const struct disk_record *record, bool here)
{
    int r = -ETIMEDOUT;
    for (unsigned tries = 0;
         (r == -ETIMEDOUT || r == -EHOSTUNREACH || r == -ECANCELED) && tries < TAKE_TRIES;
         tries++) {
        if (tries > 0)
            env_sleep_ns(r == -ECANCELED ? TAKE_PAUSE_NS / 20 : TAKE_PAUSE_NS);
        r = again_try(store, cluster_uuid, record, here);
    }
    return r;
}

int disk_record_move(struct store *store, struct disk_record *record, const char *path)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    struct disk_record moved = *record;
    if (strcmp(record->path, path) == 0)
        return 0;
    strcpy(moved.path, path);
    int r = store_get(store, key_disk(record->number, key), &value);
    if (r < 0)
        return r;
    r = change(store, &moved, &value);
    store_value_fini(&value);
    if (r == 0)
        *record = moved;
    return r;
}

/* --- Gone ------------------------------------------------------------------------------------------ */

int disk_record_delete(struct store *store, uint32_t number)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {.type = STORE_DELETE, .key = key_disk(number, key)};
    return store_txn(store, NULL, 0, &op, 1, NULL);
}

bool disk_record_is_gone(
    struct store *store, const struct uuid *cluster_uuid, const char *node_name, uint32_t number)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    struct cluster_record cluster;
    struct disk_record record;
    CLEANUP_FREE char *error = NULL;
    if (cluster_get(store, &cluster, &value) < 0)
        return false;
    bool ours = uuid_equal(&cluster.uuid, cluster_uuid);
    store_value_fini(&value);
    int r = ours ? store_get(store, key_disk(number, key), &value) : -EXDEV;
    if (r < 0)
        return r == -ENOENT;
    bool taken =
        disk_record_decode(value.data, &record, &error) == 0 && strcmp(record.node, node_name) != 0;
    store_value_fini(&value);
    return taken;
}
