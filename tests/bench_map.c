/* SPDX-License-Identifier: Apache-2.0
 *
 * What the map costs in CPU: a merge of a million random single-block updates over 1 TiB, and lookups
 * with all pages cached. Pages are memory: reading and writing them is a copy, counted in. Not a test:
 * prints figures.
 */
#include "tests/unit/fake_env.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "blockd/volume/map.h"
#include "blockd/volume/map_page.h"
#include "common/mem.h"

#define BLOCKS (1ull << 28) /* 1 TiB */
#define UPDATES 1000000
#define CHUNK_PAGES 1024
#define STORED_MAX (4u << 20)

static void **stored;
static uint64_t stored_count;
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int page_read(void *ctx, uint64_t pointer, uint64_t page_address, void *buf)
{
    memcpy(buf, stored[map_entry_chunk(pointer) * CHUNK_PAGES + map_entry_linear(pointer)],
        MAP_PAGE_BYTES);
    return 0;
}

static int pages_reserve(void *ctx, unsigned count, uint64_t *ret_pointers)
{
    for (unsigned i = 0; i < count; i++)
        ret_pointers[i] = map_entry(MAP_PAGE, 0, (stored_count + i) / CHUNK_PAGES,
            (uint32_t)((stored_count + i) % CHUNK_PAGES));
    return 0;
}

static int pages_commit(
    void *ctx, unsigned count, const uint64_t *page_addresses, void *const *pages)
{
    for (unsigned i = 0; i < count; i++) {
        stored[stored_count] = mem_alloc(MAP_PAGE_BYTES);
        memcpy(stored[stored_count++], pages[i], MAP_PAGE_BYTES);
    }
    return 0;
}

static void page_freed(void *ctx, uint64_t pointer)
{
    void **page = &stored[map_entry_chunk(pointer) * CHUNK_PAGES + map_entry_linear(pointer)];
    mem_free(*page);
    *page = NULL;
}

static void merge(struct map *map, uint64_t blocks, unsigned count, const char *what)
{
    struct extmap updates;
    extmap_init(&updates);
    for (unsigned i = 0; i < count; i++)
        extmap_insert(&updates, rnd() % blocks, 1, EXTMAP_MAPPED,
            map_entry(MAP_MAPPED, 0, rnd() % 100000, rnd() % 4096), 1);
    static const struct map_merge_callbacks callbacks = {.page_freed = page_freed};
    uint64_t root, written = stored_count;
    unsigned levels;
    uint64_t begin = cpu_ns();
    assert_int_equal(map_merge(map, &updates, 0, &callbacks, &root, &levels), 0);
    uint64_t spent = cpu_ns() - begin;
    map_switch(map, root, levels);
    printf("merge, %s: %u updates, %llu pages: %.0f ns an update\n", what, count,
        (unsigned long long)(stored_count - written), (double)spent / count);
    extmap_fini(&updates);
}

static void lookups(struct map *map, uint64_t blocks, const char *what)
{
    struct map_run run;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < blocks; i += MAP_FANOUT) /* cached from here on */
        assert_int_equal(map_lookup(map, i, 1, &run), 0);
    uint64_t begin = cpu_ns();
    for (unsigned i = 0; i < UPDATES; i++) {
        map_lookup(map, rnd() % blocks, 1, &run);
        sum += run.len;
    }
    printf("lookup, %s: %.0f ns\n", what, (double)(cpu_ns() - begin) / UPDATES);
    assert_int_equal(sum, UPDATES);
}

static void bench(void *arg)
{
    stored = mem_zalloc(STORED_MAX, sizeof(*stored));
    struct map_store store = {
        .page_read = page_read, .pages_reserve = pages_reserve, .pages_commit = pages_commit};
    struct map_cache *cache = map_cache_new(64 << 20);
    struct map *map = map_new(cache, &store, 0, 4);
    merge(map, BLOCKS, UPDATES, "1 TiB, empty");
    merge(map, BLOCKS, UPDATES, "1 TiB, half full");
    merge(map, BLOCKS / 512, UPDATES, "2 GiB dense, 4 levels");
    map_free(map);
    map_cache_free(cache);

    cache = map_cache_new(256 << 20);
    map = map_new(cache, &store, 0, 4);
    merge(map, 4ull << 18, 200000, "4 GiB");
    lookups(map, 4ull << 18, "4 GiB (8 MiB of pages), 4 levels");
    merge(map, 64ull << 18, 400000, "64 GiB");
    lookups(map, 64ull << 18, "64 GiB (128 MiB of pages), 4 levels");
    map_free(map);
    map_cache_free(cache);
}

int main(void)
{
    static struct fake_env fake;
    fiber_sched_init(64);
    fake_env_init(&fake);
    fake.env.mem_track = false;
    fake_env_run(&fake, bench, NULL);
    return 0;
}
