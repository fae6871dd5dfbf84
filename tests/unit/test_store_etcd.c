/* SPDX-License-Identifier: Apache-2.0
 *
 * The suite of every store against a real etcd; then what only a cluster can do to it: a leader
 * killed, all members gone for a while, a lease that runs out, a compaction while a watch was cut
 * off, and a server that is no etcd.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/store_etcd.h"

#include <poll.h>
#include <pthread.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"
#include "common/store_etcd_http.h"
#include "common/store_etcd_json.h"
#include "etcd_cluster.h"

static struct etcd_cluster cluster;
static struct store_etcd_options options;
static const char *endpoints[MEMBERS_MAX];
static uint64_t second_ns = 100000000; /* a tenth */

static void use_cluster(void)
{
    for (unsigned i = 0; i < cluster.count; i++)
        endpoints[i] = cluster.members[i].client_url;
    options = (struct store_etcd_options){.endpoints = endpoints,
        .endpoint_count = cluster.count,
        /* Where nobody is there to go on with, an answer may take as long as a busy machine takes. */
        .request_timeout_ns = (cluster.count == 1 ? 20 : 2) * 1000000000ull};
}

/* Members take their time to start. */
static struct store *open_store(void)
{
    struct store *store;
    for (unsigned tries = 0;; tries++) {
        CLEANUP_FREE char *error = NULL;
        int r = store_etcd_open(&options, &store, &error);
        if (r == 0)
            return store;
        CHECK_MSG(r == -EHOSTUNREACH && tries < 200, "%s", error);
        env_sleep_ns(100000000);
    }
}

static int body_main(void *arg)
{
    ((void (*)(void))arg)();
    return 0;
}

static void run(void (*body)(void))
{
    struct env_uring_options env = {0};
    assert_int_equal(env_uring_run(&env, body_main, (void *)body), 0);
}

#include "store_suite.h"

#define MS_NS 1000000ull

/* Until an unknown outcome or an election is over. */
static void put_until_done(struct store *store, const char *key, const char *text)
{
    struct store_op op = put_op(key, text);
    for (unsigned tries = 0;; tries++) {
        int r = store_txn(store, NULL, 0, &op, 1, NULL);
        if (r == 0)
            return;
        CHECK_MSG((r == -ETIMEDOUT || r == -EHOSTUNREACH) && tries < 200, "%d", r);
        env_sleep_ns(50 * MS_NS);
    }
}

static void clear(void)
{
    struct store *store = open_store();
    put_until_done(store, "there", "is a leader");
    struct store_value *values;
    unsigned count;
    CHECK(store_list(store, "", &values, &count) == 0);
    for (unsigned i = 0; i < count; i++)
        remove_key(store, values[i].key);
    store_list_free(values, count);
    store_close(store);
}

static int setup(void **state)
{
    use_cluster();
    run(clear);
    return 0;
}

static int setup_one(void **state)
{
    cluster_start(&cluster, 1);
    return 0;
}

static int setup_three(void **state)
{
    cluster_start(&cluster, 3);
    return 0;
}

static int setup_tls(void **state)
{
    cluster_start_tls(&cluster);
    use_cluster();
    return 0;
}

static int teardown_cluster(void **state)
{
    cluster_stop(&cluster);
    return 0;
}

/* --- Help ------------------------------------------------------------------------------------ */

/* Posts to a member, past the store. free(). */
static char *ask(const char *url, const char *path, const char *body, const char *token)
{
    struct etcd_http_options http_options = {.connect_timeout_ms = 1000};
    struct etcd_http *http;
    char full[128];
    struct etcd_answer answer = {0};
    snprintf(full, sizeof(full), "%s%s", url, path);
    struct etcd_post post = {full, body, token, 5000};
    CHECK(etcd_http_start(&http_options, &http) == 0);
    int r = etcd_http_call(http, &post, &answer, NULL);
    etcd_http_stop(http);
    return r == 0 ? answer.data : NULL;
}

/* But not the same once more: a put whose outcome was unknown may be done twice. */
static void note_new(void *ctx, const struct store_value *value)
{
    char entry[128];
    size_t len = strlen(told);
    snprintf(entry, sizeof(entry), "%s=%s ", value->key, value->data ? value->data : "");
    if (!value->data || len < strlen(entry) || strcmp(told + len - strlen(entry), entry) != 0)
        note_change(ctx, value);
}

