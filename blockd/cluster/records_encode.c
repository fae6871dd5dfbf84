/* SPDX-License-Identifier: Apache-2.0
 *
 * Records to JSON text.
 */
#include "blockd/cluster/records_impl.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/json_text.h"
#include "common/mem.h"

#define ID_TEXT_BYTES 17

static const char *id_format(uint64_t id, char ret_text[ID_TEXT_BYTES])
{
    snprintf(ret_text, ID_TEXT_BYTES, "%016" PRIx64, id);
    return ret_text;
}

/* The object to fill in: what `old_text` had, so that members unknown here survive. */
static json_t *encode_begin(const char *old_text)
{
    CLEANUP_FREE char *error = NULL;
    json_t *object = old_text ? json_text_decode(old_text, strlen(old_text), &error) : NULL;
    if (!object)
        object = json_object();
    CHECK(json_object_set_new(object, "version", json_integer(RECORD_VERSION)) == 0);
    return object;
}

static char *encode_end(json_t *object)
{
    char *dump = json_dumps(object, JSON_COMPACT);
    CHECK(dump);
    char *text = mem_strdup(dump);
    free(dump);
    json_decref(object);
    return text;
}

/* Texts are checked where they come in; one that is not UTF-8 here is a programmer's error. */
static void put_text(json_t *object, const char *member, const char *text)
{
    CHECK_MSG(json_object_set_new(object, member, json_string(text)) == 0, "member %s", member);
}

/* "" is left out. */
static void put_optional_text(json_t *object, const char *member, const char *text)
{
    if (text[0])
        put_text(object, member, text);
    else
        (void)json_object_del(object, member);
}

static void put_number(json_t *object, const char *member, uint64_t number)
{
    CHECK(number <= INT64_MAX);
    CHECK(json_object_set_new(object, member, json_integer((json_int_t)number)) == 0);
}

static void put_id(json_t *object, const char *member, uint64_t id)
{
    char text[ID_TEXT_BYTES];
    put_text(object, member, id_format(id, text));
}

static void put_uuid(json_t *object, const char *member, const struct uuid *uuid)
{
    char text[UUID_TEXT_BYTES];
    put_text(object, member, uuid_format(uuid, text));
}

char *cluster_record_encode(const struct cluster_record *record, const char *old_text)
{
    json_t *object = encode_begin(old_text);
    put_uuid(object, "uuid", &record->uuid);
    put_number(object, "disk_number_next", record->disk_number_next);
    return encode_end(object);
}

char *node_record_encode(const struct node_record *record, const char *old_text)
{
    json_t *object = encode_begin(old_text);
    put_uuid(object, "uuid", &record->uuid);
    put_text(object, "name", record->name);
    put_optional_text(object, "address", record->address);
    put_optional_text(object, "rack", record->rack);
    return encode_end(object);
}

char *session_record_encode(const struct session_record *record)
{
    json_t *object = encode_begin(NULL);
    struct uuid boot;
    memcpy(boot.bytes, record->boot_id, sizeof(boot.bytes));
    put_id(object, "id", record->id);
    put_text(object, "node", record->node);
    put_optional_text(object, "address", record->address);
    put_uuid(object, "boot", &boot);
    put_id(object, "incarnation", record->incarnation);
    put_text(object, "software", record->software);
    return encode_end(object);
}

char *disk_record_encode(const struct disk_record *record, const char *old_text)
{
    json_t *object = encode_begin(old_text);
    CHECK(record->state == DISK_IN || record->state == DISK_OUT);
    put_number(object, "number", record->number);
    put_uuid(object, "uuid", &record->uuid);
    put_text(object, "path", record->path);
    put_text(object, "node", record->node);
    put_text(object, "class", record->class_name);
    put_text(object, "state", disk_state_names[record->state]);
    return encode_end(object);
}

char *pool_encode(const struct pool *pool, const char *old_text)
{
    json_t *object = encode_begin(old_text);
    char code[16];
    snprintf(code, sizeof(code), "%u+%u", pool->code.k, pool->code.m);
    put_text(object, "name", pool->name);
    put_text(object, "code", code);
    put_number(object, "shards_min", pool->shards_min);
    put_number(object, "log_copies_min", pool->log_copies_min);
    put_text(object, "domain", domain_names[pool->domain]);
    put_text(object, "data_class", pool->data_class);
    put_text(object, "log_class", pool->log_class);
    return encode_end(object);
}

static json_t *copies_encode(const struct copies_ref *copies)
{
    CHECK(copies->count <= ARRAY_SIZE(copies->places));
    json_t *object = json_object(), *places = json_array();
    put_id(object, "chunk", copies->chunk);
    for (unsigned i = 0; i < copies->count; i++) {
        json_t *place = json_object();
        put_number(place, "disk", copies->places[i].disk);
        put_id(place, "instance", copies->places[i].instance);
        CHECK(json_array_append_new(places, place) == 0);
    }
    CHECK(json_object_set_new(object, "places", places) == 0);
    return object;
}

char *volume_root_encode(const struct volume_root *root, const char *old_text)
{
    json_t *object = encode_begin(old_text);
    put_id(object, "id", root->id);
    put_text(object, "name", root->name);
    put_number(object, "size_bytes", root->size_bytes);
    put_text(object, "pool", root->pool);
    put_text(object, "state", volume_state_names[root->state]);
    put_number(object, "epoch", root->epoch);
    put_text(object, "owner", root->owner);
    put_id(object, "owner_session", root->owner_session);
    if (root->successor[0])
        put_text(object, "successor", root->successor);
    else
        json_object_del(object, "successor");
    CHECK(json_object_set_new(object, "manifest", copies_encode(&root->manifest)) == 0);
    if (root->loss_epoch) {
        put_number(object, "loss_epoch", root->loss_epoch);
        put_number(object, "loss_time", root->loss_time_s);
    }
    if (root->tail_log) {
        put_id(object, "tail_log", root->tail_log);
        put_number(object, "tail_blocks", root->tail_blocks);
    } else {
        json_object_del(object, "tail_log");
        json_object_del(object, "tail_blocks");
    }
    return encode_end(object);
}

char *purge_record_encode(const uint32_t *disks, unsigned count)
{
    json_t *object = encode_begin(NULL), *array = json_array();
    for (unsigned i = 0; i < count; i++)
        CHECK(json_array_append_new(array, json_integer(disks[i])) == 0);
    CHECK(json_object_set_new(object, "disks", array) == 0);
    return encode_end(object);
}
