/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding of one line of the admin protocol (common/admin_client.h), and the strict reading of its
 * parameters: each complaint names the method, the parameter and what it should be.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADMIN_REQUEST_BYTES_MAX (1u << 20)

struct admin_request {
    json_t *json;     /* owns the rest */
    const json_t *id; /* integer or short text; NULL while unknown */
    const char *method;
    const json_t *params; /* an object; NULL = none given */
};

/* -EBADMSG with *ret_error (mem_free); ret_request->id is then what could be read of it (NULL or
 * owned by ret_request->json). admin_request_fini in either case. */
int admin_request_decode(
    const char *line, size_t len_bytes, struct admin_request *ret_request, char **ret_error);
void admin_request_fini(struct admin_request *request);

#define ADMIN_PARAMS_MAX 12

/* Read all parameters, then call admin_params_end() before using any. */
struct admin_params {
    const char *method;
    const json_t *object; /* NULL = none given */
    const char *known[ADMIN_PARAMS_MAX];
    unsigned known_count;
    char *error; /* the first */
};

enum admin_need { ADMIN_OPTIONAL, ADMIN_REQUIRED };

void admin_params_init(struct admin_params *params, const char *method, const json_t *object);
/* NULL when absent (or wrong). Text without control characters, 1..bytes_max-1 bytes. */
const char *admin_params_text(
    struct admin_params *params, const char *name, enum admin_need need, size_t bytes_max);
/* A path that begins with '/'. */
const char *admin_params_path(struct admin_params *params, const char *name, enum admin_need need);
/* A name of a pool or volume (name_valid). */
const char *admin_params_name(struct admin_params *params, const char *name, enum admin_need need);
/* `absent` when it is not there. */
uint64_t admin_params_number(struct admin_params *params, const char *name, enum admin_need need,
    uint64_t min, uint64_t max, uint64_t absent);
bool admin_params_bool(struct admin_params *params, const char *name, bool absent);
/* Also refuses parameters that nobody asked for. -EINVAL with *ret_error (mem_free). */
int admin_params_end(struct admin_params *params, char **ret_error);
