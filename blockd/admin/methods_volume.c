/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/admin/methods.h"
#include "blockd/cluster/members.h"
#include "blockd/node.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define ID_TEXT_BYTES 17

#define HERE 1

/* Ends the parameters. HERE: the volume is this node's, or anybody's; else it was forwarded to its owner
 * and is answered, or failed. */
MAY_SUSPEND static int begin(struct admin_call *call, const char *name)
{
    char owner[64];
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        r = admin_volume_elsewhere(call, name, owner);
    if (r == 1)
        return admin_forward(call, owner);
    return r < 0 ? r : HERE;
}

/* --- Create, resize, rename, delete ------------------------------------------------------------ */

static int check_size(struct admin_call *call, const char *name, uint64_t size_bytes)
{
    if (size_bytes % 512 == 0 && size_bytes > 0 && size_bytes <= VOLUME_SIZE_BYTES_MAX)
        return 0;
    call->error = mem_printf("volume '%s': %" PRIu64 " bytes is not a size: a multiple of 512 "
                             "bytes is, at least 512 bytes and at most 1 PiB",
        name, size_bytes);
    return -EINVAL;
}

int method_volume_create(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct admin_params *params = &call->params;
    const char *name = admin_params_name(params, "name", ADMIN_REQUIRED);
    uint64_t size_bytes =
        admin_params_number(params, "size_bytes", ADMIN_REQUIRED, 0, INT64_MAX, 0);
    const char *pool = admin_params_name(params, "pool", ADMIN_REQUIRED);
    int r = admin_params_end(params, &call->error);
    if (r == 0)
        r = check_size(call, name, size_bytes);
    if (r < 0)
        return r;
    uint64_t id;
    char text[ID_TEXT_BYTES];
    r = volume_create(&node->host, name, size_bytes, pool, &id, &call->error);
    if (r < 0)
        return r;
    snprintf(text, sizeof(text), "%016" PRIx64, id);
    call->result = json_pack("{s:s}", "volume", text);
    return 0;
}

int method_volume_resize(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    uint64_t size_bytes =
        admin_params_number(&call->params, "size_bytes", ADMIN_REQUIRED, 0, INT64_MAX, 0);
    int r = begin(call, name);
    if (r == HERE && check_size(call, name, size_bytes) < 0)
        return -EINVAL;
    return r != HERE ? r : volumes_resize(node->volumes, name, size_bytes, &call->error);
}

int method_volume_rename(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    const char *new_name = admin_params_name(&call->params, "new_name", ADMIN_REQUIRED);
    int r = begin(call, name);
    return r != HERE ? r : volumes_rename(node->volumes, name, new_name, &call->error);
}

int method_volume_delete(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    bool force = admin_params_bool(&call->params, "force", false);
    int r = begin(call, name);
    return r != HERE ? r : volumes_delete(node->volumes, name, force, &call->error);
}

/* --- Flush, close ---------------------------------------------------------------------------- */

int method_volume_flush(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct volume *volume;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    int r = begin(call, name);
    if (r == HERE)
        r = volumes_get(node->volumes, name, &volume, &call->error);
    else
        return r;
    if (r < 0)
        return r;
    r = volume_flush(volume);
    volumes_put(node->volumes, volume);
    if (r < 0)
        call->error = mem_printf(
            "volume '%s' was not flushed: %s; 'holdfast status' may say why", name, strerror(-r));
    return r;
}

int method_volume_close(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    int r = begin(call, name);
    return r != HERE ? r : volumes_close(node->volumes, name, &call->error);
}

/* --- Info -------------------------------------------------------------------------------------- */

/* What the record says: also when the volume cannot be opened. While the store does not answer: what was
 * last seen of it, *ret_recalled. */
static int find_name(
    struct admin_call *call, const char *name, struct volumes_name *ret_name, bool *ret_recalled)
{
    struct node *node = call->ctx;
    struct volume_root root;
    uint64_t id;
    *ret_recalled = true;
    if (volumes_store_away(node->volumes) && admin_recall(node, name, ret_name))
        return 0;
    int r = volume_id_by_name(node->store, name, &id);
    if (r == -ENOENT)
        call->error = mem_printf("no volume named '%s'; see 'holdfast volume list'", name);
    if (r == 0)
        r = volume_root_load(node->store, id, &root);
    if (volumes_not_answered(r) && admin_recall(node, name, ret_name))
        return 0;
    if (volumes_not_answered(r))
        return admin_volume_not_known(call, name, r);
    if (r < 0)
        return admin_fail(call, r, "the volume's record cannot be read");
    *ret_recalled = false;
    *ret_name = volumes_name_of(&root);
    volumes_remember(node->volumes, ret_name);
    return 0;
}

struct attached {
    json_t *nodes;
    unsigned others;
};

static void add_node(void *ctx, const char *name)
{
    struct attached *attached = ctx;
    attached->others++;
    json_array_append_new(attached->nodes, json_string(name));
}

/* Nodes whose clients use it: this one's are the connections that are not other nodes'. */
static void add_attached(json_t *json, struct node *node, uint64_t volume_id)
{
    struct attached attached = {json_array(), 0};
    unsigned connections;
    attach_each_served(node->attach, volume_id, add_node, &attached);
    volumes_peek(node->volumes, volume_id, &connections);
    if (connections > attached.others)
        json_array_insert_new(attached.nodes, 0, json_string(node->config->name));
    json_object_set_new(json, "attached", attached.nodes);
}

