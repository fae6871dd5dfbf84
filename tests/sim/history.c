/* SPDX-License-Identifier: Apache-2.0
 *
 * See history.h. The zone of a write: from the first end to the last beginning among it and the reads
 * that saw it. If the last beginning is later, the block surely held this content all the while
 * (forward zone); else at some moment between (backward zone). The block's history is linearizable if
 * and only if no two forward zones overlap, no backward zone lies inside a forward zone, and no read
 * ended before its write began (P. Gibbons, E. Korach, "Testing Shared Memories", 1997, theorem 4.2).
 *
 * Zeroes are not unique: a read of zeroes counts for a write of zeroes only when it is the only one
 * that it can have seen; it fails when there is none.
 */
#include "tests/sim/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/rng.h"

#define NEVER UINT64_MAX
#define UNREADABLE (UINT64_MAX - 1)

struct version {
    uint64_t write;                 /* number; 0 = as found at the beginning */
    uint64_t began, ended;          /* of the write; ended NEVER = not answered (yet) */
    uint64_t first_end, last_begin; /* the zone */
    bool zero;
    bool fua;
};

struct block {
    struct version *versions;
    uint32_t count, capacity;
    uint64_t found; /* write, while settling; NEVER = not read yet, UNREADABLE */
    bool found_zero;
};

struct write {
    uint32_t first, count;
};

struct history {
    char name[64];
    struct block *blocks;
    uint32_t block_count; /* asked for */
    uint32_t size;        /* surely there */
    uint64_t now;
    uint64_t durable_until; /* what ended before is durable */
    bool power_lost, forgotten;
    struct write *writes; /* by number - 1 */
    uint64_t write_count, write_capacity;
    uint64_t acked, reads;
};

static void *must(void *p)
{
    CHECK(p);
    return p;
}

static void block_reset(struct block *block, uint64_t write, bool zero, uint64_t now)
{
    block->count = 1;
    block->versions[0] = (struct version){.write = write,
        .began = now,
        .ended = now,
        .first_end = now,
        .last_begin = now,
        .zero = zero};
}

static void blocks_add(struct history *h, uint32_t block_count)
{
    h->blocks = must(realloc(h->blocks, block_count * sizeof(*h->blocks)));
    for (uint32_t b = h->block_count; b < block_count; b++) {
        h->blocks[b] = (struct block){.capacity = 4, .found = NEVER};
        h->blocks[b].versions = must(malloc(4 * sizeof(struct version)));
        block_reset(&h->blocks[b], 0, true, 0);
    }
    h->block_count = block_count;
}

struct history *history_new(const char *name, uint32_t block_count)
{
    struct history *h = must(calloc(1, sizeof(*h)));
    snprintf(h->name, sizeof(h->name), "%s", name);
    blocks_add(h, block_count);
    h->size = block_count;
    return h;
}

void history_free(struct history *h)
{
    for (uint32_t b = 0; b < h->block_count; b++)
        free(h->blocks[b].versions);
    free(h->blocks);
    free(h->writes);
    free(h);
}

void history_grow(struct history *h, uint32_t block_count)
{
    if (block_count > h->block_count)
        blocks_add(h, block_count);
}

void history_grown(struct history *h, uint32_t block_count)
{
    CHECK_MSG(block_count <= h->block_count, "%s has %u blocks, at most %u were asked for", h->name,
        block_count, h->block_count);
    h->size = MAX(h->size, block_count);
}

uint32_t history_size(const struct history *h)
{
    return h->size;
}

uint32_t history_size_max(const struct history *h)
{
    return h->block_count;
}

uint64_t history_now(struct history *h)
{
    return ++h->now;
}

uint64_t history_writes(const struct history *h)
{
    return h->acked;
}

uint64_t history_reads(const struct history *h)
{
    return h->reads;
}

/* --- Content ----------------------------------------------------------------------------------- */

