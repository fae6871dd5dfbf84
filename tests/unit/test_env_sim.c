/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of the simulation, its clocks and nodes, and that a seed means one run.
 */
#include "tests/unit/sim_fixture.h"

/* --- Loop, fibers, clocks ----------------------------------------------- */

static void sleep_and_mark(void *arg)
{
    env_sleep_ns(5 * MS);
    *(uint64_t *)arg = sim_now_ns(sim_current());
}

static void test_virtual_time_jumps_to_the_next_event(void **state)
{
    struct sim *sim = sim_with(1);
    uint64_t at_ns = 0;
    sim_node_start(sim_node_new(sim, "a"), "sleeper", sleep_and_mark, &at_ns);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_QUIET);
    assert_int_equal(at_ns, 5 * MS);
    assert_int_equal(sim_run_for(sim, SEC), SIM_QUIET);
    sim_free(sim);
}

static void test_waiting_for_ever_is_found(void **state)
{
    struct sim *sim = sim_with(1);
    sim_node_start(sim_node_new(sim, "a"), "waits for nobody", never, NULL);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_STUCK);
    struct job job = {0};
    assert_int_equal(sim_run(sim, job_done, &job, UINT64_MAX), SIM_STUCK);
    sim_free(sim);
}

static void spin(void *arg)
{
    while (sim_now_ns(sim_current()) < MS)
        fiber_yield();
}

static void test_a_fiber_that_yields_lets_time_pass(void **state)
{
    struct sim *sim = sim_with(1);
    run_on(sim_node_new(sim, "a"), spin, NULL);
    assert_true(sim_now_ns(sim) >= MS);
    sim_free(sim);
}

struct clocks {
    uint64_t now_ns, boottime_ns, realtime_ns;
    uint8_t boot_id[16];
    uint64_t random;
};

static void read_clocks(void *arg)
{
    struct clocks *clocks = arg;
    clocks->now_ns = env_now_ns();
    clocks->boottime_ns = env_boottime_ns();
    clocks->realtime_ns = env_realtime_ns();
    clocks->random = env_random_u64();
    env_boot_id(clocks->boot_id);
}

static void sleep_ten_seconds(void *arg)
{
    uint64_t begin_ns = env_now_ns();
    env_sleep_ns(10 * SEC);
    assert_in_range(env_now_ns() - begin_ns, 10 * SEC, 10 * SEC + 2);
}

static void test_clocks_drift_and_jump(void **state)
{
    struct sim *sim = sim_with(3);
    struct env *fast = sim_node_new(sim, "fast");
    struct clocks before, after;
    run_on(fast, read_clocks, &before);
    sim_clock_drift(fast, 1000);
    uint64_t begin_ns = sim_now_ns(sim);
    run_on(fast, sleep_ten_seconds, NULL);
    assert_in_range(sim_now_ns(sim) - begin_ns, 9990 * MS, 9991 * MS);
    sim_clock_jump_boottime(fast, 7 * SEC);
    sim_clock_jump_realtime(fast, -3600 * (int64_t)SEC);
    run_on(fast, read_clocks, &after);
    assert_in_range(after.now_ns - before.now_ns, 10 * SEC, 10 * SEC + 2);
    assert_in_range(after.boottime_ns - before.boottime_ns, 17 * SEC, 17 * SEC + 2);
    assert_true(after.realtime_ns < before.realtime_ns);
    assert_memory_equal(after.boot_id, before.boot_id, 16);
    sim_node_power_cut(fast, SIM_CUT_KEEP_ALL);
    run_on(fast, read_clocks, &after);
    assert_memory_not_equal(after.boot_id, before.boot_id, 16);
    assert_true(after.random != before.random);
    sim_free(sim);
}

static void test_a_paused_node_does_nothing_and_goes_on(void **state)
{
    struct sim *sim = sim_with(4);
    struct env *node = sim_node_new(sim, "a");
    uint64_t at_ns = 0;
    sim_node_start(node, "sleeper", sleep_and_mark, &at_ns);
    sim_run_for(sim, MS);
    sim_node_pause(node, SEC);
    sim_run_for(sim, 500 * MS);
    assert_int_equal(at_ns, 0);
    sim_run_for(sim, SEC);
    assert_int_equal(at_ns, SEC + MS);
    sim_free(sim);
}

static int64_t twice(void *arg)
{
    return *(int *)arg * 2;
}

static void offload_twice(void *arg)
{
    int value = 21;
    *(int64_t *)arg = env_offload(twice, &value);
}

static void wait_signal(void *arg)
{
    *(int64_t *)arg = env_wait_signal();
}

static void signal_fifteen(void *node)
{
    sim_node_signal(node, 15);
}

static void test_offload_and_signals(void **state)
{
    struct sim *sim = sim_with(5);
    struct env *node = sim_node_new(sim, "a");
    int64_t result = 0;
    run_on(node, offload_twice, &result);
    assert_int_equal(result, 42);
    sim_at(sim, sim_now_ns(sim) + MS, signal_fifteen, node);
    run_on(node, wait_signal, &result);
    assert_int_equal(result, 15);
    sim_free(sim);
}

static void crash_myself(void *arg)
{
    (void)!mem_alloc(100);
    fiber_spawn("other", never, NULL);
    env_sleep_ns(MS);
    sim_node_crash(fiber_env());
}

