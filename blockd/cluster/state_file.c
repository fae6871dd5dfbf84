/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/state_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "common/check.h"
#include "common/env.h"
#include "common/json_text.h"
#include "common/mem.h"

#define SECTOR_BYTES 512
#define VERSION 1

struct state_file {
    struct env_file *file;
    struct state_identity identity;
};

/* --- Text ------------------------------------------------------------------------------------ */

static void encode(const struct state_identity *identity, char *block)
{
    char node[UUID_TEXT_BYTES], cluster[UUID_TEXT_BYTES];
    json_t *object = json_pack("{s:i, s:s, s:s, s:s}", "version", VERSION, "node",
        uuid_format(&identity->node, node), "cluster", uuid_format(&identity->cluster, cluster),
        "name", identity->name);
    char *text = json_dumps(object, JSON_COMPACT);
    CHECK(text && strlen(text) < SECTOR_BYTES);
    memset(block, ' ', BLOCK_BYTES);
    memcpy(block, text, strlen(text));
    block[BLOCK_BYTES - 1] = '\n';
    free(text);
    json_decref(object);
}

static bool read_uuid(const json_t *object, const char *member, struct uuid *ret_uuid)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text && uuid_parse(text, ret_uuid) == 0;
}

static bool all_zero(const char *block)
{
    for (unsigned i = 0; i < BLOCK_BYTES; i++)
        if (block[i])
            return false;
    return true;
}

static bool decode(const char *block, struct state_identity *ret_identity)
{
    CLEANUP_FREE char *error = NULL;
    struct state_identity identity = {0};
    json_t *object = json_text_decode(block, BLOCK_BYTES, &error);
    const char *name = json_string_value(json_object_get(object, "name"));
    bool good = json_integer_value(json_object_get(object, "version")) == VERSION && name &&
                name_valid(name) && strlen(name) < sizeof(identity.name) &&
                read_uuid(object, "node", &identity.node) &&
                read_uuid(object, "cluster", &identity.cluster);
    if (good) {
        strcpy(identity.name, name);
        *ret_identity = identity;
    }
    json_decref(object);
    return good;
}

/* --- File ------------------------------------------------------------------------------------ */

static char *explain(int error, const char *path)
{
    switch (error) {
    case -EBUSY:
        return mem_printf("%s: another holdfast-blockd runs with this state directory: stop it, or "
                          "choose another [node] state_dir",
            path);
    case -EINVAL:
        return mem_printf("%s: its file system cannot do direct I/O (tmpfs cannot); choose another "
                          "[node] state_dir",
            path);
    default:
        return mem_printf("%s: %s; check [node] state_dir", path, strerror(-error));
    }
}

static int open_or_create(const char *path, struct env_file **ret_file)
{
    int r = env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK | ENV_OPEN_MAY_BE_ABSENT, 0, ret_file);
    if (r == -ENOENT)
        r = env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK | ENV_OPEN_CREATE, BLOCK_BYTES, ret_file);
    return r;
}

static int load(struct state_file *file, const char *path, char **ret_error)
{
    char *block = mem_alloc_pages(BLOCK_BYTES);
    int r = env_file_read(file->file, block, BLOCK_BYTES, 0);
    if (r < 0) {
        *ret_error =
            mem_printf("%s cannot be read: %s; restore it from a backup", path, strerror(-r));
    } else if (!all_zero(block) && !decode(block, &file->identity)) {
        *ret_error = mem_printf("%s is damaged: restore it from a backup (it says which node this "
                                "host is)",
            path);
        r = -EBADMSG;
    }
    mem_free_pages(block, BLOCK_BYTES);
    return r;
}

int state_file_open(const char *directory, struct state_file **ret_file, char **ret_error)
{
    CLEANUP_FREE char *path = mem_printf("%s/node", directory);
    struct env_file *env_file;
    int r = open_or_create(path, &env_file);
    if (r < 0) {
        *ret_error = explain(r, path);
        return r;
    }
    struct state_file *file = NEW(struct state_file);
    file->file = env_file;
    r = load(file, path, ret_error);
    if (r < 0)
        state_file_close(file);
    else
        *ret_file = file;
    return r;
}

const struct state_identity *state_file_identity(const struct state_file *file)
{
    return &file->identity;
}

int state_file_save(
    struct state_file *file, const struct state_identity *identity, char **ret_error)
{
    char *block = mem_alloc_pages(BLOCK_BYTES);
    encode(identity, block);
    int r = env_file_write(file->file, block, BLOCK_BYTES, 0, true);
    mem_free_pages(block, BLOCK_BYTES);
    if (r < 0)
        *ret_error =
            mem_printf("%s cannot be written: %s", env_file_path(file->file), strerror(-r));
    else
        file->identity = *identity;
    return r;
}

void state_file_close(struct state_file *file)
{
    if (!file)
        return;
    env_file_close(file->file);
    mem_free(file);
}