static uint64_t name_hash(const struct history *h)
{
    uint64_t hash = 1469598103934665603ull;
    for (const char *c = h->name; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 1099511628211ull;
    return hash;
}

static void fill(const struct history *h, uint32_t block, uint64_t write, void *to)
{
    uint64_t *words = to;
    uint64_t mix = rng_mix(name_hash(h) ^ (uint64_t)block << 40 ^ write);
    words[0] = write;
    words[1] = block;
    for (unsigned i = 2; i < HISTORY_BLOCK_BYTES / 8; i++)
        words[i] = mix + i;
}

/* The write whose content this is, 0 = zeroes (H4). */
static uint64_t write_of(const struct history *h, uint32_t block, const void *from)
{
    static uint64_t expected[HISTORY_BLOCK_BYTES / 8];
    uint64_t write;
    memcpy(&write, from, sizeof(write));
    if (write == 0)
        memset(expected, 0, sizeof(expected));
    else
        fill(h, block, write, expected);
    CHECK_MSG(memcmp(from, expected, sizeof(expected)) == 0 && write <= h->write_count,
        "%s block %u: content that nobody wrote (it begins with %llx)", h->name, block,
        (unsigned long long)write);
    return write;
}

/* --- Writes ------------------------------------------------------------------------------------ */

static struct version *version_find(struct block *block, uint64_t write)
{
    for (uint32_t i = block->count; i-- > 0;) {
        if (block->versions[i].write == write)
            return &block->versions[i];
    }
    return NULL;
}

static void print_block(const struct history *h, uint32_t b)
{
    const struct block *block = &h->blocks[b];
    fprintf(stderr, "%s block %u, now %llu, durable until %llu:\n", h->name, b,
        (unsigned long long)h->now, (unsigned long long)h->durable_until);
    for (uint32_t i = 0; i < block->count; i++) {
        const struct version *v = &block->versions[i];
        fprintf(stderr, "  write %llu%s: began %llu, ended %lld; first end %lld, last begin %llu\n",
            (unsigned long long)v->write, v->zero ? " (zeroes)" : "", (unsigned long long)v->began,
            (long long)v->ended, (long long)v->first_end, (unsigned long long)v->last_begin);
    }
}

uint64_t history_write(struct history *h, uint32_t first, uint32_t count, void *buf, bool fua)
{
    CHECK(first + count <= h->block_count);
    if (h->write_count == h->write_capacity) {
        h->write_capacity = h->write_capacity ? h->write_capacity * 2 : 256;
        h->writes = must(realloc(h->writes, h->write_capacity * sizeof(*h->writes)));
    }
    h->writes[h->write_count] = (struct write){.first = first, .count = count};
    uint64_t number = ++h->write_count, now = ++h->now;
    for (uint32_t i = 0; i < count; i++) {
        struct block *block = &h->blocks[first + i];
        if (block->count == block->capacity) {
            block->capacity *= 2;
            block->versions =
                must(realloc(block->versions, block->capacity * sizeof(*block->versions)));
        }
        block->versions[block->count++] = (struct version){.write = number,
            .began = now,
            .ended = NEVER,
            .first_end = NEVER,
            .last_begin = now,
            .zero = !buf,
            .fua = fua};
        if (buf)
            fill(h, first + i, number, (uint8_t *)buf + (size_t)i * HISTORY_BLOCK_BYTES);
    }
    return number;
}

static bool is_forward(const struct version *v)
{
    return v->first_end < v->last_begin;
}

/* Whether two zones contradict each other. */
static bool conflict(const struct version *a, const struct version *b)
{
    if (a->first_end == NEVER || b->first_end == NEVER)
        return false; /* never seen, never answered: it need not have happened */
    if (is_forward(a) && is_forward(b))
        return a->first_end < b->last_begin && b->first_end < a->last_begin;
    if (is_forward(a))
        return a->first_end < b->last_begin && b->first_end < a->last_begin;
    if (is_forward(b))
        return b->first_end < a->last_begin && a->first_end < b->last_begin;
    return false;
}

static const struct version *conflicting(const struct block *block, const struct version *v)
{
    for (uint32_t i = 0; i < block->count; i++) {
        const struct version *other = &block->versions[i];
        if (other->write != v->write && conflict(v, other))
            return other;
    }
    return NULL;
}

static void check_block(struct history *h, uint32_t b, const struct version *v, const char *what)
{
    const struct version *other = conflicting(&h->blocks[b], v);
    if (!other)
        return;
    print_block(h, b);
    CHECK_MSG(false, "%s block %u: %s write %llu, which cannot be in one order with write %llu",
        h->name, b, what, (unsigned long long)v->write, (unsigned long long)other->write);
}

void history_written(struct history *h, uint64_t number)
{
    const struct write *write = &h->writes[number - 1];
    uint64_t now = ++h->now;
    h->acked++;
    for (uint32_t i = 0; i < write->count; i++) {
        struct version *v = write->first + i < h->block_count
                                ? version_find(&h->blocks[write->first + i], number)
                                : NULL;
        if (!v)
            continue; /* of before a crash that was settled since */
        v->ended = now;
        v->first_end = MIN(v->first_end, now);
        check_block(h, write->first + i, v, "acknowledged");
    }
}

void history_refused(struct history *h, uint64_t number)
{
    const struct write *write = &h->writes[number - 1];
    for (uint32_t i = 0; i < write->count && write->first + i < h->block_count; i++) {
        struct block *block = &h->blocks[write->first + i];
        struct version *v = version_find(block, number);
        CHECK_MSG(!v || v->first_end == NEVER, "%s block %u: write %llu was refused and read",
            h->name, write->first + i, (unsigned long long)number);
        if (v)
            *v = block->versions[--block->count];
    }
}

/* --- Reads ------------------------------------------------------------------------------------- */

/* Zeroes: one of the writes of zeroes must be possible. */
static void read_zeroes(struct history *h, uint64_t since, uint64_t now, uint32_t b)
{
    struct block *block = &h->blocks[b];
    struct version *only = NULL;
    unsigned possible = 0;
    for (uint32_t i = 0; i < block->count; i++) {
        struct version *v = &block->versions[i];
        if (!v->zero)
            continue;
        struct version seen = *v;
        seen.first_end = MIN(seen.first_end, now);
        seen.last_begin = MAX(seen.last_begin, since);
        if (conflicting(block, &seen))
            continue;
        possible++;
        only = v;
    }
    if (possible == 0) {
        print_block(h, b);
        CHECK_MSG(false, "%s block %u: zeroes were read (since %llu), which can be of no write",
            h->name, b, (unsigned long long)since);
    }
    if (possible == 1) {
        only->first_end = MIN(only->first_end, now);
        only->last_begin = MAX(only->last_begin, since);
    }
}

void history_read(
    struct history *h, uint64_t since, uint32_t first, uint32_t count, const void *buf)
{
    uint64_t now = ++h->now;
    h->reads++;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t b = first + i;
        uint64_t write = write_of(h, b, (const uint8_t *)buf + (size_t)i * HISTORY_BLOCK_BYTES);
        if (write == 0) {
            read_zeroes(h, since, now, b);
            continue;
        }
        struct version *v = version_find(&h->blocks[b], write);
        if (!v || v->zero) {
            print_block(h, b);
            CHECK_MSG(false, "%s block %u: write %llu was read, which was gone before", h->name, b,
                (unsigned long long)write);
        }
        v->first_end = MIN(v->first_end, now);
        v->last_begin = MAX(v->last_begin, since);
        check_block(h, b, v, "read");
    }
}

