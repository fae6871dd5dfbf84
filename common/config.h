/* SPDX-License-Identifier: Apache-2.0
 *
 * Configuration files: INI by libinih. [section], key = value, comments start with # or ; at a line's start (or with
 * " ;" behind a value). The program asks for every key that it knows; what the file has beyond that is an error,
 * and so is a bad value. Every message names file, line and key, and says what is allowed:
 *
 *   /etc/holdfast/blockd.conf:7: [memory] budget = 'lots' is not a size; write for example 64MiB (B, KiB, MiB, GiB, TiB)
 *   /etc/holdfast/blockd.conf:9: unknown key 'bugdet' in [memory]; known: budget, io_buffers
 *
 * Use: config_load, the getters, config_finish. Getters answer the default after any error, so that only config_finish
 * needs a check. For start-up: reads the file by itself, suspends nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct config;

/* NULL path: an empty configuration (all defaults). On error *ret_error (mem_free) is a sentence. -ENOENT, -EINVAL, ... */
int config_load(const char *path, struct config **ret_config, char **ret_error);
/* From text; `name` stands for the file in messages. */
int config_parse(const char *name, const char *text, struct config **ret_config, char **ret_error);
void config_free(struct config *config);

/* 0, or -EINVAL with the first error: a bad value met by a getter, or a section or key that no getter asked for. */
int config_finish(struct config *config, char **ret_error);

/* Strings live as long as the config; `default_value` may be NULL. */
const char *config_string(
    struct config *config, const char *section, const char *key, const char *default_value);
/* The n-th value (from 0) of a key that may be repeated; NULL beyond the last. */
const char *config_string_nth(
    struct config *config, const char *section, const char *key, unsigned n);
/* yes/no, true/false, on/off, 1/0 */
bool config_bool(struct config *config, const char *section, const char *key, bool default_value);
/* min and max belong to the range. */
uint64_t config_u64(struct config *config, const char *section, const char *key,
    uint64_t default_value, uint64_t min, uint64_t max);
uint64_t config_size_bytes(struct config *config, const char *section, const char *key,
    uint64_t default_bytes, uint64_t min_bytes, uint64_t max_bytes);
uint64_t config_duration_ns(struct config *config, const char *section, const char *key,
    uint64_t default_ns, uint64_t min_ns, uint64_t max_ns);
/* Index of the value in the NULL-terminated `names`. */
unsigned config_enum(struct config *config, const char *section, const char *key,
    const char *const names[], unsigned default_index);
/* Reports a value that the caller finds wrong, at its line; `why` reads after the value: "is not an address". */
void config_reject(struct config *config, const char *section, const char *key, const char *why);

/* The n-th section named "<kind> <name>", e.g. [pool fast]: its whole title, or NULL. Asking makes such
 * sections known. */
const char *config_section_nth(struct config *config, const char *kind, unsigned n);

/* "4096", "64KiB", "1 GiB" (also K M G T for the same powers of 1024); -EINVAL, -ERANGE. */
int config_text_size_bytes(const char *text, uint64_t *ret_bytes);
/* "250ms", "5s", "10min" (ns, us, ms, s, min, h, d); a bare number only if it is 0. */
int config_text_duration_ns(const char *text, uint64_t *ret_ns);
