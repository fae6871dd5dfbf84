/* SPDX-License-Identifier: Apache-2.0
 *
 * The file becomes a list of (section, key, value, line). Each getter notes what it asked for, so that
 * config_finish can name what is unknown and what would have been known.
 */
#include "common/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/list.h"
#include "common/mem.h"

#define FILE_BYTES_MAX (1u << 20)
#define MESSAGE_BYTES 1024

struct entry {
    struct list link;
    char *section, *key, *value;
    unsigned line;
};

/* A (section, key) that a getter asked for, or with key NULL a kind of section. */
struct question {
    struct list link;
    char *section, *key;
};

struct config {
    char *name;
    struct list entries, questions;
    char *error; /* the first */
};

__attribute__((format(printf, 3, 4))) static void fail(
    struct config *config, unsigned line, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    if (config->error)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    config->error = line ? mem_printf("%s:%u: %s", config->name, line, text)
                         : mem_printf("%s: %s", config->name, text);
}

/* --- Reading ----------------------------------------------------------------------------------- */

/* libinih is built without line numbers: it reads a line, then calls the handler, so counting reads is enough. */
struct reading {
    struct config *config;
    const char *at; /* rest of the text */
    unsigned line;
};

/* As fgets. libinih's buffer is 200 bytes, and it would take the rest of a longer line for another one. */
static char *read_line(char *buf, int size, void *stream)
{
    struct reading *reading = stream;
    size_t len = strcspn(reading->at, "\n");
    bool newline = reading->at[len] == '\n';
    if (len == 0 && !newline)
        return NULL;
    reading->line++;
    if (len + 2 > (size_t)size) {
        fail(reading->config, reading->line, "a line has at most %d characters", size - 2);
        return NULL;
    }
    memcpy(buf, reading->at, len);
    memcpy(buf + len, "\n", 2);
    reading->at += len + newline;
    return buf;
}

static int handle_entry(void *user, const char *section, const char *key, const char *value)
{
    struct reading *reading = user;
    struct entry *entry = NEW(struct entry);
    entry->section = mem_strdup(section);
    entry->key = mem_strdup(key);
    entry->value = mem_strdup(value);
    entry->line = reading->line;
    list_push_back(&reading->config->entries, &entry->link);
    return 1;
}

static struct config *config_new(const char *name)
{
    struct config *config = NEW(struct config);
    config->name = mem_strdup(name);
    list_init(&config->entries);
    list_init(&config->questions);
    return config;
}

int config_parse(const char *name, const char *text, struct config **ret_config, char **ret_error)
{
    struct config *config = config_new(name);
    struct reading reading = {.config = config, .at = text};
    int rc = ini_parse_stream(read_line, &reading, handle_entry, &reading);
    if (rc > 0)
        fail(config, rc, "neither [section], key = value nor a comment");
    if (rc < 0)
        fail(config, 0, "cannot be parsed");
    if (!config->error) {
        *ret_config = config;
        return 0;
    }
    *ret_error = config->error;
    config->error = NULL;
    config_free(config);
    return -EINVAL;
}

int config_load(const char *path, struct config **ret_config, char **ret_error)
{
    if (!path) {
        *ret_config = config_new("defaults");
        return 0;
    }
    FILE *f = fopen(path, "re");
    if (!f) {
        int error = errno;
        *ret_error = mem_printf("%s: %s", path, strerror(error));
        return -error;
    }
    CLEANUP_FREE char *text = mem_alloc(FILE_BYTES_MAX + 1);
    size_t len = fread(text, 1, FILE_BYTES_MAX + 1, f);
    int error = ferror(f) ? EIO : 0;
    fclose(f);
    if (error || len > FILE_BYTES_MAX || memchr(text, 0, len)) {
        *ret_error = mem_printf("%s: %s", path,
            error ? "cannot be read" : "is no configuration file (too large, or not text)");
        return error ? -error : -EINVAL;
    }
    text[len] = 0;
    return config_parse(path, text, ret_config, ret_error);
}

void config_free(struct config *config)
{
    struct list *link;
    if (!config)
        return;
    while ((link = list_pop_front(&config->entries))) {
        struct entry *entry = list_entry(link, struct entry, link);
        mem_free(entry->section);
        mem_free(entry->key);
        mem_free(entry->value);
        mem_free(entry);
    }
    while ((link = list_pop_front(&config->questions))) {
        struct question *question = list_entry(link, struct question, link);
        mem_free(question->section);
        mem_free(question->key);
        mem_free(question);
    }
    mem_free(config->name);
    mem_free(config->error);
    mem_free(config);
}

