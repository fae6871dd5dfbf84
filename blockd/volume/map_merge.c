/* SPDX-License-Identifier: Apache-2.0
 *
 * Merging updates into a map: one walk over the parts of the tree that updates (or marks) touch, in
 * address order, building a new page for each page that changes.
 *
 * Pages are finished bottom-up: children before their parent, since a parent holds their pointers.
 * Pointers come from the store only when a window of finished pages is written, so that exactly as
 * many places are reserved as pages are there. Until then a finished page remembers where its
 * pointer
 * goes: an entry of its parent's buffer, which is either open on the path or finished later in this
 * or
 * a following window, and so outlives the child's.
 *
 *   path:    level 3 (open) -> level 2 (open) -> level 1 (open) -> leaf (being filled)
 *   window:  leaf, leaf, leaf, level 1, leaf, leaf ...           (full: reserve, patch, commit)
 *
 * Memory: the path, the window, one batch of old leaves. Nothing recurses deeper than the tree.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define WINDOW_PAGES 120

/* Never on disk. PENDING stands where the pointer of a finished page will be; GROWN is the old
 * entry
 * of a subtree above the old root: a page whose first entry leads to the old root. */
#define PENDING (map_entry(MAP_PAGE, 0xfff, (1ull << 34) - 1, 0xfffe))
#define GROWN (map_entry(MAP_PAGE, 0xfff, (1ull << 34) - 1, 0xffff))

struct finished {
    struct map_page *page;
    uint64_t address;
    uint64_t *parent_entry;
};

/* Coalesces what the callbacks are told. */
struct report {
    void (*tell)(void *ctx, uint64_t entry, uint64_t len);
    uint64_t entry, len;
};

struct merge {
    struct map *map;
    const struct map_merge_callbacks *callbacks;
    struct extmap_iter iter;
    struct extmap_run run;  /* what is left of the current update; len 0 = no more */
    struct map_mark *marks; /* by start, upper levels first */
    unsigned mark_count, mark_next;
    struct map_batch batch;
    struct report replaced, mapped;
    struct finished window[WINDOW_PAGES];
    unsigned window_count;
    uint64_t *new_pointers; /* of all pages written, for the case of failure: fewer than extents */
    unsigned new_count, new_capacity;
};

/* One subtree under way: the page of (level, index) and all below. */
struct subtree {
    unsigned level;
    uint64_t index;
    uint64_t start, end; /* blocks */
    uint64_t old;        /* entry */
    bool top;
};

static struct subtree subtree_at(unsigned level, uint64_t index, uint64_t old)
{
    uint64_t blocks = map_page_blocks(level);
    return (struct subtree){
        .level = level,
        .index = index,
        .start = index * blocks,
        .end = (index + 1) * blocks,
        .old = old,
    };
}

/* --- Updates and marks in order ------------------------------------------------------------------- */

static void next_run(struct merge *m)
{
    if (!extmap_iter_next(&m->iter, &m->run))
        m->run = (struct extmap_run){.start = UINT64_MAX};
}

static void consume(struct merge *m, uint64_t len)
{
    m->run.start += len;
    m->run.value += m->run.kind == EXTMAP_MAPPED ? len : 0;
    m->run.len -= len;
    if (m->run.len == 0)
        next_run(m);
}

static const struct map_mark *next_mark(const struct merge *m)
{
    return m->mark_next < m->mark_count ? &m->marks[m->mark_next] : NULL;
}

/* Where the next touched block at or behind `from` is; marks count as touching their first block.
 * */
static uint64_t next_touched(const struct merge *m, uint64_t from)
{
    const struct map_mark *mark = next_mark(m);
    uint64_t next = mark ? MIN(m->run.start, mark->start) : m->run.start;
    return MAX(next, from);
}

/* Takes the marks of this very page off; is one of them for its present place? */
static bool take_marks(struct merge *m, const struct subtree *t)
{
    bool rewrite = false;
    const struct map_mark *mark;
    while ((mark = next_mark(m)) &&
           (mark->start < t->start || (mark->start == t->start && mark->level >= t->level))) {
        rewrite |= mark->start == t->start && mark->level == t->level && mark->pointer == t->old;
        m->mark_next++;
    }
    return rewrite;
}

static void drop_marks_below(struct merge *m, uint64_t end)
{
    const struct map_mark *mark;
    while ((mark = next_mark(m)) && mark->start < end)
        m->mark_next++;
}

