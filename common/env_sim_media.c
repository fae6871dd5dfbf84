/* SPDX-License-Identifier: Apache-2.0
 *
 * The medium of a simulated disk and the cache in front of it (V1, V2). Writes are whole pages
 * (O_DIRECT), so the cache is a list of versions per page, oldest first, over the durable block;
 * `current` is what a read returns. A sync folds versions into the durable block, a power cut
 * chooses among them sector by sector. Blocks are immutable and counted, so that images share them.
 */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_impl.h"

enum {
    GROUP_PAGES = 512,
    PAGE_SECTORS = SIM_PAGE_BYTES / SIM_SECTOR_BYTES,
};

static const uint8_t zeros[SIM_PAGE_BYTES];

/* NULL for a block of zeros. */
static struct sim_block *block_new(const void *bytes)
{
    if (memcmp(bytes, zeros, SIM_PAGE_BYTES) == 0)
        return NULL;
    struct sim_block *block = malloc(sizeof(*block));
    CHECK_MSG(block, "no memory for a simulated disk");
    block->refs = 1;
    memcpy(block->bytes, bytes, SIM_PAGE_BYTES);
    return block;
}

static struct sim_block *block_ref(struct sim_block *block)
{
    if (block)
        block->refs++;
    return block;
}

static void block_put(struct sim_block *block)
{
    if (block && --block->refs == 0)
        free(block);
}

static const uint8_t *block_bytes(const struct sim_block *block)
{
    return block ? block->bytes : zeros;
}

static void block_replace(struct sim_block **at, struct sim_block *block)
{
    block_put(*at);
    *at = block;
}

/* --- Pages -------------------------------------------------------------- */

static uint64_t group_count(uint64_t page_count)
{
    return DIV_ROUND_UP(page_count, GROUP_PAGES);
}

void sim_media_init(struct sim_media *media, uint64_t page_count)
{
    *media = (struct sim_media){.page_count = page_count};
    media->groups = sim_zalloc((group_count(page_count) + 1) * sizeof(*media->groups));
}

/* NULL when the page was never written. */
static struct sim_page *page_find(const struct sim_media *media, uint64_t page)
{
    CHECK(page < media->page_count);
    struct sim_page *group = media->groups[page / GROUP_PAGES];
    return group ? &group[page % GROUP_PAGES] : NULL;
}

static struct sim_page *page_get(struct sim_media *media, uint64_t page)
{
    CHECK(page < media->page_count);
    struct sim_page **group = &media->groups[page / GROUP_PAGES];
    if (!*group)
        *group = sim_zalloc(GROUP_PAGES * sizeof(**group));
    return &(*group)[page % GROUP_PAGES];
}

static void dirty_add(struct sim_media *media, struct sim_page *page, uint64_t number)
{
    if (media->dirty_count == media->dirty_capacity) {
        media->dirty_capacity = MAX((uint64_t)64, media->dirty_capacity * 2);
        media->dirty = realloc(media->dirty, media->dirty_capacity * sizeof(*media->dirty));
        CHECK_MSG(media->dirty, "no memory for a simulated disk");
    }
    page->dirty_index = media->dirty_count;
    media->dirty[media->dirty_count++] = number;
}

/* `page` has lost its last version. */
static void dirty_remove(struct sim_media *media, struct sim_page *page)
{
    uint64_t last = media->dirty[--media->dirty_count];
    media->dirty[page->dirty_index] = last;
    page_find(media, last)->dirty_index = page->dirty_index;
    block_replace(&page->durable, NULL);
}

static void version_free_oldest(struct sim_page *page)
{
    struct sim_version *version = page->oldest;
    page->oldest = version->newer;
    block_put(version->block);
    free(version);
}

/* The page becomes `block` (whose reference it takes), durably. */
static void page_settle(struct sim_media *media, struct sim_page *page, struct sim_block *block)
{
    if (page->oldest) {
        while (page->oldest)
            version_free_oldest(page);
        dirty_remove(media, page);
    }
    block_replace(&page->current, block);
}

static void page_add_version(struct sim_media *media, uint64_t number, struct sim_version version)
{
    struct sim_page *page = page_get(media, number);
    if (!page->oldest) {
        dirty_add(media, page, number);
        page->durable = block_ref(page->current);
    }
    struct sim_version **end = &page->oldest;
    while (*end)
        end = &(*end)->newer;
    *end = sim_zalloc(sizeof(version));
    **end = version;
}

static void group_free(struct sim_media *media, uint64_t index)
{
    struct sim_page *group = media->groups[index];
    for (unsigned i = 0; group && i < GROUP_PAGES; i++)
        page_settle(media, &group[i], NULL);
    free(group);
    media->groups[index] = NULL;
}

void sim_media_fini(struct sim_media *media)
{
    for (uint64_t i = 0; i < group_count(media->page_count); i++)
        group_free(media, i);
    free(media->groups);
    free(media->dirty);
    *media = (struct sim_media){0};
}