/* --- One member ------------------------------------------------------------------------------ */

BODY(options_are_refused_with_a_way_out)
{
    struct store *store = NULL;
    const char *bad[] = {"127.0.0.1:2379"};
    struct store_etcd_options cases[] = {{0}, {.endpoints = bad, .endpoint_count = 1},
        {.endpoints = endpoints, .endpoint_count = 1, .user = "u"},
        {.endpoints = endpoints, .endpoint_count = 1, .cert_path = "c"}};
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP_FREE char *error = NULL;
        CHECK(store_etcd_open(&cases[i], &store, &error) == -EINVAL && error && !store);
    }
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", free_port());
    const char *nobody[] = {url};
    struct store_etcd_options none = {.endpoints = nobody, .endpoint_count = 1};
    CLEANUP_FREE char *error = NULL;
    CHECK(store_etcd_open(&none, &store, &error) == -EHOSTUNREACH);
    CHECK(strstr(error, url) && strstr(error, "is etcd"));
}

BODY(request_goes_past_a_member_that_is_not_there)
{
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/", free_port());
    const char *two[] = {url, endpoints[0]};
    options.endpoints = two;
    options.endpoint_count = 2;
    struct store *store = open_store();
    put(store, "k", "v");
    assert_holds(store, "k", "v");
    store_close(store);
}

BODY(long_lists_come_whole_and_in_order)
{
    struct store *store = open_store();
    for (unsigned i = 0; i < 11; i++) {
        struct store_op ops[STORE_TXN_MAX];
        char keys[STORE_TXN_MAX][16];
        for (unsigned j = 0; j < STORE_TXN_MAX; j++) {
            snprintf(keys[j], sizeof(keys[j]), "l/%06u", i * STORE_TXN_MAX + j);
            ops[j] = put_op(keys[j], keys[j]);
        }
        CHECK(store_txn(store, NULL, 0, ops, STORE_TXN_MAX, NULL) == 0);
    }
    put(store, "m", "not mine");
    struct store_value *values;
    unsigned count;
    CHECK(store_list(store, "l/", &values, &count) == 0);
    CHECK(count == 11 * STORE_TXN_MAX);
    for (unsigned i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof(key), "l/%06u", i);
        CHECK(strcmp(values[i].key, key) == 0 && strcmp(values[i].data, key) == 0);
    }
    store_list_free(values, count);
    CHECK(store_list_page(store, "l/", "l/000100", 1200, &values, &count) == 0 && count == 1200);
    CHECK(strcmp(values[0].key, "l/000101") == 0 && strcmp(values[1199].key, "l/001300") == 0);
    store_list_free(values, count);
    CHECK(store_list_page(store, "l/", "l/001300", 1200, &values, &count) == 0 && count == 107);
    store_list_free(values, count);
    store_close(store);
}

/* A store whose member goes away cannot keep its lease; etcd lets it end. */
BODY(keys_of_a_session_that_is_not_kept_alive_vanish)
{
    struct etcd_member *member = &cluster.members[0];
    options.request_timeout_ns = 2 * 1000000000ull; /* one is waited for in vain */
    struct store *store = open_store();
    struct store_op op = put_op("node/1", "here");
    op.session = true;
    CHECK(store_session_start(store, 3000 * MS_NS) == 0);
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    env_sleep_ns(3200 * MS_NS); /* kept alive for more than its time */
    CHECK(store_session_valid_until_ns(store) > env_boottime_ns());
    assert_holds(store, "node/1", "here");

    member_kill(member);
    unsigned port = member->client_port;
    member_set_client_port(member, free_port()); /* out of the store's sight */
    member_start(&cluster, 0);
    struct store *other = open_store();
    struct store_watch *watch;
    told[0] = 0;
    CHECK(store_watch_start(other, "node/", 0, note_change, NULL, &watch) == 0);
    CHECK(store_session_valid_until_ns(store) < env_boottime_ns() + 3000 * MS_NS);
    await_told("node/1=here -node/1 ");
    CHECK(store_session_valid_until_ns(store) <= env_boottime_ns());
    CHECK(store_get(store, "node/1", &(struct store_value){0}) == -EHOSTUNREACH);
    store_close(other);

    member_kill(member);
    member_set_client_port(member, port);
    member_start(&cluster, 0);
    for (unsigned i = 0; i < 1200 && store_session_valid_until_ns(store) != 0; i++)
        env_sleep_ns(50 * MS_NS);
    CHECK(store_session_valid_until_ns(store) == 0);
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == -ESTALE);
    CHECK(store_session_start(store, 1000 * MS_NS) == 0);
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    store_close(store);
}