static int compare_marks(const void *pa, const void *pb)
{
    const struct map_mark *a = pa, *b = pb;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return a->level == b->level ? 0 : a->level > b->level ? -1 : 1;
}

/* --- Telling -------------------------------------------------------------------------------------- */

static void report_flush(struct merge *m, struct report *report)
{
    if (report->len > 0 && report->tell)
        report->tell(m->callbacks->ctx, report->entry, report->len);
    report->len = 0;
}

static void report(struct merge *m, struct report *report, uint64_t entry, uint64_t len)
{
    if (report->len > 0 && entry == report->entry + report->len && map_entry_linear(entry) != 0) {
        report->len += len;
        return;
    }
    report_flush(m, report);
    report->entry = entry;
    report->len = len;
}

static void report_change(struct merge *m, uint64_t old, uint64_t new, uint64_t len)
{
    if (map_entry_type(old) == MAP_MAPPED)
        report(m, &m->replaced, old, len);
    if (map_entry_type(new) == MAP_MAPPED)
        report(m, &m->mapped, new, len);
}

static void tell_freed(struct merge *m, uint64_t pointer)
{
    map_cache_forget(m->map->cache, &m->map->owner, pointer); /* of use only until the switch */
    if (m->callbacks->page_freed)
        m->callbacks->page_freed(m->callbacks->ctx, pointer);
}

/* --- Writing -------------------------------------------------------------------------------------- */

static void remember_pointers(struct merge *m, const uint64_t *pointers, unsigned count)
{
    if (m->new_count + count > m->new_capacity) {
        m->new_capacity = MAX(2 * m->new_capacity, m->new_count + count);
        m->new_pointers = mem_realloc(m->new_pointers, m->new_capacity * sizeof(*m->new_pointers));
    }
    memcpy(m->new_pointers + m->new_count, pointers, count * sizeof(*pointers));
    m->new_count += count;
}

static MAY_SUSPEND int window_write(struct merge *m)
{
    const struct map_store *store = &m->map->store;
    unsigned count = m->window_count;
    if (count == 0)
        return 0;
    uint64_t pointers[WINDOW_PAGES], addresses[WINDOW_PAGES];
    void *pages[WINDOW_PAGES];
    int r = store->pages_reserve(store->ctx, count, pointers);
    if (r < 0)
        return r;
    remember_pointers(m, pointers, count);
    for (unsigned i = 0; i < count; i++) {
        CHECK(map_entry_type(pointers[i]) == MAP_PAGE && pointers[i] != PENDING);
        *m->window[i].parent_entry = htole64(pointers[i]);
        addresses[i] = m->window[i].address;
        pages[i] = m->window[i].page->entries;
    }
    r = store->pages_commit(store->ctx, count, addresses, pages);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++) {
        struct map_page *page = m->window[i].page;
        /* A big merge must not wash out the leaves that are being read: no chance for its own. */
        map_cache_insert(m->map->cache, page, &m->map->owner, pointers[i], page->level > 0);
        map_cache_unpin(m->map->cache, page);
    }
    m->window_count = 0;
    return 0;
}

/* --- Subtrees that go as a whole ------------------------------------------------------------------ */

/* Loads the next leaves that the walk will come to, from `index` on, in one level 1 page: those
 * that
 * updates and marks touch, or all. */
static MAY_SUSPEND int load_leaves(
    struct merge *m, const uint64_t *parent, uint64_t parent_index, uint64_t index, bool all)
{
    map_batch_clear(&m->batch);
    uint64_t end_index = (parent_index + 1) * MAP_FANOUT;
    struct extmap_iter ahead = m->iter;
    struct extmap_run run = m->run;
    unsigned mark_next = m->mark_next;
    bool room = true;
    while (room && index < end_index) {
        uint64_t entry = map_page_get(parent, index % MAP_FANOUT);
        if (map_entry_type(entry) == MAP_PAGE && entry != PENDING)
            room = map_batch_add(&m->batch, 0, index, entry);
        index++;
        if (all)
            continue;
        /* On to the next leaf that an update or a mark touches. */
        uint64_t block = index * MAP_FANOUT, next = UINT64_MAX;
        while (run.len > 0 && run.start + run.len <= block) {
            if (!extmap_iter_next(&ahead, &run))
                run = (struct extmap_run){.start = UINT64_MAX};
        }
        while (mark_next < m->mark_count && m->marks[mark_next].start < block)
            mark_next++;
        if (run.len > 0)
            next = run.start;
        if (mark_next < m->mark_count)
            next = MIN(next, m->marks[mark_next].start);
        if (next == UINT64_MAX)
            break;
        index = MAX(block, next) / MAP_FANOUT;
    }
    return map_batch_load(&m->batch);
}

