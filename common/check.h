/* SPDX-License-Identifier: Apache-2.0
 *
 * CHECK: an assertion that stays on in release builds. For programmer errors and broken invariants
 * only; operating errors are returned and corruption is reported (CONTRIBUTING.md). A failed CHECK
 * names the condition and aborts: a daemon that has lost an invariant must not touch more data.
 */
#pragma once

#include <stdbool.h>

_Noreturn void check_failed(const char *file, int line, const char *condition, const char *format,
    ...) __attribute__((format(printf, 4, 5)));

#define CHECK(cond)                                            \
    do {                                                       \
        if (__builtin_expect(!(cond), 0))                      \
            check_failed(__FILE__, __LINE__, #cond, "%s", ""); \
    } while (0)

#define CHECK_MSG(cond, ...)                                      \
    do {                                                          \
        if (__builtin_expect(!(cond), 0))                         \
            check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__); \
    } while (0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define DIV_ROUND_UP(n, d) (((n) + (d)-1) / (d))
#define ROUND_UP(n, d) (DIV_ROUND_UP(n, d) * (d))
#define ROUND_DOWN(n, d) ((n) / (d) * (d))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
