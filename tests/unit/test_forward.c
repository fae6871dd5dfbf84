/* SPDX-License-Identifier: Apache-2.0
 *
 * What another node sends in METHOD_ADMIN is decoded on a fiber: F3 of blockd/admin/forward.h.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "blockd/admin/forward.h"
#include "blockd/cluster/protocol.h"
#include "blockd/node.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"
#include "tests/lib/remote_world.h"

#define DEEP_BYTES 16000 /* jansson recurses 2048 levels, a fiber's stack holds less */

static struct remote_world w;
static struct node server_node, client_node;
static bool silent; /* requests are kept */
static struct rpc_request *kept[2];
static unsigned kept_count;
static const char *answer; /* NULL: as the daemon does */

static const char *deep(void)
{
    static char text[DEEP_BYTES + 1];
    memset(text, '[', DEEP_BYTES);
    return memcpy(text, "{\"a\":", 5);
}

static void handle(void *ctx, struct rpc_request *request)
{
    if (silent) {
        kept[kept_count++] = request;
        return;
    }
    if (!answer) {
        admin_forward_handle(ctx, request);
        return;
    }
    static struct iovec iov;
    iov = (struct iovec){(void *)answer, strlen(answer)};
    rpc_reply(request, 0, NULL, 0, &iov, 1, NULL, NULL);
}

static const struct rpc_method methods[] = {
    {.number = METHOD_ADMIN, .name = "admin", .handle = handle}};

struct job {
    void (*fn)(void);
    bool done;
};

static void job_main(void *arg)
{
    struct job *job = arg;
    remote_world_connect(&w);
    w.server.node = &server_node;
    client_node.peers = w.peers;
    job->fn();
    remote_world_disconnect(&w);
    job->done = true;
}

static bool job_done(void *arg)
{
    return ((struct job *)arg)->done;
}

static void stop_main(void *arg)
{
    struct job *job = arg;
    while (kept_count > 0)
        rpc_reply(kept[--kept_count], 0, NULL, 0, NULL, 0, NULL, NULL);
    remote_world_stop_server(&w);
    job->done = true;
}

static void run(void (*fn)(void))
{
    struct job job = {.fn = fn}, stop = {0};
    remote_world_init(&w, 1, 64ull << 20, false);
    w.methods = methods;
    w.method_count = ARRAY_SIZE(methods);
    remote_world_start_server(&w);
    sim_node_start(w.client_node, "test", job_main, &job);
    CHECK(sim_run(w.sim, job_done, &job, UINT64_MAX) == SIM_UNTIL);
    sim_node_start(w.server_node, "stop", stop_main, &stop);
    CHECK(sim_run(w.sim, job_done, &stop, UINT64_MAX) == SIM_UNTIL);
    remote_world_fini(&w);
}

static void assert_asked(int want, const char *because)
{
    CLEANUP_FREE char *error = NULL;
    json_t *result = NULL;
    assert_int_equal(admin_ask(&client_node, "s", "no.such", NULL, 0, &result, &error), want);
    if (because)
        assert_non_null(strstr(error, because));
    json_decref(result);
}

static void ask_for_answers(void)
{
    answer = "{\"result\":{\"a\":1}}";
    assert_asked(0, NULL);
    answer = "{\"error\":{\"code\":\"ENOENT\",\"message\":\"no such thing\"}}";
    assert_asked(-ENOENT, "node 's': no such thing");
    answer = "{}";
    assert_asked(-EPROTO, "neither 'result' nor 'error'");
    answer = "{\"result\":";
    assert_asked(-EPROTO, "not JSON");
    answer = deep();
    assert_asked(-EPROTO, "nested deeper");
    answer = NULL;
    assert_asked(-ENOSYS, "no such method");
}

static void answers_of_another_node_are_results_or_errors(void **state)
{
    run(ask_for_answers);
}

static void assert_answered(const char *body, const char *because)
{
    static char text[4096];
    struct iovec payload = {text, sizeof(text) - 1};
    struct rpc_call call = {.method = METHOD_ADMIN,
        .body = body,
        .body_len_bytes = (uint32_t)strlen(body),
        .reply_payload = &payload,
        .reply_payload_count = 1};
    memset(text, 0, sizeof(text));
    assert_int_equal(peer_call(w.peer, &call), 0);
    assert_non_null(strstr(text, "EBADMSG"));
    assert_non_null(strstr(text, because));
}

static void send_requests(void)
{
    answer = NULL;
    assert_answered(deep(), "nested deeper");
    assert_answered("{\"method\":\"status\"", "not JSON");
    assert_answered("{\"method\":\"status\",\"params\":1}", "not an admin request");
    assert_asked(-ENOSYS, "no such method"); /* it lives */
}

static void requests_of_another_node_that_are_none_are_refused(void **state)
{
    run(send_requests);
}

static void ask_in_vain(void *arg)
{
    CLEANUP_FREE char *error = NULL;
    *(int *)arg = admin_ask(&client_node, "s", "volume.flush", NULL, 0, NULL, &error);
    assert_non_null(strstr(error, "this node is stopping"));
}

/* F4 */
static void stop_while_asking(void)
{
    int r = 1;
    CLEANUP_FREE char *error = NULL;
    silent = true;
    fiber_spawn("ask", ask_in_vain, &r);
    assert_int_equal(
        admin_ask(&client_node, "s", "shard.damaged", NULL, 1000000000, NULL, &error), -ETIMEDOUT);
    env_sleep_ns(3600ull * 1000000000);
    assert_int_equal(r, 1);
    client_node.phase = NODE_STOPPING;
    admin_asks_end(&client_node);
    env_sleep_ns(1000000);
    assert_int_equal(r, -ECANCELED);
    ask_in_vain(&r);
    assert_int_equal(r, -ECANCELED);
    assert_true(list_empty(&client_node.asks));
    client_node = (struct node){0};
    silent = false;
}

static void what_is_not_answered_does_not_hold_up_a_stop(void **state)
{
    run(stop_while_asking);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_of_another_node_are_results_or_errors),
        cmocka_unit_test(requests_of_another_node_that_are_none_are_refused),
        cmocka_unit_test(what_is_not_answered_does_not_hold_up_a_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
