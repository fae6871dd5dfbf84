/* SPDX-License-Identifier: Apache-2.0 */
#include "common/store_etcd_json.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/json_text.h"
#include "common/mem.h"

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* --- Encoding -------------------------------------------------------------------------------- */

static json_t *json_base64(const void *data, size_t len_bytes)
{
    const uint8_t *from = data;
    CLEANUP_FREE char *text = mem_alloc(DIV_ROUND_UP(len_bytes, 3) * 4 + 1);
    char *to = text;
    for (size_t i = 0; i < len_bytes; i += 3) {
        size_t n = MIN(len_bytes - i, 3);
        uint32_t bits = (uint32_t)from[i] << 16 | (n > 1 ? (uint32_t)from[i + 1] << 8 : 0) |
                        (n > 2 ? from[i + 2] : 0);
        *to++ = base64_digits[bits >> 18];
        *to++ = base64_digits[bits >> 12 & 63];
        *to++ = n > 1 ? base64_digits[bits >> 6 & 63] : '=';
        *to++ = n > 2 ? base64_digits[bits & 63] : '=';
    }
    return json_stringn(text, (size_t)(to - text));
}

static json_t *json_key(const char *key)
{
    return json_base64(key, strlen(key));
}

/* As proto3's JSON mapping has it. */
static json_t *json_u64(uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, number);
    return json_string(text);
}

static char *dump(json_t *json)
{
    CHECK_MSG(json, "out of memory");
    char *text = json_dumps(json, JSON_COMPACT);
    CHECK_MSG(text, "out of memory");
    json_decref(json);
    return text;
}

/* The first key beyond all that start with `prefix`; the key "\0" means: no end. */
static json_t *json_prefix_end(const char *prefix)
{
    char end[STORE_KEY_BYTES_MAX + 1];
    size_t len = strlen(prefix);
    CHECK(len <= STORE_KEY_BYTES_MAX);
    memcpy(end, prefix, len);
    while (len > 0 && (uint8_t)end[len - 1] == 0xff)
        len--;
    if (len == 0)
        return json_base64("", 1);
    end[len - 1] = (char)((uint8_t)end[len - 1] + 1);
    return json_base64(end, len);
}

static json_t *json_prefix_begin(const char *prefix)
{
    return prefix[0] ? json_key(prefix) : json_base64("", 1);
}

char *etcd_json_list(const char *prefix, const char *after, unsigned limit, uint64_t revision)
{
    return dump(json_pack("{s:o,s:o,s:o,s:o}", "key",
        after ? json_string(after) : json_prefix_begin(prefix), "range_end",
        json_prefix_end(prefix), "limit", json_u64(limit), "revision", json_u64(revision)));
}

char *etcd_json_key(const char *key)
{
    json_t *json = json_key(key);
    CHECK_MSG(json, "out of memory");
    char *text = mem_strdup(json_string_value(json));
    json_decref(json);
    return text;
}

char *etcd_json_get(const char *key)
{
    return dump(json_pack("{s:o}", "key", json_key(key)));
}

static json_t *json_compare(const struct store_compare *compare)
{
    json_t *key = json_key(compare->key), *revision = json_u64(compare->revision);
    if (compare->revision == 0)
        return json_pack("{s:s,s:s,s:o,s:o}", "target", "CREATE", "result", "EQUAL", "key", key,
            "create_revision", revision);
    return json_pack("{s:s,s:s,s:o,s:o}", "target", "MOD", "result", "EQUAL", "key", key,
        "mod_revision", revision);
}

static json_t *json_op(const struct store_op *op, uint64_t lease)
{
    if (op->type == STORE_DELETE)
        return json_pack("{s:{s:o}}", "request_delete_range", "key", json_key(op->key));
    return json_pack("{s:{s:o,s:o,s:o}}", "request_put", "key", json_key(op->key), "value",
        json_base64(op->data, op->len_bytes), "lease", json_u64(op->session ? lease : 0));
}

char *etcd_json_txn(const struct store_compare *compares, unsigned compare_count,
    const struct store_op *ops, unsigned op_count, uint64_t lease)
{
    json_t *compare = json_array(), *success = json_array();
    for (unsigned i = 0; i < compare_count; i++)
        CHECK(json_array_append_new(compare, json_compare(&compares[i])) == 0);
    for (unsigned i = 0; i < op_count; i++)
        CHECK(json_array_append_new(success, json_op(&ops[i], lease)) == 0);
    return dump(json_pack("{s:o,s:o}", "compare", compare, "success", success));
}

char *etcd_json_grant(uint64_t ttl_s)
{
    return dump(json_pack("{s:o}", "TTL", json_u64(ttl_s)));
}