/* etcd has forgotten what a watch missed: everything is told anew, and what went as deleted. */
BODY(watch_recovers_from_a_compaction_it_was_cut_off_from)
{
    struct etcd_member *member = &cluster.members[0];
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    put(store, "c/1", "a");
    put(store, "c/2", "b");
    put(store, "c/3", "c");
    CHECK(store_watch_start(store, "c/", 0, note_change, NULL, &watch) == 0);
    await_told("c/1=a c/2=b c/3=c ");
    told[0] = 0;

    member_kill(member);
    unsigned port = member->client_port;
    member_set_client_port(member, free_port());
    member_start(&cluster, 0);
    struct store *other = open_store();
    remove_key(other, "c/2");
    put(other, "c/3", "C");
    char body[64];
    snprintf(body, sizeof(body), "{\"revision\":\"%llu\",\"physical\":true}",
        (unsigned long long)put(other, "c/4", "d"));
    char *answer = ask(member->client_url, "/v3/kv/compaction", body, NULL);
    CHECK_MSG(answer && !strstr(answer, "error"), "%s", answer);
    free(answer);
    store_close(other);
    member_kill(member);
    member_set_client_port(member, port);
    member_start(&cluster, 0);

    await_told("-c/2 c/1=a c/3=C c/4=d ");
    put(store, "c/5", "e");
    await_told("-c/2 c/1=a c/3=C c/4=d c/5=e ");
    store_close(store);
}

/* E5: restored from an old backup, and already further than what the watch was told last. */
static void notice_another_history(bool stream_has_begun)
{
    struct etcd_member *member = &cluster.members[0];
    struct store *store = open_store();
    struct store_watch *watch;
    const struct store_op clear[] = {
        {STORE_DELETE, "d/3", NULL, 0, false}, {STORE_DELETE, "d/4", NULL, 0, false}};
    CHECK(store_txn(store, NULL, 0, clear, 2, NULL) == 0); /* of the other body */
    told[0] = 0;
    put(store, "d/1", "a");
    uint64_t revision = put(store, "d/2", "b");
    CHECK(store_watch_start(store, "d/", 0, note_change, NULL, &watch) == 0);
    char command[128];
    unsigned port = member->client_port;
    if (stream_has_begun)
        env_sleep_ns(3 * SECOND_NS);
    member_kill(member);
    await_told("d/1=a d/2=b ");
    told[0] = 0;
    snprintf(command, sizeof(command), "rm -rf %s/m0", cluster.dir);
    CHECK(system(command) == 0);
    member_set_peer_port(member, free_port()); /* of another cluster */
    member_set_client_port(member, free_port());
    member_start(&cluster, 0);
    struct store *other = open_store();
    while (put(other, "d/3", "c") <= revision + 10)
        ;
    store_close(other);
    member_kill(member);
    member_set_client_port(member, port);
    member_start(&cluster, 0);

    await_told("-d/1 -d/2 d/3=c ");
    put(store, "d/4", "d");
    await_told("-d/1 -d/2 d/3=c d/4=d ");
    store_close(store);
}

BODY(watch_notices_another_history_that_is_ahead)
{
    notice_another_history(true);
}

BODY(watch_notices_another_history_before_its_stream_has_begun)
{
    notice_another_history(false);
}

