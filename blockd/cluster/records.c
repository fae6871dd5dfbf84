/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of the coordination store: their keys, names, and how they are loaded and saved.
 */
#include "blockd/cluster/records_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

const char *const disk_state_names[] = {
    [DISK_IN] = "in", [DISK_OUT] = "out", NULL /* the others are not stored */};
const char *const domain_names[] = {
    [DOMAIN_DISK] = "disk", [DOMAIN_NODE] = "node", [DOMAIN_RACK] = "rack", NULL};
const char *const volume_state_names[] = {[VOLUME_NEW] = "new",
    [VOLUME_OWNED] = "owned",
    [VOLUME_RELEASED] = "released",
    [VOLUME_DELETING] = "deleting",
    [VOLUME_HALTED] = "halted",
    NULL};

/* --- Keys, names ----------------------------------------------------------------------------- */

const char *key_cluster(void)
{
    return "holdfast/cluster";
}

const char *key_node(const char *name, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_NODES "%s", name);
    return ret_key;
}

const char *key_disk(uint32_t number, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_DISKS "%" PRIu32, number);
    return ret_key;
}

const char *key_pool(const char *name, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_POOLS "%s", name);
    return ret_key;
}

const char *key_name(const char *name, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_NAMES "%s", name);
    return ret_key;
}

const char *key_volume(uint64_t id, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_VOLUMES "%016" PRIx64, id);
    return ret_key;
}

const char *key_purge(uint64_t id, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, "holdfast/purges/%016" PRIx64, id);
    return ret_key;
}

const char *key_deleted(uint64_t id, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_DELETED "%016" PRIx64, id);
    return ret_key;
}

const char *key_session(uint64_t session, char *ret_key)
{
    snprintf(ret_key, KEY_BYTES_MAX, KEY_PREFIX_SESSIONS "%016" PRIx64, session);
    return ret_key;
}

static bool alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool name_valid(const char *name)
{
    size_t len = strnlen(name, NAME_BYTES_MAX);
    if (len == 0 || len >= NAME_BYTES_MAX || !alphanumeric(name[0]))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!alphanumeric(name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

/* One or two digits without a leading zero (but "0"); advances *text. -1 otherwise. */
static int code_number(const char **text)
{
    const char *p = *text;
    int number = 0;
    while (p - *text < 2 && *p >= '0' && *p <= '9')
        number = number * 10 + *p++ - '0';
    if (p == *text || (**text == '0' && p - *text > 1))
        return -1;
    *text = p;
    return number;
}

int code_parse(const char *text, struct shard_code *ret_code)
{
    int k = code_number(&text);
    if (k < 1 || k > CODE_K_MAX || *text++ != '+')
        return -EINVAL;
    int m = code_number(&text);
    if (m < 0 || m > CODE_M_MAX || *text)
        return -EINVAL;
    *ret_code = (struct shard_code){.k = (uint8_t)k, .m = (uint8_t)m};
    return 0;
}

int index_of_name(const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -EINVAL;
}

int failure_domain_parse(const char *text, enum failure_domain *ret_domain)
{
    int i = index_of_name(domain_names, text);
    if (i >= 0)
        *ret_domain = (enum failure_domain)i;
    return MIN(i, 0);
}

const char *failure_domain_name(enum failure_domain domain)
{
    return domain_names[domain];
}

const char *volume_state_name(enum volume_state state)
{
    return volume_state_names[state];
}

int id_parse(const char *text, uint64_t *ret_id)
{
    uint64_t id = 0;
    for (unsigned i = 0; i < 16; i++) {
        char c = text[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return -EINVAL; /* also the end of a short text */
        id = id << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (text[16])
        return -EINVAL;
    *ret_id = id;
    return 0;
}

/* --- In the store ---------------------------------------------------------------------------- */

/* -EBADMSG, with the reason in the log: what is in the store names the volume no user typed. */
static int bad_record(const char *key, char *error)
{
    log_error(
        "store: %s: %s; restore the store from a backup, or repair this key by hand", key, error);
    mem_free(error);
    return -EBADMSG;
}

int volume_root_load(struct store *store, uint64_t id, struct volume_root *ret_root)
{
    char *text = NULL;
    int r = volume_root_load_text(store, id, ret_root, &text);
    mem_free(text);
    return r;
}

int volume_root_load_text(
    struct store *store, uint64_t id, struct volume_root *ret_root, char **text)
{
    char key[KEY_BYTES_MAX], *error;
    struct store_value value;
    struct volume_root root;
    int r = store_get(store, key_volume(id, key), &value);
    if (r < 0)
        return r;
    r = volume_root_decode(value.data, &root, &error);
    if (r == 0 && root.id != id) {
        error = mem_printf("it holds the root of %016" PRIx64, root.id);
        r = -EBADMSG;
    }
    root.revision = value.revision;
    if (r == 0) {
        mem_free(*text);
        *text = mem_strdup(value.data);
    }
    store_value_fini(&value);
    if (r < 0)
        return bad_record(key, error);
    *ret_root = root;
    return 0;
}

int volume_root_save(struct store *store, struct volume_root *root)
{
    char key[KEY_BYTES_MAX];
    struct store_value old = {0};
    key_volume(root->id, key);
    int r = store_get(store, key, &old);
    if (r < 0 && r != -ENOENT)
        return r;
    if (old.revision != root->revision) {
        store_value_fini(&old);
        return -ECANCELED;
    }
    CLEANUP_FREE char *text = old.data ? mem_strdup(old.data) : NULL;
    store_value_fini(&old);
    return volume_root_save_unless(store, root, 0, &text);
}

int volume_root_save_unless(
    struct store *store, struct volume_root *root, uint64_t session, char **text)
{
    char key[KEY_BYTES_MAX], session_key[KEY_BYTES_MAX];
    key_volume(root->id, key);
    char *new_text = volume_root_encode(root, *text);
    struct store_compare compares[] = {
        {key, root->revision}, {key_session(session, session_key), 0}};
    struct store_op op = {STORE_PUT, key, new_text, strlen(new_text), false};
    int r = store_txn(store, compares, session ? 2 : 1, &op, 1, &root->revision);
    if (r == 0) {
        mem_free(*text);
        *text = new_text;
    } else {
        mem_free(new_text);
    }
    return r;
}

int volume_id_by_name(struct store *store, const char *name, uint64_t *ret_id)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    if (!name_valid(name))
        return -ENOENT;
    int r = store_get(store, key_name(name, key), &value);
    if (r < 0)
        return r;
    uint64_t id;
    r = id_parse(value.data, &id);
    store_value_fini(&value);
    if (r < 0)
        return bad_record(key, mem_strdup("not a volume's id"));
    *ret_id = id;
    return 0;
}

int node_session_alive(struct store *store, const char *node)
{
    struct store_value *values;
    unsigned count;
    bool up = false;
    int r = store_list(store, KEY_PREFIX_SESSIONS, &values, &count);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count && !up; i++) {
        struct session_record record;
        CLEANUP_FREE char *error = NULL;
        up = session_record_decode(values[i].data, &record, &error) == 0 &&
             strcmp(record.node, node) == 0;
    }
    store_list_free(values, count);
    return up;
}

int pool_load(struct store *store, const char *name, struct pool *ret_pool)
{
    char key[KEY_BYTES_MAX], *error;
    struct store_value value;
    if (!name_valid(name))
        return -ENOENT;
    int r = store_get(store, key_pool(name, key), &value);
    if (r < 0)
        return r;
    r = pool_decode(value.data, ret_pool, &error);
    store_value_fini(&value);
    return r < 0 ? bad_record(key, error) : 0;
}
