/* SPDX-License-Identifier: Apache-2.0
 *
 * Members over the memory store, in the simulation: several nodes, their sessions and disks. Peers
 * and remote disks are fakes here: what is connected, and what a node says of its disks, the test
 * decides.
 */
#include "sim_fixture.h"

#include "blockd/cluster/identity.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/remote_disk.h"
#include "blockd/disks.h"

#define TTL_NS (5 * SEC)

/* --- Fakes: by node, since all run in one process ------------------------------------------------ */

struct peers {
    struct list list;
};

static const char *unconnected;        /* the node that nobody reaches */
static enum disk_state home = DISK_IN; /* what nodes say of their disks */
static unsigned refreshes;
static int refresh_error;

void peers_set(struct peers *peers, const struct node_record *record)
{
    struct peer *peer = peers_find(peers, record->name);
    if (peer)
        return;
    peer = NEW(struct peer);
    strcpy(peer->name, record->name);
    list_push_back(&peers->list, &peer->link);
}

void peers_remove(struct peers *peers, const char *name)
{
    struct peer *peer = peers_find(peers, name);
    list_remove(&peer->link);
    mem_free(peer);
}

struct peer *peers_find(struct peers *peers, const char *name)
{
    list_for_each (it, &peers->list)
        if (strcmp(list_entry(it, struct peer, link)->name, name) == 0)
            return list_entry(it, struct peer, link);
    return NULL;
}

struct list *peers_all(struct peers *peers)
{
    return &peers->list;
}

bool peer_connected(const struct peer *peer)
{
    return !unconnected || strcmp(peer->name, unconnected) != 0;
}

struct disk *remote_disk_new(
    struct peer *peer, const struct disk_record *record, const struct remote_disk_options *options)
{
    struct disk *disk = NEW(struct disk);
    disk->number = record->number;
    disk->uuid = record->uuid;
    strcpy(disk->node, record->node);
    strcpy(disk->class_name, record->class_name);
    return disk;
}

void remote_disk_free(struct disk *disk)
{
    mem_free(disk);
}

int remote_disks_refresh(struct peer *peer, struct disk_list *disks)
{
    env_sleep_ns(MS);
    refreshes++;
    if (refresh_error)
        return refresh_error;
    peer->disk_status_ns = env_now_ns();
    list_for_each (it, &disks->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        if (!disk->local && strcmp(disk->node, peer->name) == 0) {
            disk->home_state = home;
            disk->free_bytes = 1 << 20;
        }
    }
    return 0;
}

/* --- A node -------------------------------------------------------------------------------------- */

struct fixture {
    struct store_mem *mem;
    struct node {
        const char *name;
        struct env *env;
        struct store *store;
        struct disks *disks;
        struct peers *peers;
        struct members *members;
        unsigned changes, renewals;
        uint64_t renewed;
        bool stop;
    } nodes[3];
    struct sim *sim;
};

static void on_changed(void *ctx)
{
    ((struct node *)ctx)->changes++;
}

static void on_renewed(void *ctx, uint64_t session)
{
    struct node *node = ctx;
    env_sleep_ns(MS);
    node->renewals++;
    node->renewed = session;
}

static struct fixture *current;

static struct uuid publish(struct node *node, const char *rack)
{
    struct identity identity;
    CLEANUP_FREE char *error = NULL;
    CHECK(identity_alone(node->store, node->name, NULL, &identity, &error) == 0);
    CHECK(identity_publish(node->store, &identity.node, "tcp:10.0.0.9:1", rack, &error) == 0);
    return identity.cluster.uuid;
}

static void node_up(struct node *node)
{
    struct disks_options disks = {.node_name = node->name};
    struct members_options options = {.session_ttl_ns = TTL_NS,
        .address = "tcp:10.0.0.9:1",
        .software = "1.2",
        .changed = on_changed,
        .session_renewed = on_renewed,
        .peers_wait_ns = 100 * MS,
        .ctx = node};
    CLEANUP_FREE char *error = NULL;
    node->store = options.store = store_mem_open(current->mem);
    node->disks = options.disks = disks_new(node->store, &disks);
    node->peers = options.peers = NEW(struct peers);
    list_init(&node->peers->list);
    strcpy(options.self.node_name, node->name);
    options.self.incarnation = env_random_u64();
    env_boot_id(options.self.boot_id);
    options.self.cluster = publish(node, "r1");
    CHECK_MSG(members_start(&options, &node->members, &error) == 0, "%s", error);
    members_wait(node->members);
}

