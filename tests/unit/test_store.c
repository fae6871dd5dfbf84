/* SPDX-License-Identifier: Apache-2.0
 *
 * One suite for every implementation of the store, then what is special to each.
 */
#include "fake_env.h"

#include <errno.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/store.h"
#include "scratch.h"

static uint64_t second_ns = 1000000000ull;

/* --- World: a fake env with helper threads that are not, and dice ------------------------------
 */

struct world {
    struct fake_env fake;
    struct env_ops ops;
    struct store_mem *mem; /* NULL: LMDB in `path` */
    char path[64];
    char store_path[96];
};
static struct world world;
static uint64_t dice;

static int64_t inline_offload(struct env *env, int64_t (*fn)(void *arg), void *arg)
{
    env_sleep_ns(1000); /* suspends, as the real one does */
    return fn(arg);
}

static void next_dice(struct env *env, void *buf, size_t len_bytes)
{
    memset(buf, (int)dice++, len_bytes);
}

static int setup(void **state)
{
    bool lmdb = *state != NULL;
    world = (struct world){.ops = fake_env_ops};
    world.ops.offload = inline_offload;
    world.ops.random = next_dice;
    fiber_sched_init(32);
    fake_env_init(&world.fake);
    world.fake.env.ops = &world.ops;
    fiber_set_default_env(&world.fake.env);
    if (lmdb) {
        strcpy(world.path, "/var/tmp/holdfast-test-store-XXXXXX");
        assert_non_null(scratch_make(world.path));
        snprintf(world.store_path, sizeof(world.store_path), "%s/a/b", world.path);
    } else {
        world.mem = store_mem_new();
    }
    return 0;
}

static int teardown(void **state)
{
    if (world.mem)
        store_mem_free(world.mem);
    if (world.path[0]) {
        char command[128];
        snprintf(command, sizeof(command), "rm -rf %s", world.path);
        assert_int_equal(system(command), 0);
    }
    assert_int_equal(mem_used_bytes(&world.fake.env), 0);
    env_fini(&world.fake.env);
    fiber_set_default_env(NULL);
    fiber_sched_fini();
    return 0;
}

static struct store *open_store(void)
{
    if (world.mem)
        return store_mem_open(world.mem);
    struct store *store;
    CLEANUP_FREE char *error = NULL;
    int r = store_lmdb_open(world.store_path, &store, &error);
    if (r < 0)
        fail_msg("%s", error);
    return store;
}

static bool finished;

static void run_body(void *arg)
{
    ((void (*)(void))arg)();
    finished = true;
}

static void run(void (*body)(void))
{
    finished = false;
    fake_env_run(&world.fake, run_body, (void *)body);
    assert_true(finished);
}

#include "store_suite.h"

static unsigned lines;

static void count_line(void *ctx, enum log_level level, const char *line)
{
    lines += strstr(line, "restarted") != NULL;
}

/* --- LMDB ------------------------------------------------------------------------------------ */

BODY(lmdb_directory_in_use_names_the_way_out)
{
    struct store *store = open_store(), *second = NULL;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(store_lmdb_open(world.store_path, &second, &error), -EBUSY);
    assert_non_null(strstr(error, "another process has it"));
    assert_non_null(strstr(error, world.store_path));
    assert_null(second);
    store_close(store);
}

BODY(lmdb_of_a_killed_process_keeps_what_was_answered_and_drops_its_session)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct store *store = open_store();
        struct store_op ops[] = {put_op("kept", "v"), put_op("mine", "s")};
        ops[1].session = true;
        if (store_session_start(store, SECOND_NS) == 0 &&
            store_txn(store, NULL, 0, ops, 2, NULL) == 0)
            _exit(42); /* as kill -9: nothing is closed */
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    struct store *store = open_store();
    assert_holds(store, "kept", "v");
    assert_holds(store, "mine", NULL);
    store_close(store);
}

/* Writes beyond the files' present size fail: a failing disk. */
static int with_failing_writes(void)
{
    struct store *store = open_store();
    struct store_value value;
    put(store, "before", "v");
    log_set_level(LOG_LEVEL_ERROR);
    log_set_output(count_line, NULL);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {64 << 10, 64 << 10};
    setrlimit(RLIMIT_FSIZE, &limit);
    char *big = mem_zalloc(1, 500000);
    struct store_op ops[] = {put_op("before", "w"), {STORE_PUT, "big", big, 500000, false}};
    int r = store_txn(store, NULL, 0, ops, 2, NULL);
    if (r != -EHOSTUNREACH || lines != 1)
        return 1;
    if (store_get(store, "before", &value) != -EHOSTUNREACH || lines != 1)
        return 2;
    return 42;
}

BODY(lmdb_that_failed_answers_nothing_until_it_is_opened_anew)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(with_failing_writes());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    struct store *store = open_store();
    assert_holds(store, "before", "v");
    assert_holds(store, "big", NULL);
    store_close(store);
}

