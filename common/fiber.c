/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler of one thread. The thread's own stack runs the env's loop; fiber_run_ready()
 * switches from it to a fiber and every suspension switches back to it, so there is one place that
 * chooses who runs (fiber_set_pick) and one that is "outside any fiber".
 *
 * Stacks are reused last in, first out: the hot ones stay in the cache and a quiet daemon touches
 * few. A fiber that yields runs again in the next fiber_run_ready(), after the env has looked at
 * the world: a yield loop cannot starve completions.
 */
#include "common/fiber.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "common/check.h"
#include "common/fiber_switch.h"

#define STACK_BYTES ((size_t)FIBER_STACK_BYTES * FIBER_STACK_FACTOR)
#define GUARD_BYTES 4096ul
#define SCHEDS_MAX 64
#define RESERVE_PART 16 /* F5, of the pool */
#define SHORT_PART 4

enum fiber_state { FIBER_FREE, FIBER_READY, FIBER_RUNNING, FIBER_SUSPENDED }; /* F1 */

struct fiber {
    struct list link; /* free, ready or yielded */
    struct list all;  /* every fiber ever made, for fiber-gdb.py and kill */
    void *sp;         /* while not running */
    const char *name;
    struct env *env;
    fiber_fn *fn;
    void *arg;
    enum fiber_state state;
    bool wake_pending; /* F2 */
    char *stack;       /* lowest usable byte; the guard page is below */
#ifdef FIBER_ASAN
    void *fake_stack;
#endif
#ifdef FIBER_TSAN
    void *tsan;
#endif
#ifdef FIBER_VALGRIND
    unsigned valgrind_id;
#endif
};

/* A spawn that waits for a fiber (F4). */
struct spawn {
    struct list link;
    struct env *env;
    const char *name;
    fiber_fn *fn;
    void *arg;
};

struct fiber_sched {
    struct fiber *current;
    struct env *env; /* of `current`, else the default */
    struct env *default_env;
    void *main_sp;
    struct list ready, yielded, free, all, spawns;
    unsigned ready_count, free_count, count, count_max;
    unsigned (*pick)(void *ctx, unsigned n);
    void *pick_ctx;
#ifdef FIBER_ASAN
    void *main_fake_stack;
    const void *main_stack;
    size_t main_stack_bytes;
#endif
#ifdef FIBER_TSAN
    void *main_tsan;
#endif
};

static _Thread_local struct fiber_sched *sched;

/* For fiber-gdb.py, which cannot count on thread-local variables in a core file. */
extern struct fiber_sched *fiber_scheds[SCHEDS_MAX];
struct fiber_sched *fiber_scheds[SCHEDS_MAX];

/* --- Switching ------------------------------------------------------------------------------- */

static void switch_to_fiber(struct fiber *f)
{
    sched->current = f;
    sched->env = f->env;
    f->state = FIBER_RUNNING;
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(&sched->main_fake_stack, f->stack, STACK_BYTES);
#endif
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(f->tsan, 0);
#endif
    fiber_switch(&sched->main_sp, f->sp);
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(sched->main_fake_stack, NULL, NULL);
#endif
    sched->current = NULL;
    sched->env = sched->default_env;
}

/* Back to the loop; `f` has already changed its state. A dying fiber does not return from here. */
static void switch_to_main(struct fiber *f, bool dying)
{
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(
        dying ? NULL : &f->fake_stack, sched->main_stack, sched->main_stack_bytes);
#endif
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(sched->main_tsan, 0);
#endif
    fiber_switch(&f->sp, sched->main_sp);
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(f->fake_stack, &sched->main_stack, &sched->main_stack_bytes);
#endif
}

void fiber_main(void)
{
    struct fiber *f = sched->current;
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(NULL, &sched->main_stack, &sched->main_stack_bytes);
#endif
    f->fn(f->arg);
    f->state = FIBER_FREE;
    switch_to_main(f, true);
    CHECK(false);
}

/* --- Pool ------------------------------------------------------------------------------------ */

static struct fiber *fiber_create(void)
{
    struct fiber *f = calloc(1, sizeof(*f));
    char *map = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    CHECK_MSG(f && map != MAP_FAILED, "no memory for a fiber's stack");
    CHECK(mprotect(map, GUARD_BYTES, PROT_NONE) == 0); /* F3 */
    f->stack = map + GUARD_BYTES;
    f->state = FIBER_FREE;
    list_init(&f->link);
    list_push_back(&sched->all, &f->all);
    sched->count++;
#ifdef FIBER_ASAN
    __lsan_register_root_region(f->stack, STACK_BYTES);
#endif
#ifdef FIBER_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
#ifdef FIBER_VALGRIND
    f->valgrind_id = VALGRIND_STACK_REGISTER(f->stack, f->stack + STACK_BYTES);
#endif
    return f;
}

