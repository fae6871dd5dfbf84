/* SPDX-License-Identifier: Apache-2.0
 *
 * extmap against an array with one entry per block, and its stated rules one by one.
 */
#include "common/extmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/check.h"

static uint64_t rng_state;

static uint64_t rng(void)
{
    /* splitmix64 (Vigna, public domain) */
    uint64_t z = rng_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static struct extmap_run lookup(const struct extmap *map, uint64_t start, uint64_t len_max)
{
    struct extmap_run run;
    extmap_lookup(map, start, len_max, &run);
    assert_int_equal(run.start, start);
    return run;
}

static void assert_run(
    struct extmap_run run, enum extmap_kind kind, uint64_t len, uint64_t value, uint64_t seq)
{
    assert_int_equal(run.kind, kind);
    assert_int_equal(run.len, len);
    assert_int_equal(run.value, value);
    assert_int_equal(run.seq, seq);
}

static void test_empty_map_is_one_gap_without_memory(void **state)
{
    struct extmap map;
    extmap_init(&map);
    assert_run(lookup(&map, 5, 10), EXTMAP_GAP, 10, 0, 0);
    assert_run(lookup(&map, 0, UINT64_MAX), EXTMAP_GAP, EXTMAP_ADDRESS_MAX, 0, 0);
    assert_int_equal(extmap_memory_bytes(&map), 0);
    extmap_fini(&map);
}

static void test_lookup_clips_both_ends_and_moves_mapped_values_only(void **state)
{
    struct extmap map;
    extmap_init(&map);
    extmap_insert(&map, 100, 50, EXTMAP_MAPPED, 7000, 3);
    extmap_insert(&map, 150, 50, EXTMAP_TRIMMED, 9, 3);
    assert_run(lookup(&map, 90, 100), EXTMAP_GAP, 10, 0, 0);
    assert_run(lookup(&map, 110, 100), EXTMAP_MAPPED, 40, 7010, 3);
    assert_run(lookup(&map, 110, 7), EXTMAP_MAPPED, 7, 7010, 3);
    assert_run(lookup(&map, 160, 100), EXTMAP_TRIMMED, 40, 9, 3);
    assert_run(lookup(&map, 200, 1), EXTMAP_GAP, 1, 0, 0);
    extmap_fini(&map);
}

static void test_insert_never_lowers_a_sequence(void **state)
{
    struct extmap map;
    extmap_init(&map);
    extmap_insert(&map, 10, 10, EXTMAP_MAPPED, 100, 5);
    extmap_insert(&map, 30, 10, EXTMAP_MAPPED, 200, 8);
    extmap_insert(&map, 0, 50, EXTMAP_TRIMMED, 0, 6); /* newer than one, older than the other */
    assert_run(lookup(&map, 0, 100), EXTMAP_TRIMMED, 30, 0, 6);
    assert_run(lookup(&map, 30, 100), EXTMAP_MAPPED, 10, 200, 8);
    assert_run(lookup(&map, 40, 100), EXTMAP_TRIMMED, 10, 0, 6);
    extmap_insert(&map, 30, 10, EXTMAP_MAPPED, 300, 8); /* equal replaces */
    assert_run(lookup(&map, 30, 100), EXTMAP_MAPPED, 10, 300, 8);
    extmap_fini(&map);
}

static void test_neighbours_merge_only_with_equal_sequences(void **state)
{
    struct extmap map;
    extmap_init(&map);
    for (uint64_t i = 0; i < 1000; i++)
        extmap_insert(&map, i, 1, EXTMAP_MAPPED, 5000 + i, 4);
    assert_int_equal(extmap_count(&map), 1);
    extmap_insert(&map, 1000, 1, EXTMAP_MAPPED, 6000, 5);
    assert_int_equal(extmap_count(&map), 2);
    extmap_insert(&map, 500, 1, EXTMAP_MAPPED, 1, 5);
    assert_int_equal(extmap_count(&map), 4);
    extmap_insert(&map, 500, 1, EXTMAP_MAPPED, 5500, 5);
    assert_int_equal(extmap_count(&map), 4); /* continues, but is newer */
    extmap_fini(&map);
}

static void test_floor_lets_rising_sequences_merge(void **state)
{
    struct extmap map;
    extmap_init(&map);
    extmap_set_floor(&map, 2000);
    for (uint64_t i = 0; i < 1000; i++)
        extmap_insert(&map, i, 1, EXTMAP_MAPPED, 5000 + i, i + 1);
    assert_int_equal(extmap_count(&map), 1);
    assert_int_equal(lookup(&map, 0, 1).seq, 1000);
    extmap_insert(
        &map, 10, 1, EXTMAP_MAPPED, 1, 3); /* at or below the floor: in order of arrival */
    assert_run(lookup(&map, 10, 5), EXTMAP_MAPPED, 1, 1, 3);
    extmap_insert(&map, 20, 1, EXTMAP_MAPPED, 2, 2001);
    extmap_insert(&map, 20, 1, EXTMAP_MAPPED, 3, 2000);
    assert_run(lookup(&map, 20, 5), EXTMAP_MAPPED, 1, 2, 2001);
    extmap_fini(&map);
}

static void test_remove_spares_newer_sequences(void **state)
{
    struct extmap map;
    extmap_init(&map);
    extmap_insert(&map, 0, 100, EXTMAP_MAPPED, 0, 5);
    extmap_insert(&map, 40, 20, EXTMAP_MAPPED, 900, 7);
    extmap_remove(&map, 20, 60, 6);
    assert_run(lookup(&map, 0, 100), EXTMAP_MAPPED, 20, 0, 5);
    assert_run(lookup(&map, 20, 100), EXTMAP_GAP, 20, 0, 0);
    assert_run(lookup(&map, 40, 100), EXTMAP_MAPPED, 20, 900, 7);
    assert_run(lookup(&map, 80, 100), EXTMAP_MAPPED, 20, 80, 5);
    extmap_remove(&map, 0, 1000, UINT64_MAX);
    assert_int_equal(extmap_count(&map), 0);
    extmap_fini(&map);
}

/* --- Against a model ---------------------------------------------------- */

enum {
    MODEL_BLOCKS = 4096,
};

struct model_block {
    enum extmap_kind kind;
    uint64_t value, seq;
};

struct model {
    struct model_block blocks[MODEL_BLOCKS];
    uint64_t base, floor;
    struct extmap map;
};

/* With a floor a merged run may know a larger sequence, but only up to the floor. */
static bool same_block(const struct model *model, const struct model_block *block,
    const struct extmap_run *run, uint64_t i)
{
    uint64_t value = run->value + (run->kind == EXTMAP_MAPPED ? i : 0);
    bool same_seq = block->seq > model->floor ? run->seq == block->seq
                                              : run->seq >= block->seq && run->seq <= model->floor;
    return run->kind == block->kind && value == block->value && same_seq;
}

static void model_compare(struct model *model)
{
    extmap_tree_verify(&model->map.tree);
    uint64_t at = 0, extents = 0;
    while (at < MODEL_BLOCKS) {
        struct extmap_run run = lookup(&model->map, model->base + at, MODEL_BLOCKS - at);
        extents += run.kind != EXTMAP_GAP;
        for (uint64_t i = 0; i < run.len; i++)
            assert_true(same_block(model, &model->blocks[at + i], &run, i));
        at += run.len;
    }
    assert_int_equal(extents, extmap_count(&model->map));

    struct extmap_iter iter;
    struct extmap_run run;
    uint64_t covered = 0, end = model->base;
    extmap_iter_init(&iter, &model->map, model->base);
    while (extmap_iter_next(&iter, &run)) {
        assert_true(run.start >= end && run.len > 0);
        end = run.start + run.len;
        covered += run.len;
    }
    for (at = 0; at < MODEL_BLOCKS; at++)
        covered -= model->blocks[at].kind != EXTMAP_GAP;
    assert_int_equal(covered, 0);
}

static void model_insert(struct model *model, uint64_t start, uint64_t len, enum extmap_kind kind,
    uint64_t value, uint64_t seq)
{
    for (uint64_t i = 0; i < len; i++) {
        struct model_block *block = &model->blocks[start + i];
        if (block->kind != EXTMAP_GAP && MAX(block->seq, model->floor) > MAX(seq, model->floor))
            continue;
        *block = (struct model_block){kind, value + (kind == EXTMAP_MAPPED ? i : 0), seq};
    }
    extmap_insert(&model->map, model->base + start, len, kind, value, seq);
}

static void model_remove(struct model *model, uint64_t start, uint64_t len, uint64_t seq_max)
{
    for (uint64_t i = 0; i < len; i++) {
        struct model_block *block = &model->blocks[start + i];
        if (block->kind != EXTMAP_GAP && block->seq <= MAX(seq_max, model->floor))
            *block = (struct model_block){EXTMAP_GAP, 0, 0};
    }
    extmap_remove(&model->map, model->base + start, len, seq_max);
}

static void model_step(struct model *model, unsigned len_max, unsigned seq_span)
{
    uint64_t len = 1 + rng() % len_max, start = rng() % (MODEL_BLOCKS - len + 1);
    uint64_t seq = model->floor + rng() % seq_span;
    uint64_t late = rng() % 4 == 0 ? seq_span / 2 : 0;
    seq -= MIN(seq, late);
    /* A value that follows from the address makes neighbours continue often. */
    uint64_t value = rng() % 2 ? 1000000 + start : rng() % 8;
    switch (rng() % 16) {
    case 0 ... 10:
        model_insert(model, start, len, EXTMAP_MAPPED, value, seq);
        break;
    case 11 ... 13:
        model_insert(model, start, len, EXTMAP_TRIMMED, rng() % 2, seq);
        break;
    case 14:
        model_remove(model, start, len, rng() % 4 ? UINT64_MAX : 0);
        break;
    default: {
        struct extmap_run run = lookup(&model->map, model->base + start, len);
        for (uint64_t i = 0; i < run.len; i++)
            assert_true(same_block(model, &model->blocks[start + i], &run, i));
    }
    }
}

static void model_run(
    uint64_t seed, unsigned steps, unsigned len_max, unsigned seq_span, bool floors)
{
    rng_state = seed;
    struct model *model = calloc(1, sizeof(*model));
    extmap_init(&model->map);
    model->base = seed % 3 == 0 ? EXTMAP_ADDRESS_MAX - MODEL_BLOCKS : seed % 3 * 1000;
    for (unsigned i = 0; i < steps; i++) {
        model_step(model, len_max, seq_span);
        if (floors && i % 200 == 199) {
            model->floor += rng() % 3;
            extmap_set_floor(&model->map, model->floor);
        }
        if (i % 512 == 511)
            model_compare(model);
    }
    model_compare(model);
    /* Emptied piece by piece, memory comes back but for the spare nodes. */
    for (uint64_t at = 0; at < MODEL_BLOCKS; at += 64)
        model_remove(model, at, 64, UINT64_MAX);
    model_compare(model);
    assert_int_equal(extmap_count(&model->map), 0);
    assert_true(extmap_memory_bytes(&model->map) <= 32 * 1024);
    extmap_fini(&model->map);
    assert_int_equal(extmap_memory_bytes(&model->map), 0);
    free(model);
}

static void test_random_operations_match_one_entry_per_block(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        model_run(seed, 6000, 1, 8, false);
        model_run(seed, 4000, 20, 8, false);
        model_run(seed, 2000, 400, 3, false);
        model_run(seed, 4000, 8, 6, true);
        model_run(seed, 3000, 30, 2, true);
    }
}