/* --- Asking ------------------------------------------------------------------------------------ */

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static void ask(struct config *config, const char *section, const char *key)
{
    list_for_each (link, &config->questions) {
        struct question *question = list_entry(link, struct question, link);
        if (same(question->section, section) && same(question->key, key))
            return;
    }
    struct question *question = NEW(struct question);
    question->section = mem_strdup(section);
    question->key = key ? mem_strdup(key) : NULL;
    list_push_back(&config->questions, &question->link);
}

static struct entry *find_nth(
    struct config *config, const char *section, const char *key, unsigned n)
{
    list_for_each (link, &config->entries) {
        struct entry *entry = list_entry(link, struct entry, link);
        if (same(entry->section, section) && same(entry->key, key) && n-- == 0)
            return entry;
    }
    return NULL;
}

/* The value of a key that may be there once. */
static struct entry *find(struct config *config, const char *section, const char *key)
{
    ask(config, section, key);
    struct entry *entry = find_nth(config, section, key, 0);
    struct entry *second = find_nth(config, section, key, 1);
    if (second)
        fail(config, second->line, "[%s] %s is set twice, first in line %u", section, key,
            entry->line);
    return entry;
}

static void bad_value(struct config *config, const struct entry *entry, const char *why)
{
    fail(config, entry->line, "[%s] %s = '%s' %s", entry->section, entry->key, entry->value, why);
}

void config_reject(struct config *config, const char *section, const char *key, const char *why)
{
    struct entry *entry = find_nth(config, section, key, 0);
    if (entry)
        bad_value(config, entry, why);
    else
        fail(config, 0, "[%s] %s (not set) %s", section, key, why);
}

const char *config_string(
    struct config *config, const char *section, const char *key, const char *default_value)
{
    struct entry *entry = find(config, section, key);
    return entry ? entry->value : default_value;
}

const char *config_string_nth(
    struct config *config, const char *section, const char *key, unsigned n)
{
    ask(config, section, key);
    struct entry *entry = find_nth(config, section, key, n);
    return entry ? entry->value : NULL;
}

bool config_bool(struct config *config, const char *section, const char *key, bool default_value)
{
    static const char *const names[] = {"yes", "no", "true", "false", "on", "off", "1", "0", NULL};
    return config_enum(config, section, key, names, default_value ? 0 : 1) % 2 == 0;
}

unsigned config_enum(struct config *config, const char *section, const char *key,
    const char *const names[], unsigned default_index)
{
    struct entry *entry = find(config, section, key);
    char known[256] = "is not one of: ";
    if (!entry)
        return default_index;
    for (unsigned i = 0; names[i]; i++) {
        if (strcmp(names[i], entry->value) == 0)
            return i;
        size_t len = strlen(known);
        snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "", names[i]);
    }
    bad_value(config, entry, known);
    return default_index;
}

/* --- Numbers ----------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

#define SECOND_NS 1000000000ull
static const struct unit size_units[] = {{"", 1}, {"B", 1}, {"KiB", 1ull << 10}, {"K", 1ull << 10},
    {"MiB", 1ull << 20}, {"M", 1ull << 20}, {"GiB", 1ull << 30}, {"G", 1ull << 30},
    {"TiB", 1ull << 40}, {"T", 1ull << 40}, {NULL, 0}};
static const struct unit duration_units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000},
    {"s", SECOND_NS}, {"min", 60 * SECOND_NS}, {"h", 3600 * SECOND_NS},
    {"d", 24 * 3600 * SECOND_NS}, {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

/* Digits, optional spaces, one of the units. */
static int parse_number(const char *text, const struct unit *units, uint64_t *ret)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno)
        return -ERANGE;
    end += strspn(end, " ");
    for (; units->name; units++) {
        if (strcmp(end, units->name) != 0)
            continue;
        uint64_t value;
        if (__builtin_mul_overflow((uint64_t)number, units->factor, &value))
            return -ERANGE;
        *ret = value;
        return 0;
    }
    return -EINVAL;
}

int config_text_size_bytes(const char *text, uint64_t *ret_bytes)
{
    return parse_number(text, size_units, ret_bytes);
}

int config_text_duration_ns(const char *text, uint64_t *ret_ns)
{
    if (strcmp(text, "0") == 0) {
        *ret_ns = 0;
        return 0;
    }
    return parse_number(text, duration_units, ret_ns);
}