BODY(lmdb_garbage_is_refused_with_a_way_out)
{
    store_close(open_store());
    char command[256];
    snprintf(command, sizeof(command),
        "head -c 65536 /dev/urandom | dd of=%s/data.mdb conv=notrunc status=none",
        world.store_path);
    assert_int_equal(system(command), 0);
    struct store *store = NULL;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(store_lmdb_open(world.store_path, &store, &error), -EBADMSG);
    assert_non_null(strstr(error, "restore the directory"));
}

BODY(lmdb_unusable_path_is_an_error)
{
    struct store *store = NULL;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(store_lmdb_open("/dev/null/store", &store, &error), -ENOTDIR);
    assert_non_null(strstr(error, "/dev/null/store"));
}

BODY(lmdb_newer_format_is_refused)
{
    store_close(open_store());
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    char version[4] = {99};
    MDB_val key = {6, "format"}, data = {4, version};
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 2), 0);
    assert_int_equal(mdb_env_open(env, world.store_path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_put(txn, meta, &key, &data, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    struct store *store = NULL;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(store_lmdb_open(world.store_path, &store, &error), -EPROTO);
    assert_non_null(strstr(error, "another version"));
}

/* In the production env, whose helper threads are real. A failed assertion must not longjmp between
 * stacks, so CHECK. */
static int on_threads(void *arg)
{
    struct counter counter;
    CLEANUP_FREE char *error = NULL;
    CHECK_MSG(store_lmdb_open(world.store_path, &counter.store, &error) == 0, "%s", error);
    struct store_op op = put_op("n", "0");
    CHECK(store_txn(counter.store, NULL, 0, &op, 1, NULL) == 0);
    fiber_group_init(&counter.group);
    fiber_group_add(&counter.group, 8);
    for (unsigned i = 0; i < 8; i++)
        fiber_spawn("count", count_up, &counter);
    CHECK(fiber_group_wait(&counter.group) == 0);
    struct store_value value;
    CHECK(store_get(counter.store, "n", &value) == 0 && strcmp(value.data, "80") == 0);
    store_value_fini(&value);
    store_close(counter.store);
    return 0;
}

static void lmdb_works_on_helper_threads(void **state)
{
    strcpy(world.path, "/var/tmp/holdfast-test-store-XXXXXX");
    assert_non_null(scratch_make(world.path));
    snprintf(world.store_path, sizeof(world.store_path), "%s/s", world.path);
    struct env_uring_options options = {0};
    assert_int_equal(env_uring_run(&options, on_threads, NULL), 0);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", world.path);
    assert_int_equal(system(command), 0);
}

/* --- Memory ---------------------------------------------------------------------------------- */

BODY(mem_faults_answer_and_change_nothing)
{
    struct store *store = open_store();
    struct store_value value;
    put(store, "k", "1");
    store_mem_set_fault(world.mem, -EHOSTUNREACH, 100);
    struct store_op op = put_op("k", "2");
    uint64_t before_ns = env_now_ns();
    assert_int_equal(store_get(store, "k", &value), -EHOSTUNREACH);
    assert_int_equal(env_now_ns() - before_ns, 100);
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), -EHOSTUNREACH);
    store_mem_set_fault(world.mem, 0, 0);
    assert_holds(store, "k", "1");
    store_close(store);
}

BODY(mem_unknown_outcome_is_either)
{
    struct store *store = open_store();
    struct store_op op = put_op("k", "2");
    unsigned happened = 0;
    for (unsigned i = 0; i < 10; i++) {
        put(store, "k", "1");
        store_mem_set_fault(world.mem, -ETIMEDOUT, 0);
        assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), -ETIMEDOUT);
        store_mem_set_fault(world.mem, 0, 0);
        struct store_value value;
        assert_int_equal(store_get(store, "k", &value), 0);
        happened += value.data[0] == '2';
        store_value_fini(&value);
    }
    assert_int_equal(happened, 5);
    store_close(store);
}

BODY(mem_session_of_an_unreachable_node_ends_and_others_learn_of_it)
{
    struct store *store = open_store(), *other = open_store();
    struct store_watch *watch;
    struct store_op op = put_op("node/1", "here");
    op.session = true;
    told[0] = 0;
    assert_int_equal(store_session_start(store, 5 * SECOND_NS), 0);
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    assert_int_equal(store_watch_start(other, "node/", 0, note_change, NULL, &watch), 0);
    env_sleep_ns(60 * SECOND_NS);
    assert_holds(other, "node/1", "here");
    assert_true(store_session_valid_until_ns(store) > env_boottime_ns());
    store_mem_set_fault(world.mem, -EHOSTUNREACH, 0);
    env_sleep_ns(4 * SECOND_NS);
    assert_true(store_session_valid_until_ns(store) <= env_boottime_ns());
    env_sleep_ns(2 * SECOND_NS);
    store_mem_set_fault(world.mem, 0, 0);
    assert_holds(other, "node/1", NULL);
    assert_string_equal(told, "node/1=here -node/1 ");
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), -ESTALE);
    assert_int_equal(store_session_start(store, 5 * SECOND_NS), 0);
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    env_sleep_ns(1000);
    store_close(store);
    env_sleep_ns(1000);
    assert_string_equal(told, "node/1=here -node/1 node/1=here -node/1 ");
    store_close(other);
}

