/* SPDX-License-Identifier: Apache-2.0
 *
 * Two daemons may start at once: each puts its own record under the condition that there is none,
 * and reads what then is there.
 */
#include "blockd/cluster/identity.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"

static int put_new(struct store *store, const char *key, const char *text)
{
    struct store_compare compare = {key, 0};
    struct store_op op = {STORE_PUT, key, text, strlen(text), false};
    return store_txn(store, &compare, 1, &op, 1, NULL);
}

static int explain(int error, const char *key, const char *reason, char **ret_error)
{
    *ret_error =
        reason ? mem_printf("store: %s: %s; restore the store from a backup", key, reason)
               : mem_printf("store: %s cannot be read or made: %s", key, store_strerror(error));
    return error;
}

int cluster_load_or_make(struct store *store, struct cluster_record *ret_record, char **ret_error)
{
    struct cluster_record fresh = {uuid_random(), 1};
    const char *key = key_cluster();
    struct store_value value;
    int r = store_get(store, key, &value);
    if (r == -ENOENT) {
        CLEANUP_FREE char *text = cluster_record_encode(&fresh, NULL);
        r = put_new(store, key, text);
        if (r == 0)
            log_info("first start: this is a new cluster");
        if (r == 0 || r == -ECANCELED)
            r = store_get(store, key, &value);
    }
    if (r < 0)
        return explain(r, key, NULL, ret_error);
    CLEANUP_FREE char *reason = NULL;
    r = cluster_record_decode(value.data, ret_record, &reason);
    store_value_fini(&value);
    return r < 0 ? explain(r, key, reason, ret_error) : 0;
}

int node_load_or_make(
    struct store *store, const char *name, struct node_record *ret_record, char **ret_error)
{
    struct node_record fresh = {.uuid = uuid_random()};
    char key[KEY_BYTES_MAX];
    key_node(name, key);
    strcpy(fresh.name, name);
    struct store_value value;
    int r = store_get(store, key, &value);
    if (r == -ENOENT) {
        CLEANUP_FREE char *text = node_record_encode(&fresh, NULL);
        r = put_new(store, key, text);
        if (r == 0 || r == -ECANCELED)
            r = store_get(store, key, &value);
    }
    if (r < 0)
        return explain(r, key, NULL, ret_error);
    CLEANUP_FREE char *reason = NULL;
    r = node_record_decode(value.data, ret_record, &reason);
    store_value_fini(&value);
    return r < 0 ? explain(r, key, reason, ret_error) : 0;
}
