/* SPDX-License-Identifier: Apache-2.0 */
#include "uring_run.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/mem.h"

#define MS 1000000ull

static int returns_42(void *arg)
{
    return 42;
}

static void result_of_main_is_returned_again_and_again(void **state)
{
    for (int i = 0; i < 5; i++)
        assert_int_equal(run_in_env(returns_42, (struct env_uring_options){0}), 42);
}

static int time_and_chance(void *arg)
{
    uint64_t mono = env_now_ns(), boot = env_boottime_ns();
    CHECK(env_realtime_ns() > 1600000000ull * 1000000000);
    env_sleep_ns(5 * MS);
    CHECK(env_now_ns() - mono >= 5 * MS && env_boottime_ns() - boot >= 5 * MS);
    uint8_t a[16], b[16], zero[16] = {0}, large[3000];
    env_boot_id(a);
    env_boot_id(b);
    CHECK(memcmp(a, b, 16) == 0 && memcmp(a, zero, 16) != 0);
    for (int i = 0; i < 1000; i++)
        CHECK(env_random_u64() != env_random_u64());
    env_random(large, sizeof(large));
    return 0;
}

static void clocks_run_and_randomness_differs(void **state)
{
    assert_int_equal(run_in_env(time_and_chance, (struct env_uring_options){0}), 0);
}

static int64_t blocking_20ms(void *arg)
{
    struct timespec ts = {.tv_nsec = 20 * MS};
    nanosleep(&ts, NULL);
    return (int64_t)(intptr_t)arg;
}

static struct fiber_group group;
static int gate[2]; /* each byte lets one blocking call go on */
static unsigned blocked;

static int64_t block_at_the_gate(void *arg)
{
    char byte;
    __atomic_fetch_add(&blocked, 1, __ATOMIC_RELAXED);
    CHECK(read(gate[0], &byte, 1) == 1);
    return (int64_t)(intptr_t)arg;
}

static void offload_one(void *arg)
{
    CHECK(env_offload(block_at_the_gate, arg) == (int64_t)(intptr_t)arg);
    fiber_group_done(&group, 0);
}

static int offloads(void *arg)
{
    CHECK(pipe(gate) == 0);
    fiber_group_init(&group);
    fiber_group_add(&group, 8);
    for (intptr_t i = 0; i < 8; i++)
        fiber_spawn("offload", offload_one, (void *)(i - 4));
    /* The loop goes on meanwhile, and some of them block beside each other. */
    while (__atomic_load_n(&blocked, __ATOMIC_RELAXED) < 2)
        env_sleep_ns(MS);
    CHECK(group.pending == 8);
    CHECK(write(gate[1], "12345678", 8) == 8);
    CHECK(fiber_group_wait(&group) == 0);
    CHECK(close(gate[0]) == 0 && close(gate[1]) == 0);
    return 0;
}

static void blocking_calls_run_beside_the_loop(void **state)
{
    assert_int_equal(run_in_env(offloads, (struct env_uring_options){0}), 0);
}

#define POSTS 2000

struct posted {
    struct env_post post;
    struct env *env;
};
static unsigned posts_told;

static void count_post(struct env_post *post)
{
    CHECK(!fiber_self() && fiber_env() == ((struct posted *)post)->env);
    free(post);
    if (++posts_told == 2 * POSTS)
        fiber_group_done(&group, 0);
}

static void *post_many(void *env)
{
    for (unsigned i = 0; i < POSTS; i++) {
        struct posted *posted = calloc(1, sizeof(*posted));
        *posted = (struct posted){{.fn = count_post}, env};
        env_post(env, &posted->post);
    }
    return NULL;
}

static int posts(void *arg)
{
    pthread_t threads[2];
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    for (unsigned i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, post_many, fiber_env()) == 0);
    CHECK(env_offload(blocking_20ms, NULL) == 0);
    CHECK(fiber_group_wait(&group) == 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

static void posts_of_other_threads_run_in_the_loop(void **state)
{
    assert_int_equal(run_in_env(posts, (struct env_uring_options){0}), 0);
}

static int signals(void *arg)
{
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGTERM);
    CHECK(env_wait_signal() == SIGTERM);
    kill(getpid(), SIGINT);
    CHECK(env_wait_signal() == SIGINT);
    return 0;
}

static void signals_arrive_as_values(void **state)
{
    assert_int_equal(run_in_env(signals, (struct env_uring_options){0}), 0);
}

static void wait_for_ever(void *arg)
{
    env_wait_signal();
}

static long switches_in_300_ms(void)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    env_sleep_ns(300 * MS);
    getrusage(RUSAGE_SELF, &after);
    return after.ru_nvcsw - before.ru_nvcsw;
}

/* Once the helper threads have started and lain down. */
static int idle(void *arg)
{
    fiber_spawn("signal", wait_for_ever, NULL);
    for (unsigned tries = 0; switches_in_300_ms() > 2; tries++)
        CHECK(tries < 30);
    return 0;
}

static void idle_loop_never_wakes(void **state)
{
    assert_int_equal(run_in_env(idle, (struct env_uring_options){0}), 0);
}

static bool stop_yielding;

static void yield_for_ever(void *arg)
{
    while (!stop_yielding)
        fiber_yield();
}

static int yields(void *arg)
{
    fiber_spawn("yield", yield_for_ever, NULL);
    env_sleep_ns(5 * MS);
    CHECK(env_offload(blocking_20ms, NULL) == 0);
    stop_yielding = true;
    return 0;
}

static void yielding_fiber_does_not_starve_the_world(void **state)
{
    assert_int_equal(run_in_env(yields, (struct env_uring_options){0}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(result_of_main_is_returned_again_and_again),
        cmocka_unit_test(clocks_run_and_randomness_differs),
        cmocka_unit_test(blocking_calls_run_beside_the_loop),
        cmocka_unit_test(posts_of_other_threads_run_in_the_loop),
        cmocka_unit_test(signals_arrive_as_values),
        cmocka_unit_test(idle_loop_never_wakes),
        cmocka_unit_test(yielding_fiber_does_not_starve_the_world),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