/* The last test of its member: nobody gets in without a password after it. */
BODY(user_and_password_are_used_and_checked)
{
    const char *url = endpoints[0];
    const char *steps[][2] = {{"/v3/auth/user/add", "{\"name\":\"root\",\"password\":\"pw\"}"},
        {"/v3/auth/role/add", "{\"name\":\"root\"}"},
        {"/v3/auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}"},
        {"/v3/auth/enable", "{}"}};
    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        char *answer = ask(url, steps[i][0], steps[i][1], NULL);
        CHECK_MSG(answer && !strstr(answer, "error"), "%s", answer);
        free(answer);
    }
    struct store *store = NULL;
    CLEANUP_FREE char *error = NULL, *error_wrong = NULL;
    CHECK(store_etcd_open(&options, &store, &error) == -EACCES && error);
    options.user = "root";
    options.password = "wrong";
    CHECK(store_etcd_open(&options, &store, &error_wrong) == -EACCES && error_wrong);
    options.password = "pw";
    store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    CHECK(store_watch_start(store, "a/", 0, note_new, NULL, &watch) == 0);
    put(store, "a/1", "x");
    await_told("a/1=x ");
    /* A restart forgets the tokens. */
    member_kill(&cluster.members[0]);
    member_start(&cluster, 0);
    put_until_done(store, "a/2", "y");
    await_told("a/1=x a/2=y ");
    store_close(store);
}

/* --- Three members --------------------------------------------------------------------------- */

static unsigned leader_of_cluster(void)
{
    for (unsigned tries = 0; tries < 200; tries++) {
        for (unsigned i = 0; i < cluster.count; i++) {
            char *answer = ask(endpoints[i], "/v3/maintenance/status", "{}", NULL);
            char *id = answer ? strstr(answer, "\"member_id\":\"") : NULL;
            char *leader = answer ? strstr(answer, "\"leader\":\"") : NULL;
            bool leads =
                id && leader && strtoull(id + 13, NULL, 10) == strtoull(leader + 10, NULL, 10);
            free(answer);
            if (leads)
                return i;
        }
        env_sleep_ns(50 * MS_NS);
    }
    CHECK_MSG(false, "the cluster elects no leader");
}

BODY(requests_sessions_and_watches_survive_the_leaders_death)
{
    unsigned leader = leader_of_cluster();
    /* First in the list: what there is goes through the one that dies. */
    endpoints[0] = cluster.members[leader].client_url;
    endpoints[leader] = cluster.members[0].client_url;
    struct store *store = open_store();
    struct store_watch *watch;
    struct store_op op = put_op("l/node", "here");
    op.session = true;
    told[0] = 0;
    CHECK(store_session_start(store, 12000 * MS_NS) == 0);
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    CHECK(store_watch_start(store, "l/", 0, note_new, NULL, &watch) == 0);
    put_until_done(store, "l/1", "before");
    await_told("l/node=here l/1=before ");
    member_kill(&cluster.members[leader]);
    uint64_t begin_ns = env_now_ns();
    put_until_done(store, "l/1", "after");
    fprintf(stderr, "leader killed: %.1f s until the next put is answered\n",
        (double)(env_now_ns() - begin_ns) / 1e9);
    assert_holds(store, "l/1", "after");
    await_told("l/node=here l/1=before l/1=after ");
    uint64_t valid_ns = store_session_valid_until_ns(store);
    for (unsigned i = 0; i < 1200 && store_session_valid_until_ns(store) == valid_ns; i++)
        env_sleep_ns(50 * MS_NS);
    CHECK(store_session_valid_until_ns(store) > valid_ns); /* kept alive by the new leader */
    member_start(&cluster, leader);
    store_close(store);
}

BODY(hanging_member_is_left_by_requests_and_watches)
{
    unsigned hung = (leader_of_cluster() + 1) % cluster.count;
    endpoints[0] = cluster.members[hung].client_url;
    endpoints[hung] = cluster.members[0].client_url;
    struct store *store = open_store();
    struct store_watch *watch;
    told[0] = 0;
    put_until_done(store, "h/1", "a");
    CHECK(store_watch_start(store, "h/", 0, note_new, NULL, &watch) == 0);
    await_told("h/1=a ");
    member_hang(&cluster.members[hung], true);
    assert_holds(store, "h/1", "a"); /* a read may be asked of another */
    put_until_done(store, "h/1", "b");
    await_told("h/1=a h/1=b ");
    store_close(store);
    member_hang(&cluster.members[hung], false);
}