BODY(mem_watch_is_told_late_and_in_order)
{
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    assert_int_equal(store_watch_start(store, "", 0, note_change, NULL, &watch), 0);
    store_mem_set_watch_delay(world.mem, 10 * SECOND_NS);
    put(store, "a", "1");
    put(store, "b", "1");
    put(store, "c", "1");
    assert_string_equal(told, "");
    assert_holds(store, "c", "1");
    store_mem_set_watch_delay(world.mem, 0);
    put(store, "d", "1"); /* not before what is on its way */
    assert_string_equal(told, "");
    env_sleep_ns(10 * SECOND_NS);
    assert_string_equal(told, "a=1 b=1 c=1 d=1 ");
    store_close(store);
}

BODY(mem_resync_tells_how_it_ended)
{
    struct store *store = open_store();
    struct store_watch *watch;
    put(store, "gone", "0");
    told[0] = 0;
    assert_int_equal(store_watch_start(store, "", 0, note_change, NULL, &watch), 0);
    env_sleep_ns(1000);
    store_mem_set_watch_delay(world.mem, 1000 * SECOND_NS);
    struct store_op delete[] = {
        {.type = STORE_DELETE, .key = "gone"}, {.type = STORE_DELETE, .key = "brief"}};
    put(store, "a", "1");
    put(store, "brief", "1");
    put(store, "a", "2");
    assert_int_equal(store_txn(store, NULL, 0, delete, 2, NULL), 0);
    store_mem_resync(world.mem);
    env_sleep_ns(1000 * SECOND_NS);
    assert_string_equal(told, "gone=0 a=2 -gone ");
    store_close(store);
}

BODY(mem_conflicts_are_somebody_elses_writes)
{
    struct store *store = open_store();
    struct store_op op = put_op("k", "2");
    struct store_value value;
    put(store, "k", "1");
    assert_int_equal(store_get(store, "k", &value), 0);
    struct store_compare compare = {.key = "k", .revision = value.revision};
    store_value_fini(&value);
    store_mem_set_conflicts(world.mem, 1000000);
    assert_int_equal(store_txn(store, &compare, 1, &op, 1, NULL), -ECANCELED);
    store_mem_set_conflicts(world.mem, 0);
    assert_holds(store, "k", "1");
    assert_int_equal(store_get(store, "k", &value), 0);
    assert_true(value.revision > compare.revision);
    store_value_fini(&value);
    store_close(store);
}

static struct fake_env victim;

static void victim_body(void *arg)
{
    struct store *store = open_store();
    struct store_watch *watch;
    struct store_op op = put_op("node/2", "here");
    op.session = true;
    assert_int_equal(store_session_start(store, 5 * SECOND_NS), 0);
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    assert_int_equal(store_watch_start(store, "", 0, note_change, NULL, &watch), 0);
    store_mem_set_fault(world.mem, 0, SECOND_NS);
    put(store, "last", "words");
    told[0] = 0;
}

BODY(mem_content_survives_a_crashed_env_and_its_session_times_out)
{
    fake_env_init(&victim);
    fiber_spawn_on(&victim.env, "victim", victim_body, NULL);
    env_sleep_ns(1000);
    /* The put's first half second passes, then the node dies, its request half done. */
    victim.now_ns += SECOND_NS / 2;
    env_timer_run(&victim.env, victim.now_ns);
    env_sleep_ns(1000);
    fiber_kill_env(&victim.env);
    store_mem_env_crashed(world.mem, &victim.env);
    mem_release_all(&victim.env);
    env_fini(&victim.env);
    store_mem_set_fault(world.mem, 0, 0);
    struct store *store = open_store();
    assert_holds(store, "last", "words");
    assert_holds(store, "node/2", "here");
    env_sleep_ns(6 * SECOND_NS);
    assert_holds(store, "node/2", NULL);
    store_close(store);
}

int main(void)
{
    static int lmdb;
#define MEM(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define LMDB(name)                                    \
    {                                                 \
#name " (lmdb)", name, setup, teardown, &lmdb \
    }
#define BOTH(name) MEM(name), LMDB(name)
    const struct CMUnitTest tests[] = {
        SUITE(BOTH),
        LMDB(lmdb_directory_in_use_names_the_way_out),
        LMDB(lmdb_of_a_killed_process_keeps_what_was_answered_and_drops_its_session),
        LMDB(lmdb_that_failed_answers_nothing_until_it_is_opened_anew),
        LMDB(lmdb_garbage_is_refused_with_a_way_out),
        LMDB(lmdb_unusable_path_is_an_error),
        LMDB(lmdb_newer_format_is_refused),
        cmocka_unit_test(lmdb_works_on_helper_threads),
        MEM(mem_faults_answer_and_change_nothing),
        MEM(mem_unknown_outcome_is_either),
        MEM(mem_session_of_an_unreachable_node_ends_and_others_learn_of_it),
        MEM(mem_watch_is_told_late_and_in_order),
        MEM(mem_resync_tells_how_it_ended),
        MEM(mem_conflicts_are_somebody_elses_writes),
        MEM(mem_content_survives_a_crashed_env_and_its_session_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