/* The old page of a subtree, pinned. Leaves come from the batch, which is filled when it has run
 * out;
 * `parent` is the page above. */
static MAY_SUSPEND int old_page(struct merge *m, const struct subtree *t, const uint64_t *parent,
    bool all, struct map_page **ret_page)
{
    if (t->level > 0 || !parent)
        return map_page_load(m->map, t->old, t->level, t->index, ret_page);
    struct map_page *page = map_batch_find(&m->batch, 0, t->index);
    if (!page) {
        int r = load_leaves(m, parent, t->index / MAP_FANOUT, t->index, all);
        if (r < 0)
            return r;
        page = map_batch_find(&m->batch, 0, t->index);
    }
    page->pins++;
    *ret_page = page;
    return 0;
}

/* Tells of everything mapped in the subtree, and of its pages (M3). `inside`: it goes with the
 * whole
 * page above it. */
static MAY_SUSPEND int detach(
    struct merge *m, const struct subtree *t, const uint64_t *parent, bool inside)
{
    struct subtree at = *t;
    if (at.old == GROWN) /* nothing stands there but the old root */
        at = subtree_at(m->map->levels - 1, 0, m->map->root);
    if (map_entry_type(at.old) == MAP_MAPPED)
        report(m, &m->replaced, at.old, map_page_blocks(at.level));
    if (map_entry_type(at.old) != MAP_PAGE)
        return 0;

    struct map_page *page;
    int r = old_page(m, &at, at.old == t->old ? parent : NULL, inside, &page);
    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < MAP_FANOUT; i++) {
        uint64_t entry = map_page_get(page->entries, i);
        if (at.level > 0) {
            struct subtree child = subtree_at(at.level - 1, at.index * MAP_FANOUT + i, entry);
            r = detach(m, &child, page->entries, true);
        } else if (map_entry_type(entry) == MAP_MAPPED) {
            report(m, &m->replaced, entry, 1);
        }
    }
    map_cache_unpin(m->map->cache, page);
    if (r == 0)
        tell_freed(m, at.old);
    return r;
}

/* A whole leaf becomes one mapped entry in its parent. */
static MAY_SUSPEND int replace_leaf(
    struct merge *m, const struct subtree *t, const uint64_t *parent, uint64_t new)
{
    if (map_entry_type(t->old) != MAP_PAGE) {
        if (t->old != new)
            report_change(m, t->old, new, MAP_FANOUT);
        return 0;
    }
    struct map_page *page;
    int r = old_page(m, t, parent, false, &page);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        uint64_t old = map_page_get(page->entries, i);
        if (old != new + i)
            report_change(m, old, new + i, 1);
    }
    map_cache_unpin(m->map->cache, page);
    tell_freed(m, t->old);
    return 0;
}

/* Does the current update replace the subtree by one entry? Then *ret_entry is it. */
static bool covered(const struct merge *m, const struct subtree *t, uint64_t *ret_entry)
{
    const struct extmap_run *run = &m->run;
    if (run->start > t->start || run->start + run->len < t->end)
        return false;
    if (run->kind == EXTMAP_TRIMMED) {
        *ret_entry = 0;
        return true;
    }
    *ret_entry = run->value + (t->start - run->start);
    return t->level == 0 && !t->top && map_entry_linear(*ret_entry) + MAP_FANOUT <= MAP_LINEAR_END;
}

/* --- The walk ------------------------------------------------------------------------------------- */