static void fiber_destroy(struct fiber *f)
{
    list_remove(&f->link);
    list_remove(&f->all);
    sched->count--;
#ifdef FIBER_ASAN
    __lsan_unregister_root_region(f->stack, STACK_BYTES);
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
#endif
#ifdef FIBER_TSAN
    __tsan_destroy_fiber(f->tsan);
#endif
#ifdef FIBER_VALGRIND
    VALGRIND_STACK_DEREGISTER(f->valgrind_id);
#endif
    munmap(f->stack - GUARD_BYTES, GUARD_BYTES + STACK_BYTES);
    free(f);
}

/* A free fiber or NULL at the pool's limit. */
static struct fiber *fiber_get(void)
{
    struct list *link = list_pop_front(&sched->free);
    if (link) {
        sched->free_count--;
        return list_entry(link, struct fiber, link);
    }
    return sched->count < sched->count_max ? fiber_create() : NULL;
}

static void make_ready(struct fiber *f)
{
    f->state = FIBER_READY;
    list_push_back(&sched->ready, &f->link);
    sched->ready_count++;
}

static void start(struct fiber *f, struct env *env, const char *name, fiber_fn *fn, void *arg)
{
    f->env = env;
    f->name = name;
    f->fn = fn;
    f->arg = arg;
    f->wake_pending = false;
#ifdef FIBER_ASAN
    /* What the last user left poisoned, having ended below its frames or been killed. */
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
    f->fake_stack = NULL;
#endif
    f->sp = fiber_stack_prepare(f->stack + STACK_BYTES);
    make_ready(f);
}

/* `f` has ended or was killed: the oldest waiting spawn takes it, else it goes back to the pool. */
static void recycle(struct fiber *f)
{
    struct list *link = list_pop_front(&sched->spawns);
    if (!link) {
        f->state = FIBER_FREE;
        f->env = NULL;
        list_push_front(&sched->free, &f->link);
        sched->free_count++;
        return;
    }
    struct spawn *spawn = list_entry(link, struct spawn, link);
    start(f, spawn->env, spawn->name, spawn->fn, spawn->arg);
    free(spawn);
}

/* --- Scheduler ------------------------------------------------------------------------------- */

