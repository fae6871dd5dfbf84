/* SPDX-License-Identifier: Apache-2.0
 *
 * Two daemons may start at once: each puts its own record under the condition that there is none,
 * and reads what then is there.
 */
#include "blockd/cluster/identity.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
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

/* -ENOENT: there is none. */
static int load_node(
    struct store *store, const char *name, struct node_record *ret_record, char **ret_error)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    int r = store_get(store, key_node(name, key), &value);
    if (r == -ENOENT)
        return r;
    if (r < 0)
        return explain(r, key, NULL, ret_error);
    CLEANUP_FREE char *reason = NULL;
    r = node_record_decode(value.data, ret_record, &reason);
    store_value_fini(&value);
    return r < 0 ? explain(r, key, reason, ret_error) : 0;
}

/* -ECANCELED: there is one. */
static int make_node(struct store *store, const char *name, const struct uuid *uuid,
    struct node_record *ret_record, char **ret_error)
{
    struct node_record fresh = {.uuid = *uuid};
    char key[KEY_BYTES_MAX];
    strcpy(fresh.name, name);
    CLEANUP_FREE char *text = node_record_encode(&fresh, NULL);
    int r = put_new(store, key_node(name, key), text);
    if (r == 0)
        *ret_record = fresh;
    return r == 0 || r == -ECANCELED ? r : explain(r, key, NULL, ret_error);
}

static int save(struct state_file *file, const struct uuid *node, const struct uuid *cluster,
    const char *name, char **ret_error)
{
    struct state_identity wanted = {.node = *node, .cluster = *cluster};
    const struct state_identity *have = state_file_identity(file);
    strcpy(wanted.name, name);
    if (uuid_equal(&have->node, node) && uuid_equal(&have->cluster, cluster) &&
        strcmp(have->name, name) == 0)
        return 0;
    return state_file_save(file, &wanted, ret_error);
}

/* -ENOENT: there is none. */
static int load_cluster(struct store *store, struct cluster_record *ret_record, char **ret_error)
{
    struct store_value value;
    int r = store_get(store, key_cluster(), &value);
    if (r == -ENOENT)
        return r;
    if (r < 0)
        return explain(r, key_cluster(), NULL, ret_error);
    CLEANUP_FREE char *reason = NULL;
    r = cluster_record_decode(value.data, ret_record, &reason);
    store_value_fini(&value);
    return r < 0 ? explain(r, key_cluster(), reason, ret_error) : 0;
}

static int check_cluster(
    const struct state_file *file, const struct cluster_record *cluster, char **ret_error)
{
    const struct uuid *ours = &state_file_identity(file)->cluster;
    char here[UUID_TEXT_BYTES], there[UUID_TEXT_BYTES];
    if (uuid_is_nil(ours) || uuid_equal(ours, &cluster->uuid))
        return 0;
    *ret_error = mem_printf("this node belongs to cluster %s, but the store is that of cluster %s; "
                            "check [store]. A node moves to another cluster with a new [node] "
                            "state_dir and new disks",
        uuid_format(ours, here), uuid_format(&cluster->uuid, there));
    return -EXDEV;
}

/* --- Alone ------------------------------------------------------------------------------------- */

/* The store of a node alone is the truth, also about a node that was there before this file. */
int identity_alone(struct store *store, const char *name, struct state_file *file,
    struct identity *ret_identity, char **ret_error)
{
    int r = cluster_load_or_make(store, &ret_identity->cluster, ret_error);
    if (r == 0 && file)
        r = check_cluster(file, &ret_identity->cluster, ret_error);
    if (r == 0)
        r = load_node(store, name, &ret_identity->node, ret_error);
    if (r == -ENOENT) {
        struct uuid uuid = uuid_random();
        r = make_node(store, name, &uuid, &ret_identity->node, ret_error);
        if (r == -ECANCELED)
            r = load_node(store, name, &ret_identity->node, ret_error);
    }
    if (r == 0 && file)
        r = save(file, &ret_identity->node.uuid, &ret_identity->cluster.uuid, name, ret_error);
    return r;
}

/* --- In a cluster ------------------------------------------------------------------------------ */

static int name_taken(const char *name, char **ret_error)
{
    *ret_error =
        mem_printf("there is a node named '%s' in the cluster already, on another host or "
                   "with another state directory: choose another [node] name; if that node "
                   "is gone for good, 'holdfast node remove %s' on another node first",
            name, name);
    return -EEXIST;
}