static void node_down(struct node *node)
{
    members_stop(node->members);
    node->members = NULL;
    while (!list_empty(&node->peers->list))
        peers_remove(node->peers, list_entry(node->peers->list.next, struct peer, link)->name);
    mem_free(node->peers);
    disks_free(node->disks);
    store_close(node->store);
}

/* Lives until it is told to stop. */
static void node_main(void *arg)
{
    struct node *node = arg;
    node->stop = false;
    node_up(node);
    while (!node->stop)
        env_sleep_ns(10 * MS);
    node_down(node);
}

static uint64_t sim_clock(void)
{
    return sim_now_ns(sim_current());
}

static struct fixture *fixture_new(uint64_t seed)
{
    static const char *const names[] = {"n1", "n2", "n3"};
    struct fixture *f = calloc(1, sizeof(*f));
    current = f;
    unconnected = NULL;
    home = DISK_IN;
    f->sim = sim_with(seed);
    f->mem = store_mem_new();
    store_mem_set_clock(f->mem, sim_clock);
    for (unsigned i = 0; i < 3; i++) {
        f->nodes[i].name = names[i];
        f->nodes[i].env = sim_node_new(f->sim, names[i]);
    }
    return f;
}

static void start(struct fixture *f, unsigned i)
{
    sim_node_start(f->nodes[i].env, "node", node_main, &f->nodes[i]);
    (void)sim_run_for(f->sim, SEC);
    assert_non_null(f->nodes[i].members);
}

static void stop(struct fixture *f, unsigned i)
{
    f->nodes[i].stop = true;
    (void)sim_run_for(f->sim, SEC);
    assert_null(f->nodes[i].members);
}

static void crash(struct fixture *f, unsigned i)
{
    sim_node_crash(f->nodes[i].env);
    store_mem_env_crashed(f->mem, f->nodes[i].env);
    f->nodes[i].members = NULL;
}

static void fixture_free(struct fixture *f)
{
    for (unsigned i = 0; i < 3; i++)
        if (f->nodes[i].members)
            stop(f, i);
    store_mem_free(f->mem);
    sim_free(f->sim);
    free(f);
}

/* What fn does on node i. */
static void on(struct fixture *f, unsigned i, fiber_fn *fn)
{
    run_on(f->nodes[i].env, fn, &f->nodes[i]);
}

static const struct member *see(struct fixture *f, unsigned by, const char *name)
{
    return members_find(f->nodes[by].members, name);
}

static struct disk *see_disk(struct fixture *f, unsigned by, uint32_t number)
{
    list_for_each (it, &members_disks(f->nodes[by].members)->all)
        if (list_entry(it, struct disk, link)->number == number)
            return list_entry(it, struct disk, link);
    return NULL;
}

/* --- Tests --------------------------------------------------------------------------------------- */

static void nodes_see_one_another_come_and_go(void **state)
{
    struct fixture *f = fixture_new(1);
    start(f, 0);
    assert_null(see(f, 0, "n2"));
    start(f, 1);
    const struct member *n2 = see(f, 0, "n2");
    assert_int_equal(n2->session, members_session(f->nodes[1].members));
    assert_true(members_session_alive(f->nodes[0].members, n2->session));
    assert_string_equal(n2->record.rack, "r1");
    assert_string_equal(n2->process.address, "tcp:10.0.0.9:1");
    assert_string_equal(n2->process.software, "1.2");
    assert_int_equal(see(f, 1, "n1")->session, members_session(f->nodes[0].members));

    uint64_t session = n2->session;
    unsigned changes = f->nodes[0].changes;
    stop(f, 1); /* the key goes with it, nobody waits for the lease */
    assert_int_equal(see(f, 0, "n2")->session, 0);
    assert_true(see(f, 0, "n2")->down_since_ns > 0);
    assert_false(members_session_alive(f->nodes[0].members, session));
    assert_true(f->nodes[0].changes > changes);
    fixture_free(f);
}

static void a_crashed_node_is_down_when_its_lease_ends(void **state)
{
    struct fixture *f = fixture_new(2);
    start(f, 0);
    start(f, 1);
    crash(f, 1);
    (void)sim_run_for(f->sim, TTL_NS / 2);
    assert_int_not_equal(see(f, 0, "n2")->session, 0);
    (void)sim_run_for(f->sim, TTL_NS);
    assert_int_equal(see(f, 0, "n2")->session, 0);
    fixture_free(f);
}

