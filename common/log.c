/* SPDX-License-Identifier: Apache-2.0
 *
 * Each line is built on the stack and leaves by one write(2), so lines of several threads do not
 * mix and a log call never allocates, locks or suspends.
 */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env_impl.h"

#define LIMIT_WINDOW_NS (10ull * 1000 * 1000 * 1000)
#define LIMIT_LINES 5
#define LINE_BYTES 1024

enum log_level log_level_max = LOG_LEVEL_INFO;

static log_output_fn *output_fn;
static void *output_ctx;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_set_level(enum log_level level)
{
    log_level_max = level;
}

enum log_level log_get_level(void)
{
    return log_level_max;
}

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

bool log_level_parse(const char *text, enum log_level *ret_level)
{
    for (unsigned i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(text, level_names[i]) != 0)
            continue;
        *ret_level = i;
        return true;
    }
    return false;
}

void log_set_output(log_output_fn *output, void *ctx)
{
    output_fn = output;
    output_ctx = ctx;
}

static uint64_t realtime_ns(void)
{
    if (fiber_env())
        return env_realtime_ns();
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* False when this call site has had its share. Threads may race for the counts: they are only a
 * limit. */
static bool limit_allows(struct log_limit *limit, uint64_t now_ns, unsigned *ret_suppressed)
{
    bool in_window = limit->count > 0 && now_ns >= limit->window_start_ns &&
                     now_ns - limit->window_start_ns < LIMIT_WINDOW_NS;
    if (!in_window) {
        limit->window_start_ns = now_ns;
        limit->count = 0;
    }
    if (limit->count >= LIMIT_LINES) {
        limit->suppressed++;
        return false;
    }
    limit->count++;
    *ret_suppressed = limit->suppressed;
    limit->suppressed = 0;
    return true;
}

/* snprintf's answer may exceed the room; the line is then cut. */
static size_t clamp(int len, size_t room)
{
    if (len < 0)
        return 0;
    return (size_t)len < room ? (size_t)len : room - 1;
}

static size_t format_prefix(char *line, size_t room, uint64_t now_ns, enum log_level level)
{
    time_t seconds = now_ns / 1000000000u;
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t len = strftime(line, room, "%Y-%m-%dT%H:%M:%S", &tm);
    const char *node = fiber_env() ? fiber_env()->name : NULL;
    return len + clamp(snprintf(line + len, room - len, ".%06uZ %s %s%s",
                           (unsigned)(now_ns % 1000000000u / 1000), level_names[level],
                           node ? node : "", node ? ": " : ""),
                     room - len);
}

void log_write(enum log_level level, struct log_limit *limit, const char *format, ...)
{
    unsigned suppressed = 0;
    uint64_t now_ns = realtime_ns();
    if (limit && !limit_allows(limit, now_ns, &suppressed))
        return;

    char line[LINE_BYTES];
    const size_t room = sizeof(line) - 1; /* the newline */
    size_t start = format_prefix(line, room, now_ns, level), len = start;
    va_list args;
    va_start(args, format);
    len += clamp(vsnprintf(line + len, room - len, format, args), room - len);
    va_end(args);
    if (suppressed)
        len += clamp(snprintf(line + len, room - len, " (%u more like this left out)", suppressed),
            room - len);
    for (size_t i = start; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';

    if (output_fn) {
        output_fn(output_ctx, level, line);
        return;
    }
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0) {
        /* a log that cannot be written cannot be complained about */
    }
}
