/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json_text.h"

#include <stdbool.h>

#include "common/mem.h"

/* Counts brackets outside strings. Says nothing of whether they match: that is the parser's. */
static bool too_deep(const char *text, size_t len_bytes)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len_bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

json_t *json_text_decode(const char *text, size_t len_bytes, char **ret_error)
{
    if (too_deep(text, len_bytes)) {
        *ret_error = mem_printf("nested deeper than %u levels", JSON_DEPTH_MAX);
        return NULL;
    }
    json_error_t error;
    json_t *json = json_loadb(text, len_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json) {
        *ret_error = mem_printf("not JSON: %s at byte %d", error.text, error.position);
        return NULL;
    }
    if (!json_is_object(json)) {
        json_decref(json);
        *ret_error = mem_strdup("not a JSON object");
        return NULL;
    }
    return json;
}
