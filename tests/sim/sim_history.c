/* SPDX-License-Identifier: Apache-2.0
 *
 * Depth first over the orders that the times allow, as in Wing and Gong, "Testing and verifying
 * concurrent objects" (1993), with a memory of the states that led nowhere (Lowe, 2017).
 */
#include "tests/sim/sim_history.h"

#include <stdlib.h>

#include "common/check.h"

#define SEEN_MAX (1u << 20)

struct search {
    const struct history *history;
    struct seen {
        uint64_t done;
        uint32_t value;
        bool used;
    } * seen;
    unsigned seen_count;
};

/* False when the state was here before. */
static bool remember(struct search *s, uint64_t done, uint32_t value)
{
    uint64_t hash = (done ^ (uint64_t)value << 40) * 0x9e3779b97f4a7c15ull;
    for (uint32_t i = (uint32_t)(hash >> 44);; i = (i + 1) % SEEN_MAX) {
        struct seen *seen = &s->seen[i % SEEN_MAX];
        if (seen->used && seen->done == done && seen->value == value)
            return false;
        if (seen->used)
            continue;
        CHECK_MSG(++s->seen_count < SEEN_MAX / 2, "a history too wild to judge");
        *seen = (struct seen){.done = done, .value = value, .used = true};
        return true;
    }
}

/* One of those that are done began after `clock`. */
static bool began_after(const struct history *h, uint64_t done, uint64_t clock)
{
    for (unsigned i = 0; i < h->count; i++)
        if (done >> i & 1 && h->ops[i].begin > clock)
            return true;
    return false;
}

static bool search(struct search *s, uint64_t done, uint32_t value)
{
    const struct history *h = s->history;
    uint64_t first_end = UINT64_MAX;
    bool answered_left = false;
    for (unsigned i = 0; i < h->count; i++) {
        if (done >> i & 1 || h->ops[i].end == UINT64_MAX || h->ops[i].given_up)
            continue;
        answered_left = true;
        if (h->ops[i].end < first_end)
            first_end = h->ops[i].end;
    }
    if (!answered_left)
        return true; /* writes without an answer may as well never have happened */
    if (!remember(s, done, value))
        return false;
    for (unsigned i = 0; i < h->count; i++) {
        const struct history_op *op = &h->ops[i];
        if (done >> i & 1 || op->begin > first_end)
            continue; /* another one ended before it began */
        if (op->given_up && began_after(h, done, op->end))
            continue; /* too late */
        if (!op->write && (op->end == UINT64_MAX || op->value != value))
            continue;
        if (search(s, done | 1ull << i, op->write ? op->value : value))
            return true;
    }
    return false;
}

bool history_is_linearizable(const struct history *history)
{
    struct search s = {.history = history, .seen = calloc(SEEN_MAX, sizeof(struct seen))};
    CHECK(s.seen && history->count <= HISTORY_OPS_MAX);
    bool result = search(&s, 0, history->first);
    free(s.seen);
    return result;
}