/* B2: at once, not after the lease. */
static void a_restarted_node_ends_its_predecessors_session(void **state)
{
    struct fixture *f = fixture_new(3);
    start(f, 0);
    start(f, 1);
    uint64_t before = members_session(f->nodes[1].members);
    crash(f, 1);
    start(f, 1);
    assert_int_not_equal(members_session(f->nodes[1].members), before);
    assert_false(members_session_alive(f->nodes[0].members, before));
    assert_int_equal(see(f, 0, "n2")->session, members_session(f->nodes[1].members));
    assert_int_not_equal(see(f, 0, "n1")->session, 0); /* and no other's */
    fixture_free(f);
}

/* B2: this machine has booted since, or it is another one with a copy of the state directory, and the
 * first is alive: its lease is waited for. */
static void a_session_of_another_boot_is_left_alone(void **state)
{
    struct fixture *f = fixture_new(3);
    start(f, 0);
    start(f, 1);
    uint64_t before = members_session(f->nodes[1].members);
    sim_node_power_cut(f->nodes[1].env, SIM_CUT_LOSE_ALL);
    store_mem_env_crashed(f->mem, f->nodes[1].env);
    f->nodes[1].members = NULL;
    start(f, 1);
    assert_true(members_session_alive(f->nodes[0].members, before));
    assert_int_equal(see(f, 0, "n2")->session, members_session(f->nodes[1].members));
    (void)sim_run_for(f->sim, 2 * TTL_NS);
    assert_false(members_session_alive(f->nodes[0].members, before));
    fixture_free(f);
}

/* B1, S16 */
static void a_lost_session_is_followed_by_a_new_one_under_another_number(void **state)
{
    struct fixture *f = fixture_new(4);
    start(f, 0);
    start(f, 1);
    struct node *n1 = &f->nodes[0];
    uint64_t before = members_session(n1->members);
    store_mem_set_fault(f->mem, -EHOSTUNREACH, 0);
    (void)sim_run_for(f->sim, TTL_NS / 2);
    assert_int_equal(members_session(n1->members), before); /* unreachable is not lost */
    (void)sim_run_for(f->sim, 2 * TTL_NS);
    assert_int_equal(members_valid_until_ns(n1->members), 0);
    assert_int_equal(members_session(n1->members), 0);
    assert_int_equal(n1->renewals, 0);
    store_mem_set_fault(f->mem, 0, 0);
    (void)sim_run_for(f->sim, 2 * SEC);
    uint64_t after = members_session(n1->members);
    assert_int_not_equal(after, 0);
    assert_int_not_equal(after, before);
    assert_int_equal(n1->renewals, 1);
    assert_int_equal(n1->renewed, after);
    assert_true(members_valid_until_ns(n1->members) > 0);
    assert_int_equal(see(f, 1, "n1")->session, after);
    assert_false(members_session_alive(f->nodes[1].members, before));
    fixture_free(f);
}

static void delete_own_key(void *arg)
{
    struct node *node = arg;
    char key[KEY_BYTES_MAX];
    struct store_op op = {
        .type = STORE_DELETE, .key = key_session(members_session(node->members), key)};
    CHECK(store_txn(node->store, NULL, 0, &op, 1, NULL) == 0);
}

static void a_session_whose_key_was_deleted_is_lost(void **state)
{
    struct fixture *f = fixture_new(5);
    start(f, 0);
    uint64_t before = members_session(f->nodes[0].members);
    on(f, 0, delete_own_key);
    (void)sim_run_for(f->sim, SEC);
    assert_int_not_equal(members_session(f->nodes[0].members), before);
    assert_int_equal(f->nodes[0].renewals, 1);
    fixture_free(f);
}

/* The store answers nothing clear for a while: what is left of such attempts does not look alive. */
static void unclear_answers_leave_one_session_in_the_end(void **state)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct fixture *f = fixture_new(seed);
        start(f, 0);
        start(f, 1);
        on(f, 0, delete_own_key);
        store_mem_set_fault(f->mem, -ETIMEDOUT, 0);
        (void)sim_run_for(f->sim, 3 * SEC);
        store_mem_set_fault(f->mem, 0, 0);
        (void)sim_run_for(f->sim, 2 * TTL_NS);
        unsigned sessions = 0;
        list_for_each (it, members_all(f->nodes[1].members))
            sessions += list_entry(it, struct member, link)->session != 0;
        assert_int_equal(sessions, 2);
        assert_int_equal(see(f, 1, "n1")->session, members_session(f->nodes[0].members));
        fixture_free(f);
    }
}