/* Fills a new page with the old content of the subtree's page. */
static MAY_SUSPEND int open_page(
    struct merge *m, const struct subtree *t, const uint64_t *parent, struct map_page **ret_page)
{
    struct map_page *old = NULL;
    if (map_entry_type(t->old) == MAP_PAGE && t->old != GROWN) {
        int r = old_page(m, t, parent, false, &old);
        if (r < 0)
            return r;
    }
    struct map_page *page = map_cache_page_new(m->map->cache, t->level);
    if (old) {
        memcpy(page->entries, old->entries, MAP_PAGE_BYTES);
        map_cache_unpin(m->map->cache, old);
    } else if (t->old == GROWN) {
        memset(page->entries, 0, MAP_PAGE_BYTES);
        uint64_t below = t->level > m->map->levels ? GROWN : m->map->root;
        map_page_set(page->entries, 0, m->map->root == 0 ? 0 : below);
    } else if (t->level == 0) {
        map_page_expand(page->entries, t->old);
    } else { /* HOLE, TRIMMED: the same entry in each place */
        CHECK(map_entry_type(t->old) != MAP_MAPPED);
        for (unsigned i = 0; i < MAP_FANOUT; i++)
            map_page_set(page->entries, i, t->old);
    }
    *ret_page = page;
    return 0;
}

/* Answers through *entry what the parent is to hold. Takes the page. */
static MAY_SUSPEND int close_page(
    struct merge *m, const struct subtree *t, struct map_page *page, bool changed, uint64_t *entry)
{
    struct map_cache *cache = m->map->cache;
    if (!changed) {
        map_cache_unpin(cache, page);
        *entry = htole64(t->old);
        return 0;
    }
    if (map_entry_type(t->old) == MAP_PAGE && t->old != GROWN)
        tell_freed(m, t->old);
    bool hole = map_page_is_hole(page->entries);
    if (hole || (t->level == 0 && !t->top && map_page_is_run(page->entries))) {
        *entry = hole ? 0 : page->entries[0];
        map_cache_unpin(cache, page);
        return 0;
    }
    *entry = htole64(PENDING);
    m->window[m->window_count++] = (struct finished){
        .page = page,
        .address = map_page_address(t->level, t->index),
        .parent_entry = entry,
    };
    return m->window_count == WINDOW_PAGES ? window_write(m) : 0;
}

/* Applies the updates that lie in a leaf to its entries; true if any entry changed. */
static bool update_leaf(struct merge *m, const struct subtree *t, uint64_t *entries)
{
    bool changed = false;
    while (m->run.start < t->end) {
        unsigned i = m->run.start - t->start;
        uint64_t n = MIN(m->run.len, MAP_FANOUT - i);
        bool trimmed = m->run.kind == EXTMAP_TRIMMED;
        for (uint64_t j = 0; j < n; j++) {
            uint64_t old = map_page_get(entries, i + j);
            uint64_t new = trimmed ? 0 : m->run.value + j;
            if (old == new || (trimmed && map_entry_type(old) == MAP_TRIMMED))
                continue;
            report_change(m, old, new, 1);
            map_page_set(entries, i + j, new);
            changed = true;
        }
        consume(m, n);
    }
    return changed;
}

static MAY_SUSPEND int merge_subtree(
    struct merge *m, const struct subtree *t, const uint64_t *parent, uint64_t *entry);

/* Merges into each child that is touched. */
static MAY_SUSPEND int update_children(
    struct merge *m, const struct subtree *t, uint64_t *entries, bool *changed)
{
    uint64_t unit = map_entry_blocks(t->level);
    uint64_t at = t->old == GROWN ? t->start : next_touched(m, t->start);
    while (at < t->end) {
        unsigned i = (at - t->start) / unit;
        uint64_t old = map_page_get(entries, i);
        struct subtree child = subtree_at(t->level - 1, t->index * MAP_FANOUT + i, old);
        int r = merge_subtree(m, &child, entries, &entries[i]);
        if (r < 0)
            return r;
        *changed |= map_page_get(entries, i) != old;
        at = next_touched(m, child.end);
    }
    return 0;
}

static MAY_SUSPEND int merge_page(
    struct merge *m, const struct subtree *t, const uint64_t *parent, bool rewrite, uint64_t *entry)
{
    struct map_page *page;
    int r = open_page(m, t, parent, &page);
    if (r < 0)
        return r;
    bool changed = rewrite || t->old == GROWN;
    if (t->level == 0)
        changed |= update_leaf(m, t, page->entries);
    else
        r = update_children(m, t, page->entries, &changed);
    if (r < 0) {
        map_cache_unpin(m->map->cache, page);
        return r;
    }
    return close_page(m, t, page, changed, entry);
}

/* Merges all updates in the subtree's range; *entry is then what its parent is to hold. `parent` is
 * the page above as far as it is done, NULL at the top. */