BODY(total_outage_answers_errors_and_then_nothing_was_missed)
{
    struct store *store = open_store();
    struct store_watch *watch;
    struct store_value value;
    told[0] = 0;
    put_until_done(store, "t/1", "a");
    CHECK(store_watch_start(store, "t/", 0, note_new, NULL, &watch) == 0);
    await_told("t/1=a ");
    for (unsigned i = 0; i < cluster.count; i++)
        member_kill(&cluster.members[i]);
    struct store_op op = put_op("t/1", "never");
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == -EHOSTUNREACH);
    CHECK(store_get(store, "t/1", &value) == -EHOSTUNREACH);
    for (unsigned i = 0; i < cluster.count; i++)
        member_start(&cluster, i);
    /* By another handle, maybe before the watch is back. */
    struct store *other = open_store();
    put_until_done(other, "t/2", "b");
    put_until_done(other, "t/3", "c");
    await_told("t/1=a t/2=b t/3=c ");
    assert_holds(store, "t/1", "a");
    store_close(other);
    store_close(store);
}

/* --- TLS ------------------------------------------------------------------------------------- */

BODY(tls_checks_both_sides)
{
    char cert[96], key[96];
    snprintf(cert, sizeof(cert), "%s/cert.pem", cluster.dir);
    snprintf(key, sizeof(key), "%s/key.pem", cluster.dir);
    options.ca_path = options.cert_path = cert;
    options.key_path = key;
    struct store *store = open_store(), *refused = NULL;
    struct store_watch *watch;
    told[0] = 0;
    CHECK(store_watch_start(store, "s/", 0, note_change, NULL, &watch) == 0);
    put(store, "s/1", "x");
    await_told("s/1=x ");
    store_close(store);
    options.request_timeout_ns = 2 * 1000000000ull;
    options.ca_path = NULL; /* the system's do not vouch for it */
    CLEANUP_FREE char *no_ca = NULL, *no_cert = NULL;
    CHECK(store_etcd_open(&options, &refused, &no_ca) == -EHOSTUNREACH);
    CHECK_MSG(strstr(no_ca, "certificate"), "%s", no_ca);
    options.ca_path = cert;
    options.cert_path = options.key_path = NULL;
    CHECK(store_etcd_open(&options, &refused, &no_cert) == -EHOSTUNREACH && !refused);
}

/* --- A server that is no etcd ---------------------------------------------------------------- */

struct fake_server {
    pthread_t thread;
    int listen_fd;
    char url[64];
    const char *answer;     /* to all but reads; NULL: closes the connection instead */
    const char *txn_answer; /* NULL: `answer` */
    unsigned txn_count;     /* requests read */
    bool stop;
};
static struct fake_server fake;

static const char range_answer[] =
    "HTTP/1.1 200 OK\r\nContent-Length: 63\r\n\r\n"
    "{\"header\":{\"member_id\":\"1\",\"revision\":\"2\",\"raft_term\":\"2\"}}    ";