/* `value` in the largest unit that divides it (full names only). */
static const char *format_number(uint64_t value, const struct unit *units, char *buf, size_t room)
{
    const struct unit *best = units;
    for (const struct unit *unit = units; unit->name; unit++)
        if (value && value % unit->factor == 0 && unit->factor > best->factor)
            best = unit;
    snprintf(buf, room, "%" PRIu64 "%s", value / best->factor, best->name);
    return buf;
}

static uint64_t get_number(struct config *config, const char *section, const char *key,
    const struct unit *units, const char *what, uint64_t default_value, uint64_t min, uint64_t max)
{
    struct entry *entry = find(config, section, key);
    uint64_t value;
    char why[200], low[32], high[32];
    if (!entry)
        return default_value;
    int rc = units == duration_units ? config_text_duration_ns(entry->value, &value)
                                     : parse_number(entry->value, units, &value);
    if (rc == -EINVAL) {
        bad_value(config, entry, what);
        return default_value;
    }
    if (rc == 0 && value >= min && value <= max)
        return value;
    snprintf(why, sizeof(why), "is outside %s to %s", format_number(min, units, low, sizeof(low)),
        format_number(max, units, high, sizeof(high)));
    bad_value(config, entry, why);
    return default_value;
}

uint64_t config_u64(struct config *config, const char *section, const char *key,
    uint64_t default_value, uint64_t min, uint64_t max)
{
    return get_number(
        config, section, key, no_units, "is not a whole number", default_value, min, max);
}

uint64_t config_size_bytes(struct config *config, const char *section, const char *key,
    uint64_t default_bytes, uint64_t min_bytes, uint64_t max_bytes)
{
    return get_number(config, section, key, size_units,
        "is not a size; write for example 64MiB (B, KiB, MiB, GiB, TiB)", default_bytes, min_bytes,
        max_bytes);
}

uint64_t config_duration_ns(struct config *config, const char *section, const char *key,
    uint64_t default_ns, uint64_t min_ns, uint64_t max_ns)
{
    return get_number(config, section, key, duration_units,
        "is not a duration; write for example 5s (ns, us, ms, s, min, h, d)", default_ns, min_ns,
        max_ns);
}

/* --- Sections, the end ------------------------------------------------------------------------- */

static bool is_of_kind(const char *section, const char *kind)
{
    size_t len = strlen(kind);
    return strncmp(section, kind, len) == 0 && section[len] == ' ' && section[len + 1];
}

const char *config_section_nth(struct config *config, const char *kind, unsigned n)
{
    ask(config, kind, NULL);
    const char *last = NULL;
    list_for_each (link, &config->entries) {
        const char *section = list_entry(link, struct entry, link)->section;
        if (!is_of_kind(section, kind) || same(section, last))
            continue;
        last = section;
        if (n-- == 0)
            return section;
    }
    return NULL;
}

/* ", "-separated: the keys known in `section`, or (section NULL) the known sections. */
static void list_known(struct config *config, const char *section, char *text, size_t room)
{
    text[0] = 0;
    list_for_each (link, &config->questions) {
        struct question *question = list_entry(link, struct question, link);
        char item[128];
        if (section && (!question->key || !same(question->section, section)))
            continue;
        if (section)
            snprintf(item, sizeof(item), "%s", question->key);
        else
            snprintf(item, sizeof(item), "[%s%s]", question->section, question->key ? "" : " NAME");
        if (!section && strstr(text, item)) /* named once */
            continue;
        size_t len = strlen(text);
        snprintf(text + len, room - len, "%s%s", len ? ", " : "", item);
    }
}

static void check_known(struct config *config, const struct entry *entry)
{
    bool section_known = false;
    char known[600];
    list_for_each (link, &config->questions) {
        struct question *question = list_entry(link, struct question, link);
        if (!question->key || !same(question->section, entry->section))
            continue;
        section_known = true;
        if (same(question->key, entry->key))
            return;
    }
    list_known(config, section_known ? entry->section : NULL, known, sizeof(known));
    if (section_known)
        fail(config, entry->line, "unknown key '%s' in [%s]; known: %s", entry->key, entry->section,
            known);
    else if (!entry->section[0])
        fail(config, entry->line, "'%s' stands before any [section]; known: %s", entry->key, known);
    else
        fail(config, entry->line, "unknown section [%s]; known: %s", entry->section, known);
}

int config_finish(struct config *config, char **ret_error)
{
    list_for_each (link, &config->entries)
        check_known(config, list_entry(link, struct entry, link));
    if (!config->error)
        return 0;
    *ret_error = mem_strdup(config->error);
    return -EINVAL;
}