char *etcd_json_lease(uint64_t lease)
{
    return dump(json_pack("{s:o}", "ID", json_u64(lease)));
}

char *etcd_json_watch(const char *prefix, uint64_t start_revision)
{
    return dump(json_pack("{s:{s:o,s:o,s:o}}", "create_request", "key", json_prefix_begin(prefix),
        "range_end", json_prefix_end(prefix), "start_revision", json_u64(start_revision)));
}

char *etcd_json_login(const char *user, const char *password)
{
    return dump(json_pack("{s:s,s:s}", "name", user, "password", password));
}

/* --- Decoding: each take_* is 0 also when the member is left out ------------------------------ */

static int base64_value(char c)
{
    const char *at = c ? strchr(base64_digits, c) : NULL;
    return at ? (int)(at - base64_digits) : -1;
}

/* NUL-terminated beyond *ret_len_bytes; NULL: not base64. */
static char *base64_decode(const char *text, size_t len, size_t *ret_len_bytes)
{
    if (len % 4 != 0)
        return NULL;
    size_t pad =
        len == 0 ? 0 : (text[len - 1] == '=') + (text[len - 1] == '=' && text[len - 2] == '=');
    size_t len_bytes = len / 4 * 3 - pad;
    char *data = mem_alloc(len / 4 * 3 + 1), *to = data;
    for (size_t i = 0; i < len; i += 4) {
        uint32_t bits = 0;
        for (unsigned j = 0; j < 4; j++) {
            int value = i + j >= len - pad ? 0 : base64_value(text[i + j]);
            if (value < 0) {
                mem_free(data);
                return NULL;
            }
            bits = bits << 6 | (uint32_t)value;
        }
        *to++ = (char)(bits >> 16);
        *to++ = (char)(bits >> 8);
        *to++ = (char)bits;
    }
    data[len_bytes] = 0;
    *ret_len_bytes = len_bytes;
    return data;
}

static int take_bytes(const json_t *object, const char *name, char **ret_data, size_t *ret_len)
{
    const json_t *member = json_object_get(object, name);
    if (member && !json_is_string(member))
        return -EBADMSG;
    char *data = base64_decode(
        member ? json_string_value(member) : "", member ? json_string_length(member) : 0, ret_len);
    if (!data)
        return -EBADMSG;
    *ret_data = data;
    return 0;
}

/* A non-negative integer, as a string or (small ones, by other versions) as a number. */
static int take_u64(const json_t *object, const char *name, uint64_t *ret_number)
{
    const json_t *member = json_object_get(object, name);
    if (!member)
        return 0;
    if (json_is_integer(member) && json_integer_value(member) >= 0) {
        *ret_number = (uint64_t)json_integer_value(member);
        return 0;
    }
    const char *text = json_string_value(member);
    if (!text || text[0] < '0' || text[0] > '9')
        return -EBADMSG;
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (errno || *end)
        return -EBADMSG;
    *ret_number = number;
    return 0;
}

static int take_bool(const json_t *object, const char *name, bool *ret_value)
{
    const json_t *member = json_object_get(object, name);
    if (member && !json_is_boolean(member))
        return -EBADMSG;
    *ret_value = json_is_true(member);
    return 0;
}

static int take_text(const json_t *object, const char *name, char **ret_text)
{
    const json_t *member = json_object_get(object, name);
    if (!member)
        return 0;
    if (!json_is_string(member))
        return -EBADMSG;
    *ret_text = mem_strdup(json_string_value(member));
    return 0;
}

/* A key-value pair; *ret_named false: its key is none of store.h's, *ret_value is untouched. */
static int take_value(const json_t *kv, struct store_value *ret_value, bool *ret_named)
{
    struct store_value value = {0};
    size_t key_len;
    if (!json_is_object(kv) || take_u64(kv, "mod_revision", &value.revision) < 0 ||
        value.revision == 0 || take_bytes(kv, "key", &value.key, &key_len) < 0)
        return -EBADMSG;
    if (key_len == 0 || take_bytes(kv, "value", &value.data, &value.len_bytes) < 0) {
        mem_free(value.key);
        return -EBADMSG;
    }
    *ret_named = key_len <= STORE_KEY_BYTES_MAX && strlen(value.key) == key_len;
    if (*ret_named)
        *ret_value = value;
    else
        store_value_fini(&value);
    return 0;
}

static int take_header(const json_t *json, struct etcd_header *ret_header)
{
    const json_t *header = json_object_get(json, "header");
    if (!header)
        return 0;
    if (!json_is_object(header) || take_u64(header, "cluster_id", &ret_header->cluster_id) < 0 ||
        take_u64(header, "member_id", &ret_header->member_id) < 0 ||
        take_u64(header, "revision", &ret_header->revision) < 0 ||
        take_u64(header, "raft_term", &ret_header->raft_term) < 0)
        return -EBADMSG;
    return 0;
}