/* One request: its head and its body. False: the client has gone. */
static bool read_request(int fd, char *to, size_t size)
{
    size_t len = 0;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (__atomic_load_n(&fake.stop, __ATOMIC_RELAXED))
            return false;
        if (poll(&p, 1, 50) == 0)
            continue;
        ssize_t n = recv(fd, to + len, size - 1 - len, 0);
        if (n <= 0)
            return false;
        len += (size_t)n;
        to[len] = 0;
        const char *end = strstr(to, "\r\n\r\n"), *length = strstr(to, "Content-Length: ");
        if (end && length && (size_t)(end + 4 - to) + strtoul(length + 16, NULL, 10) <= len)
            return true;
    }
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    static __thread char request[8192];
    while (read_request(fd, request, sizeof(request))) {
        bool read = strstr(request, "POST /v3/kv/range") != NULL;
        bool txn = strstr(request, "POST /v3/kv/txn") != NULL;
        if (txn)
            __atomic_fetch_add(&fake.txn_count, 1, __ATOMIC_RELAXED);
        const char *txn_answer = __atomic_load_n(&fake.txn_answer, __ATOMIC_ACQUIRE);
        const char *answer = read                ? range_answer
                             : txn && txn_answer ? txn_answer
                                                 : __atomic_load_n(&fake.answer, __ATOMIC_ACQUIRE);
        if (!answer || send(fd, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            break;
        if (!strstr(answer, "Content-Length"))
            break;
    }
    close(fd);
    return NULL;
}

static void *fake_main(void *arg)
{
    pthread_t threads[512];
    unsigned count = 0;
    while (!__atomic_load_n(&fake.stop, __ATOMIC_RELAXED)) {
        struct pollfd p = {fake.listen_fd, POLLIN, 0};
        if (poll(&p, 1, 50) == 0)
            continue;
        int fd = accept(fake.listen_fd, NULL, NULL);
        CHECK(fd >= 0 && count < ARRAY_SIZE(threads));
        CHECK(pthread_create(&threads[count++], NULL, serve, (void *)(intptr_t)fd) == 0);
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return NULL;
}

static void fake_start(void)
{
    unsigned port = free_port();
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fake = (struct fake_server){.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    int on = 1;
    CHECK(setsockopt(fake.listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
    CHECK(bind(fake.listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(fake.listen_fd, 64) == 0);
    snprintf(fake.url, sizeof(fake.url), "http://127.0.0.1:%u", port);
    CHECK(pthread_create(&fake.thread, NULL, fake_main, NULL) == 0);
}

static void fake_stop(void)
{
    __atomic_store_n(&fake.stop, true, __ATOMIC_RELAXED);
    pthread_join(fake.thread, NULL);
    close(fake.listen_fd);
}

static struct store *open_fake(uint64_t request_timeout_ns)
{
    static const char *urls[1];
    urls[0] = fake.url;
    options = (struct store_etcd_options){
        .endpoints = urls, .endpoint_count = 1, .request_timeout_ns = request_timeout_ns};
    return open_store();
}

BODY(garbage_answers_are_errors)
{
    static const char *const answers[] = {"", "\n\n\n", "{}", "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n{\"header\":", "HTTP/1.1 200 OK\r\n\r\n[[[[[[[[[[[[[[[[[[[[[[[[",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n404 page not found",
        "HTTP/1.1 503 No\r\nContent-Length: 12\r\n\r\n{\"error\":\"\"}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzzz",
        ("HTTP/1.1 200 OK\r\n\r\n{\"result\":{\"header\":{\"raft_term\":\"1\"},\"created\":true}}\n"
         "{\"result\":{\"header\":{\"raft_term\":\"1\"},\"events\":[{\"kv\":{}}]}}\n"),
        "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"};
    fake_start();
    struct store *store = open_fake(300 * MS_NS);
    struct store_watch *watch;
    CHECK(store_watch_start(store, "w/", 0, note_change, NULL, &watch) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
        __atomic_store_n(&fake.answer, answers[i], __ATOMIC_RELEASE);
        struct store_op op = put_op("k", "v");
        int r = store_txn(store, NULL, 0, &op, 1, NULL);
        CHECK_MSG(r == -ETIMEDOUT, "answer %u: %d", i, r);
        CHECK(store_session_start(store, 1000 * MS_NS) == -EHOSTUNREACH);
        CHECK(store_session_valid_until_ns(store) == 0);
    }
    store_close(store);
    fake_stop();
}

/* H1. The server has read the request when it drops the connection, a kept one. */
BODY(transaction_without_an_answer_is_sent_once)
{
    fake_start();
    struct store *store = open_fake(5000 * MS_NS);
    struct store_op op = put_op("k", "v");
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == -ETIMEDOUT);
    CHECK(__atomic_load_n(&fake.txn_count, __ATOMIC_RELAXED) == 1);
    store_close(store);
    fake_stop();
}

static void read_absent(struct store *store)
{
    struct store_value value;
    CHECK(store_get(store, "absent", &value) == -ENOENT);
}

/* E7 */
BODY(revisions_that_go_back_are_another_history)
{
    fake_start();
    fake.txn_answer = "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"
                      "{\"header\":{\"member_id\":\"1\",\"revision\":\"9\",\"raft_term\":\"2\"},"
                      "\"succeeded\":true}              ";
    struct store *store = open_fake(5000 * MS_NS);
    struct store_op op = put_op("k", "v");
    read_absent(store); /* revision 2 */
    CHECK(store_histories(store) == 0);
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    CHECK(store_histories(store) == 0);
    read_absent(store);
    CHECK(store_histories(store) == 1);
    read_absent(store);
    CHECK(store_histories(store) == 1);
    store_close(store);
    fake_stop();
}

#define MEMBER_ANSWER(member, term)                                          \
    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"                         \
    "{\"header\":{\"member_id\":\"" member "\",\"raft_term\":\"" term "\"}," \
    "\"succeeded\":true,\"ID\":\"7\",\"TTL\":\"1\"}                    "

static bool validity_grows(struct store *store)
{
    uint64_t before_ns = store_session_valid_until_ns(store);
    env_sleep_ns(500 * MS_NS);
    CHECK(store_session_valid_until_ns(store) >= before_ns);
    return store_session_valid_until_ns(store) > before_ns;
}

/* Once what was under way is over. */
static bool validity_comes_to_grow(struct store *store)
{
    for (unsigned i = 0; i < 40; i++)
        if (validity_grows(store))
            return true;
    return false;
}

static bool validity_comes_to_an_end(struct store *store)
{
    unsigned still = 0;
    for (unsigned i = 0; i < 40 && still < 2; i++)
        still = validity_grows(store) ? 0 : still + 1;
    return still == 2 && store_session_valid_until_ns(store) < env_boottime_ns();
}

/* E4, S16: keepalives are answered all the time. */
BODY(session_is_valid_only_by_a_write_of_the_same_term_and_member)
{
    fake_start();
    fake.answer = MEMBER_ANSWER("1", "2");
    struct store *store = open_fake(5000 * MS_NS);
    CHECK(store_session_start(store, 1000 * MS_NS) == 0);
    CHECK(validity_comes_to_grow(store));
    const char *others[] = {MEMBER_ANSWER("1", "3"), MEMBER_ANSWER("2", "2"),
        "HTTP/1.1 503 No\r\nContent-Length: 12\r\n\r\n{\"error\":\"\"}"};
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        __atomic_store_n(&fake.txn_answer, others[i], __ATOMIC_RELEASE);
        CHECK(validity_comes_to_an_end(store));
    }
    __atomic_store_n(&fake.txn_answer, NULL, __ATOMIC_RELEASE);
    CHECK(validity_comes_to_grow(store));
    store_close(store);
    fake_stop();
}

int main(void)
{
    if (system("command -v etcd > /dev/null") != 0) {
        fprintf(stderr, "etcd is not installed (Debian: etcd-server)\n");
        return 77;
    }
#define ONE(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest one[] = {
        SUITE(ONE),
        ONE(options_are_refused_with_a_way_out),
        ONE(request_goes_past_a_member_that_is_not_there),
        ONE(long_lists_come_whole_and_in_order),
        ONE(keys_of_a_session_that_is_not_kept_alive_vanish),
        ONE(watch_recovers_from_a_compaction_it_was_cut_off_from),
        ONE(watch_notices_another_history_that_is_ahead),
        ONE(watch_notices_another_history_before_its_stream_has_begun),
        ONE(user_and_password_are_used_and_checked),
        cmocka_unit_test(garbage_answers_are_errors),
        cmocka_unit_test(session_is_valid_only_by_a_write_of_the_same_term_and_member),
        cmocka_unit_test(transaction_without_an_answer_is_sent_once),
        cmocka_unit_test(revisions_that_go_back_are_another_history),
    };
    const struct CMUnitTest three[] = {
        ONE(requests_sessions_and_watches_survive_the_leaders_death),
        ONE(hanging_member_is_left_by_requests_and_watches),
        ONE(total_outage_answers_errors_and_then_nothing_was_missed),
    };
    const struct CMUnitTest tls[] = {cmocka_unit_test(tls_checks_both_sides)};
    int failed = cmocka_run_group_tests(one, setup_one, teardown_cluster);
    failed += cmocka_run_group_tests(tls, setup_tls, teardown_cluster);
    return failed + cmocka_run_group_tests(three, setup_three, teardown_cluster);
}
