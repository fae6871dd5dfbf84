/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/requests.h"

#include <errno.h>

#include "blockd/volume/state.h"
#include "blockd/volume/volume.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define FORGET_NS (3600 * 1000000000ull) /* a session that is silent for so long is over */

struct request_step {
    uint64_t end_block, seq;
};

struct request_entry {
    struct list link; /* request_session.order */
    uint64_t number;
    struct request_step last;     /* seq 0 with an end: from the manifest */
    struct request_step *earlier; /* of a request of several records, in order */
    unsigned earlier_count;
    unsigned waiters; /* the same request, come again (E1) */
    bool running, done;
    int result;
};

struct request_session {
    struct list link; /* requests->by_use */
    uint64_t id;
    uint64_t answered_below;
    uint64_t number_max;
    uint64_t used_ns;
    struct idmap entries;
    struct list order; /* of their coming */
    struct fiber_queue ended;
};

static void entry_drop(
    struct requests *requests, struct request_session *s, struct request_entry *entry)
{
    CHECK(!entry->running && entry->waiters == 0);
    idmap_remove(&s->entries, entry->number);
    list_remove(&entry->link);
    mem_free(entry->earlier);
    mem_free(entry);
    requests->count--;
}

static void session_free(struct requests *requests, struct request_session *s)
{
    while (!list_empty(&s->order))
        entry_drop(requests, s, list_entry(s->order.next, struct request_entry, link));
    list_remove(&s->link);
    idmap_remove(&requests->sessions, s->id);
    idmap_fini(&s->entries);
    mem_free(s);
}

static bool is_full(const struct requests *requests, bool of_sessions)
{
    return of_sessions ? requests->sessions.count >= REQUEST_SESSIONS_MAX
                       : requests->count >= REQUESTS_MAX;
}

/* E3. Those that run or are waited for stay. */
static void make_room(struct requests *requests, bool for_session)
{
    list_for_each_safe (it, &requests->by_use) {
        struct request_session *s = list_entry(it, struct request_session, link);
        if (!is_full(requests, for_session))
            return;
        list_for_each_safe (entry_it, &s->order) {
            struct request_entry *entry = list_entry(entry_it, struct request_entry, link);
            if (is_full(requests, for_session) && !entry->running && entry->waiters == 0) {
                log_warn_limited("session %016llx has left too many requests without an answer",
                    (unsigned long long)s->id);
                entry_drop(requests, s, entry);
            }
        }
        if (for_session && list_empty(&s->order))
            session_free(requests, s);
    }
}

static struct request_session *session_get(struct requests *requests, uint64_t id)
{
    struct request_session *s = idmap_get(&requests->sessions, id);
    if (!requests->by_use.next)
        list_init(&requests->by_use);
    if (!s) {
        make_room(requests, true);
        s = NEW(struct request_session);
        s->id = id;
        list_init(&s->order);
        list_init(&s->link);
        fiber_queue_init(&s->ended);
        idmap_put(&requests->sessions, id, s);
    }
    s->used_ns = env_now_ns();
    list_remove(&s->link);
    list_push_back(&requests->by_use, &s->link);
    return s;
}

static struct request_entry *entry_new(
    struct requests *requests, struct request_session *s, uint64_t number)
{
    make_room(requests, false);
    struct request_entry *entry = NEW(struct request_entry);
    entry->number = number;
    idmap_put(&s->entries, number, entry);
    list_push_back(&s->order, &entry->link);
    requests->count++;
    if (number > s->number_max)
        s->number_max = number;
    return entry;
}

void requests_fini(struct requests *requests)
{
    if (requests->by_use.next)
        list_for_each_safe (it, &requests->by_use)
            session_free(requests, list_entry(it, struct request_session, link));
    idmap_fini(&requests->sessions);
}

/* What has been answered is not asked for again. */
static void answered(struct requests *requests, struct request_session *s, uint64_t below)
{
    if (below <= s->answered_below)
        return;
    s->answered_below = below;
    list_for_each_safe (it, &s->order) {
        struct request_entry *entry = list_entry(it, struct request_entry, link);
        if (entry->number >= below || entry->running || entry->waiters > 0)
            break; /* what comes behind it goes with it */
        entry_drop(requests, s, entry);
    }
}

/* Waits for the one that runs. -ECANCELED: that was given up (or the caller is): look again. */
static int join(struct requests *requests, struct request_session *s, struct request_entry *entry,
    const struct request *request)
{
    entry->waiters++;
    while (entry->running && !request_given_up(request))
        fiber_queue_wait_until(
            &s->ended, request->given_up ? env_now_ns() + REQUEST_LOOK_NS : UINT64_MAX);
    int result = entry->running ? -ECANCELED : entry->done ? 1 : entry->result;
    if (--entry->waiters == 0 && !entry->running && !entry->done && entry->last.end_block == 0)
        entry_drop(requests, s, entry);
    return result;
}

/* The entry of a request that does not run; NULL with its result. */
static struct request_entry *entry_for(struct requests *requests, const struct request_id *id,
    const struct request *request, int *ret_result)
{
    for (;;) {
        struct request_session *s = session_get(requests, id->session);
        answered(requests, s, id->answered_below);
        *ret_result = id->number < s->answered_below ? -ESTALE : 0;
        if (*ret_result < 0)
            return NULL;
        struct request_entry *entry =
            id->number <= s->number_max ? idmap_get(&s->entries, id->number) : NULL;
        if (!entry)
            return entry_new(requests, s, id->number);
        *ret_result = entry->running ? join(requests, s, entry, request) : entry->done;
        if (*ret_result == -ECANCELED && !request_given_up(request))
            continue;
        return *ret_result == 0 ? entry : NULL;
    }
}

