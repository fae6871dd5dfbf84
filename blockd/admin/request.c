/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/admin/request.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "common/check.h"
#include "common/json_text.h"
#include "common/mem.h"

#define ID_TEXT_BYTES_MAX 64

/* --- The line -------------------------------------------------------------------------------- */

static int bad(char **ret_error, const char *what)
{
    *ret_error = mem_printf("%s; a request is a line {\"id\": NUMBER, \"method\": \"NAME\", "
                            "\"params\": {...}}",
        what);
    return -EBADMSG;
}

static bool id_ok(const json_t *id)
{
    return json_is_integer(id) ||
           (json_is_string(id) && json_string_length(id) < ID_TEXT_BYTES_MAX);
}

int admin_request_decode(
    const char *line, size_t len_bytes, struct admin_request *ret_request, char **ret_error)
{
    CLEANUP_FREE char *error = NULL;
    *ret_request = (struct admin_request){0};
    json_t *json = json_text_decode(line, len_bytes, &error);
    if (!json)
        return bad(ret_error, error);
    ret_request->json = json;
    const json_t *id = json_object_get(json, "id"), *params = json_object_get(json, "params");
    if (!id_ok(id))
        return bad(ret_error, "'id' is not a number or short text");
    ret_request->id = id;
    ret_request->method = json_string_value(json_object_get(json, "method"));
    if (!ret_request->method)
        return bad(ret_error, "'method' is not text");
    if (params && !json_is_object(params))
        return bad(ret_error, "'params' is not an object");
    ret_request->params = params;

    const char *member;
    json_t *value;
    json_object_foreach (json, member, value) {
        if (value != id && value != params && strcmp(member, "method") != 0)
            return bad(ret_error, "there is a member besides 'id', 'method' and 'params'");
    }
    return 0;
}

void admin_request_fini(struct admin_request *request)
{
    json_decref(request->json);
    *request = (struct admin_request){0};
}

/* --- Parameters ------------------------------------------------------------------------------ */

void admin_params_init(struct admin_params *params, const char *method, const json_t *object)
{
    *params = (struct admin_params){.method = method, .object = object};
}

static const json_t *take(struct admin_params *params, const char *name, enum admin_need need)
{
    CHECK(params->known_count < ADMIN_PARAMS_MAX);
    params->known[params->known_count++] = name;
    const json_t *value = json_object_get(params->object, name);
    if (!value && need == ADMIN_REQUIRED && !params->error)
        params->error = mem_printf("%s: parameter '%s' is missing", params->method, name);
    return value;
}

static void wrong(struct admin_params *params, const char *name, const char *want)
{
    if (!params->error)
        params->error = mem_printf("%s: parameter '%s' is not %s", params->method, name, want);
}

static bool text_clean(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

const char *admin_params_text(
    struct admin_params *params, const char *name, enum admin_need need, size_t bytes_max)
{
    const json_t *value = take(params, name, need);
    if (!value)
        return NULL;
    const char *text = json_string_value(value);
    size_t len = text ? strlen(text) : 0;
    if (len > 0 && len < bytes_max && text_clean(text))
        return text;
    CLEANUP_FREE char *want =
        mem_printf("a text of 1 to %zu bytes without control characters", bytes_max - 1);
    wrong(params, name, want);
    return NULL;
}

const char *admin_params_path(struct admin_params *params, const char *name, enum admin_need need)
{
    const char *path =
        admin_params_text(params, name, need, sizeof(((struct disk_record *)0)->path));
    if (!path || path[0] == '/')
        return path;
    wrong(params, name, "an absolute path (the daemon's working directory is not yours)");
    return NULL;
}

const char *admin_params_name(struct admin_params *params, const char *name, enum admin_need need)
{
    const char *text = admin_params_text(params, name, need, ADMIN_REQUEST_BYTES_MAX);
    if (!text || name_valid(text))
        return text;
    if (!params->error)
        params->error =
            mem_printf("'%.200s' is not a name: a letter or digit, then letters, digits, "
                       "'.', '_' or '-', at most %u in all, is",
                text, NAME_BYTES_MAX - 1);
    return NULL;
}

uint64_t admin_params_number(struct admin_params *params, const char *name, enum admin_need need,
    uint64_t min, uint64_t max, uint64_t absent)
{
    const json_t *value = take(params, name, need);
    json_int_t number = json_integer_value(value);
    if (!value)
        return absent;
    if (json_is_integer(value) && number >= 0 && (uint64_t)number >= min && (uint64_t)number <= max)
        return (uint64_t)number;
    CLEANUP_FREE char *want = mem_printf("an integer from %" PRIu64 " to %" PRIu64, min, max);
    wrong(params, name, want);
    return absent;
}

bool admin_params_bool(struct admin_params *params, const char *name, bool absent)
{
    const json_t *value = take(params, name, ADMIN_OPTIONAL);
    if (!value)
        return absent;
    if (!json_is_boolean(value))
        wrong(params, name, "true or false");
    return json_is_true(value);
}

static bool known(const struct admin_params *params, const char *name)
{
    for (unsigned i = 0; i < params->known_count; i++)
        if (strcmp(params->known[i], name) == 0)
            return true;
    return false;
}

static char *known_names(const struct admin_params *params)
{
    char *names = mem_strdup(params->known_count ? params->known[0] : "no parameters");
    for (unsigned i = 1; i < params->known_count; i++) {
        char *more = mem_printf("%s, %s", names, params->known[i]);
        mem_free(names);
        names = more;
    }
    return names;
}

static void refuse_unknown(struct admin_params *params)
{
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)params->object, name, value) {
        if (known(params, name))
            continue;
        CLEANUP_FREE char *names = known_names(params);
        params->error = mem_printf(
            "%s: there is no parameter '%.100s'; it takes %s", params->method, name, names);
        return;
    }
}

int admin_params_end(struct admin_params *params, char **ret_error)
{
    if (!params->error)
        refuse_unknown(params);
    if (!params->error)
        return 0;
    *ret_error = params->error;
    params->error = NULL;
    return -EINVAL;
}