static void test_one_trim_clears_a_full_map(void **state)
{
    struct extmap map;
    extmap_init(&map);
    for (uint64_t i = 0; i < 200000; i++)
        extmap_insert(&map, i * 3, 1, EXTMAP_MAPPED, i, i + 1);
    extmap_insert(&map, 0, EXTMAP_ADDRESS_MAX, EXTMAP_TRIMMED, 0, 1 << 20);
    assert_int_equal(extmap_count(&map), 1);
    extmap_tree_verify(&map.tree);
    extmap_fini(&map);
}

/* --- Speed: printed, and bounded loosely (a machine may be busy) -------- */

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void test_a_million_random_blocks_insert_fast(void **state)
{
    struct extmap map;
    extmap_init(&map);
    unsigned n = 1000000;
    rng_state = 42;
    uint64_t begin = cpu_ns();
    for (unsigned i = 0; i < n; i++)
        extmap_insert(&map, rng() % (1u << 28), 1, EXTMAP_MAPPED, rng() >> 20, i + 1);
    uint64_t insert_ns = cpu_ns() - begin;
    uint64_t bytes = extmap_memory_bytes(&map), count = extmap_count(&map);

    uint64_t sum = 0;
    begin = cpu_ns();
    for (unsigned i = 0; i < n; i++)
        sum += lookup(&map, rng() % (1u << 28), 8).len;
    uint64_t lookup_ns = cpu_ns() - begin;

    struct extmap_iter iter;
    struct extmap_run run;
    begin = cpu_ns();
    extmap_iter_init(&iter, &map, 0);
    while (extmap_iter_next(&iter, &run))
        sum += run.value;
    uint64_t iterate_ns = cpu_ns() - begin;
    printf("extmap: random insert %.0f ns, lookup %.0f ns, iterate %.1f ns, %.1f bytes an extent "
           "(%llu)\n",
        (double)insert_ns / n, (double)lookup_ns / n, (double)iterate_ns / count,
        (double)bytes / count, (unsigned long long)sum % 10);
    extmap_fini(&map);
    assert_true(insert_ns / n < 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_map_is_one_gap_without_memory),
        cmocka_unit_test(test_lookup_clips_both_ends_and_moves_mapped_values_only),
        cmocka_unit_test(test_insert_never_lowers_a_sequence),
        cmocka_unit_test(test_neighbours_merge_only_with_equal_sequences),
        cmocka_unit_test(test_floor_lets_rising_sequences_merge),
        cmocka_unit_test(test_remove_spares_newer_sequences),
        cmocka_unit_test(test_random_operations_match_one_entry_per_block),
        cmocka_unit_test(test_one_trim_clears_a_full_map),
        cmocka_unit_test(test_a_million_random_blocks_insert_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