void sim_media_copy(struct sim_media *ret_media, const struct sim_media *media)
{
    sim_media_init(ret_media, media->page_count);
    for (uint64_t i = 0; i < group_count(media->page_count); i++) {
        struct sim_page *from = media->groups[i];
        if (!from)
            continue;
        struct sim_page *to = ret_media->groups[i] = sim_zalloc(GROUP_PAGES * sizeof(*to));
        for (unsigned j = 0; j < GROUP_PAGES; j++)
            to[j].current = block_ref(from[j].current);
    }
    /* In the order of `dirty`: it decides who draws which chance at a cut. */
    for (uint64_t i = 0; i < media->dirty_count; i++) {
        uint64_t number = media->dirty[i];
        const struct sim_page *from = page_find(media, number);
        struct sim_page *to = page_get(ret_media, number);
        for (const struct sim_version *v = from->oldest; v; v = v->newer) {
            struct sim_version copy = *v;
            copy.newer = NULL;
            block_ref(copy.block);
            page_add_version(ret_media, number, copy);
        }
        block_replace(&to->durable, block_ref(from->durable));
    }
}

void sim_media_resize(struct sim_media *media, uint64_t page_count)
{
    for (uint64_t i = page_count; i < media->page_count; i++) {
        struct sim_page *page = page_find(media, i);
        if (page)
            page_settle(media, page, NULL);
        else
            i = ROUND_DOWN(i, GROUP_PAGES) + GROUP_PAGES - 1;
    }
    uint64_t groups_old = group_count(media->page_count), groups = group_count(page_count);
    for (uint64_t i = groups; i < groups_old; i++)
        group_free(media, i);
    media->groups = realloc(media->groups, (groups + 1) * sizeof(*media->groups));
    CHECK_MSG(media->groups, "no memory for a simulated disk");
    for (uint64_t i = groups_old; i < groups; i++)
        media->groups[i] = NULL;
    media->page_count = page_count;
}

/* --- I/O ---------------------------------------------------------------- */

void sim_media_read(const struct sim_media *media, uint64_t page, void *buf)
{
    const struct sim_page *p = page_find(media, page);
    memcpy(buf, p ? block_bytes(p->current) : zeros, SIM_PAGE_BYTES);
}

void sim_media_write(struct sim_media *media, uint64_t page, const void *buf, uint64_t number,
    uint32_t page_in_write, uint8_t sectors, bool durable)
{
    uint8_t bytes[SIM_PAGE_BYTES];
    if (sectors != 0xff)
        sim_media_read(media, page, bytes);
    for (unsigned s = 0; s < PAGE_SECTORS && sectors != 0xff; s++) {
        if (sectors & 1u << s)
            memcpy(bytes + s * SIM_SECTOR_BYTES, (const char *)buf + s * SIM_SECTOR_BYTES,
                SIM_SECTOR_BYTES);
    }
    struct sim_page *p = page_get(media, page);
    struct sim_block *block = block_new(sectors == 0xff ? buf : bytes);
    if (durable) {
        page_settle(media, p, block);
        return;
    }
    struct sim_version version = {
        .number = number, .page_in_write = page_in_write, .block = block_ref(block)};
    page_add_version(media, page, version);
    block_replace(&p->current, block);
}

void sim_media_add_under_way(struct sim_media *media, uint64_t page, const void *buf,
    uint64_t number, uint32_t page_in_write)
{
    struct sim_version version = {.number = number,
        .page_in_write = page_in_write,
        .under_way = true,
        .block = block_new(buf)};
    page_add_version(media, page, version);
}

void sim_media_drop_under_way(struct sim_media *media)
{
    for (uint64_t i = media->dirty_count; i-- > 0;) {
        struct sim_page *page = page_find(media, media->dirty[i]);
        /* They are the newest: nothing completes on an image. */
        struct sim_version **at = &page->oldest;
        while (*at && !(*at)->under_way)
            at = &(*at)->newer;
        while (*at) {
            struct sim_version *version = *at;
            *at = version->newer;
            block_put(version->block);
            free(version);
        }
        if (!page->oldest)
            dirty_remove(media, page);
    }
}

void sim_media_sync(struct sim_media *media, uint64_t number)
{
    for (uint64_t i = media->dirty_count; i-- > 0;) {
        struct sim_page *page = page_find(media, media->dirty[i]);
        /* The newest version that becomes durable takes those before it along. */
        const struct sim_version *newest = NULL;
        for (const struct sim_version *v = page->oldest; v; v = v->newer) {
            if (v->number <= number && !v->doomed)
                newest = v;
        }
        if (!newest)
            continue;
        block_replace(&page->durable, block_ref(newest->block));
        bool last = false;
        while (!last) {
            last = page->oldest == newest;
            version_free_oldest(page);
        }
        if (!page->oldest)
            dirty_remove(media, page);
    }
}

void sim_media_doom(struct sim_media *media, uint64_t number)
{
    for (uint64_t i = 0; i < media->dirty_count; i++) {
        struct sim_page *page = page_find(media, media->dirty[i]);
        for (struct sim_version *v = page->oldest; v; v = v->newer)
            v->doomed |= v->number <= number;
    }
}