int request_begin(struct requests *requests, const struct request_id *id,
    struct request *ret_request, uint64_t *ret_from)
{
    *ret_request =
        (struct request){.session = id->session, .number = id->number, .given_up = id->given_up};
    *ret_from = 0;
    if (request_given_up(ret_request))
        return -ECANCELED;
    if (id->session == 0 && id->number == 0)
        return 0;
    int result;
    struct request_entry *entry = entry_for(requests, id, ret_request, &result);
    if (!entry)
        return result;
    entry->running = true;
    *ret_from = entry->last.end_block;
    ret_request->of = idmap_get(&requests->sessions, id->session);
    ret_request->entry = entry;
    return 0;
}

static void step(struct request_entry *entry, uint64_t end_block, uint64_t seq)
{
    if (entry->last.end_block != 0) {
        if (entry->earlier_count % 8 == 0)
            entry->earlier =
                mem_realloc(entry->earlier, (entry->earlier_count + 8) * sizeof(*entry->earlier));
        entry->earlier[entry->earlier_count++] = entry->last;
    }
    entry->last = (struct request_step){.end_block = end_block, .seq = seq};
}

void request_note(struct request *request, uint64_t end_block, uint64_t seq)
{
    if (request->entry)
        step(request->entry, end_block, seq);
}

void request_end(struct requests *requests, struct request *request, int result)
{
    struct request_session *s = request->of;
    struct request_entry *entry = request->entry;
    if (!entry)
        return;
    entry->running = false;
    entry->done = result == 0;
    entry->result = result;
    if (entry->waiters > 0)
        fiber_queue_wake_all(&s->ended);
    else if (entry->number < s->answered_below || (result < 0 && entry->last.end_block == 0))
        entry_drop(requests, s, entry);
}

/* --- Recovery and the manifest ------------------------------------------------------------------ */

void requests_load(struct requests *requests, const struct state *state)
{
    for (uint32_t i = 0; i < state->request_count && !PLANTED(resend_not_recorded); i++) {
        const struct request_run *run = &state->requests[i];
        struct request_session *s = session_get(requests, run->session);
        for (uint32_t n = 0; n < MAX(run->count, 1u); n++) {
            if (idmap_get(&s->entries, run->number + n))
                continue;
            struct request_entry *entry = entry_new(requests, s, run->number + n);
            entry->done = run->count > 0;
            entry->last.end_block = run->count > 0 ? UINT64_MAX : run->end_block;
        }
    }
}

void requests_replayed(
    struct requests *requests, uint64_t session, uint64_t number, uint64_t end_block, uint64_t seq)
{
    if ((session == 0 && number == 0) || PLANTED(resend_not_replayed))
        return;
    struct request_session *s = session_get(requests, session);
    struct request_entry *entry = idmap_get(&s->entries, number);
    if (!entry)
        entry = entry_new(requests, s, number);
    if (end_block > entry->last.end_block)
        step(entry, end_block, seq);
}

/* How far the manifest may say it has come (E2); 0 = nothing. */
static uint64_t committed_end(const struct request_entry *entry, uint64_t committed_seq)
{
    if (entry->last.seq <= committed_seq)
        return entry->last.end_block;
    for (unsigned i = entry->earlier_count; i > 0; i--) {
        if (entry->earlier[i - 1].seq <= committed_seq)
            return entry->earlier[i - 1].end_block;
    }
    return 0;
}

struct runs {
    struct request_run *runs;
    uint32_t count, capacity, total;
};

static void runs_add(struct runs *runs, uint64_t session, uint64_t number, uint64_t end_block)
{
    struct request_run *last = runs->count > 0 ? &runs->runs[runs->count - 1] : NULL;
    bool whole = end_block == UINT64_MAX;
    if (runs->total == REQUEST_RUNS_MAX) /* those that run come on top of E3's bound */
        return;
    runs->total++;
    if (whole && last && last->session == session && last->count > 0 &&
        last->number + last->count == number) {
        last->count++;
        return;
    }
    if (runs->count == runs->capacity) {
        runs->capacity = MAX(2 * runs->capacity, 64u);
        runs->runs = mem_realloc(runs->runs, runs->capacity * sizeof(*runs->runs));
    }
    runs->runs[runs->count++] = (struct request_run){
        .session = session, .number = number, .count = whole, .end_block = whole ? 0 : end_block};
}

void requests_record(struct requests *requests, const struct state *state, uint64_t committed_seq,
    struct records *records)
{
    struct runs runs = {0};
    struct request_session *silent = NULL;
    uint64_t now_ns = env_now_ns();
    uint32_t pos = 0;
    for (struct request_session *s; (s = idmap_next(&requests->sessions, &pos));) {
        bool running = false;
        list_for_each (it, &s->order) {
            const struct request_entry *entry = list_entry(it, struct request_entry, link);
            uint64_t end = committed_end(entry, committed_seq);
            running = running || entry->running || entry->waiters > 0;
            if (entry->number >= s->answered_below && end > 0)
                runs_add(&runs, s->id, entry->number,
                    entry->done && end == entry->last.end_block ? UINT64_MAX : end);
        }
        if (!running && now_ns - s->used_ns > FORGET_NS)
            silent = s;
    }
    if (runs.count > 0 || state->request_count > 0)
        record_requests(records, runs.runs, runs.count);
    mem_free(runs.runs);
    if (silent) /* one at a time: there is no hurry */
        session_free(requests, silent);
}
