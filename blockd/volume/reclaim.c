/* SPDX-License-Identifier: Apache-2.0
 *
 * Space that is short: when cleaning runs, and how those who need space get it from what is garbage in any volume of the
 * node. A write waits here while there is garbage to be had, however fast it came; -ENOSPC is the answer when there
 * is none.
 *
 * Invariants
 *  E1 -ENOSPC is answered only after a round over every volume of the node that began after the question and freed
 *     nothing: what was overwritten or trimmed before is destaged and merged, what is dead is freed, what is kept ready
 *     and not needed has gone, garbage is cleaned.
 *  E5 Where garbage may be somebody else's to free - disks of other nodes, whose volumes are on ours, or shards that
 *     wait for their disk to answer (leftover.c) - it is answered only when tries for SHARED_HOLD_NS were in vain.
 *  E2 Rounds come to an end: each free that wakes a waiter is a real one (memory_budget.places_freed: a place that had
 *     rows or was kept ready, or a log), and cleaning frees only with a gain (K4).
 *  E4 Chunks for writes are whole slabs while cleaning can make such: small ones, wedged between the shards of others, are
 *     taken only when a round has freed nothing; they are the first that cleaning gathers.
 *  E3 A round waits for nothing that may wait for the round: not for a destager without a chunk, not for a log that has
 *     no successor, and takes the mutex of the large writes only when nobody has it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define SHORT_PERCENT 15 /* free space below which garbage is not left lying */
#define HALF_PERCENT 60  /* below it chunks are made so that they can be cleaned well */
#define SHARED_HOLD_NS 10000000000ull
#define SHARED_PAUSE_NS 250000000ull /* between two tries */
#define STUCK_POLL_NS 20000000       /* how often a round looks whether destage has got stuck */

/* --- How much there is -------------------------------------------------------------------------- */

static int compare_down(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x > y ? -1 : x < y;
}

/* Free space of the fullest disk that a new chunk cannot do without, in percent. */
static unsigned free_percent(const struct volume *v)
{
    unsigned total = 0, n = 0, shards = v->pool.code.k + v->pool.code.m;
    list_for_each (it, &v->host->disks->all)
        total++;
    CLEANUP_FREE unsigned *percents = mem_zalloc(total + 1, sizeof(*percents));
    list_for_each (it, &v->host->disks->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        if (disk->state != DISK_IN || disk->size_bytes == 0 ||
            (v->pool.data_class[0] && strcmp(disk->class_name, v->pool.data_class) != 0))
            continue;
        percents[n++] = (unsigned)(disk->free_bytes * 100 / disk->size_bytes);
    }
    if (n == 0)
        return 100;
    qsort(percents, n, sizeof(*percents), compare_down);
    return percents[MIN(n, shards) - 1];
}

bool space_is_short(const struct volume *v)
{
    return free_percent(v) < SHORT_PERCENT;
}

bool space_may_get_short(const struct volume *v)
{
    return free_percent(v) < HALF_PERCENT;
}

/* --- Cleaning ---------------------------------------------------------------------------------- */

/* The budget's mutex: one volume of the node at a time, for its buffers and its disk bandwidth. */
static void clean(struct volume *v, enum clean_urge urge)
{
    fiber_mutex_lock(&v->host->budget->cleaning);
    fiber_mutex_lock(&v->clean_mutex);
    int r = v->halted || v->stopping ? 0 : clean_pass(v, urge);
    fiber_mutex_unlock(&v->clean_mutex);
    fiber_mutex_unlock(&v->host->budget->cleaning);
    if (r < 0 && r != -ENOSPC && !v->halted)
        log_warn_limited("volume %s: cleaning: %s", v->root.name, strerror(-r));
    fiber_queue_wake_all(&v->provisioner_wake);
    fiber_queue_wake_all(&v->space_waiters);
}

void clean_if_due(struct volume *v)
{
    clean(v, space_is_short(v) ? CLEAN_SHORT : CLEAN_TIDY);
}

int volume_clean(struct volume *v)
{
    int r = destage_everything(v);
    if (r == 0)
        r = checkpoint_wait(v);
    if (r < 0)
        return r;
    fiber_mutex_lock(&v->clean_mutex);
    r = place_seal_retired(v);
    if (r == 0)
        r = clean_pass(v, CLEAN_FULL);
    fiber_mutex_unlock(&v->clean_mutex);
    return r;
}

/* --- A round: this volume's part ------------------------------------------------------------------ */

bool reclaim_is_wanted(const struct volume *v)
{
    return v->reclaim_done < v->reclaim_wanted;
}

static void reclaim_done(struct volume *v, uint64_t ticket)
{
    v->reclaim_done = MAX(v->reclaim_done, ticket);
    fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
}

void reclaim_end(struct volume *v)
{
    reclaim_done(v, UINT64_MAX);
}

/* Nothing was freed since the last question: whoever waits, waits still. */
static bool still_needed(const struct volume *v)
{
    const struct memory_budget *budget = v->host->budget;
    return budget->places_freed == budget->reclaim_freed && !v->halted && !v->stopping;
}

static void let_go_chunk(struct volume *v, struct open_chunk *open)
{
    struct lchunk *chunk = open->index ? state_chunk(&v->state, open->index) : NULL;
    open->index = 0;
    if (chunk)
        place_retire(v, chunk->place);
}