void history_flushed(struct history *h, uint64_t since)
{
    h->durable_until = MAX(h->durable_until, since);
}

/* --- Crashes ----------------------------------------------------------------------------------- */

void history_crashed(struct history *h, bool power_lost)
{
    h->power_lost = h->power_lost || power_lost;
    for (uint32_t b = 0; b < h->block_count; b++)
        h->blocks[b].found = NEVER;
}

void history_found(struct history *h, uint32_t first, uint32_t count, const void *buf)
{
    for (uint32_t i = 0; i < count; i++)
        h->blocks[first + i].found =
            write_of(h, first + i, (const uint8_t *)buf + (size_t)i * HISTORY_BLOCK_BYTES);
}

static bool is_durable(const struct history *h, const struct version *v)
{
    return v->ended != NEVER && (v->ended < h->durable_until || v->fua);
}

/* Whether `v` surely came before `w`: something of it ended before something of `w` began. */
static bool surely_older(const struct version *v, const struct version *w)
{
    return v->first_end < w->last_begin;
}

/* Must `w` be there (or something not older)? `until`: what was acknowledged before. */
static bool required(const struct history *h, const struct version *w, uint64_t until)
{
    if (!h->power_lost && w->first_end != NEVER)
        return true; /* acknowledged, or read */
    return is_durable(h, w) || (w->ended != NEVER && w->ended < until);
}