static int take_values(const json_t *json, struct etcd_answer_json *answer)
{
    const json_t *kvs = json_object_get(json, "kvs");
    if (!kvs)
        return 0;
    if (!json_is_array(kvs))
        return -EBADMSG;
    size_t count = json_array_size(kvs);
    answer->values = mem_zalloc(count, sizeof(*answer->values));
    for (size_t i = 0; i < count; i++) {
        bool named;
        int r = take_value(json_array_get(kvs, i), &answer->values[answer->value_count], &named);
        if (r < 0)
            return r;
        answer->value_count += named;
    }
    answer->key_count = (unsigned)count;
    return count ? take_text(json_array_get(kvs, count - 1), "key", &answer->last_key) : 0;
}

static int take_event(const json_t *json, struct etcd_answer_json *answer)
{
    struct etcd_event *event = &answer->events[answer->event_count];
    const json_t *type = json_object_get(json, "type");
    bool named;
    if (!json_is_object(json) || (type && !json_is_string(type)))
        return -EBADMSG;
    int r = take_value(json_object_get(json, "kv"), &event->value, &named);
    if (r < 0 || !named)
        return r;
    answer->event_count++;
    event->deleted = type && strcmp(json_string_value(type), "DELETE") == 0;
    if (event->deleted) {
        mem_free(event->value.data);
        event->value.data = NULL;
        event->value.len_bytes = 0;
    }
    return 0;
}

static int take_events(const json_t *json, struct etcd_answer_json *answer)
{
    const json_t *events = json_object_get(json, "events");
    if (!events)
        return 0;
    if (!json_is_array(events))
        return -EBADMSG;
    size_t count = json_array_size(events);
    answer->events = mem_zalloc(count, sizeof(*answer->events));
    for (size_t i = 0; i < count; i++) {
        int r = take_event(json_array_get(events, i), answer);
        if (r < 0)
            return r;
    }
    return 0;
}

/* {"error": text, "code": n, "message": text}, in streams {"error": {"grpc_code": n, ...}}. */
static int take_error(const json_t *json, struct etcd_answer_json *answer)
{
    const json_t *error = json_object_get(json, "error");
    if (!error)
        return 0;
    uint64_t code = 2; /* unknown */
    const json_t *at = json_is_object(error) ? error : json;
    if (take_u64(at, json_is_object(error) ? "grpc_code" : "code", &code) < 0 ||
        take_text(at, "message", &answer->error_text) < 0)
        return -EBADMSG;
    answer->error_code = code > 0 && code < 1000 ? (unsigned)code : 2;
    return 0;
}

static int decode_object(const json_t *json, struct etcd_answer_json *answer)
{
    if (take_error(json, answer) < 0)
        return -EBADMSG;
    const json_t *result = json_object_get(json, "result");
    if (result && !json_is_object(result))
        return -EBADMSG;
    if (result)
        json = result;
    if (take_header(json, &answer->header) < 0 || take_values(json, answer) < 0 ||
        take_bool(json, "more", &answer->more) < 0 ||
        take_bool(json, "succeeded", &answer->succeeded) < 0 ||
        take_u64(json, "ID", &answer->id) < 0 || take_u64(json, "TTL", &answer->ttl_s) < 0 ||
        take_text(json, "token", &answer->token) < 0 ||
        take_bool(json, "created", &answer->created) < 0 ||
        take_bool(json, "canceled", &answer->canceled) < 0 ||
        take_u64(json, "compact_revision", &answer->compact_revision) < 0 ||
        take_events(json, answer) < 0)
        return -EBADMSG;
    /* Whatever is no error names the state it was given in. */
    return answer->error_code || answer->header.raft_term ? 0 : -EBADMSG;
}

int etcd_json_decode(const char *text, size_t len_bytes, struct etcd_answer_json *ret_answer)
{
    CLEANUP_FREE char *error = NULL;
    json_t *json = json_text_decode(text, len_bytes, &error);
    if (!json)
        return -EBADMSG;
    struct etcd_answer_json answer = {0};
    int r = decode_object(json, &answer);
    json_decref(json);
    if (r < 0) {
        etcd_answer_json_fini(&answer);
        return r;
    }
    *ret_answer = answer;
    return 0;
}

void etcd_answer_json_fini(struct etcd_answer_json *answer)
{
    store_list_free(answer->values, answer->value_count);
    for (unsigned i = 0; i < answer->event_count; i++)
        store_value_fini(&answer->events[i].value);
    mem_free(answer->events);
    mem_free(answer->last_key);
    mem_free(answer->token);
    mem_free(answer->error_text);
    *answer = (struct etcd_answer_json){0};
}
