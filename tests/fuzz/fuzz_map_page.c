/* SPDX-License-Identifier: Apache-2.0
 *
 * A page of a map off a disk: byte 0 chooses its level, byte 1 the layers known, the rest is the page
 * (cut or filled up with zeros). It becomes the root of a map. What map_page_check lets through must
 * be safe to look up in, to walk and to merge into; what it refuses is -EBADMSG everywhere.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/map_page.h"
#include "common/check.h"
#include "common/log.h"
#include "tests/unit/fake_env.h"

static uint64_t page[MAP_FANOUT];
static unsigned level;
static uint64_t reserved;
static int64_t balance; /* mapped minus replaced */

/* The root, and nothing below it. */
static int page_read(void *ctx, uint64_t pointer, uint64_t page_address, void *buf)
{
    if (page_address >> 56 != level)
        return -EIO;
    memcpy(buf, page, sizeof(page));
    return 0;
}

static int pages_reserve(void *ctx, unsigned count, uint64_t *ret_pointers)
{
    for (unsigned i = 0; i < count; i++)
        ret_pointers[i] = map_entry(MAP_PAGE, 0, 1ull << 33, (uint32_t)reserved++);
    return 0;
}

static int pages_commit(
    void *ctx, unsigned count, const uint64_t *page_addresses, void *const *pages)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned at;
        CHECK(!map_page_check(pages[i], page_addresses[i] >> 56, 0, &at));
    }
    return 0;
}

static void replaced(void *ctx, uint64_t old_entry, uint64_t len)
{
    CHECK(map_entry_type(old_entry) == MAP_MAPPED);
    balance -= (int64_t)len;
}

static int count_run(void *ctx, uint64_t address, uint64_t entry, uint64_t len)
{
    CHECK(map_entry_linear(entry) + len <= MAP_LINEAR_END);
    CHECK(address + len <= map_page_blocks(level));
    balance += (int64_t)len;
    return 0;
}

static void use_map(void *arg)
{
    const struct map_store *store = arg;
    unsigned at;
    const char *problem = map_page_check(page, level, store->layer_count, &at);
    struct map_cache *cache = map_cache_new(1 << 20);
    struct map *map = map_new(cache, store, map_entry(MAP_PAGE, 0, 7, 7), level + 1);
    for (uint64_t i = 0; i < MAP_FANOUT; i += 1 + i % 8) {
        struct map_run run;
        uint64_t address = i * map_entry_blocks(level);
        int r = map_lookup(map, address, UINT64_MAX, &run);
        CHECK((problem != NULL) == (r == -EBADMSG));
        CHECK(r == 0 || r == -EBADMSG || r == -EIO);
        if (r == 0)
            CHECK(run.len >= 1 && run.type != MAP_PAGE &&
                  (run.type != MAP_MAPPED ||
                      map_entry_linear(run.entry) + run.len <= MAP_LINEAR_END));
    }

    balance = 0;
    int walked = map_walk(map, NULL, count_run, NULL);
    struct extmap updates;
    extmap_init(&updates);
    extmap_insert(&updates, 0, map_page_blocks(level), EXTMAP_TRIMMED, 0, 1);
    const struct map_merge_callbacks callbacks = {.replaced = replaced};
    uint64_t root;
    unsigned levels;
    int r = map_merge(map, &updates, 0, &callbacks, &root, &levels);
    CHECK((r == 0) == (walked == 0));
    CHECK(r < 0 || (root == 0 && balance == 0)); /* all that was mapped was told */
    extmap_insert(&updates, 3, 2, EXTMAP_MAPPED, map_entry(MAP_MAPPED, 0, 5, 5), 2);
    r = map_merge(map, &updates, 0, &callbacks, &root, &levels);
    CHECK(r == 0 || r == -EIO || r == -EBADMSG);
    extmap_fini(&updates);
    map_free(map);
    map_cache_free(cache);
}

static void no_log(void *ctx, enum log_level log_level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static struct fake_env fake;
    static bool initialised;
    if (len_bytes < 2)
        return 0;
    if (!initialised) {
        fiber_sched_init(64);
        fake_env_init(&fake);
        log_set_output(no_log, NULL);
        initialised = true;
    }
    struct map_store store = {
        .page_read = page_read,
        .pages_reserve = pages_reserve,
        .pages_commit = pages_commit,
        .layer_count = data[1],
    };
    level = data[0] % MAP_LEVELS_MAX;
    reserved = 0;
    memset(page, 0, sizeof(page));
    memcpy(page, data + 2, len_bytes - 2 < sizeof(page) ? len_bytes - 2 : sizeof(page));
    fake_env_run(&fake, use_map, &store);
    return 0;
}