static void put_disk(void *arg)
{
    struct node *node = arg;
    struct disk_record record = {.number = 7, .uuid = uuid_random(), .state = DISK_IN};
    strcpy(record.path, "/d");
    strcpy(record.node, node->name);
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = disk_record_encode(&record, NULL);
    struct store_op op = {STORE_PUT, key_disk(7, key), text, strlen(text), false};
    CHECK(store_txn(node->store, NULL, 0, &op, 1, NULL) == 0);
}

static void delete_disk(void *arg)
{
    struct node *node = arg;
    char key[KEY_BYTES_MAX];
    struct store_op op = {.type = STORE_DELETE, .key = key_disk(7, key)};
    CHECK(store_txn(node->store, NULL, 0, &op, 1, NULL) == 0);
}

static void tell_peers(void *arg)
{
    struct node *node = arg;
    list_for_each (it, peers_all(node->peers))
        members_peer_changed(node->members, list_entry(it, struct peer, link));
}

/* B3 */
static void a_remote_disk_is_in_while_its_node_is_up_and_connected(void **state)
{
    struct fixture *f = fixture_new(6);
    start(f, 0);
    start(f, 1);
    assert_false(members_disk_known(f->nodes[0].members, 7));
    on(f, 1, put_disk);
    (void)sim_run_for(f->sim, 2 * SEC);
    struct disk *disk = see_disk(f, 0, 7);
    assert_non_null(disk);
    assert_true(members_disk_known(f->nodes[0].members, 7));
    assert_string_equal(members_disk_record(f->nodes[0].members, 7)->path, "/d");
    assert_null(see_disk(f, 1, 7)); /* its own: disks.h has it, when it is open */
    assert_int_equal(disk->state, DISK_IN);
    assert_int_equal(disk->missing_since_ns, 0);
    assert_string_equal(disk->rack, "r1");
    assert_string_equal(disk->node, "n2");
    assert_true(disk->free_bytes > 0);

    unsigned changes = f->nodes[0].changes;
    unconnected = "n2";
    on(f, 0, tell_peers);
    assert_int_equal(disk->state, DISK_MISSING);
    assert_int_not_equal(disk->missing_since_ns, 0);
    assert_true(f->nodes[0].changes > changes);
    unconnected = NULL;
    on(f, 0, tell_peers);
    assert_int_equal(disk->state, DISK_IN);
    assert_int_equal(disk->missing_since_ns, 0);

    crash(f, 1); /* connected, says the fake; that its session goes changes nothing */
    (void)sim_run_for(f->sim, 2 * TTL_NS);
    assert_int_equal(disk->state, DISK_IN);
    fixture_free(f);
}

/* Its size is not known before. */
static void a_disk_is_not_used_before_its_node_has_told_of_it(void **state)
{
    struct fixture *f = fixture_new(13);
    start(f, 0);
    start(f, 1);
    refresh_error = -ETIMEDOUT;
    on(f, 1, put_disk);
    (void)sim_run_for(f->sim, 3 * SEC);
    assert_int_equal(see_disk(f, 0, 7)->state, DISK_MISSING);
    refresh_error = 0;
    (void)sim_run_for(f->sim, 2 * SEC);
    assert_int_equal(see_disk(f, 0, 7)->state, DISK_IN);
    fixture_free(f);
}

static void what_a_node_says_of_its_disk_counts(void **state)
{
    struct fixture *f = fixture_new(7);
    start(f, 0);
    start(f, 1);
    on(f, 1, put_disk);
    home = DISK_FAILED;
    (void)sim_run_for(f->sim, 2 * SEC);
    struct disk *disk = see_disk(f, 0, 7);
    assert_int_equal(disk->state, DISK_FAILED);
    unconnected = "n2";
    on(f, 0, tell_peers);
    assert_int_equal(disk->state, DISK_FAILED); /* it does not get better by that */
    unconnected = NULL;
    home = DISK_MISSING;
    (void)sim_run_for(f->sim, 2 * SEC);
    assert_int_equal(disk->state, DISK_MISSING);
    assert_int_not_equal(disk->missing_since_ns, 0);
    fixture_free(f);
}