uint64_t sim_media_number_max(const struct sim_media *media)
{
    uint64_t number = 0;
    for (uint64_t i = 0; i < media->dirty_count; i++) {
        const struct sim_page *page = page_find(media, media->dirty[i]);
        for (const struct sim_version *v = page->oldest; v; v = v->newer)
            number = MAX(number, v->number);
    }
    return number;
}

static struct sim_block *block_flipped(struct sim_block *block, uint64_t at, unsigned bit)
{
    uint8_t bytes[SIM_PAGE_BYTES];
    memcpy(bytes, block_bytes(block), SIM_PAGE_BYTES);
    bytes[at] ^= 1u << bit;
    return block_new(bytes);
}

void sim_media_flip(struct sim_media *media, uint64_t off_bytes, unsigned bit)
{
    CHECK(bit < 8);
    struct sim_page *page = page_get(media, off_bytes / SIM_PAGE_BYTES);
    uint64_t at = off_bytes % SIM_PAGE_BYTES;
    block_replace(&page->current, block_flipped(page->current, at, bit));
    if (page->oldest)
        block_replace(&page->durable, block_flipped(page->durable, at, bit));
    for (struct sim_version *v = page->oldest; v; v = v->newer)
        block_replace(&v->block, block_flipped(v->block, at, bit));
}

/* --- Power cut ---------------------------------------------------------- */

struct cut {
    enum sim_cut_mode mode;
    struct rng *rng;
    uint32_t keep_ppm;   /* SECTORS, WRITES */
    uint64_t salt;       /* WRITES */
    uint64_t number_end; /* PREFIX, TEAR: the first write that does not survive whole */
    uint64_t tear_sectors;
};

static void cut_choose(struct cut *cut, const struct sim_media *media)
{
    static const uint32_t keeps_ppm[] = {500000, 100000, 900000};
    cut->keep_ppm = keeps_ppm[rng_below(cut->rng, ARRAY_SIZE(keeps_ppm))];
    cut->salt = rng_u64(cut->rng);

    uint64_t low = UINT64_MAX, high = 0;
    for (uint64_t i = 0; i < media->dirty_count; i++) {
        const struct sim_page *page = page_find(media, media->dirty[i]);
        for (const struct sim_version *v = page->oldest; v; v = v->newer) {
            low = MIN(low, v->number);
            high = MAX(high, v->number);
        }
    }
    if (low > high)
        return;
    cut->number_end = rng_between(cut->rng, low, high + 1);
    uint64_t pages = 1;
    for (uint64_t i = 0; i < media->dirty_count; i++) {
        const struct sim_page *page = page_find(media, media->dirty[i]);
        for (const struct sim_version *v = page->oldest; v; v = v->newer) {
            if (v->number == cut->number_end)
                pages = MAX(pages, (uint64_t)v->page_in_write + 1);
        }
    }
    cut->tear_sectors = rng_below(cut->rng, pages * PAGE_SECTORS + 1);
}

static bool cut_keeps(struct cut *cut, const struct sim_version *version, unsigned sector)
{
    switch (cut->mode) {
    case SIM_CUT_KEEP_ALL:
        return !version->under_way;
    case SIM_CUT_SECTORS:
        return rng_ppm(cut->rng, cut->keep_ppm);
    case SIM_CUT_WRITES:
        return rng_mix(cut->salt ^ rng_mix(version->number)) % 1000000 < cut->keep_ppm;
    case SIM_CUT_TEAR:
        if (version->number == cut->number_end)
            return version->page_in_write * PAGE_SECTORS + sector < cut->tear_sectors;
        return version->number < cut->number_end;
    case SIM_CUT_PREFIX:
        return version->number < cut->number_end;
    case SIM_CUT_LOSE_ALL:
    case SIM_CUT_RANDOM:
        break;
    }
    return false;
}

void sim_media_cut(struct sim_media *media, enum sim_cut_mode mode, struct rng *rng)
{
    struct cut cut = {.mode = mode, .rng = rng};
    if (mode == SIM_CUT_RANDOM)
        cut.mode = rng_below(rng, SIM_CUT_RANDOM);
    cut_choose(&cut, media);
    while (media->dirty_count > 0) {
        struct sim_page *page = page_find(media, media->dirty[media->dirty_count - 1]);
        uint8_t bytes[SIM_PAGE_BYTES];
        memcpy(bytes, block_bytes(page->durable), SIM_PAGE_BYTES);
        for (const struct sim_version *v = page->oldest; v; v = v->newer) {
            for (unsigned s = 0; s < PAGE_SECTORS; s++) {
                if (cut_keeps(&cut, v, s))
                    memcpy(bytes + s * SIM_SECTOR_BYTES,
                        block_bytes(v->block) + s * SIM_SECTOR_BYTES, SIM_SECTOR_BYTES);
            }
        }
        page_settle(media, page, block_new(bytes));
    }
}
