/* SPDX-License-Identifier: Apache-2.0 */
#include "common/uuid.h"

#include <errno.h>
#include <string.h>

#include "common/env.h"

struct uuid uuid_random(void)
{
    struct uuid uuid;
    env_random(&uuid, sizeof(uuid));
    uuid.bytes[6] = (uuid.bytes[6] & 0x0f) | 0x40; /* version 4 */
    uuid.bytes[8] = (uuid.bytes[8] & 0x3f) | 0x80; /* variant of the RFC */
    return uuid;
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool uuid_is_nil(const struct uuid *uuid)
{
    static const struct uuid nil;
    return uuid_equal(uuid, &nil);
}

static bool dash_before(unsigned byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

const char *uuid_format(const struct uuid *uuid, char ret_text[UUID_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    char *p = ret_text;
    for (unsigned i = 0; i < sizeof(uuid->bytes); i++) {
        if (dash_before(i))
            *p++ = '-';
        *p++ = digits[uuid->bytes[i] >> 4];
        *p++ = digits[uuid->bytes[i] & 15];
    }
    *p = 0;
    return ret_text;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int uuid_parse(const char *text, struct uuid *ret_uuid)
{
    struct uuid uuid;
    for (unsigned i = 0; i < sizeof(uuid.bytes); i++) {
        if (dash_before(i) && *text++ != '-')
            return -EINVAL;
        int high = digit_value(text[0]);
        int low = high < 0 ? -1 : digit_value(text[1]);
        if (low < 0)
            return -EINVAL;
        uuid.bytes[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    if (*text)
        return -EINVAL;
    *ret_uuid = uuid;
    return 0;
}