static void add_info(json_t *json, struct node *node, const struct volume *volume)
{
    add_attached(json, node, volume_id(volume));
    struct volume_info info;
    volume_get_info(volume, &info);
    json_t *more = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s}", "epoch",
        (json_int_t)info.epoch, "allocated_bytes", (json_int_t)info.allocated_bytes, "stored_bytes",
        (json_int_t)info.stored_bytes, "log_bytes", (json_int_t)info.log_bytes, "memtable_bytes",
        (json_int_t)info.memtable_bytes, "chunks", (json_int_t)info.chunks, "chunks_degraded",
        (json_int_t)info.chunks_degraded, "chunks_lost", (json_int_t)info.chunks_lost,
        "chunks_crowded", (json_int_t)info.chunks_crowded, "health", info.health, "problem",
        info.problem);
    if (info.loss_epoch) {
        json_object_set_new(more, "loss_epoch", json_integer(info.loss_epoch));
        json_object_set_new(more, "loss_time", json_integer((json_int_t)info.loss_time_s));
    }
    json_object_update(json, more);
    json_decref(more);
}

/* What the record says, when nobody can be asked for more. */
static void add_unavailable(json_t *json, const char *problem)
{
    json_object_set_new(json, "health", json_string("unavailable"));
    json_object_set_new(json, "problem", json_string(problem));
}

/* S18: nobody is asked who cannot be reached anyway, and nothing can be opened. */
static void add_recalled(json_t *json, const struct volumes_name *seen)
{
    CLEANUP_FREE char *problem =
        seen->state == VOLUME_OWNED
            ? mem_printf("node '%s' was last seen to serve it, and cannot be reached from here",
                  seen->owner)
            : mem_strdup("nobody was seen to serve it, and it can be opened only when the store "
                         "answers again");
    add_unavailable(json, problem);
}

/* The owner does not answer just now. */
static bool owner_is_away(int error)
{
    return error == -EHOSTUNREACH || error == -ETIMEDOUT || error == -ESHUTDOWN || error == -EAGAIN;
}

static void open_for_info(struct admin_call *call, const struct volumes_name *found)
{
    struct node *node = call->ctx;
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    int r = volumes_get_by_id(node->volumes, found->id, &volume, &error);
    json_t *json = admin_volume_json(node, found); /* open now */
    json_object_update(call->result, json);
    json_decref(json);
    if (r < 0) {
        add_unavailable(call->result, error);
        return;
    }
    add_info(call->result, node, volume);
    volumes_put(node->volumes, volume);
}

int method_volume_info(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct volumes_name found;
    bool recalled;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    bool may_open = admin_params_bool(&call->params, "open", true);
    char owner[64];
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        r = admin_volume_elsewhere(call, name, owner);
    if (r < 0)
        return r;
    CLEANUP_FREE char *away = NULL;
    if (r == 1) {
        r = admin_forward(call, owner);
        if (!owner_is_away(r))
            return r;
        away = call->error;
        call->error = NULL;
    }
    r = find_name(call, name, &found, &recalled);
    if (r < 0)
        return r;
    struct volume *volume = volumes_peek(node->volumes, found.id, NULL);
    call->result = admin_volume_json(node, &found);
    if (recalled && !volume)
        json_object_set_new(call->result, "recalled", json_true());
    if (away)
        add_unavailable(call->result, away);
    else if (volume && (recalled || !may_open))
        add_info(call->result, node, volume);
    else if (recalled)
        add_recalled(call->result, &found);
    else if (may_open)
        open_for_info(call, &found);
    return 0;
}

/* --- Move ------------------------------------------------------------------------------------ */

/* Opens it where it shall be, now that nobody has it: at this node, or there. */
MAY_SUSPEND static int open_at(
    struct node *node, const char *name, const char *target, char **ret_error)
{
    struct volume *volume;
    json_t *answer = NULL;
    if (strcmp(target, node->config->name) == 0) {
        int r = volumes_get(node->volumes, name, &volume, ret_error);
        if (r == 0)
            volumes_put(node->volumes, volume);
        return r;
    }
    int r = admin_ask(
        node, target, "volume.info", json_pack("{s:s}", "name", name), 0, &answer, ret_error);
    const char *problem = json_string_value(json_object_get(answer, "problem"));
    if (r == 0 && !json_object_get(answer, "epoch")) {
        *ret_error = mem_printf("node '%s' did not open it: %s", target, problem ? problem : "");
        r = -EIO;
    }
    json_decref(answer);
    return r;
}

int method_volume_move(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct volumes_name found;
    bool recalled;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    const char *target =
        admin_params_text(&call->params, "node", ADMIN_REQUIRED, sizeof(found.owner));
    uint64_t pause_ns = 0;
    CLEANUP_FREE char *error = NULL;
    int r = call->forwarded ? 0 : admin_check_node(call, target);
    if (r < 0)
        return r;
    r = begin(call, name);
    if (r != HERE)
        return r;
    r = admin_check_node(call, target);
    if (r == 0)
        r = find_name(call, name, &found, &recalled);
    if (r < 0)
        return r;
    if (strcmp(target, node->config->name) != 0)
        r = volumes_handoff(node->volumes, found.id, 0, target, &pause_ns, &error);
    if (r < 0 && r != -ENOENT) { /* not open here: nobody's, or dead somebody's */
        call->error = mem_strdup(error ? error : strerror(-r));
        return r;
    }
    r = open_at(node, name, target, &call->error);
    call->result =
        json_pack("{s:s, s:I}", "node", target, "pause_us", (json_int_t)(pause_ns / 1000));
    return r;
}
