/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volumes_names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"

#define PAGE_VOLUMES 256u

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct volumes_name *)a)->name, ((const struct volumes_name *)b)->name);
}

struct volumes_name volumes_name_of(const struct volume_root *root)
{
    struct volumes_name name = {
        .id = root->id, .size_bytes = root->size_bytes, .state = root->state, .epoch = root->epoch};
    strcpy(name.name, root->name);
    strcpy(name.pool, root->pool);
    if (root->state == VOLUME_OWNED) {
        strcpy(name.owner, root->owner);
        name.owner_session = root->owner_session;
    }
    return name;
}

/* False: the record is damaged, or the volume is on its way out. */
static bool name_fill(const struct store_value *value, struct volumes_name *ret_name)
{
    struct volume_root root;
    CLEANUP_FREE char *error = NULL;
    if (volume_root_decode(value->data, &root, &error) < 0) {
        log_error_limited("store: %s: %s; the volume cannot be listed", value->key, error);
        return false;
    }
    if (root.state == VOLUME_DELETING)
        return false;
    *ret_name = volumes_name_of(&root);
    return true;
}

int volumes_names_list(struct store *store, struct volumes_name **ret_names, unsigned *ret_count)
{
    struct store_value *values;
    unsigned value_count, count = 0;
    int r = store_list(store, KEY_PREFIX_VOLUMES, &values, &value_count);
    if (r < 0)
        return r;
    struct volumes_name *names = mem_zalloc(value_count, sizeof(*names));
    for (unsigned i = 0; i < value_count; i++) {
        count += name_fill(&values[i], &names[count]);
        if (i % 64 == 63)
            fiber_yield(); /* I/O does not wait for a long list */
    }
    store_list_free(values, value_count);
    qsort(names, count, sizeof(*names), by_name);
    *ret_names = names;
    *ret_count = count;
    return 0;
}

int volumes_names_page(struct store *store, struct volumes_cursor *cursor,
    struct volumes_name **ret_names, unsigned *ret_count)
{
    struct store_value *values;
    unsigned value_count, count = 0;
    int r = store_list_page(store, KEY_PREFIX_VOLUMES, cursor->after[0] ? cursor->after : NULL,
        PAGE_VOLUMES, &values, &value_count);
    if (r < 0)
        return r;
    struct volumes_name *names = mem_zalloc(PAGE_VOLUMES, sizeof(*names));
    for (unsigned i = 0; i < value_count; i++)
        count += name_fill(&values[i], &names[count]);
    cursor->done = value_count < PAGE_VOLUMES;
    if (value_count > 0)
        snprintf(cursor->after, sizeof(cursor->after), "%s", values[value_count - 1].key);
    store_list_free(values, value_count);
    fiber_yield(); /* I/O does not wait for a long list */
    *ret_names = names;
    *ret_count = count;
    return 0;
}

int volumes_names_find(struct store *store, const char *name, struct volumes_name *ret_name)
{
    uint64_t id;
    struct volume_root root;
    int r = volume_id_by_name(store, name, &id);
    if (r == 0)
        r = volume_root_load(store, id, &root);
    if (r == 0 && root.state == VOLUME_DELETING)
        r = -ENOENT;
    if (r == 0)
        *ret_name = volumes_name_of(&root);
    return r;
}

int volumes_names_only(struct store *store, char ret_name[NAME_BYTES_MAX])
{
    struct store_value *values;
    unsigned count;
    int r = store_list_page(store, KEY_PREFIX_NAMES, NULL, 2, &values, &count);
    if (r < 0)
        return r;
    const char *name = count > 0 ? values[0].key + strlen(KEY_PREFIX_NAMES) : "";
    if (count != 1 || !name_valid(name))
        r = count > 1 ? -EEXIST : -ENOENT;
    else
        strcpy(ret_name, name);
    store_list_free(values, count);
    return r;
}

int volumes_names_rename(struct store *store, uint64_t session, uint64_t id, const char *name,
    const char *new_name, char **ret_error)
{
    struct volume_root root;
    int r = volume_root_load(store, id, &root);
    if (r < 0)
        return r;
    if (root.state == VOLUME_OWNED && root.owner_session != session) {
        *ret_error = mem_printf("volume '%s' is served by node '%s'", name, root.owner);
        return -ESTALE;
    }
    char old_key[KEY_BYTES_MAX], new_key[KEY_BYTES_MAX], root_key[KEY_BYTES_MAX];
    struct store_value named, rooted;
    r = store_get(store, key_name(name, old_key), &named);
    if (r < 0)
        return r;
    uint64_t other;
    if (id_parse(named.data, &other) < 0 || other != id) { /* another one's by now */
        store_value_fini(&named);
        *ret_error = mem_printf("volume '%s' was renamed or deleted meanwhile", name);
        return -ENOENT;
    }
    r = store_get(store, key_volume(id, root_key), &rooted);
    if (r == 0) {
        strcpy(root.name, new_name);
        CLEANUP_FREE char *text = volume_root_encode(&root, rooted.data);
        struct store_compare compares[] = {
            {old_key, named.revision}, {key_name(new_name, new_key), 0}, {root_key, root.revision}};
        struct store_op ops[] = {{.type = STORE_DELETE, .key = old_key},
            {.type = STORE_PUT, .key = new_key, .data = named.data, .len_bytes = named.len_bytes},
            {.type = STORE_PUT, .key = root_key, .data = text, .len_bytes = strlen(text)}};
        r = store_txn(store, compares, 3, ops, 3, NULL);
        store_value_fini(&rooted);
    }
    store_value_fini(&named);
    if (r == -ECANCELED && volume_id_by_name(store, new_name, &other) == 0) {
        *ret_error =
            mem_printf("there is a volume named '%s' already; choose another name", new_name);
        return -EEXIST;
    }
    return r;
}
