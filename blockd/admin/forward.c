/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/admin/forward.h"

#include <errno.h>
#include <string.h>

#include "blockd/admin/methods.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/peers.h"
#include "blockd/cluster/protocol.h"
#include "blockd/cluster/server.h"
#include "blockd/node.h"
#include "common/check.h"
#include "common/env.h"
#include "common/json_text.h"
#include "common/mem.h"

#define ANSWER_BYTES_MAX (1u << 20)

/* --- Asking -------------------------------------------------------------------------------------- */

static int error_number(const char *name)
{
    for (int error = 1; name && error < 134; error++) {
        const char *known = strerrorname_np(error);
        if (known && strcmp(known, name) == 0)
            return error;
    }
    return EIO;
}

static int read_answer(const char *node_name, const char *text, size_t len_bytes,
    json_t **ret_result, char **ret_error)
{
    const char *code = NULL, *message = NULL;
    CLEANUP_FREE char *fault = NULL;
    json_t *answer = json_text_decode(text, len_bytes, &fault);
    json_t *result = json_object_get(answer, "result");
    int r = 0;
    if (json_is_object(result)) {
        if (ret_result)
            *ret_result = json_incref(result);
    } else if (json_unpack(answer, "{s:{s:s, s:s}}", "error", "code", &code, "message", &message) ==
               0) {
        *ret_error = mem_printf("node '%s': %s", node_name, message);
        r = -error_number(code);
    } else {
        *ret_error =
            mem_printf("node '%s' answered what is no answer (%s); does it run another version?",
                node_name, fault ? fault : "neither 'result' nor 'error'");
        r = -EPROTO;
    }
    json_decref(answer);
    return r;
}

static char *unreachable(struct peer *peer, const char *node_name, int r)
{
    if (!peer)
        return mem_printf("node '%s' is not known here; see 'holdfast node list'", node_name);
    return mem_printf("node '%s' has to do this, and it does not answer (%s): try again when it is "
                      "back, or when its lease has run out and another node has its volumes",
        node_name,
        peer->client && rpc_client_problem(peer->client)[0] ? rpc_client_problem(peer->client)
                                                            : strerror(-r));
}

/* F4: what is under way, for admin_asks_end(). */
struct ask {
    struct list link; /* node->asks */
    struct rpc_call call;
    struct rpc_client *client; /* lives as long as the call is not done */
    struct fiber *fiber;
    bool done;
};

static void ask_done(struct rpc_call *call)
{
    struct ask *ask = container_of(call, struct ask, call);
    ask->done = true;
    list_remove(&ask->link);
    fiber_wake(ask->fiber);
}

MAY_SUSPEND static int ask_peer(struct node *node, struct peer *peer, struct ask *ask)
{
    if (!peer || !peer->client)
        return -EHOSTUNREACH;
    if (node->phase == NODE_STOPPING)
        return -ECANCELED;
    if (!node->asks.next)
        list_init(&node->asks);
    ask->client = peer->client;
    ask->fiber = fiber_self();
    ask->call.done = ask_done;
    list_push_back(&node->asks, &ask->link);
    peer_submit(peer, &ask->call);
    while (!ask->done)
        fiber_suspend();
    return ask->call.result;
}

void admin_asks_end(struct node *node)
{
    if (!node->asks.next)
        return;
    list_for_each (it, &node->asks) { /* done() comes later */
        struct ask *ask = list_entry(it, struct ask, link);
        rpc_call_cancel(ask->client, &ask->call);
    }
}

int admin_ask(struct node *node, const char *node_name, const char *method, json_t *params,
    uint64_t timeout_ns, json_t **ret_result, char **ret_error)
{
    json_t *request =
        json_pack("{s:s, s:o}", "method", method, "params", params ? params : json_object());
    char *body = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    CHECK(body);
    if (strlen(body) > RPC_BODY_BYTES_MAX) {
        free(body);
        *ret_error = mem_printf("the request is too long to be sent to node '%s'", node_name);
        return -E2BIG;
    }
    CLEANUP_FREE char *answer = mem_alloc(ANSWER_BYTES_MAX);
    struct iovec payload = {answer, ANSWER_BYTES_MAX};
    struct peer *peer = node->peers ? peers_find(node->peers, node_name) : NULL;
    struct ask ask = {.call = {.method = METHOD_ADMIN,
                          .body = body,
                          .body_len_bytes = (uint32_t)strlen(body),
                          .patient = true,
                          .deadline_ns = timeout_ns ? env_now_ns() + timeout_ns : 0,
                          .reply_payload = &payload,
                          .reply_payload_count = 1}};
    int r = ask_peer(node, peer, &ask);
    free(body);
    if (r == -ECANCELED)
        *ret_error =
            mem_printf("this node is stopping; node '%s' may do it all the same", node_name);
    else if (r < 0)
        *ret_error = unreachable(peer, node_name, r);
    if (r < 0)
        return r;
    return read_answer(node_name, answer, ask.call.ret_payload_bytes, ret_result, ret_error);
}

int admin_check_node(struct admin_call *call, const char *name)
{
    struct node *node = call->ctx;
    const struct member *member = members_find(node->members, name);
    if (strcmp(name, node->config->name) == 0 || (member && member->session))
        return 0;
    call->error = member
                      ? mem_printf("node '%s' is down; start it first ('holdfast node list')", name)
                      : mem_printf("no node named '%s' has joined; see 'holdfast node list'", name);
    return member ? -EHOSTUNREACH : -ENOENT;
}

int admin_forward(struct admin_call *call, const char *node_name)
{
    json_t *params = call->params.object ? json_deep_copy(call->params.object) : NULL;
    return admin_ask(
        call->ctx, node_name, call->params.method, params, 0, &call->result, &call->error);
}

