/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON text to records. Strict: a member that is absent, of another type or out of range fails the
 * record, by name.
 */
#include "blockd/cluster/records_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/json_text.h"
#include "common/mem.h"

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
    int i = text ? index_of_name(words, text) : 0;
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
