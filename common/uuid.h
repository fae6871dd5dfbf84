/* SPDX-License-Identifier: Apache-2.0
 *
 * UUIDs (RFC 9562): 16 bytes in the order of their text form, on disks and wires too.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct uuid {
    uint8_t bytes[16];
};

#define UUID_TEXT_BYTES 37 /* NUL included */

/* Version 4, from env_random. */
struct uuid uuid_random(void);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
bool uuid_is_nil(const struct uuid *uuid);
/* Lower case with dashes into `ret_text`, which is returned for convenience. */
const char *uuid_format(const struct uuid *uuid, char ret_text[UUID_TEXT_BYTES]);
/* Exactly the form above, in any case; -EINVAL. */
int uuid_parse(const char *text, struct uuid *ret_uuid);
