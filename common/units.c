/* SPDX-License-Identifier: Apache-2.0 */
#include "common/units.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/check.h"

/* A decimal number with at most 9 digits after the point, times `unit`; exact, no floating point.
 * Advances *text. */
struct number {
    uint64_t whole;
    uint64_t fraction; /* of 10^9 */
};

static int number_parse(const char **text, struct number *ret)
{
    const char *p = *text;
    struct number number = {0};
    if (!isdigit((unsigned char)*p))
        return -EINVAL;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(number.whole, 10, &number.whole) ||
            __builtin_add_overflow(number.whole, *p - '0', &number.whole))
            return -ERANGE;
    if (*p == '.') {
        uint64_t digit = 100000000;
        if (!isdigit((unsigned char)*++p))
            return -EINVAL;
        for (; isdigit((unsigned char)*p); p++, digit /= 10)
            number.fraction += digit * (uint64_t)(*p - '0');
    }
    *text = p;
    *ret = number;
    return 0;
}

static int number_times(struct number number, uint64_t unit, uint64_t *ret)
{
    uint64_t value;
    unsigned __int128 fraction = (unsigned __int128)number.fraction * unit / 1000000000u;
    if (__builtin_mul_overflow(number.whole, unit, &value) ||
        __builtin_add_overflow(value, (uint64_t)fraction, &value) || value > INT64_MAX)
        return -ERANGE;
    *ret = value;
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    static const char letters[] = "kmgtp";
    struct number number;
    int r = number_parse(&text, &number);
    if (r < 0)
        return r;
    if (*text == ' ')
        text++;
    const char *letter = *text ? strchr(letters, tolower((unsigned char)*text)) : NULL;
    uint64_t unit = letter ? 1ull << 10 * (letter - letters + 1) : 1;
    if (letter) {
        text++;
        if (strcasecmp(text, "ib") == 0)
            text += 2;
    }
    if (strcasecmp(text, "b") == 0)
        text++;
    if (*text || (!letter && number.fraction))
        return -EINVAL;
    return number_times(number, unit, ret_bytes);
}

/* value/10^decimals, three significant digits. */
static void three_digits(char *text, size_t bytes_max, uint64_t value, uint64_t unit)
{
    unsigned __int128 scaled = (unsigned __int128)value * 100 / unit;
    uint64_t hundredths = (uint64_t)scaled;
    if (value % unit == 0 || hundredths >= 10000)
        snprintf(text, bytes_max, "%" PRIu64, hundredths / 100);
    else if (hundredths >= 1000)
        snprintf(text, bytes_max, "%" PRIu64 ".%" PRIu64, hundredths / 100, hundredths / 10 % 10);
    else
        snprintf(text, bytes_max, "%" PRIu64 ".%02" PRIu64, hundredths / 100, hundredths % 100);
}

const char *size_format(uint64_t bytes, char ret_text[SIZE_TEXT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned i = 0;
    while (i + 1 < ARRAY_SIZE(units) && bytes >> 10 * (i + 1))
        i++;
    char digits[24];
    three_digits(digits, sizeof(digits), bytes, 1ull << 10 * i);
    snprintf(ret_text, SIZE_TEXT_BYTES, "%s %s", digits, units[i]);
    return ret_text;
}

/* --- Durations ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint64_t ns;
} duration_units[] = {
    {"", 1000000000ull},
    {"s", 1000000000ull},
    {"sec", 1000000000ull},
    {"ms", 1000000ull},
    {"us", 1000ull},
    {"m", 60 * 1000000000ull},
    {"min", 60 * 1000000000ull},
    {"h", 3600 * 1000000000ull},
    {"d", 86400 * 1000000000ull},
    {"w", 7 * 86400 * 1000000000ull},
};

int duration_parse(const char *text, uint64_t *ret_ns)
{
    struct number number;
    int r = number_parse(&text, &number);
    if (r < 0)
        return r;
    if (text[0] == ' ' && text[1])
        text++;
    for (unsigned i = 0; i < ARRAY_SIZE(duration_units); i++)
        if (strcmp(text, duration_units[i].name) == 0)
            return number_times(number, duration_units[i].ns, ret_ns);
    return -EINVAL;
}

const char *duration_format(uint64_t ns, char ret_text[DURATION_TEXT_BYTES])
{
    uint64_t s = ns / 1000000000;
    char digits[24];
    if (s >= 86400) {
        snprintf(
            ret_text, DURATION_TEXT_BYTES, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s / 3600 % 24);
    } else if (s >= 3600) {
        snprintf(
            ret_text, DURATION_TEXT_BYTES, "%" PRIu64 "h %02" PRIu64 "m", s / 3600, s / 60 % 60);
    } else if (s >= 60) {
        snprintf(ret_text, DURATION_TEXT_BYTES, "%" PRIu64 "m %02" PRIu64 "s", s / 60, s % 60);
    } else {
        uint64_t unit = ns >= 1000000000 ? 1000000000 : ns >= 1000000 ? 1000000 : 1000;
        three_digits(digits, sizeof(digits), ns, unit);
        snprintf(ret_text, DURATION_TEXT_BYTES, "%s %s", digits,
            unit == 1000      ? "us"
            : unit == 1000000 ? "ms"
                              : "s");
    }
    return ret_text;
}