/* What is kept ready for writes that may not come. Not what those who ask here are waiting for more of: it would be made
 * again at once, and E2 broken. */
static void let_go(struct volume *v)
{
    if (fiber_mutex_trylock(&v->bypass_mutex)) {
        v->bypass_active = false;
        let_go_chunk(v, &v->bypass_spare);
        if (v->space_askers == 0)
            let_go_chunk(v, &v->bypass_chunk);
        fiber_mutex_unlock(&v->bypass_mutex);
    }
    if (v->space_askers == 0 && v->memtable.block_total == 0 && v->reserved_blocks == 0) {
        v->has_written = false;
        while (v->destage_chunk_count > 0)
            let_go_chunk(v, &v->destage_chunks[--v->destage_chunk_count]);
    }
    if (fiber_mutex_trylock(&v->clean_mutex)) { /* cleaning had nothing more for it */
        let_go_chunk(v, &v->clean_chunk);
        fiber_mutex_unlock(&v->clean_mutex);
    }
    (void)log_next_shrink(v);
}

/* E3. What is in the open log already needs no next one. */
static bool destage_waits_for_space(const struct volume *v)
{
    bool log_waits = !v->wal_next && !list_empty(&v->commit_queue);
    return v->destage_stuck || (log_waits && v->space_error == -ENOSPC);
}

static void destage_if_possible(struct volume *v)
{
    uint64_t target = v->next_seq - 1;
    while (v->state.committed_seq < target && !memtable_empty(&v->memtable) && still_needed(v) &&
           !destage_waits_for_space(v)) {
        v->destage_all = true;
        fiber_queue_wake_all(&v->destager_wake);
        fiber_queue_wait_until(&v->destaged, env_now_ns() + STUCK_POLL_NS);
    }
}

/* Cleaning may find the space that a merge lacks. */
static void merge_and_clean(struct volume *v)
{
    if (v->halted || place_seal_retired(v) < 0)
        return;
    int r = checkpoint_and_free(v);
    if (r == 0 || r == -ENOSPC)
        clean(v, CLEAN_FULL);
}

void reclaim_round(struct volume *v)
{
    uint64_t ticket = v->reclaim_wanted;
    if (still_needed(v))
        merge_and_clean(v);
    if (still_needed(v)) {
        destage_if_possible(v);
        let_go(v);
        merge_and_clean(v);
    }
    reclaim_done(v, ticket);
}

/* --- Asking ------------------------------------------------------------------------------------ */

static bool round_runs(const struct memory_budget *budget, uint64_t ticket)
{
    list_for_each (it, &budget->volumes) {
        const struct volume *v = list_entry(it, struct volume, budget_link);
        if (v->reclaim_wanted >= ticket && v->reclaim_done < ticket)
            return true;
    }
    return false;
}

void reclaim_kick(struct volume *asking)
{
    struct memory_budget *budget = asking->host->budget;
    uint64_t ticket = ++budget->reclaim_ticket;
    budget->reclaim_freed = budget->places_freed;
    list_for_each (it, &budget->volumes) {
        struct volume *v = list_entry(it, struct volume, budget_link);
        if (v->halted || v->stopping || !v->serving)
            continue;
        v->reclaim_wanted = ticket;
        fiber_queue_wake_all(&v->checkpoint_wake);
    }
}

static bool space_is_shared(const struct volume *v)
{
    list_for_each (it, &v->host->disks->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        if (!disk->local || v->leftover_count > 0)
            return true;
    }
    return false;
}

/* E5. The tries of all who ask are one series; it is over when nobody has asked for a while. */
static bool others_may_free(struct volume *v)
{
    uint64_t now_ns = env_now_ns();
    if (!space_is_shared(v))
        return false;
    if (now_ns - v->no_space_last_ns > SHARED_HOLD_NS / 2)
        v->no_space_since_ns = now_ns;
    v->no_space_last_ns = now_ns;
    if (now_ns - v->no_space_since_ns >= SHARED_HOLD_NS)
        return false;
    if (v->leftover_count > 0)
        repair_kick(v);
    env_sleep_ns(SHARED_PAUSE_NS);
    v->no_space_last_ns = env_now_ns();
    return true;
}

int reclaim_wait(struct volume *v)
{
    struct memory_budget *budget = v->host->budget;
    uint64_t freed = budget->places_freed;
    bool fragments =
        v->take_fragments; /* as others who wait set it, this caller may not have tried */
    reclaim_kick(v);
    uint64_t ticket = budget->reclaim_ticket;
    v->space_askers++;
    while (budget->places_freed == freed && round_runs(budget, ticket) && !v->halted &&
           !v->stopping && !v->closed_to_io)
        fiber_queue_wait(&budget->reclaim_waiters);
    v->space_askers--;
    if (v->halted || v->stopping || v->closed_to_io)
        return -ESHUTDOWN;
    if (budget->places_freed != freed)
        return 0;
    if (!fragments) { /* E4 */
        v->take_fragments = true;
        return 0;
    }
    if (others_may_free(v))
        return v->halted || v->stopping || v->closed_to_io ? -ESHUTDOWN : 0;
    return -ENOSPC;
}
