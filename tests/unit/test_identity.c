/* SPDX-License-Identifier: Apache-2.0
 *
 * Who a node is: its state directory and the store together. In the simulation, over the memory store.
 */
#include "sim_store_fixture.h"

#include "blockd/cluster/identity.h"

#define DIR "/var/lib/holdfast"

static struct state_file *open_state(const char *directory)
{
    struct state_file *file = NULL;
    CLEANUP_FREE char *error = NULL;
    CHECK_MSG(state_file_open(directory, &file, &error) == 0, "%s", error);
    return file;
}

static enum identity_state look(
    const char *name, struct state_file *file, struct identity *ret_identity)
{
    enum identity_state state;
    CLEANUP_FREE char *error = NULL;
    CHECK_MSG(identity_look(store, name, file, &state, ret_identity, &error) == 0, "%s", error);
    return state;
}

/* `call` puts its sentence into `error`. */
#define REFUSED(call, want, sentence)                      \
    do {                                                   \
        int r_ = (call);                                   \
        CHECK_MSG(r_ == (want), "%d: %s", r_, error);      \
        CHECK_MSG(strstr(error, (sentence)), "%s", error); \
        mem_free(error);                                   \
        error = NULL;                                      \
    } while (0)

/* --- State file ---------------------------------------------------------------------------------- */

static void the_state_file_keeps_who_this_is_and_locks_out_others(void)
{
    struct state_identity saved = {uuid_random(), uuid_random(), "n1"};
    char *error = NULL;
    struct state_file *file = open_state(DIR), *second;
    CHECK(uuid_is_nil(&state_file_identity(file)->node));
    REFUSED(state_file_open(DIR, &second, &error), -EBUSY, "another holdfast-blockd");
    CHECK(state_file_save(file, &saved, &error) == 0);
    state_file_close(file);
    file = open_state(DIR);
    const struct state_identity *again = state_file_identity(file);
    CHECK(uuid_equal(&again->node, &saved.node) && uuid_equal(&again->cluster, &saved.cluster));
    CHECK(strcmp(again->name, "n1") == 0);
    state_file_close(file);
}

static void a_damaged_state_file_is_not_taken_for_an_empty_one(void)
{
    struct state_identity saved = {uuid_random(), uuid_random(), "n1"};
    char *error = NULL;
    struct state_file *file = open_state(DIR);
    CHECK(state_file_save(file, &saved, &error) == 0);
    state_file_close(file);
    struct sim_disk *disk = sim_disk_find(fiber_env(), DIR "/node");
    sim_disk_poke(disk, 0, "x", 1);
    REFUSED(state_file_open(DIR, &file, &error), -EBADMSG, "restore it from a backup");
}

/* --- Alone --------------------------------------------------------------------------------------- */

static void a_node_alone_makes_what_is_missing_once(void)
{
    struct identity first, second;
    char *error = NULL;
    struct state_file *file = open_state(DIR);
    CHECK(identity_alone(store, "n1", file, &first, &error) == 0);
    CHECK(identity_alone(store, "n1", file, &second, &error) == 0);
    CHECK(uuid_equal(&first.node.uuid, &second.node.uuid));
    CHECK(uuid_equal(&first.cluster.uuid, &second.cluster.uuid));
    CHECK(uuid_equal(&state_file_identity(file)->node, &first.node.uuid));
    state_file_close(file);
}

static void a_node_from_before_the_state_file_is_taken_over(void)
{
    struct identity before, after;
    char *error = NULL;
    CHECK(identity_alone(store, "n1", NULL, &before, &error) == 0);
    struct state_file *file = open_state(DIR);
    CHECK(identity_alone(store, "n1", file, &after, &error) == 0);
    CHECK(uuid_equal(&before.node.uuid, &after.node.uuid));
    CHECK(uuid_equal(&state_file_identity(file)->node, &before.node.uuid));
    state_file_close(file);
}

/* --- In a cluster -------------------------------------------------------------------------------- */

static void a_cluster_is_made_once_and_joined_by_each(void)
{
    struct identity one, two;
    char *error = NULL;
    struct state_file *file1 = open_state("/n1"), *file2 = open_state("/n2");
    CHECK(look("n1", file1, &one) == IDENTITY_NO_CLUSTER);
    REFUSED(identity_join(store, "n1", file1, &error), -ENOENT, "cluster init");
    CHECK(identity_init(store, file1, &error) == 0);
    REFUSED(identity_init(store, file2, &error), -EEXIST, "cluster join");
    CHECK(look("n1", file1, &one) == IDENTITY_NOT_JOINED);
    CHECK(identity_join(store, "n1", file1, &error) == 0);
    CHECK(identity_join(store, "n1", file1, &error) == 0); /* a repeated answer that got lost */
    CHECK(identity_join(store, "n2", file2, &error) == 0);
    CHECK(look("n1", file1, &one) == IDENTITY_JOINED);
    CHECK(look("n2", file2, &two) == IDENTITY_JOINED);
    CHECK(uuid_equal(&one.cluster.uuid, &two.cluster.uuid));
    CHECK(!uuid_equal(&one.node.uuid, &two.node.uuid));
    CHECK(uuid_equal(&one.node.uuid, &state_file_identity(file1)->node));

    CHECK(identity_publish(store, &one.node, "tcp:10.0.0.1:1", "r1", &error) == 0);
    CHECK(look("n1", file1, &two) == IDENTITY_JOINED);
    CHECK(strcmp(two.node.address, "tcp:10.0.0.1:1") == 0 && strcmp(two.node.rack, "r1") == 0);
    state_file_close(file1);
    state_file_close(file2);
}