/* B4 */
static void a_removed_disk_stays_in_the_list_without_a_number(void **state)
{
    struct fixture *f = fixture_new(8);
    start(f, 0);
    start(f, 1);
    on(f, 1, put_disk);
    (void)sim_run_for(f->sim, 2 * SEC);
    struct disk *disk = see_disk(f, 0, 7);
    on(f, 1, delete_disk);
    (void)sim_run_for(f->sim, SEC);
    assert_null(see_disk(f, 0, 7));
    assert_int_equal(disk->number, 0);
    assert_int_equal(disk->state, DISK_MISSING);
    assert_true(members_disk_known(f->nodes[0].members, 7)); /* removed, not unheard of */
    on(f, 1, put_disk); /* another record of that number would be another disk */
    (void)sim_run_for(f->sim, 2 * SEC);
    assert_ptr_not_equal(see_disk(f, 0, 7), disk);
    fixture_free(f);
}

static void a_node_that_starts_waits_for_those_that_are_up(void **state)
{
    struct fixture *f = fixture_new(9);
    start(f, 0);
    start(f, 1);
    on(f, 1, put_disk);
    crash(f, 0);
    refreshes = 0;
    start(f, 0);
    assert_true(refreshes > 0);
    assert_int_equal(see_disk(f, 0, 7)->state, DISK_IN);
    fixture_free(f);
}

static void remove_node_3(void *arg)
{
    struct node *node = arg;
    char key[KEY_BYTES_MAX];
    struct store_op op = {.type = STORE_DELETE, .key = key_node("n3", key)};
    CHECK(store_txn(node->store, NULL, 0, &op, 1, NULL) == 0);
}

static void publish_again(void *arg)
{
    publish(arg, "r1");
}

static void a_removed_node_is_forgotten_with_its_peer(void **state)
{
    struct fixture *f = fixture_new(10);
    start(f, 0);
    start(f, 2);
    assert_non_null(peers_find(f->nodes[0].peers, "n3"));
    stop(f, 2);
    on(f, 0, remove_node_3);
    (void)sim_run_for(f->sim, 2 * SEC);
    assert_null(see(f, 0, "n3"));
    assert_null(peers_find(f->nodes[0].peers, "n3"));
    fixture_free(f);
}

static void end_session_of_3(void *arg)
{
    struct node *node = arg;
    char key[KEY_BYTES_MAX];
    struct store_op op = {
        .type = STORE_DELETE, .key = key_session(members_session(current->nodes[2].members), key)};
    CHECK(store_txn(node->store, NULL, 0, &op, 1, NULL) == 0);
}

/* B5: it was paused or cut off for so long that it was given up. */
static void a_node_that_was_removed_gets_no_session_again(void **state)
{
    struct fixture *f = fixture_new(13);
    start(f, 0);
    start(f, 2);
    on(f, 0, remove_node_3);
    on(f, 0, end_session_of_3);
    (void)sim_run_for(f->sim, 5 * SEC);
    assert_int_equal(members_session(f->nodes[2].members), 0);
    assert_null(members_find(f->nodes[2].members, "n3"));
    on(f, 2, publish_again);
    (void)sim_run_for(f->sim, SEC);
    assert_int_not_equal(members_session(f->nodes[2].members), 0);
    fixture_free(f);
}

static void set_store_back(void *arg)
{
    store_mem_set_back(current->mem);
}

/* B6: of a snapshot of before it joined. */
static void a_node_that_is_younger_than_a_restored_store_stays(void **state)
{
    struct fixture *f = fixture_new(14);
    start(f, 0);
    start(f, 2);
    on(f, 0, set_store_back);
    on(f, 0, remove_node_3);
    on(f, 0, end_session_of_3);
    (void)sim_run_for(f->sim, 2 * SEC);
    assert_int_not_equal(members_session(f->nodes[2].members), 0);
    assert_non_null(see(f, 0, "n3"));
    assert_int_equal(see(f, 0, "n3")->session, members_session(f->nodes[2].members));
    on(f, 0, remove_node_3); /* in the history of now */
    on(f, 0, end_session_of_3);
    (void)sim_run_for(f->sim, 5 * SEC);
    assert_int_equal(members_session(f->nodes[2].members), 0);
    fixture_free(f);
}

