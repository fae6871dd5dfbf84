/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of the coordination store <-> JSON. 64-bit identities are text of 16 hexadecimal digits,
 * since a JSON number holds 53 bits everywhere and 63 in jansson.
 *
 * Decoding is strict: a member that is absent, of another type or out of range fails the record, by
 * name. Nothing here suspends but load and save, and no JSON value lives across a suspension (a
 * simulated node may die in it).
 */
#include "blockd/cluster/records.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/json_text.h"
#include "common/log.h"
#include "common/mem.h"

#define RECORD_VERSION 1
#define ID_TEXT_BYTES 17

static const char *const disk_state_names[] = {
    [DISK_IN] = "in", [DISK_OUT] = "out", NULL /* the others are not stored */};
static const char *const domain_names[] = {
    [DOMAIN_DISK] = "disk", [DOMAIN_NODE] = "node", [DOMAIN_RACK] = "rack", NULL};
static const char *const volume_state_names[] = {[VOLUME_NEW] = "new",
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

static int index_of(const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -EINVAL;
}

int failure_domain_parse(const char *text, enum failure_domain *ret_domain)
{
    int i = index_of(domain_names, text);
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

static const char *id_format(uint64_t id, char ret_text[ID_TEXT_BYTES])
{
    snprintf(ret_text, ID_TEXT_BYTES, "%016" PRIx64, id);
    return ret_text;
}

/* --- Encoding -------------------------------------------------------------------------------- */

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

/* --- Decoding -------------------------------------------------------------------------------- */

/* What is being read; the first error stays. */
struct reader {
    const char *what;
    const json_t *object;
    char *error;
};

static void wrong(struct reader *reader, const char *member, const char *want)
{
    if (!reader->error)
        reader->error = mem_printf("%s: member '%s' is not %s", reader->what, member, want);
}

static bool text_clean(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

/* NULL (and an error) unless the member is text. */
static const char *get_text(struct reader *reader, const char *member)
{
    const char *text = json_string_value(json_object_get(reader->object, member));
    if (!text || !text_clean(text)) {
        wrong(reader, member, "a text without control characters");
        return NULL;
    }
    return text;
}

static void read_text(
    struct reader *reader, const char *member, size_t len_min, char *ret_text, size_t bytes_max)
{
    const char *text = get_text(reader, member);
    if (!text)
        return;
    size_t len = strlen(text);
    if (len < len_min || len >= bytes_max) {
        char want[64];
        snprintf(want, sizeof(want), "a text of %zu to %zu bytes", len_min, bytes_max - 1);
        wrong(reader, member, want);
        return;
    }
    memcpy(ret_text, text, len + 1);
}

static void read_optional_text(
    struct reader *reader, const char *member, char *ret_text, size_t bytes_max)
{
    if (json_object_get(reader->object, member))
        read_text(reader, member, 0, ret_text, bytes_max);
}

static void read_name(struct reader *reader, const char *member, char ret_name[NAME_BYTES_MAX])
{
    const char *text = get_text(reader, member);
    if (!text)
        return;
    if (name_valid(text))
        strcpy(ret_name, text);
    else
        wrong(reader, member, "a name (a letter or digit, then letters, digits, '.', '_', '-')");
}

/* min when there is an error. */
static uint64_t read_number(struct reader *reader, const char *member, uint64_t min, uint64_t max)
{
    const json_t *value = json_object_get(reader->object, member);
    json_int_t number = json_integer_value(value);
    if (json_is_integer(value) && number >= 0 && (uint64_t)number >= min && (uint64_t)number <= max)
        return (uint64_t)number;
    char want[80];
    snprintf(want, sizeof(want), "an integer from %" PRIu64 " to %" PRIu64, min, max);
    wrong(reader, member, want);
    return min;
}

static uint64_t read_id(struct reader *reader, const char *member)
{
    uint64_t id = 0;
    const char *text = get_text(reader, member);
    if (text && id_parse(text, &id) < 0)
        wrong(reader, member, "16 hexadecimal digits in lower case");
    return id;
}

static void read_uuid(struct reader *reader, const char *member, struct uuid *ret_uuid)
{
    const char *text = get_text(reader, member);
    struct uuid uuid;
    if (!text)
        return;
    if (uuid_parse(text, &uuid) < 0 || uuid_is_nil(&uuid))
        wrong(reader, member, "a UUID");
    else
        *ret_uuid = uuid;
}

static int read_word(struct reader *reader, const char *member, const char *const *words)
{
    const char *text = get_text(reader, member);
    int i = text ? index_of(words, text) : 0;
    if (i >= 0)
        return i;
    char want[80] = "one of";
    for (unsigned w = 0; words[w]; w++) {
        size_t len = strlen(want);
        snprintf(want + len, sizeof(want) - len, "%s %s", w ? "," : "", words[w]);
    }
    wrong(reader, member, want);
    return 0;
}

static int decode_begin(struct reader *reader, const char *what, const char *text, char **ret_error)
{
    CLEANUP_FREE char *error = NULL;
    *reader = (struct reader){.what = what};
    reader->object = json_text_decode(text, strlen(text), &error);
    if (!reader->object) {
        *ret_error = mem_printf("%s: %s", what, error);
        return -EBADMSG;
    }
    /* A newer daemon may add members under version 1; a change of meaning takes version 2. */
    const json_t *version = json_object_get(reader->object, "version");
    if (json_is_integer(version) && json_integer_value(version) > RECORD_VERSION)
        reader->error = mem_printf("%s: version %lld is newer than this daemon reads (%d)", what,
            (long long)json_integer_value(version), RECORD_VERSION);
    else if (!json_is_integer(version) || json_integer_value(version) != RECORD_VERSION)
        wrong(reader, "version", "1");
    return 0;
}

static int decode_end(struct reader *reader, char **ret_error)
{
    json_decref((json_t *)reader->object);
    if (!reader->error)
        return 0;
    *ret_error = reader->error;
    return -EBADMSG;
}

int cluster_record_decode(const char *text, struct cluster_record *ret_record, char **ret_error)
{
    struct cluster_record record = {0};
    struct reader reader;
    int r = decode_begin(&reader, "cluster record", text, ret_error);
    if (r < 0)
        return r;
    read_uuid(&reader, "uuid", &record.uuid);
    record.disk_number_next = (uint32_t)read_number(&reader, "disk_number_next", 1, UINT32_MAX);
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_record = record;
    return r;
}

int node_record_decode(const char *text, struct node_record *ret_record, char **ret_error)
{
    struct node_record record = {0};
    struct reader reader;
    int r = decode_begin(&reader, "node record", text, ret_error);
    if (r < 0)
        return r;
    read_uuid(&reader, "uuid", &record.uuid);
    read_text(&reader, "name", 1, record.name, sizeof(record.name));
    if (!reader.error && !name_valid(record.name))
        wrong(&reader, "name", "a name");
    read_optional_text(&reader, "address", record.address, sizeof(record.address));
    read_optional_text(&reader, "rack", record.rack, sizeof(record.rack));
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_record = record;
    return r;
}

int session_record_decode(const char *text, struct session_record *ret_record, char **ret_error)
{
    struct session_record record = {0};
    struct uuid boot = {0};
    struct reader reader;
    int r = decode_begin(&reader, "session record", text, ret_error);
    if (r < 0)
        return r;
    record.id = read_id(&reader, "id");
    read_text(&reader, "node", 1, record.node, sizeof(record.node));
    read_optional_text(&reader, "address", record.address, sizeof(record.address));
    read_uuid(&reader, "boot", &boot);
    memcpy(record.boot_id, boot.bytes, sizeof(record.boot_id));
    record.incarnation = read_id(&reader, "incarnation");
    read_optional_text(&reader, "software", record.software, sizeof(record.software));
    if (!reader.error && record.id == 0)
        wrong(&reader, "id", "a number above 0");
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_record = record;
    return r;
}

int disk_record_decode(const char *text, struct disk_record *ret_record, char **ret_error)
{
    struct disk_record record = {0};
    struct reader reader;
    int r = decode_begin(&reader, "disk record", text, ret_error);
    if (r < 0)
        return r;
    record.number = (uint32_t)read_number(&reader, "number", 1, UINT32_MAX);
    read_uuid(&reader, "uuid", &record.uuid);
    read_text(&reader, "path", 1, record.path, sizeof(record.path));
    read_text(&reader, "node", 1, record.node, sizeof(record.node));
    read_text(&reader, "class", 0, record.class_name, sizeof(record.class_name));
    record.state = (enum disk_state)read_word(&reader, "state", disk_state_names);
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_record = record;
    return r;
}

static void read_code(struct reader *reader, const char *member, struct shard_code *ret_code)
{
    const char *text = get_text(reader, member);
    if (text && code_parse(text, ret_code) < 0)
        wrong(reader, member, "a code K+M with K from 1 to 16 and M from 0 to 4");
}

int pool_decode(const char *text, struct pool *ret_pool, char **ret_error)
{
    struct pool pool = {.code = {.k = 1}};
    struct reader reader;
    int r = decode_begin(&reader, "pool record", text, ret_error);
    if (r < 0)
        return r;
    read_name(&reader, "name", pool.name);
    read_code(&reader, "code", &pool.code);
    unsigned shards = pool.code.k + pool.code.m;
    pool.shards_min = (unsigned)read_number(&reader, "shards_min", pool.code.k, shards);
    pool.log_copies_min = (unsigned)read_number(&reader, "log_copies_min", 1, pool.code.m + 1u);
    pool.domain = (enum failure_domain)read_word(&reader, "domain", domain_names);
    read_text(&reader, "data_class", 0, pool.data_class, sizeof(pool.data_class));
    read_text(&reader, "log_class", 0, pool.log_class, sizeof(pool.log_class));
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_pool = pool;
    return r;
}

/* `parent` gets the errors. */
static void read_copies(struct reader *parent, const char *member, struct copies_ref *ret_copies)
{
    struct reader reader = {.what = member, .object = json_object_get(parent->object, member)};
    const json_t *places = json_object_get(reader.object, "places");
    size_t count = json_array_size(places);
    ret_copies->chunk = read_id(&reader, "chunk");
    if (!json_is_array(places) || count > ARRAY_SIZE(ret_copies->places) ||
        (count == 0) != (ret_copies->chunk == 0))
        wrong(&reader, "places", "an array of 1 to 5 places (none without a chunk)");
    ret_copies->count = (uint8_t)count;
    for (size_t i = 0; !reader.error && i < count; i++) {
        struct reader place = {.what = member, .object = json_array_get(places, i)};
        ret_copies->places[i].disk = (uint32_t)read_number(&place, "disk", 0, UINT32_MAX);
        ret_copies->places[i].instance = read_id(&place, "instance");
        reader.error = place.error;
    }
    if (reader.error && !parent->error)
        parent->error = mem_printf("%s: %s", parent->what, reader.error);
    mem_free(reader.error);
}

static void read_size(struct reader *reader, const char *member, uint64_t *ret_size_bytes)
{
    *ret_size_bytes = read_number(reader, member, 512, VOLUME_SIZE_BYTES_MAX);
    if (*ret_size_bytes % 512)
        wrong(reader, member, "a multiple of 512");
}

int purge_record_decode(
    const char *text, uint32_t **ret_disks, unsigned *ret_count, char **ret_error)
{
    struct reader reader;
    int r = decode_begin(&reader, "purge record", text, ret_error);
    if (r < 0)
        return r;
    const json_t *array = json_object_get(reader.object, "disks");
    size_t count = json_array_size(array);
    uint32_t *disks = mem_zalloc(count + 1, sizeof(*disks));
    for (size_t i = 0; i < count; i++) {
        json_int_t number = json_integer_value(json_array_get(array, i));
        if (number < 1 || number > UINT32_MAX)
            wrong(&reader, "disks", "numbers of disks");
        disks[i] = (uint32_t)number;
    }
    if (!json_is_array(array))
        wrong(&reader, "disks", "a list");
    r = decode_end(&reader, ret_error);
    if (r < 0) {
        mem_free(disks);
        return r;
    }
    *ret_disks = disks;
    *ret_count = (unsigned)count;
    return 0;
}

int volume_root_decode(const char *text, struct volume_root *ret_root, char **ret_error)
{
    struct volume_root root = {0};
    struct reader reader;
    int r = decode_begin(&reader, "volume root", text, ret_error);
    if (r < 0)
        return r;
    root.id = read_id(&reader, "id");
    if (root.id == 0)
        wrong(&reader, "id", "16 hexadecimal digits other than 0");
    read_name(&reader, "name", root.name);
    read_size(&reader, "size_bytes", &root.size_bytes);
    read_name(&reader, "pool", root.pool);
    root.state = (enum volume_state)read_word(&reader, "state", volume_state_names);
    root.epoch = (uint32_t)read_number(&reader, "epoch", 0, UINT32_MAX);
    read_text(&reader, "owner", 0, root.owner, sizeof(root.owner));
    root.owner_session = read_id(&reader, "owner_session");
    if (json_object_get(reader.object, "successor"))
        read_text(&reader, "successor", 0, root.successor, sizeof(root.successor));
    read_copies(&reader, "manifest", &root.manifest);
    if (json_object_get(reader.object, "loss_epoch")) {
        root.loss_epoch = (uint32_t)read_number(&reader, "loss_epoch", 0, UINT32_MAX);
        root.loss_time_s = read_number(&reader, "loss_time", 0, INT64_MAX);
    }
    if (json_object_get(reader.object, "tail_log")) {
        root.tail_log = read_id(&reader, "tail_log");
        root.tail_blocks = (uint32_t)read_number(&reader, "tail_blocks", 0, UINT32_MAX);
    }
    r = decode_end(&reader, ret_error);
    if (r == 0)
        *ret_root = root;
    return r;
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