void history_forget(struct history *h)
{
    h->forgotten = true;
}

void history_unreadable(struct history *h, uint32_t block)
{
    h->blocks[block].found = UNREADABLE;
}

/* The version found; of zeroes the one that may be the latest, which need not be the one asked for last: a slow write of
 * zeroes may come after a quick one that began later. */
static struct version *found_version(struct history *h, uint32_t b)
{
    struct block *block = &h->blocks[b];
    CHECK_MSG(block->found != NEVER, "block %u was not read", b);
    struct version *found = NULL;
    for (uint32_t i = 0; i < block->count; i++) {
        struct version *v = &block->versions[i];
        if (block->found == 0 ? v->zero && (!found || v->first_end >= found->first_end)
                              : v->write == block->found)
            found = v;
    }
    if (!found) {
        print_block(h, b);
        CHECK_MSG(false, "%s block %u: found write %llu, which was gone before", h->name, b,
            (unsigned long long)block->found);
    }
    return found;
}

/* The latest moment at which something was asked for that is there. Zeroes count from the earliest
 * write that they can be. */
static uint64_t there_since(struct history *h)
{
    uint64_t until = 0;
    for (uint32_t b = 0; b < h->block_count; b++) {
        if (h->blocks[b].found != 0 && h->blocks[b].found != UNREADABLE)
            until = MAX(until, found_version(h, b)->began);
    }
    return until;
}

/* Nothing beyond `block_count` was acknowledged or seen, or the size would have been. */
void history_found_size(struct history *h, uint32_t block_count)
{
    CHECK_MSG(block_count >= h->size && block_count <= h->block_count,
        "%s has %u blocks after %s; %u were there, %u asked for", h->name, block_count,
        h->power_lost ? "a loss of power" : "a crash", h->size, h->block_count);
    while (h->block_count > block_count)
        free(h->blocks[--h->block_count].versions);
    h->size = block_count;
}

void history_settled(struct history *h)
{
    uint64_t until = h->forgotten ? 0 : there_since(h);
    for (uint32_t b = 0; b < h->block_count && !h->forgotten; b++) {
        const struct block *block = &h->blocks[b];
        if (block->found == UNREADABLE)
            continue;
        const struct version *found = found_version(h, b);
        for (uint32_t i = 0; i < block->count; i++) {
            const struct version *w = &block->versions[i];
            if (w->write == found->write || !surely_older(found, w) || !required(h, w, until))
                continue;
            print_block(h, b);
            CHECK_MSG(false,
                "%s block %u: found write %llu%s after %s, but write %llu, %s, came after it",
                h->name, b, (unsigned long long)found->write, found->zero ? " (zeroes)" : "",
                h->power_lost ? "a loss of power" : "a crash", (unsigned long long)w->write,
                !h->power_lost     ? "acknowledged or read"
                : is_durable(h, w) ? "flushed"
                                   : "acknowledged before something that is there");
        }
    }
    h->now++;
    for (uint32_t b = 0; b < h->block_count; b++) {
        if (h->blocks[b].found != UNREADABLE)
            block_reset(&h->blocks[b], h->blocks[b].found, h->blocks[b].found == 0, h->now);
    }
    h->durable_until = h->now;
    h->power_lost = h->forgotten = false;
}