/* S18: who was last seen to serve it, while the store does not answer. */
static int recalled_elsewhere(struct node *node, const struct volumes_name *seen, char *ret_node)
{
    struct peer *peer = peers_find(node->peers, seen->owner);
    if (seen->state != VOLUME_OWNED || !peer || !peer_connected(peer))
        return 0;
    strcpy(ret_node, seen->owner);
    return 1;
}

int admin_volume_not_known(struct admin_call *call, const char *name, int error)
{
    call->error = mem_printf("volume '%s' cannot be looked up: the store does not answer (%s), and "
                             "this node has not seen the volume so far; try again",
        name, store_strerror(error));
    return -EAGAIN;
}

int admin_volume_elsewhere(struct admin_call *call, const char *name, char *ret_node)
{
    struct node *node = call->ctx;
    struct volume_root root;
    struct volumes_name seen;
    uint64_t id;
    if (call->forwarded || !node->peers)
        return 0;
    if (volumes_store_away(node->volumes) && admin_recall(node, name, &seen))
        return recalled_elsewhere(node, &seen, ret_node);
    int r = volume_id_by_name(node->store, name, &id);
    if (r == 0)
        r = volume_root_load(node->store, id, &root);
    if (volumes_not_answered(r) && admin_recall(node, name, &seen))
        return recalled_elsewhere(node, &seen, ret_node);
    if (volumes_not_answered(r))
        return admin_volume_not_known(call, name, r);
    if (r == -ENOENT)
        call->error = mem_printf("no volume named '%s'; see 'holdfast volume list'", name);
    if (r < 0)
        return admin_fail(call, r, "the volume's record cannot be read");
    seen = volumes_name_of(&root);
    volumes_remember(node->volumes, &seen);
    bool waits = root.state == VOLUME_RELEASED && root.successor[0];
    const char *at = waits ? root.successor : root.owner;
    if (strcmp(at, node->config->name) == 0 || (!waits && root.state != VOLUME_OWNED))
        return 0;
    if (!waits && !members_session_alive(node->members, root.owner_session))
        return 0; /* dead: this node takes it over */
    const struct member *member = members_find(node->members, at);
    if (!member || !member->session)
        return 0;
    strcpy(ret_node, at);
    return 1;
}

/* --- Being asked --------------------------------------------------------------------------------- */

static const struct admin_method *find(const char *name)
{
    for (unsigned i = 0; i < admin_method_count; i++)
        if (strcmp(admin_methods[i].name, name) == 0)
            return &admin_methods[i];
    return NULL;
}

static json_t *error_json(int error, const char *message)
{
    const char *code = strerrorname_np(-error);
    json_t *text = json_string(message);
    return json_pack("{s:{s:s, s:o}}", "error", "code", code ? code : "EIO", "message",
        text ? text : json_string("failed (the reason cannot be shown: not UTF-8)"));
}

MAY_SUSPEND static json_t *run(struct node *node, const char *name, const json_t *params)
{
    const struct admin_method *method = find(name);
    if (!method)
        return error_json(-ENOSYS, "there is no such method here; is that daemon older?");
    if (node->phase != NODE_RUNNING)
        return error_json(-EAGAIN,
            node->phase == NODE_STOPPING ? "it is stopping" : "it is starting; try again soon");
    struct admin_call call = {.ctx = node, .forwarded = true};
    admin_params_init(&call.params, method->name, params);
    int r = method->call(&call);
    json_t *answer;
    if (r < 0) {
        answer = error_json(r, call.error ? call.error : strerror(-r));
        json_decref(call.result);
    } else {
        answer = json_pack("{s:o}", "result", call.result ? call.result : json_object());
    }
    mem_free(call.params.error);
    mem_free(call.error);
    return answer;
}

struct answer {
    char *text;
    struct iovec iov;
};

static void answer_sent(void *arg)
{
    struct answer *answer = arg;
    free(answer->text);
    mem_free(answer);
}

MAY_SUSPEND static void serve(void *arg)
{
    struct rpc_request *request = arg;
    struct cluster_server *server = request->user;
    const char *method = NULL;
    json_t *params = NULL, *json;
    CLEANUP_FREE char *fault = NULL;
    json_t *asked = json_text_decode((const char *)request->body, request->body_len_bytes, &fault);
    if (!asked)
        json = error_json(-EBADMSG, fault);
    else if (json_unpack(asked, "{s:s, s:o}", "method", &method, "params", &params) < 0 ||
             !json_is_object(params))
        json = error_json(-EBADMSG, "not an admin request");
    else
        json = run(server->node, method, params);
    struct answer *answer = NEW(struct answer);
    answer->text = json_dumps(json, JSON_COMPACT);
    CHECK(answer->text);
    if (strlen(answer->text) > ANSWER_BYTES_MAX) {
        free(answer->text);
        json_decref(json);
        json = error_json(-E2BIG, "the answer is too long to be sent");
        answer->text = json_dumps(json, JSON_COMPACT);
    }
    json_decref(json);
    json_decref(asked);
    answer->iov = (struct iovec){answer->text, strlen(answer->text)};
    rpc_reply(request, 0, NULL, 0, &answer->iov, 1, answer_sent, answer);
}

void admin_forward_handle(void *ctx, struct rpc_request *request)
{
    struct cluster_server *server = ctx;
    if (!server->node) {
        rpc_reply(request, -ENOSYS, NULL, 0, NULL, 0, NULL, NULL);
        return;
    }
    request->user = server;
    fiber_spawn("admin of another node", serve, request);
}
