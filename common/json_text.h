/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON that came off a wire or out of a store, decoded on a fiber: jansson recurses once a level,
 * up to 2048 deep, which is more than a fiber's stack holds.
 */
#pragma once

#include <jansson.h>

#define JSON_DEPTH_MAX 16

/* One JSON object, whole text; duplicate members and deeper nesting are refused. NULL: *ret_error
 * (mem_free) says where and why. */
json_t *json_text_decode(const char *text, size_t len_bytes, char **ret_error);
