/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env.h"
#include "common/fiber.h"
#include "common/mem.h"

/* What fibers did, in order, as letters. */
static char trace[256];
static struct fake_env fake;

static void note(char c)
{
    size_t len = strlen(trace);
    assert_true(len + 1 < sizeof(trace));
    trace[len] = c;
    trace[len + 1] = 0;
}

static int setup(void **state)
{
    fiber_sched_init(8);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    trace[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    fiber_kill_env(&fake.env);
    mem_release_all(&fake.env);
    env_fini(&fake.env);
    fiber_sched_fini();
    return 0;
}

static void note_arg(void *arg)
{
    note(*(const char *)arg);
}

static void note_yield_note(void *arg)
{
    const char *letters = arg;
    note(letters[0]);
    fiber_yield();
    note(letters[1]);
}

static void spawned_fibers_run_in_order(void **state)
{
    fiber_spawn("a", note_yield_note, "ax");
    fiber_spawn("b", note_yield_note, "by");
    fiber_spawn("c", note_arg, "c");
    assert_int_equal(fiber_run_ready(), 3);
    assert_string_equal(trace, "abc");
    assert_true(fiber_any_ready());
    assert_int_equal(fiber_run_ready(), 2);
    assert_string_equal(trace, "abcxy");
    assert_false(fiber_any_ready());
}

static void self_suspend(void *arg)
{
    *(struct fiber **)arg = fiber_self();
    fiber_suspend();
    note('1');
    fiber_suspend();
    note('2');
}

static void wake_before_suspend_is_remembered_once(void **state)
{
    struct fiber *f = NULL;
    fiber_spawn("f", self_suspend, &f);
    fiber_run_ready();
    assert_string_equal(trace, "");
    fiber_wake(f); /* suspended -> ready */
    fiber_wake(f); /* ready: remembered */
    fiber_wake(f); /* and once only */
    fiber_run_ready();
    assert_string_equal(trace, "12");
}

static void wake_self(void *arg)
{
    fiber_wake(fiber_self());
    fiber_suspend();
    note('s');
}

static void wake_while_running_is_remembered(void **state)
{
    fiber_spawn("f", wake_self, NULL);
    fiber_run_ready();
    assert_string_equal(trace, "s");
}

static void spawns_beyond_the_pool_queue_in_order(void **state)
{
    static const char letters[] = "abcdefghijklmnopqrst";
    for (int i = 0; letters[i]; i++)
        fiber_spawn("q", note_arg, (void *)&letters[i]);
    fiber_run_ready();
    assert_string_equal(trace, letters);
}

static struct fiber_queue gate;

static void wait_gate(void *arg)
{
    fiber_queue_wait(&gate);
    note(*(const char *)arg);
}

static void full_pool_of_waiters_makes_later_spawns_wait(void **state)
{
    static const char letters[] = "abcdefghij";
    fiber_queue_init(&gate);
    for (int i = 0; letters[i]; i++)
        fiber_spawn("w", i < 8 ? wait_gate : note_arg, (void *)&letters[i]);
    fiber_run_ready();
    assert_string_equal(trace, "");
    assert_true(fiber_queue_wake_one(&gate));
    fiber_run_ready();
    assert_string_equal(trace, "aij");
    fiber_queue_wake_all(&gate);
    fiber_run_ready();
    assert_string_equal(trace, "aijbcdefgh");
    assert_true(fiber_queue_empty(&gate));
    assert_false(fiber_queue_wake_one(&gate));
}

static void stray_wake(void *arg)
{
    fiber_wake(*(struct fiber **)arg);
}

static void wait_gate_noting_self(void *arg)
{
    *(struct fiber **)arg = fiber_self();
    fiber_queue_wait(&gate);
    note('w');
}

static void queue_wait_survives_a_stray_wake(void **state)
{
    struct fiber *f;
    fiber_queue_init(&gate);
    fiber_spawn("w", wait_gate_noting_self, &f);
    fiber_spawn("s", stray_wake, &f);
    fiber_run_ready();
    assert_string_equal(trace, "");
    fiber_queue_wake_all(&gate);
    fiber_run_ready();
    assert_string_equal(trace, "w");
}

static void wait_until_times_out(void *arg)
{
    fiber_queue_init(&gate);
    assert_int_equal(fiber_queue_wait_until(&gate, env_now_ns() + 500), -ETIMEDOUT);
    assert_int_equal(env_now_ns(), 1500);
    assert_true(fiber_queue_empty(&gate));
    assert_int_equal(fiber_queue_wait_until(&gate, env_now_ns()), -ETIMEDOUT);
    note('t');
}

static void wake_after_100(void *arg)
{
    env_sleep_ns(100);
    fiber_queue_wake_one(&gate);
}

static void wait_until_is_woken(void *arg)
{
    fiber_queue_init(&gate);
    fiber_spawn("waker", wake_after_100, NULL);
    assert_int_equal(fiber_queue_wait_until(&gate, env_now_ns() + 500), 0);
    assert_int_equal(env_now_ns(), 1100);
    assert_int_equal(fake.env.timer_count, 0);
    note('w');
}

static void queue_wait_times_out_at_the_deadline(void **state)
{
    fake_env_run(&fake, wait_until_times_out, NULL);
    assert_string_equal(trace, "t");
}

static void queue_wake_before_the_deadline_disarms_it(void **state)
{
    fake_env_run(&fake, wait_until_is_woken, NULL);
    assert_string_equal(trace, "w");
}

static struct fiber_mutex mutex;

static void lock_note_unlock(void *arg)
{
    const char *letter = arg;
    fiber_mutex_lock(&mutex);
    note(*letter);
    fiber_yield();
    note(*letter);
    fiber_mutex_unlock(&mutex);
    /* An immediate new lock queues behind those who wait. */
    fiber_mutex_lock(&mutex);
    note((char)(*letter - 'a' + 'A'));
    fiber_mutex_unlock(&mutex);
}

static void mutex_is_exclusive_and_fair(void **state)
{
    fiber_mutex_init(&mutex);
    fiber_spawn("a", lock_note_unlock, "a");
    fiber_spawn("b", lock_note_unlock, "b");
    fiber_spawn("c", lock_note_unlock, "c");
    fake_env_loop(&fake);
    assert_string_equal(trace, "aabbccABC");
    assert_null(mutex.owner);
}

static void try_locks(void *arg)
{
    fiber_mutex_init(&mutex);
    assert_true(fiber_mutex_trylock(&mutex));
    assert_false(fiber_mutex_trylock(&mutex));
    fiber_mutex_unlock(&mutex);
    assert_true(fiber_mutex_trylock(&mutex));
    fiber_mutex_unlock(&mutex);
    note('t');
}

static void trylock_refuses_a_held_mutex(void **state)
{
    fake_env_run(&fake, try_locks, NULL);
    assert_string_equal(trace, "t");
}

static struct fiber_group group;

static void member_done(void *arg)
{
    env_sleep_ns(10);
    fiber_group_done(&group, (int)(intptr_t)arg);
}

static void group_waiter(void *arg)
{
    fiber_group_init(&group);
    assert_int_equal(fiber_group_wait(&group), 0);
    fiber_group_add(&group, 3);
    fiber_spawn("m", member_done, (void *)0);
    fiber_spawn("m", member_done, (void *)(intptr_t)-EIO);
    fiber_spawn("m", member_done, (void *)(intptr_t)-ENOSPC);
    assert_int_equal(fiber_group_wait(&group), -EIO);
    note('g');
}

static void group_waits_for_all_and_keeps_the_first_error(void **state)
{
    fake_env_run(&fake, group_waiter, NULL);
    assert_string_equal(trace, "g");
}

static void allocate_and_wait(void *arg)
{
    memset(mem_alloc(1000), 1, 1000);
    mem_alloc_pages(5000);
    wait_gate(arg);
}

static void sleep_note(void *arg)
{
    env_sleep_ns(100);
    note_arg(arg);
}

static void killed_env_leaves_no_fiber_behind(void **state)
{
    struct fake_env other;
    fake_env_init(&other);
    fiber_queue_init(&gate);
    for (int i = 0; i < 4; i++)
        fiber_spawn_on(&other.env, "victim", allocate_and_wait, "v");
    fiber_spawn_on(&other.env, "victim", note_yield_note, "y!");
    for (int i = 0; i < 6; i++)
        fiber_spawn_on(&fake.env, "lives", sleep_note, "l");
    for (int i = 0; i < 3; i++)
        fiber_spawn_on(&other.env, "queued victim", note_arg, "!");
    /* Eight fibers: 4 wait at the gate, 1 yields, 3 of the others sleep; the rest is queued. */
    fiber_run_ready();
    assert_int_equal(mem_used_bytes(&other.env), 4 * (1000 + 8192));
    fiber_kill_env(&other.env);
    mem_release_all(&other.env);
    env_fini(&other.env);
    assert_int_equal(mem_used_bytes(&other.env), 0);
    fake_env_loop(&fake);
    assert_string_equal(trace, "yllllll");
}

static unsigned pick_last(void *ctx, unsigned n)
{
    return n - 1;
}

static void pick_chooses_who_runs_next(void **state)
{
    fiber_set_pick(pick_last, NULL);
    fiber_spawn("a", note_arg, "a");
    fiber_spawn("b", note_arg, "b");
    fiber_spawn("c", note_arg, "c");
    fiber_run_ready();
    assert_string_equal(trace, "cba");
}

static void env_of_a_fiber(void *arg)
{
    assert_ptr_equal(fiber_env(), arg);
    fiber_yield();
    assert_ptr_equal(fiber_env(), arg);
    note('e');
}

static void fiber_env_follows_the_running_fiber(void **state)
{
    struct fake_env other;
    fake_env_init(&other);
    fiber_spawn_on(&other.env, "o", env_of_a_fiber, &other.env);
    fiber_spawn("d", env_of_a_fiber, &fake.env);
    fiber_run_ready();
    assert_ptr_equal(fiber_env(), &fake.env);
    fiber_run_ready();
    assert_string_equal(trace, "ee");
    assert_null(fiber_self());
}

/* Not a tail call, and each level owns memory, so that the stack really grows. */
static int overflow(int depth)
{
    volatile char block[512];
    block[0] = (char)depth;
    int deeper = depth < 1000000 ? overflow(depth + 1) : 0;
    return deeper + block[0];
}

static void overflow_fiber(void *arg)
{
    *(int *)arg = overflow(0);
}

static void stack_overflow_hits_the_guard_page(void **state)
{
    int result = 0;
    pid_t pid = fork();
    if (pid == 0) {
        close(STDERR_FILENO); /* a sanitizer has much to say about this */
        signal(SIGSEGV, SIG_DFL);
        fiber_spawn("overflow", overflow_fiber, &result);
        fiber_run_ready();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void suspend_once(void *arg)
{
    *(struct fiber **)arg = fiber_self();
    fiber_suspend();
}

/* F5: 8 fibers, of which helpers leave a reserve (8 / 16 rounds to none here) and "short" is 2. */
static void helpers_take_only_what_runs_at_once(void **state)
{
    struct fiber *waiting[9];
    assert_int_equal(fiber_helpers(5), 5);
    assert_int_equal(fiber_helpers(20), 8);
    assert_false(fiber_pool_is_short());
    for (unsigned i = 0; i < 7; i++)
        fiber_spawn("waits", suspend_once, &waiting[i]);
    fiber_run_ready();
    assert_int_equal(fiber_helpers(5), 1);
    assert_true(fiber_pool_is_short());
    for (unsigned i = 7; i < 9; i++)
        fiber_spawn("waits", suspend_once, &waiting[i]);
    assert_int_equal(fiber_helpers(5), 0); /* one is queued */
    fiber_run_ready();
    for (unsigned i = 0; i < 8; i++)
        fiber_wake(waiting[i]);
    fiber_run_ready();
    fiber_wake(waiting[8]);
    fiber_run_ready();
    assert_int_equal(fiber_helpers(20), 8);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(spawned_fibers_run_in_order),
        T(wake_before_suspend_is_remembered_once),
        T(wake_while_running_is_remembered),
        T(spawns_beyond_the_pool_queue_in_order),
        T(full_pool_of_waiters_makes_later_spawns_wait),
        T(helpers_take_only_what_runs_at_once),
        T(queue_wait_survives_a_stray_wake),
        T(queue_wait_times_out_at_the_deadline),
        T(queue_wake_before_the_deadline_disarms_it),
        T(mutex_is_exclusive_and_fair),
        T(trylock_refuses_a_held_mutex),
        T(group_waits_for_all_and_keeps_the_first_error),
        T(killed_env_leaves_no_fiber_behind),
        T(pick_chooses_who_runs_next),
        T(fiber_env_follows_the_running_fiber),
        T(stack_overflow_hits_the_guard_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