/* B6 */
static void a_disk_that_a_restored_store_does_not_know_is_not_removed_at_once(void **state)
{
    struct fixture *f = fixture_new(15);
    start(f, 0);
    start(f, 1);
    on(f, 1, put_disk);
    (void)sim_run_for(f->sim, 2 * SEC);
    struct disk *disk = see_disk(f, 0, 7);
    for (unsigned again = 0; again < 2; again++) {
        on(f, 0, set_store_back);
        on(f, 1, delete_disk);
        (void)sim_run_for(f->sim, 5 * SEC);
        assert_ptr_equal(see_disk(f, 0, 7), disk);
        assert_int_equal(disk->state, DISK_IN);
        if (again)
            break;
        on(f, 1, put_disk);
        (void)sim_run_for(f->sim, 90 * SEC);
        assert_ptr_equal(see_disk(f, 0, 7), disk);
    }
    (void)sim_run_for(f->sim, 90 * SEC); /* nobody has put it again */
    assert_null(see_disk(f, 0, 7));
    fixture_free(f);
}

static void each_volume_is_cared_for_by_one_node_that_is_up(void **state)
{
    struct fixture *f = fixture_new(11);
    unsigned ours[3] = {0};
    uint64_t owner[300];
    for (unsigned i = 0; i < 3; i++)
        start(f, i);
    for (uint64_t id = 0; id < 300; id++) {
        unsigned count = 0;
        for (unsigned i = 0; i < 3; i++)
            if (members_volume_is_ours(f->nodes[i].members, id * 77)) {
                ours[i]++;
                owner[id] = i;
                count++;
            }
        assert_int_equal(count, 1);
    }
    for (unsigned i = 0; i < 3; i++)
        assert_in_range(ours[i], 50, 150);
    stop(f, 2); /* its share goes to the others, theirs stays */
    for (uint64_t id = 0; id < 300; id++) {
        bool first = members_volume_is_ours(f->nodes[0].members, id * 77);
        assert_true(first != members_volume_is_ours(f->nodes[1].members, id * 77));
        if (owner[id] != 2)
            assert_int_equal(first, owner[id] == 0);
    }
    fixture_free(f);
}

static void fails_to_start(void *arg)
{
    struct node *node = arg;
    struct disks_options disks = {.node_name = node->name};
    struct members_options options = {.session_ttl_ns = TTL_NS};
    CLEANUP_FREE char *error = NULL;
    struct members *members;
    store_mem_set_fault(current->mem, -EHOSTUNREACH, 0);
    options.store = store_mem_open(current->mem);
    options.disks = disks_new(options.store, &disks);
    strcpy(options.self.node_name, node->name);
    CHECK(members_start(&options, &members, &error) == -EHOSTUNREACH);
    CHECK(strstr(error, "store"));
    store_mem_set_fault(current->mem, 0, 0);
    disks_free(options.disks);
    store_close(options.store);
}

static void without_the_store_it_does_not_start_and_says_why(void **state)
{
    struct fixture *f = fixture_new(12);
    on(f, 0, fails_to_start);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_see_one_another_come_and_go),
        cmocka_unit_test(a_crashed_node_is_down_when_its_lease_ends),
        cmocka_unit_test(a_restarted_node_ends_its_predecessors_session),
        cmocka_unit_test(a_session_of_another_boot_is_left_alone),
        cmocka_unit_test(a_lost_session_is_followed_by_a_new_one_under_another_number),
        cmocka_unit_test(a_session_whose_key_was_deleted_is_lost),
        cmocka_unit_test(unclear_answers_leave_one_session_in_the_end),
        cmocka_unit_test(a_remote_disk_is_in_while_its_node_is_up_and_connected),
        cmocka_unit_test(a_disk_is_not_used_before_its_node_has_told_of_it),
        cmocka_unit_test(what_a_node_says_of_its_disk_counts),
        cmocka_unit_test(a_removed_disk_stays_in_the_list_without_a_number),
        cmocka_unit_test(a_node_that_starts_waits_for_those_that_are_up),
        cmocka_unit_test(a_removed_node_is_forgotten_with_its_peer),
        cmocka_unit_test(a_node_that_was_removed_gets_no_session_again),
        cmocka_unit_test(a_node_that_is_younger_than_a_restored_store_stays),
        cmocka_unit_test(a_disk_that_a_restored_store_does_not_know_is_not_removed_at_once),
        cmocka_unit_test(each_volume_is_cared_for_by_one_node_that_is_up),
        cmocka_unit_test(without_the_store_it_does_not_start_and_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