/* A host that was renamed is still the node that its disks name. */
static int check_name(
    struct store *store, const char *name, const struct state_identity *ours, char **ret_error)
{
    struct node_record record;
    if (!ours->name[0] || strcmp(ours->name, name) == 0)
        return 0;
    int r = load_node(store, ours->name, &record, ret_error);
    if (r == -ENOENT || (r == 0 && !uuid_equal(&record.uuid, &ours->node)))
        return 0;
    if (r < 0)
        return r;
    *ret_error = mem_printf("this node is '%s' in its cluster, not '%s'; set [node] name = %s",
        ours->name, name, ours->name);
    return -EEXIST;
}

int identity_look(struct store *store, const char *name, const struct state_file *file,
    enum identity_state *ret_state, struct identity *ret_identity, char **ret_error)
{
    const struct state_identity *ours = state_file_identity(file);
    *ret_state = IDENTITY_NO_CLUSTER;
    int r = load_cluster(store, &ret_identity->cluster, ret_error);
    if (r == -ENOENT)
        return 0;
    if (r == 0)
        r = check_cluster(file, &ret_identity->cluster, ret_error);
    if (r == 0)
        r = check_name(store, name, ours, ret_error);
    if (r < 0)
        return r;
    *ret_state = IDENTITY_NOT_JOINED;
    r = load_node(store, name, &ret_identity->node, ret_error);
    if (r == -ENOENT)
        return 0;
    if (r == 0 && !uuid_equal(&ret_identity->node.uuid, &ours->node))
        r = name_taken(name, ret_error);
    if (r == 0)
        *ret_state = IDENTITY_JOINED;
    return r;
}

int identity_init(struct store *store, const struct state_file *file, char **ret_error)
{
    struct cluster_record fresh = {uuid_random(), 1}, there;
    char text_uuid[UUID_TEXT_BYTES];
    const struct uuid *ours = &state_file_identity(file)->cluster;
    if (!uuid_is_nil(ours)) {
        *ret_error = mem_printf("this node belongs to cluster %s already; a store that has lost "
                                "that cluster is restored from a backup",
            uuid_format(ours, text_uuid));
        return -EEXIST;
    }
    CLEANUP_FREE char *text = cluster_record_encode(&fresh, NULL);
    int r = put_new(store, key_cluster(), text);
    if (r == -ECANCELED) {
        r = load_cluster(store, &there, ret_error);
        if (r == 0)
            *ret_error = mem_printf("the store holds cluster %s already; 'holdfast cluster join' "
                                    "adds this node to it",
                uuid_format(&there.uuid, text_uuid));
        return r == 0 ? -EEXIST : r;
    }
    return r < 0 ? explain(r, key_cluster(), NULL, ret_error) : 0;
}

/* The state directory first (I2): what a crash leaves is a node that can join again. */
int identity_join(struct store *store, const char *name, struct state_file *file, char **ret_error)
{
    struct cluster_record cluster;
    struct node_record record;
    struct uuid node = state_file_identity(file)->node;
    int r = load_cluster(store, &cluster, ret_error);
    if (r == -ENOENT)
        *ret_error =
            mem_strdup("there is no cluster in the store yet: 'holdfast cluster init' makes "
                       "it, once, on the first node");
    if (r == 0)
        r = check_cluster(file, &cluster, ret_error);
    if (r == 0) {
        if (uuid_is_nil(&node))
            node = uuid_random();
        r = load_node(store, name, &record, ret_error);
        if (r == 0 && !uuid_equal(&record.uuid, &node))
            r = name_taken(name, ret_error);
        else if (r == -ENOENT)
            r = 0;
    }
    if (r == 0)
        r = save(file, &node, &cluster.uuid, name, ret_error);
    if (r == 0)
        r = make_node(store, name, &node, &record, ret_error);
    if (r == -ECANCELED) { /* there already: ours, unless two join at once */
        r = load_node(store, name, &record, ret_error);
        if (r == 0 && !uuid_equal(&record.uuid, &node))
            r = name_taken(name, ret_error);
    }
    return r;
}

int identity_publish(struct store *store, struct node_record *record, const char *address,
    const char *rack, char **ret_error)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    struct node_record wanted = *record;
    strcpy(wanted.address, address ? address : "");
    strcpy(wanted.rack, rack ? rack : "");
    if (strcmp(wanted.address, record->address) == 0 && strcmp(wanted.rack, record->rack) == 0)
        return 0;
    int r = store_get(store, key_node(record->name, key), &value);
    if (r == 0) {
        CLEANUP_FREE char *text = node_record_encode(&wanted, value.data);
        struct store_compare compare = {key, value.revision};
        struct store_op op = {STORE_PUT, key, text, strlen(text), false};
        r = store_txn(store, &compare, 1, &op, 1, NULL);
        store_value_fini(&value);
    }
    if (r < 0)
        *ret_error = mem_printf("this node's address was not recorded in the store: %s",
            r == -ENOENT ? "its record is gone" : store_strerror(r));
    else
        *record = wanted;
    return r;
}