static MAY_SUSPEND int merge_subtree(
    struct merge *m, const struct subtree *t, const uint64_t *parent, uint64_t *entry)
{
    bool rewrite = take_marks(m, t);
    uint64_t new;
    int r = 0;
    if (covered(m, t, &new)) {
        bool was_hole = map_entry_type(t->old) == MAP_HOLE || map_entry_type(t->old) == MAP_TRIMMED;
        if (new != 0)
            r = replace_leaf(m, t, parent, new);
        else if (was_hole)
            new = t->old;
        else
            r = detach(m, t, parent, false);
        if (r == 0)
            *entry = htole64(new);
        consume(m, t->end - m->run.start);
    } else if (m->run.start >= t->end && t->old != GROWN && !rewrite &&
               (map_entry_type(t->old) != MAP_PAGE || next_touched(m, t->start) >= t->end)) {
        *entry = htole64(t->old); /* nothing there, or only marks of pages that are no more */
    } else {
        r = merge_page(m, t, parent, rewrite, entry);
    }
    drop_marks_below(m, t->end);
    return r;
}

/* --- Begin and end -------------------------------------------------------------------------------- */

static unsigned levels_needed(const struct map *map, const struct extmap *updates)
{
    unsigned levels = map->levels;
    struct extmap_iter iter;
    struct extmap_run run;
    extmap_iter_init(&iter, updates, map_page_blocks(levels - 1));
    while (extmap_iter_next(&iter, &run)) {
        if (run.kind == EXTMAP_MAPPED) /* trims beyond the tree change nothing */
            levels = MAX(levels, map_levels_for(run.start + run.len));
    }
    return levels;
}

static void merge_begin(struct merge *m, struct map *map, const struct extmap *updates,
    const struct map_merge_callbacks *callbacks)
{
    m->map = map;
    m->callbacks = callbacks;
    m->replaced.tell = callbacks->replaced;
    m->mapped.tell = callbacks->mapped;
    map_batch_init(&m->batch, map);
    m->mark_count = map->mark_count;
    m->marks = mem_alloc(map->mark_count * sizeof(*m->marks));
    for (unsigned i = 0; i < map->mark_count; i++) {
        map->marks[i].taken = true;
        m->marks[i] = map->marks[i];
    }
    qsort(m->marks, m->mark_count, sizeof(*m->marks), compare_marks);
    extmap_iter_init(&m->iter, updates, 0);
    next_run(m);
}

static void merge_abort(struct merge *m)
{
    struct map_cache *cache = m->map->cache;
    for (unsigned i = 0; i < m->window_count; i++)
        map_cache_unpin(cache, m->window[i].page);
    if (m->callbacks->aborted)
        m->callbacks->aborted(m->callbacks->ctx);
    for (unsigned i = 0; i < m->new_count; i++) {
        struct map_page *page = map_cache_find(cache, &m->map->owner, m->new_pointers[i]);
        if (page)
            map_cache_drop(cache, page);
        if (m->callbacks->page_freed)
            m->callbacks->page_freed(m->callbacks->ctx, m->new_pointers[i]);
    }
    for (unsigned i = 0; i < m->map->mark_count; i++)
        m->map->marks[i].taken = false;
}

int map_merge(struct map *map, const struct extmap *updates, unsigned levels_min,
    const struct map_merge_callbacks *callbacks, uint64_t *ret_root, unsigned *ret_levels)
{
    CHECK_MSG(!map->merging, "one merge of a map at a time");
    CHECK(levels_min <= MAP_LEVELS_MAX);
    map->merging = true;
    struct merge *m = NEW(struct merge);
    merge_begin(m, map, updates, callbacks);

    unsigned levels = MAX(levels_needed(map, updates), levels_min);
    uint64_t old = levels == map->levels ? map->root : map->root ? GROWN : 0;
    struct subtree top = subtree_at(levels - 1, 0, old);
    top.top = true;
    uint64_t root = htole64(old);
    int r = 0;
    if (old == GROWN || next_touched(m, 0) < top.end)
        r = merge_subtree(m, &top, NULL, &root);
    if (r == 0)
        r = window_write(m);
    map_batch_clear(&m->batch);
    if (r == 0) {
        report_flush(m, &m->replaced);
        report_flush(m, &m->mapped);
        *ret_root = le64toh(root);
        *ret_levels = levels;
    } else {
        merge_abort(m);
    }
    map->merging = false;
    mem_free(m->new_pointers);
    mem_free(m->marks);
    mem_free(m);
    return r;
}
