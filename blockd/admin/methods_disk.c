/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/admin/methods.h"
#include "blockd/node.h"
#include "common/mem.h"

int method_disk_format(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct admin_params *params = &call->params;
    const char *path = admin_params_path(params, "path", ADMIN_REQUIRED);
    uint64_t size_bytes =
        admin_params_number(params, "size_bytes", ADMIN_OPTIONAL, 1, INT64_MAX, 0);
    const char *class_name = admin_params_text(
        params, "class", ADMIN_OPTIONAL, sizeof(((struct disk_record *)0)->class_name));
    bool force = admin_params_bool(params, "force", false);
    int r = admin_params_end(params, &call->error);
    if (r < 0)
        return r;
    struct uuid uuid;
    char text[UUID_TEXT_BYTES];
    r = disks_format(node->disks, path, size_bytes, class_name ? class_name : "", force, &uuid,
        &size_bytes, &call->error);
    if (r < 0)
        return r;
    call->result = json_pack(
        "{s:s, s:I}", "disk", uuid_format(&uuid, text), "size_bytes", (json_int_t)size_bytes);
    return 0;
}

int method_disk_add(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *path = admin_params_path(&call->params, "path", ADMIN_REQUIRED);
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    struct disk_record record;
    char text[UUID_TEXT_BYTES];
    r = disks_add(node->disks, path, &record, &call->error);
    if (r < 0)
        return r;
    call->result = json_pack(
        "{s:s, s:I}", "disk", uuid_format(&record.uuid, text), "number", (json_int_t)record.number);
    return 0;
}

/* The record of a disk of another node, by number or UUID (paths are a node's own); NULL = none. */
static const struct disk_record *of_another_node(struct node *node, const char *which)
{
    list_for_each (it, &members_disks(node->members)->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        const struct disk_record *record = members_disk_record(node->members, disk->number);
        char number[16], uuid[UUID_TEXT_BYTES];
        if (disk->local || !disk->number || !record)
            continue;
        snprintf(number, sizeof(number), "%" PRIu32, record->number);
        if (strcmp(which, number) == 0 || strcmp(which, uuid_format(&record->uuid, uuid)) == 0)
            return record;
    }
    return NULL;
}

/* Its node is down and cannot do it: the record goes, which is all that the others need. */
MAY_SUSPEND static int remove_of_dead_node(
    struct admin_call *call, const struct disk_record *record, bool force)
{
    if (!force) {
        call->error =
            mem_printf("disk %" PRIu32 " is on node '%s', which is down: --force gives up what is "
                       "on it, and volumes rebuild that on the other disks",
                record->number, record->node);
        return -EBUSY;
    }
    char key[KEY_BYTES_MAX], at[sizeof(record->node)];
    key_disk(record->number, key);
    strcpy(at, record->node);
    return admin_remove_record(call, key, at, "the disk was not removed from the store");
}

int method_disk_remove(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *which = admin_params_text(&call->params, "disk", ADMIN_REQUIRED, 512);
    bool force = admin_params_bool(&call->params, "force", false);
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    const struct disk_record *remote = call->forwarded ? NULL : of_another_node(node, which);
    if (!remote)
        return disks_remove(node->disks, which, force, &call->error);
    const struct member *member = members_find(node->members, remote->node);
    if (!member || !member->session)
        return remove_of_dead_node(call, remote, force);
    char at[sizeof(remote->node)];
    strcpy(at, remote->node);
    return admin_forward(call, at);
}

static const char *state_name(enum disk_state state)
{
    static const char *const names[] = {
        [DISK_IN] = "in", [DISK_OUT] = "out", [DISK_FAILED] = "failed", [DISK_MISSING] = "missing"};
    return names[state];
}

static json_t *disk_json(const struct disks_entry *entry)
{
    static const struct disk absent;
    const struct disk *disk = entry->disk ? entry->disk : &absent;
    char uuid[UUID_TEXT_BYTES];
    json_t *json = json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:I, s:I}", "disk",
        uuid_format(&entry->record.uuid, uuid), "number", (json_int_t)entry->record.number, "path",
        entry->record.path, "node", entry->record.node, "state", state_name(entry->state), "class",
        entry->record.class_name, "size_bytes", (json_int_t)disk->size_bytes, "free_bytes",
        (json_int_t)disk->free_bytes, "shards", entry->disk ? (int)local_disk_shard_count(disk) : 0,
        "errors", (json_int_t)(disk->error_count + disk->damage_count), "append_latency_us",
        (json_int_t)(disk->latency_ewma_ns / 1000));
    if (entry->problem)
        json_object_set_new(json, "problem", json_string(entry->problem));
    return json;
}

/* Of another node: what that one said last. */
static json_t *remote_disk_json(const struct disk *disk, const struct disk_record *record)
{
    char uuid[UUID_TEXT_BYTES];
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "disk",
        uuid_format(&record->uuid, uuid), "number", (json_int_t)record->number, "path",
        record->path, "node", record->node, "state", state_name(disk->state), "class",
        record->class_name, "size_bytes", (json_int_t)disk->size_bytes, "free_bytes",
        (json_int_t)disk->free_bytes, "errors",
        (json_int_t)(disk->error_count + disk->damage_count), "append_latency_us",
        (json_int_t)(disk->latency_ewma_ns / 1000));
}

/* By number; lists are short. */
static void add_disk(json_t *disks, json_t *disk)
{
    size_t i = json_array_size(disks);
    json_int_t number = json_integer_value(json_object_get(disk, "number"));
    while (i > 0 &&
           json_integer_value(json_object_get(json_array_get(disks, i - 1), "number")) > number)
        i--;
    json_array_insert_new(disks, i, disk);
}

json_t *admin_disks_json(struct node *node)
{
    json_t *disks = json_array();
    list_for_each (it, disks_entries(node->disks))
        add_disk(disks, disk_json(list_entry(it, struct disks_entry, link)));
    list_for_each (it, &members_disks(node->members)->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        const struct disk_record *record = members_disk_record(node->members, disk->number);
        if (!disk->local && disk->number && record)
            add_disk(disks, remote_disk_json(disk, record));
    }
    return disks;
}

int method_disk_list(struct admin_call *call)
{
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    call->result = json_pack("{s:o}", "disks", admin_disks_json(call->ctx));
    return 0;
}

int method_disk_scrub(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *where = admin_params_text(&call->params, "node", ADMIN_OPTIONAL, 64);
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0 && where)
        r = admin_check_node(call, where);
    if (r < 0)
        return r;
    if (where && strcmp(where, node->config->name) != 0 && !call->forwarded)
        return admin_forward(call, where);
    scrub_now(node->scrub);
    return 0;
}