static void test_a_crash_takes_fibers_timers_and_memory(void **state)
{
    struct sim *sim = sim_with(6);
    struct env *node = sim_node_new(sim, "a");
    sim_node_start(node, "main", crash_myself, NULL);
    assert_int_equal(sim_run(sim, NULL, NULL, UINT64_MAX), SIM_QUIET);
    assert_false(sim_node_is_up(node));
    assert_int_equal(mem_used_bytes(node), 0);
    uint64_t at_ns = 0;
    run_on(node, sleep_and_mark, &at_ns);
    assert_true(sim_node_is_up(node));
    sim_free(sim);
}

/* --- One seed, one run -------------------------------------------------- */

static void disk_worker(void *arg)
{
    struct env_file *file;
    if (env_file_open(arg, 0, 0, &file))
        return;
    for (;;) {
        unsigned page = env_random_u64() % 200;
        if (env_random_u64() % 3)
            write_page(file, page, env_random_u64(), false);
        else if (env_random_u64() % 2)
            read_page(file, page);
        else
            env_file_sync(file);
    }
}

static void ping_again(void *arg)
{
    struct pinger pinger;
    for (;;) {
        struct env_stream *stream;
        if (env_connect("tcp:10.0.0.1:7000", env_now_ns() + SEC, &stream) == 0) {
            env_stream_close(stream);
            ping(&pinger);
        }
        env_sleep_ns(20 * MS);
    }
}

static void node_main(void *arg)
{
    for (unsigned i = 0; i < 4; i++)
        fiber_spawn("disk worker", disk_worker, i % 2 ? "/d1" : "/d2");
    fiber_spawn("echo server", echo_server, "tcp:0.0.0.0:7000");
    fiber_spawn("ping", ping_again, NULL);
}

/* Three nodes with everything going on, crashes and cuts included. */
static uint64_t busy_run_hash(uint64_t seed)
{
    static const char *const names[] = {"one", "two", "three"};
    struct sim *sim = sim_with(seed);
    struct env *nodes[3];
    for (unsigned i = 0; i < 3; i++) {
        nodes[i] = sim_node_new(sim, names[i]);
        sim_disk_new(nodes[i], "/d1", 200 * PAGE);
        struct sim_disk *disk = sim_disk_new(nodes[i], "/d2", 200 * PAGE);
        sim_disk_fault(disk, &(struct sim_fault){.ops = SIM_OP_READ, .ppm = 20000});
        sim_node_start(nodes[i], "main", node_main, NULL);
    }
    for (unsigned step = 0; step < 10; step++) {
        sim_run_for(sim, 30 * MS);
        struct env *victim = nodes[rng_below(sim_rng(sim), 3)];
        switch (rng_below(sim_rng(sim), 4)) {
        case 0:
            sim_node_crash(victim);
            sim_node_start(victim, "main", node_main, NULL);
            break;
        case 1:
            sim_node_power_cut(victim, SIM_CUT_RANDOM);
            sim_node_start(victim, "main", node_main, NULL);
            break;
        case 2:
            sim_net_isolate(victim, true);
            break;
        default:
            sim_net_heal_all(sim);
        }
    }
    uint64_t hash = sim_trace_hash(sim);
    sim_free(sim);
    return hash;
}

static void test_one_seed_is_one_run(void **state)
{
    assert_int_equal(busy_run_hash(1), busy_run_hash(1));
    assert_int_equal(busy_run_hash(2), busy_run_hash(2));
    assert_int_not_equal(busy_run_hash(1), busy_run_hash(2));
}

/* A process of its own has other addresses. */
static void test_one_seed_is_one_run_in_another_process(void **state)
{
    FILE *child = popen("HOLDFAST_SIM_SEED=5 /proc/$PPID/exe", "r");
    assert_non_null(child);
    unsigned long hash = 0;
    assert_int_equal(fscanf(child, "%lx", &hash), 1);
    pclose(child);
    assert_int_equal(hash, busy_run_hash(5));
}

static void test_dump_names_fibers_and_events(void **state)
{
    char *text = NULL;
    size_t len;
    struct sim *sim = sim_with(30);
    struct env *node = sim_node_new(sim, "a");
    sim_node_start(node, "waits for nobody", never, NULL);
    sim_run(sim, NULL, NULL, UINT64_MAX);
    FILE *out = open_memstream(&text, &len);
    sim_dump(sim, out);
    fclose(out);
    assert_non_null(strstr(text, "seed 30"));
    assert_non_null(strstr(text, "waits for nobody, suspended"));
    assert_non_null(strstr(text, "start"));
    free(text);
    sim_free(sim);
}

int main(void)
{
    const char *seed = getenv("HOLDFAST_SIM_SEED");
    if (seed) {
        printf("%lx\n", busy_run_hash(strtoull(seed, NULL, 0)));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virtual_time_jumps_to_the_next_event),
        cmocka_unit_test(test_waiting_for_ever_is_found),
        cmocka_unit_test(test_a_fiber_that_yields_lets_time_pass),
        cmocka_unit_test(test_clocks_drift_and_jump),
        cmocka_unit_test(test_a_paused_node_does_nothing_and_goes_on),
        cmocka_unit_test(test_offload_and_signals),
        cmocka_unit_test(test_a_crash_takes_fibers_timers_and_memory),
        cmocka_unit_test(test_one_seed_is_one_run),
        cmocka_unit_test(test_one_seed_is_one_run_in_another_process),
        cmocka_unit_test(test_dump_names_fibers_and_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
