/* SPDX-License-Identifier: Apache-2.0
 *
 * Fibers: pooled stackful coroutines, pinned to the thread that made them. Multi-step flows read
 * top to bottom; a function that may suspend is marked MAY_SUSPEND. After any suspension everything
 * shared may have changed: epochs, maps, table entries. Revalidate, never cache across it.
 *
 * One scheduler per thread (struct fiber_sched), driven by the env: the env's loop calls
 * fiber_run_ready() and then waits for the world. A fiber belongs to the env (= node) whose fiber
 * spawned it, so many simulated nodes share one thread.
 *
 * Invariants
 *  F1 A fiber is in exactly one of: free, ready, running, suspended.
 *  F2 fiber_wake() on a ready or running fiber is remembered once (a wake is never lost): the next
 *     fiber_suspend() returns at once. Hence every wait is a loop over its condition.
 *  F3 Stacks have a guard page; an overflow is a SIGSEGV at the guard, never silent damage.
 *  F4 The pool is fixed: spawns beyond it queue as small structs, in order, and nothing else grows.
 *  F5 Whoever waits for a spawn of his own waits for a fiber: with all of them waiting so, nobody runs
 *     any more. So what comes from outside is bounded, far below the pool; what lives long is refused
 *     when the pool is short; and what a fiber can do itself, one after the other, is given to
 *     helpers only while the reserve stays free, which what helpers spawn has for itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/list.h"

struct env;
struct fiber;

/* Marks a function that may suspend the calling fiber. Only callable from a fiber. */
#define MAY_SUSPEND

#define FIBER_STACK_BYTES (64 * 1024)

typedef void fiber_fn(void *arg);

/* One per thread. `count_max` fibers at most exist at once. */
void fiber_sched_init(unsigned count_max);
void fiber_sched_fini(void);

/* Starts `fn(arg)` on a fiber of `fiber_env()` (or of `env`); it runs when the caller next
 * suspends. `name` is static text, for the gdb helper and logs. Never fails: beyond the pool it
 * queues. */
void fiber_spawn(const char *name, fiber_fn *fn, void *arg);
void fiber_spawn_on(struct env *env, const char *name, fiber_fn *fn, void *arg);

/* F5: how many of `wanted` helpers may be spawned; the rest is the caller's own to do. */
unsigned fiber_helpers(unsigned wanted);
/* F5: less than a quarter of the pool is left. */
bool fiber_pool_is_short(void);

/* NULL outside any fiber. */
struct fiber *fiber_self(void);
const char *fiber_name(const struct fiber *f);
/* The env of the running fiber; outside fibers the thread's default (fiber_set_default_env). */
struct env *fiber_env(void);
void fiber_set_default_env(struct env *env);

MAY_SUSPEND void fiber_suspend(void);
MAY_SUSPEND void fiber_yield(void);
/* Makes `f` ready (F2). Callable from callbacks outside fibers too; same thread only. */
void fiber_wake(struct fiber *f);

/* For the env's loop: runs ready fibers until none is, or very many have run. Returns how many were switched to.
 * `pick` (simulation) chooses which of n ready fibers runs next; NULL means in order. */
unsigned fiber_run_ready(void);
bool fiber_any_ready(void);
void fiber_set_pick(unsigned (*pick)(void *ctx, unsigned n), void *ctx);

/* For envs: every fiber of `env` ceases to exist without unwinding. Not callable from one of them.
 * Returns how many there were. */
unsigned fiber_kill_env(struct env *env);

/* Simulation and diagnosis: every fiber that is ready, running ("ready", "running") or suspended,
 * in the order of their creation. `visit` may not spawn or kill. */
void fiber_visit(
    void (*visit)(void *ctx, const struct fiber *f, struct env *env, const char *state), void *ctx);

/* --- Waiting ------------------------------------------------------------------------------------
 * A queue of fibers. All may be embedded; init before use; nobody may wait at fini (CHECKed). */
struct fiber_queue {
    struct list waiters;
};
void fiber_queue_init(struct fiber_queue *q);
MAY_SUSPEND void fiber_queue_wait(struct fiber_queue *q);
/* As above until CLOCK now_ns() >= deadline_ns; -ETIMEDOUT then, else 0. */
MAY_SUSPEND int fiber_queue_wait_until(struct fiber_queue *q, uint64_t deadline_ns);
bool fiber_queue_wake_one(struct fiber_queue *q);
void fiber_queue_wake_all(struct fiber_queue *q);
bool fiber_queue_empty(const struct fiber_queue *q);

/* Fair (FIFO) mutual exclusion between fibers. */
struct fiber_mutex {
    struct fiber *owner;
    struct fiber_queue queue;
};
void fiber_mutex_init(struct fiber_mutex *m);
MAY_SUSPEND void fiber_mutex_lock(struct fiber_mutex *m);
bool fiber_mutex_trylock(struct fiber_mutex *m);
void fiber_mutex_unlock(struct fiber_mutex *m);

/* Counts down outstanding work; one fiber waits for zero. The first error reported is kept. */
struct fiber_group {
    unsigned pending;
    int error;
    struct fiber *waiter;
};
void fiber_group_init(struct fiber_group *g);
void fiber_group_add(struct fiber_group *g, unsigned n);
void fiber_group_done(struct fiber_group *g, int error);
MAY_SUSPEND int fiber_group_wait(struct fiber_group *g);