static void two_hosts_do_not_get_one_name(void)
{
    struct identity identity;
    enum identity_state state;
    char *error = NULL;
    struct state_file *file1 = open_state("/h1"), *file2 = open_state("/h2");
    CHECK(identity_init(store, file1, &error) == 0);
    CHECK(identity_join(store, "n1", file1, &error) == 0);
    REFUSED(identity_look(store, "n1", file2, &state, &identity, &error), -EEXIST,
        "choose another [node] name");
    REFUSED(identity_join(store, "n1", file2, &error), -EEXIST, "holdfast node remove n1");
    /* Under another name it is welcome. */
    CHECK(look("n2", file2, &identity) == IDENTITY_NOT_JOINED);
    CHECK(identity_join(store, "n2", file2, &error) == 0);
    state_file_close(file1);
    state_file_close(file2);
}

static void a_host_that_was_renamed_is_told_its_old_name(void)
{
    struct identity identity;
    enum identity_state state;
    char *error = NULL, key[KEY_BYTES_MAX];
    struct state_file *file = open_state(DIR);
    CHECK(identity_init(store, file, &error) == 0);
    CHECK(identity_join(store, "old", file, &error) == 0);
    REFUSED(identity_look(store, "new", file, &state, &identity, &error), -EEXIST,
        "set [node] name = old");
    /* Unless that node was removed. */
    struct store_op op = {.type = STORE_DELETE, .key = key_node("old", key)};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    CHECK(look("new", file, &identity) == IDENTITY_NOT_JOINED);
    CHECK(identity_join(store, "new", file, &error) == 0);
    CHECK(look("new", file, &identity) == IDENTITY_JOINED);
    state_file_close(file);
}

static void a_node_of_another_cluster_is_refused(void)
{
    struct identity identity;
    enum identity_state state;
    char *error = NULL;
    struct store_mem *other_mem = store_mem_new();
    struct store *other = store_mem_open(other_mem);
    struct state_file *file = open_state(DIR);
    CHECK(identity_init(store, file, &error) == 0);
    CHECK(identity_join(store, "n1", file, &error) == 0);
    CHECK(identity_look(other, "n1", file, &state, &identity, &error) == 0);
    CHECK(state == IDENTITY_NO_CLUSTER); /* etcd has lost everything, say */
    REFUSED(identity_init(other, file, &error), -EEXIST, "restored from a backup");
    struct state_file *fresh = open_state("/fresh");
    CHECK(identity_init(other, fresh, &error) == 0);
    REFUSED(
        identity_look(other, "n1", file, &state, &identity, &error), -EXDEV, "belongs to cluster");
    REFUSED(identity_join(other, "n1", file, &error), -EXDEV, "belongs to cluster");
    REFUSED(identity_alone(other, "n1", file, &identity, &error), -EXDEV, "check [store]");
    state_file_close(file);
    state_file_close(fresh);
    store_close(other);
    store_mem_free(other_mem);
}

/* Each answer of the store may be lost: a join that is repeated ends in one record of this node. */
static void a_join_that_got_no_clear_answer_can_be_repeated(void)
{
    for (unsigned i = 0; i < 20; i++) {
        struct identity identity;
        char name[8], dir[16];
        CLEANUP_FREE char *error = NULL;
        snprintf(name, sizeof(name), "n%u", i);
        snprintf(dir, sizeof(dir), "/dir%u", i);
        struct state_file *file = open_state(dir);
        if (i == 0)
            CHECK(identity_init(store, file, &error) == 0);
        struct node_record record;
        struct uuid uuid;
        store_mem_set_fault(mem, -ETIMEDOUT, 0);
        CLEANUP_FREE char *lost = NULL;
        CHECK(identity_join(store, name, file, &lost) == -ETIMEDOUT);
        store_mem_set_fault(mem, 0, 0);
        CHECK(identity_join(store, name, file, &error) == 0);
        CHECK(look(name, file, &identity) == IDENTITY_JOINED);
        record = identity.node;
        uuid = state_file_identity(file)->node;
        CHECK(uuid_equal(&record.uuid, &uuid));
        state_file_close(file);
    }
}

/* Each test sets up its own. */
static void setup(void)
{
}

static void teardown(void)
{
}

TEST(the_state_file_keeps_who_this_is_and_locks_out_others)
TEST(a_damaged_state_file_is_not_taken_for_an_empty_one)
TEST(a_node_alone_makes_what_is_missing_once)
TEST(a_node_from_before_the_state_file_is_taken_over)
TEST(a_cluster_is_made_once_and_joined_by_each)
TEST(two_hosts_do_not_get_one_name)
TEST(a_host_that_was_renamed_is_told_its_old_name)
TEST(a_node_of_another_cluster_is_refused)
TEST(a_join_that_got_no_clear_answer_can_be_repeated)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_state_file_keeps_who_this_is_and_locks_out_others_),
        cmocka_unit_test(a_damaged_state_file_is_not_taken_for_an_empty_one_),
        cmocka_unit_test(a_node_alone_makes_what_is_missing_once_),
        cmocka_unit_test(a_node_from_before_the_state_file_is_taken_over_),
        cmocka_unit_test(a_cluster_is_made_once_and_joined_by_each_),
        cmocka_unit_test(two_hosts_do_not_get_one_name_),
        cmocka_unit_test(a_host_that_was_renamed_is_told_its_old_name_),
        cmocka_unit_test(a_node_of_another_cluster_is_refused_),
        cmocka_unit_test(a_join_that_got_no_clear_answer_can_be_repeated_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
