/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of the simulation: run ready fibers (which next is drawn from the seed), then advance
 * virtual time to the next event: a disk completion, a delivery, a node's timer, a call of the
 * test. Events live in one binary heap ordered by time and then by arming order; timers stay in
 * their node's heap, in the node's own time, and are compared by the machine's clock.
 */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_impl.h"

enum {
    YIELD_NS = 1000, /* what a turn of a fiber that yields costs, so that spinning lets time pass */
};

static _Thread_local struct sim *current;

void *sim_zalloc(size_t len_bytes)
{
    void *ptr = calloc(1, len_bytes);
    CHECK_MSG(ptr, "no memory for the simulation");
    return ptr;
}

char *sim_strdup(const char *text)
{
    return strcpy(sim_zalloc(strlen(text) + 1), text);
}

/* --- Events ------------------------------------------------------------- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_put(struct sim *sim, unsigned index, struct sim_event *event)
{
    sim->heap[index] = event;
    event->heap_index = index;
}

static void heap_settle(struct sim *sim, unsigned index, struct sim_event *event)
{
    while (index > 1 && event_before(event, sim->heap[index / 2])) {
        heap_put(sim, index, sim->heap[index / 2]);
        index /= 2;
    }
    for (;;) {
        unsigned child = index * 2;
        if (child < sim->heap_count && event_before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (child > sim->heap_count || event_before(event, sim->heap[child]))
            break;
        heap_put(sim, index, sim->heap[child]);
        index = child;
    }
    heap_put(sim, index, event);
}

void sim_event_cancel(struct sim *sim, struct sim_event *event)
{
    unsigned index = event->heap_index;
    if (index == 0)
        return;
    struct sim_event *last = sim->heap[sim->heap_count--];
    event->heap_index = 0;
    if (last != event)
        heap_settle(sim, index, last);
}

void sim_event_arm(struct sim *sim, struct sim_event *event, uint64_t at_ns)
{
    sim_event_cancel(sim, event);
    if (sim->heap_count + 2 > sim->heap_capacity) {
        sim->heap_capacity = MAX(256u, sim->heap_capacity * 2);
        sim->heap = realloc(sim->heap, sim->heap_capacity * sizeof(struct sim_event *));
        CHECK_MSG(sim->heap, "no memory for the simulation");
    }
    event->at_ns = MAX(at_ns, sim->now_ns);
    event->order = sim->event_order++;
    heap_settle(sim, ++sim->heap_count, event);
}

/* --- Trace -------------------------------------------------------------- */

