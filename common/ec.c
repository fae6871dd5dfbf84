/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding multiplies by rows of an inverted k x k matrix. Inverting and expanding them into isa-l's tables costs
 * more than decoding a few KiB, and degraded operation asks for the same erasures again and again, so
 * the tables of the last few patterns are kept.
 */
#include "common/ec.h"

#include <isa-l.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define TABLE_BYTES 32 /* isa-l's expansion of one coefficient */
#define CACHE_COUNT 8
#define SHARDS_MAX (EC_K_MAX + EC_M_MAX)

/* Which shards are there and which are wanted; unused places 0xff. */
struct pattern {
    uint8_t present[EC_K_MAX];
    uint8_t wanted[EC_M_MAX];
};

struct cached {
    struct pattern pattern;
    uint8_t tables[TABLE_BYTES * EC_K_MAX * EC_M_MAX];
};

struct ec {
    unsigned k, m;
    uint8_t matrix[SHARDS_MAX * EC_K_MAX]; /* k+m rows of k */
    uint8_t encode_tables[TABLE_BYTES * EC_K_MAX * EC_M_MAX];
    unsigned cache_used, cache_next;
    struct cached cache[CACHE_COUNT];
};

struct ec *ec_new(unsigned k, unsigned m)
{
    CHECK_MSG(k >= 1 && k <= EC_K_MAX && m <= EC_M_MAX, "code %u+%u", k, m);
    struct ec *ec = NEW(struct ec);
    ec->k = k;
    ec->m = m;
    gf_gen_cauchy1_matrix(ec->matrix, (int)(k + m), (int)k);
    if (m > 0)
        ec_init_tables((int)k, (int)m, ec->matrix + (size_t)k * k, ec->encode_tables);
    return ec;
}

void ec_free(struct ec *ec)
{
    mem_free(ec);
}

void ec_encode(
    const struct ec *ec, size_t len_bytes, const void *const data[], void *const parity[])
{
    CHECK(len_bytes <= INT_MAX);
    if (ec->k == 1) { /* the Cauchy rows would scale the copies */
        for (unsigned i = 0; i < ec->m; i++)
            memcpy(parity[i], data[0], len_bytes);
        return;
    }
    if (ec->m > 0)
        ec_encode_data((int)len_bytes, (int)ec->k, (int)ec->m, (uint8_t *)ec->encode_tables,
            (uint8_t **)data, (uint8_t **)parity);
}

static struct pattern pattern_of(
    const struct ec *ec, const unsigned present[], const unsigned wanted[], unsigned wanted_count)
{
    struct pattern pattern;
    uint32_t seen = 0;
    memset(&pattern, 0xff, sizeof(pattern));
    CHECK_MSG(wanted_count <= ec->m, "%u shards wanted of a code with m = %u", wanted_count, ec->m);
    for (unsigned i = 0; i < ec->k + wanted_count; i++) {
        unsigned shard = i < ec->k ? present[i] : wanted[i - ec->k];
        CHECK_MSG(shard < ec->k + ec->m && !(seen & 1u << shard), "shard %u", shard);
        seen |= 1u << shard;
        if (i < ec->k)
            pattern.present[i] = (uint8_t)shard;
        else
            pattern.wanted[i - ec->k] = (uint8_t)shard;
    }
    return pattern;
}

/* With B the rows of `matrix` that are present, data = B^-1 * present; shard w = matrix[w] * data. */
static void compute_tables(
    const struct ec *ec, const struct pattern *pattern, unsigned wanted_count, uint8_t *ret_tables)
{
    const unsigned k = ec->k;
    uint8_t rows[EC_K_MAX * EC_K_MAX], inverse[EC_K_MAX * EC_K_MAX];
    uint8_t decode[EC_M_MAX * EC_K_MAX];
    for (unsigned i = 0; i < k; i++)
        memcpy(rows + (size_t)i * k, ec->matrix + (size_t)pattern->present[i] * k, k);
    CHECK(gf_invert_matrix(rows, inverse, (int)k) == 0); /* Cauchy: every choice has an inverse */
    for (unsigned w = 0; w < wanted_count; w++) {
        const uint8_t *row = ec->matrix + (size_t)pattern->wanted[w] * k;
        for (unsigned column = 0; column < k; column++) {
            uint8_t sum = 0;
            for (unsigned i = 0; i < k; i++)
                sum ^= gf_mul(row[i], inverse[i * k + column]);
            decode[w * k + column] = sum;
        }
    }
    ec_init_tables((int)k, (int)wanted_count, decode, ret_tables);
}

static uint8_t *tables_for(struct ec *ec, struct pattern pattern, unsigned wanted_count)
{
    for (unsigned i = 0; i < ec->cache_used; i++)
        if (memcmp(&ec->cache[i].pattern, &pattern, sizeof(pattern)) == 0)
            return ec->cache[i].tables;
    struct cached *slot = &ec->cache[ec->cache_next];
    ec->cache_next = (ec->cache_next + 1) % CACHE_COUNT;
    ec->cache_used = MIN(ec->cache_used + 1, (unsigned)CACHE_COUNT);
    slot->pattern = pattern;
    compute_tables(ec, &pattern, wanted_count, slot->tables);
    return slot->tables;
}

void ec_decode(struct ec *ec, size_t len_bytes, const unsigned present[],
    const void *const present_data[], const unsigned wanted[], unsigned wanted_count,
    void *const outputs[])
{
    CHECK(len_bytes <= INT_MAX);
    if (wanted_count == 0)
        return;
    struct pattern pattern = pattern_of(ec, present, wanted, wanted_count);
    if (ec->k == 1) {
        for (unsigned i = 0; i < wanted_count; i++)
            memcpy(outputs[i], present_data[0], len_bytes);
        return;
    }
    ec_encode_data((int)len_bytes, (int)ec->k, (int)wanted_count,
        tables_for(ec, pattern, wanted_count), (uint8_t **)present_data, (uint8_t **)outputs);
}