void fiber_sched_init(unsigned count_max)
{
    CHECK(!sched && count_max > 0);
    sched = calloc(1, sizeof(*sched));
    CHECK(sched);
    list_init(&sched->ready);
    list_init(&sched->yielded);
    list_init(&sched->free);
    list_init(&sched->all);
    list_init(&sched->spawns);
    sched->count_max = count_max;
#ifdef FIBER_TSAN
    sched->main_tsan = __tsan_get_current_fiber();
#endif
    for (int i = 0; i < SCHEDS_MAX; i++) {
        struct fiber_sched *none = NULL;
        if (__atomic_compare_exchange_n(
                &fiber_scheds[i], &none, sched, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            break;
    }
}

void fiber_sched_fini(void)
{
    CHECK(sched && !sched->current);
    struct list *link;
    while ((link = list_pop_front(&sched->spawns)))
        free(list_entry(link, struct spawn, link));
    while (!list_empty(&sched->all))
        fiber_destroy(list_entry(sched->all.next, struct fiber, all));
    for (int i = 0; i < SCHEDS_MAX; i++)
        if (fiber_scheds[i] == sched)
            fiber_scheds[i] = NULL;
    free(sched);
    sched = NULL;
}

void fiber_spawn_on(struct env *env, const char *name, fiber_fn *fn, void *arg)
{
    CHECK_MSG(sched, "fiber_spawn before fiber_sched_init");
    struct fiber *f = list_empty(&sched->spawns) ? fiber_get() : NULL;
    if (f) {
        start(f, env, name, fn, arg);
        return;
    }
    struct spawn *spawn = malloc(sizeof(*spawn));
    CHECK_MSG(spawn, "no memory for a spawn");
    *spawn = (struct spawn){.env = env, .name = name, .fn = fn, .arg = arg};
    list_push_back(&sched->spawns, &spawn->link);
}

void fiber_spawn(const char *name, fiber_fn *fn, void *arg)
{
    fiber_spawn_on(fiber_env(), name, fn, arg);
}

/* Spawns that would run at once. */
static unsigned spare(void)
{
    return list_empty(&sched->spawns) ? sched->count_max - sched->count + sched->free_count : 0;
}

unsigned fiber_helpers(unsigned wanted)
{
    unsigned left = spare(), reserve = sched->count_max / RESERVE_PART;
    return left > reserve ? MIN(wanted, left - reserve) : 0;
}

bool fiber_pool_is_short(void)
{
    return spare() < sched->count_max / SHORT_PART;
}

struct fiber *fiber_self(void)
{
    return sched ? sched->current : NULL;
}

const char *fiber_name(const struct fiber *f)
{
    return f->name;
}

struct env *fiber_env(void)
{
    return sched ? sched->env : NULL;
}

void fiber_set_default_env(struct env *env)
{
    CHECK_MSG(sched, "fiber_set_default_env before fiber_sched_init");
    sched->default_env = env;
    if (!sched->current)
        sched->env = env;
}

void fiber_set_pick(unsigned (*pick)(void *ctx, unsigned n), void *ctx)
{
    sched->pick = pick;
    sched->pick_ctx = ctx;
}

void fiber_suspend(void)
{
    struct fiber *f = sched->current;
    CHECK_MSG(f, "suspended outside a fiber");
    if (f->wake_pending) {
        f->wake_pending = false;
        return;
    }
    f->state = FIBER_SUSPENDED;
    switch_to_main(f, false);
}

void fiber_yield(void)
{
    struct fiber *f = sched->current;
    CHECK_MSG(f, "yielded outside a fiber");
    f->state = FIBER_READY;
    list_push_back(&sched->yielded, &f->link);
    switch_to_main(f, false);
}

void fiber_wake(struct fiber *f)
{
    switch (f->state) {
    case FIBER_SUSPENDED:
        make_ready(f);
        break;
    case FIBER_READY:
    case FIBER_RUNNING:
        f->wake_pending = true;
        break;
    case FIBER_FREE:
        CHECK_MSG(false, "woke a fiber that has ended (last named %s)", f->name);
    }
}

static struct fiber *take_ready(void)
{
    struct list *link = sched->ready.next;
    if (sched->pick && sched->ready_count > 1) {
        unsigned n = sched->pick(sched->pick_ctx, sched->ready_count);
        CHECK(n < sched->ready_count);
        while (n--)
            link = link->next;
    }
    list_remove(link);
    sched->ready_count--;
    return list_entry(link, struct fiber, link);
}

#define SWITCHES_MAX 65536

unsigned fiber_run_ready(void)
{
    CHECK_MSG(!sched->current, "fiber_run_ready called from a fiber");
    unsigned switches = 0;
    /* Fibers that keep waking one another must not keep the env from looking at the world. */
    while (sched->ready_count > 0 && switches < SWITCHES_MAX) {
        struct fiber *f = take_ready();
        switch_to_fiber(f);
        switches++;
        if (f->state == FIBER_FREE)
            recycle(f);
    }
    while (!list_empty(&sched->yielded))
        make_ready(list_entry(list_pop_front(&sched->yielded), struct fiber, link));
    return switches;
}

bool fiber_any_ready(void)
{
    return sched->ready_count > 0;
}

unsigned fiber_kill_env(struct env *env)
{
    unsigned killed = 0;
    CHECK(!sched->current || sched->current->env != env);
    list_for_each_safe (link, &sched->spawns) {
        struct spawn *spawn = list_entry(link, struct spawn, link);
        if (spawn->env != env)
            continue;
        list_remove(&spawn->link);
        free(spawn);
    }
    list_for_each_safe (link, &sched->all) {
        struct fiber *f = list_entry(link, struct fiber, all);
        if (f->state == FIBER_FREE || f->env != env)
            continue;
        if (f->state == FIBER_READY) {
            bool yielded = false;
            list_for_each (y, &sched->yielded)
                yielded |= y == &f->link;
            sched->ready_count -= !yielded;
            list_remove(&f->link);
        }
        recycle(f);
        killed++;
    }
    return killed;
}

void fiber_visit(
    void (*visit)(void *ctx, const struct fiber *f, struct env *env, const char *state), void *ctx)
{
    static const char *const states[] = {
        [FIBER_READY] = "ready", [FIBER_RUNNING] = "running", [FIBER_SUSPENDED] = "suspended"};
    list_for_each (it, &sched->all) {
        const struct fiber *f = list_entry(it, struct fiber, all);
        if (f->state != FIBER_FREE)
            visit(ctx, f, f->env, states[f->state]);
    }
}