static uint64_t word_at(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

static uint64_t lane(uint64_t hash, const char *at)
{
    hash = (hash ^ word_at(at)) * 0x9fb21c651e98df25;
    return hash ^ hash >> 32;
}

/* Four lanes, since most of a simulation's time would go into waiting for one multiplication after another. */
uint64_t sim_hash(uint64_t hash, const void *buf, size_t len_bytes)
{
    const char *at = buf;
    size_t rest = len_bytes;
    if (rest >= 64) {
        uint64_t a = hash, b = ~hash, c = hash ^ 0x9e3779b97f4a7c15, d = ~c;
        for (; rest >= 32; at += 32, rest -= 32) {
            a = lane(a, at);
            b = lane(b, at + 8);
            c = lane(c, at + 16);
            d = lane(d, at + 24);
        }
        hash = rng_mix(rng_mix(rng_mix(a) + b) + c) + d;
    }
    for (; rest >= 8; at += 8, rest -= 8)
        hash = lane(hash, at);
    uint64_t word = 0;
    memcpy(&word, at, rest);
    return rng_mix(hash ^ word ^ (uint64_t)len_bytes << 56);
}

void sim_trace_node(
    struct sim *sim, struct sim_node *node, const char *what, uint64_t a, uint64_t b)
{
    uint64_t words[] = {sim->now_ns, a, b};
    if (node)
        sim->trace_hash = sim_hash(sim->trace_hash, node->name, strlen(node->name));
    sim->trace_hash = sim_hash(sim->trace_hash, what, strlen(what));
    sim->trace_hash = sim_hash(sim->trace_hash, words, sizeof(words));
    if (node)
        node->ring[node->ring_count++ % SIM_RING_EVENTS] =
            (struct sim_trace_entry){sim->now_ns, a, b, what};
    if (sim->options.trace)
        fprintf(stderr, "%14.6f ms %-10s %-16s %#lx %#lx\n", sim->now_ns / 1e6,
            node ? node->name : "", what, a, b);
}

void sim_trace(struct sim *sim, const char *what, uint64_t a, uint64_t b)
{
    struct env *env = fiber_env();
    sim_trace_node(sim, env ? sim_node_of(env) : NULL, what, a, b);
}

uint64_t sim_trace_hash(const struct sim *sim)
{
    return sim->trace_hash;
}

struct fiber_listing {
    FILE *out;
    unsigned count;
};

static void list_fiber(void *ctx, const struct fiber *f, struct env *env, const char *state)
{
    struct fiber_listing *listing = ctx;
    listing->count++;
    if (listing->out)
        fprintf(listing->out, "  %s: fiber %s, %s\n", env ? sim_node_of(env)->name : "no node",
            fiber_name(f), state);
}

static unsigned list_fibers(FILE *out)
{
    struct fiber_listing listing = {.out = out};
    fiber_visit(list_fiber, &listing);
    return listing.count;
}

void sim_dump(struct sim *sim, FILE *out)
{
    fprintf(out, "simulation: seed %lu, now %.6f ms, trace hash %016lx\n", sim->options.seed,
        sim->now_ns / 1e6, sim->trace_hash);
    list_fibers(out);
    list_for_each (it, &sim->nodes) {
        struct sim_node *node = list_entry(it, struct sim_node, link);
        fprintf(out, "node %s (%s):\n", node->name, node->up ? "up" : "down");
        uint64_t i = node->ring_count > SIM_RING_EVENTS ? node->ring_count - SIM_RING_EVENTS : 0;
        for (; i < node->ring_count; i++) {
            const struct sim_trace_entry *entry = &node->ring[i % SIM_RING_EVENTS];
            fprintf(out, "  %14.6f ms %-16s %#lx %#lx\n", entry->at_ns / 1e6, entry->what, entry->a,
                entry->b);
        }
    }
}

/* --- The simulation ----------------------------------------------------- */

static unsigned pick_fiber(void *ctx, unsigned n)
{
    struct sim *sim = ctx;
    unsigned i = rng_below(&sim->sched_rng, n);
    sim->trace_hash = rng_mix(sim->trace_hash + i);
    return i;
}

struct sim *sim_new(const struct sim_options *options)
{
    CHECK_MSG(!current, "one simulation at a time per thread");
    struct sim *sim = sim_zalloc(sizeof(*sim));
    sim->options = *options;
    sim->sched_rng = rng_fork(options->seed, "scheduling");
    sim->disk_rng = rng_fork(options->seed, "disks");
    sim->net_rng = rng_fork(options->seed, "network");
    sim->test_rng = rng_fork(options->seed, "test");
    sim->next_port = 40000;
    list_init(&sim->machines);
    list_init(&sim->nodes);
    list_init(&sim->timed_calls);
    list_init(&sim->links);
    list_init(&sim->conns);
    fiber_sched_init(options->fiber_count_max ? options->fiber_count_max : 1024);
    fiber_set_pick(pick_fiber, sim);
    current = sim;
    return sim;
}

struct timed_call {
    struct sim_event event;
    struct list link;
    void (*fn)(void *ctx);
    void *ctx;
};

void sim_free(struct sim *sim)
{
    if (!sim)
        return;
    CHECK_MSG(!fiber_self(), "sim_free from a fiber");
    list_for_each_safe (it, &sim->nodes)
        sim_node_free(list_entry(it, struct sim_node, link));
    sim_net_free(sim);
    list_for_each_safe (it, &sim->machines)
        sim_machine_free(list_entry(it, struct sim_machine, link));
    list_for_each_safe (it, &sim->timed_calls)
        free(list_entry(it, struct timed_call, link));
    fiber_sched_fini();
    free(sim->heap);
    free(sim);
    current = NULL;
}

struct sim *sim_current(void)
{
    return current;
}

uint64_t sim_now_ns(const struct sim *sim)
{
    return sim->now_ns;
}

struct rng *sim_rng(struct sim *sim)
{
    return &sim->test_rng;
}

uint64_t sim_seed(const struct sim *sim)
{
    return sim->options.seed;
}

static void timed_call_fire(struct sim_event *event)
{
    struct timed_call *call = container_of(event, struct timed_call, event);
    void (*fn)(void *ctx) = call->fn;
    void *ctx = call->ctx;
    list_remove(&call->link);
    free(call);
    fn(ctx);
}

void sim_at(struct sim *sim, uint64_t at_ns, void (*fn)(void *ctx), void *ctx)
{
    struct timed_call *call = sim_zalloc(sizeof(*call));
    call->event.fire = timed_call_fire;
    call->fn = fn;
    call->ctx = ctx;
    list_push_back(&sim->timed_calls, &call->link);
    sim_event_arm(sim, &call->event, at_ns);
}

/* --- The loop ----------------------------------------------------------- */

struct next {
    uint64_t at_ns;              /* UINT64_MAX: nothing can happen */
    struct sim_node *timer_node; /* NULL: the first event of the heap */
};

/* Puts off what belongs to paused nodes, and finds what comes first. */
static struct next next_find(struct sim *sim)
{
    struct next next = {UINT64_MAX, NULL};
    while (sim->heap_count > 0) {
        struct sim_event *event = sim->heap[1];
        next.at_ns = event->at_ns;
        if (!event->node || event->node->paused_until_ns <= event->at_ns)
            break;
        event->at_ns = event->node->paused_until_ns; /* keeps its order */
        heap_settle(sim, 1, event);
    }
    list_for_each (it, &sim->nodes) {
        struct sim_node *node = list_entry(it, struct sim_node, link);
        uint64_t timer_ns = env_timer_next_ns(&node->env);
        if (timer_ns == UINT64_MAX)
            continue;
        uint64_t at_ns = sim_clock_virtual_ns(node->machine, timer_ns);
        at_ns = MAX(at_ns, node->paused_until_ns);
        if (at_ns < next.at_ns || (at_ns == next.at_ns && rng_one_in(&sim->sched_rng, 2)))
            next = (struct next){at_ns, node};
    }
    return next;
}

static void next_fire(struct sim *sim, const struct next *next)
{
    sim->now_ns = MAX(sim->now_ns, next->at_ns);
    if (next->timer_node) {
        struct env *env = &next->timer_node->env;
        sim_trace_node(sim, next->timer_node, "timer", 0, 0);
        fiber_set_default_env(env);
        env_timer_run(env, sim_clock_now_ns(next->timer_node->machine));
    } else {
        struct sim_event *event = sim->heap[1];
        sim_event_cancel(sim, event);
        fiber_set_default_env(event->node ? &event->node->env : NULL);
        event->fire(event);
    }
    fiber_set_default_env(NULL);
}

static enum sim_result stuck(struct sim *sim, bool wanted)
{
    if (list_fibers(NULL) == 0 && !wanted)
        return SIM_QUIET;
    if (wanted) {
        fprintf(stderr, "simulation: stuck at %.6f ms (seed %lu): nothing can happen any more\n",
            sim->now_ns / 1e6, sim->options.seed);
        list_fibers(stderr);
    }
    return SIM_STUCK;
}

enum sim_result sim_run(struct sim *sim, bool (*until)(void *ctx), void *ctx, uint64_t deadline_ns)
{
    CHECK_MSG(!fiber_self(), "sim_run from a fiber");
    for (;;) {
        fiber_run_ready();
        sim_nodes_do_wanted(sim);
        if (until && until(ctx))
            return SIM_UNTIL;

        struct next next = next_find(sim);
        bool yielding = fiber_any_ready();
        if (yielding)
            next.at_ns = MIN(next.at_ns, sim->now_ns + YIELD_NS);
        if (next.at_ns == UINT64_MAX)
            return stuck(sim, until);
        if (next.at_ns > deadline_ns) {
            sim->now_ns = MAX(sim->now_ns, deadline_ns);
            return SIM_DEADLINE;
        }
        /* As a real loop may drain one completion or many before fibers run. */
        do {
            struct next again = next_find(sim);
            if (again.at_ns > next.at_ns) {
                sim->now_ns = MAX(sim->now_ns, next.at_ns);
                break;
            }
            next_fire(sim, &again);
        } while (rng_one_in(&sim->sched_rng, 2));
    }
}

enum sim_result sim_run_for(struct sim *sim, uint64_t duration_ns)
{
    return sim_run(sim, NULL, NULL, sim->now_ns + duration_ns);
}
