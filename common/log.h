/* SPDX-License-Identifier: Apache-2.0
 *
 * Log lines for people, one line each:
 *   2026-11-22T16:48:27.123456Z warn node2: disk /dev/sdb: write failed: Input/output error
 * The time is env_realtime_ns() where there is an env (so that a simulated run repeats), else the
 * system's. The node name stands there in simulation only. Control characters become '?', so that a
 * name off the wire cannot forge a line. Lines are cut at 1 KiB. Any thread may log.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* For what a peer or a broken disk can trigger at any rate: each call site gets 5 lines in 10 s;
 * the first line after that says how many were left out. */
#define log_error_limited(...) log_at_limited(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn_limited(...) log_at_limited(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info_limited(...) log_at_limited(LOG_LEVEL_INFO, __VA_ARGS__)

/* Lines above `level` are dropped; LOG_LEVEL_INFO at start. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
const char *log_level_name(enum log_level level);
/* "error", "warn", "info", "debug"; false for anything else. */
bool log_level_parse(const char *text, enum log_level *ret_level);

/* Where lines go instead of stderr: `line` ends with a zero byte, no newline. NULL = stderr again.
 */
typedef void log_output_fn(void *ctx, enum log_level level, const char *line);
void log_set_output(log_output_fn *output, void *ctx);

/* --- For the macros ---------------------------------------------------------------------------- */

struct log_limit {
    uint64_t window_start_ns;
    unsigned count, suppressed;
};

extern enum log_level log_level_max;

void log_write(enum log_level level, struct log_limit *limit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_at(level, ...)                       \
    do {                                         \
        if ((level) <= log_level_max)            \
            log_write(level, NULL, __VA_ARGS__); \
    } while (0)

#define log_at_limited(level, ...)                           \
    do {                                                     \
        static struct log_limit log_limit_here_;             \
        if ((level) <= log_level_max)                        \
            log_write(level, &log_limit_here_, __VA_ARGS__); \
    } while (0)
