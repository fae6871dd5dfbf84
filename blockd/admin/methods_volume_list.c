/* SPDX-License-Identifier: Apache-2.0
 *
 * volume.list: from the store, or, while that does not answer, what this node knows, has seen, or is told by those that it reaches. How many clients a
 * volume has, and how it is, only its owner can tell; asked for that (F1), each owner answers once for
 * all of its volumes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/admin/forward.h"
#include "blockd/admin/methods.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/peers.h"
#include "blockd/node.h"
#include "blockd/volumes_refused.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define ID_TEXT_BYTES 17
#define OWNERS_NS 2000000000ull       /* an owner that does not answer within has said nothing */
#define OTHERS_AGAIN_NS 1000000000ull /* names that nobody has are asked for again and again */

/* Of whom the record says that he has it, if he lives. */
static const char *owner_of(struct node *node, const struct volumes_name *name)
{
    bool owned =
        name->state == VOLUME_OWNED && members_session_alive(node->members, name->owner_session);
    return owned ? name->owner : "";
}

json_t *admin_volume_json(struct node *node, const struct volumes_name *name)
{
    unsigned connections;
    struct volume *volume = volumes_peek(node->volumes, name->id, &connections);
    const char *owner = volume ? node->config->name : owner_of(node, name);
    char id[ID_TEXT_BYTES];
    snprintf(id, sizeof(id), "%016" PRIx64, name->id);
    json_t *json = json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:b}", "name", name->name, "volume",
        id, "size_bytes", (json_int_t)name->size_bytes, "pool", name->pool, "state",
        volume_state_name(name->state), "owner", owner, "open", owner[0] != 0);
    if (volume || !owner[0]) /* else its owner knows */
        json_object_set_new(json, "connections", json_integer((json_int_t)connections));
    if (volume) {
        struct volume_info info;
        volume_get_info(volume, &info);
        json_object_set_new(json, "health", json_string(info.health));
        if (info.problem[0])
            json_object_set_new(json, "problem", json_string(info.problem));
    }
    const char *refused = volumes_refused_why(volumes_refused(node->volumes), name->id);
    if (!volume && refused) {
        json_object_set_new(json, "health", json_string("unavailable"));
        json_object_set_new(json, "problem", json_string(refused));
    }
    return json;
}

int admin_volumes_json(struct node *node, json_t **ret_volumes, bool *ret_recalled)
{
    struct volumes_name *names;
    unsigned count;
    int r = volumes_list_or_recall(node->volumes, &names, &count, ret_recalled);
    if (r < 0)
        return r;
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++) {
        json_array_append_new(array, admin_volume_json(node, &names[i]));
        if (i % 64 == 63)
            fiber_yield(); /* I/O does not wait for a long list */
    }
    mem_free(names);
    *ret_volumes = array;
    return 0;
}

/* --- From the owners --------------------------------------------------------------------------- */

static void add_open(void *ctx, struct volume *volume)
{
    json_array_append_new(ctx, json_integer((json_int_t)volume_id(volume)));
}

/* What another node wants to know of the volumes that are open here. */
static json_t *open_here(struct node *node)
{
    json_t *open = json_object(), *ids = json_array(), *id;
    size_t i;
    volumes_each_open(node->volumes, add_open, ids);
    json_array_foreach (ids, i, id) {
        struct volume_info info;
        unsigned connections;
        char text[ID_TEXT_BYTES];
        uint64_t number = (uint64_t)json_integer_value(id);
        struct volume *volume = volumes_peek(node->volumes, number, &connections);
        if (!volume)
            continue;
        volume_get_info(volume, &info);
        snprintf(text, sizeof(text), "%016" PRIx64, number);
        json_object_set_new(open, text,
            json_pack("{s:s, s:I, s:s, s:s, s:I, s:i, s:s, s:s}", "name", info.name, "size_bytes",
                (json_int_t)info.size_bytes, "pool", info.pool, "owner", node->config->name,
                "epoch", (json_int_t)info.epoch, "connections", (int)connections, "health",
                info.health, "problem", info.problem));
    }
    json_decref(ids);
    return open;
}

struct question {
    struct node *node;
    char owner[64];
    json_t *told; /* of all: by id; the fibers' own are added when they answer */
    struct fiber_group *group;
};

static void ask_owner(void *arg)
{
    struct question *question = arg;
    CLEANUP_FREE char *error = NULL;
    json_t *answer = NULL;
    if (admin_ask(question->node, question->owner, "volume.list",
            json_pack("{s:b}", "open_only", 1), OWNERS_NS, &answer, &error) == 0)
        json_object_update(question->told, json_object_get(answer, "open"));
    json_decref(answer);
    fiber_group_done(question->group, 0);
    mem_free(question);
}

/* Asks nodes (the keys of `owners`, which is given up) what they have open, all at once; by id. */
MAY_SUSPEND static json_t *ask_owners(struct node *node, json_t *owners)
{
    json_t *told = json_object(), *value;
    const char *owner;
    struct fiber_group group;
    fiber_group_init(&group);
    json_object_del(owners, node->config->name);
    json_object_foreach (owners, owner, value) {
        struct question *question = NEW(struct question);
        *question = (struct question){.node = node, .told = told, .group = &group};
        snprintf(question->owner, sizeof(question->owner), "%s", owner);
        fiber_group_add(&group, 1);
        fiber_spawn("asks an owner", ask_owner, question);
    }
    fiber_group_wait(&group);
    json_decref(owners);
    return told;
}

MAY_SUSPEND static void add_what_owners_know(struct node *node, json_t *volumes)
{
    static const char *const keys[] = {"connections", "health", "problem"};
    json_t *owners = json_object(), *volume;
    size_t i;
    json_array_foreach (volumes, i, volume) {
        const char *owner = json_string_value(json_object_get(volume, "owner"));
        if (owner[0])
            json_object_set_new(owners, owner, json_true());
    }
    json_t *told = ask_owners(node, owners);
    json_array_foreach (volumes, i, volume) {
        json_t *more = json_object_get(told, json_string_value(json_object_get(volume, "volume")));
        for (unsigned k = 0; k < ARRAY_SIZE(keys); k++)
            if (json_object_get(more, keys[k]))
                json_object_set(volume, keys[k], json_object_get(more, keys[k]));
    }
    json_decref(told);
}

/* --- Without the store (S18) ------------------------------------------------------------------- */

static void remember(struct node *node, const char *id, const json_t *told)
{
    struct volumes_name name = {.state = VOLUME_OWNED};
    const char *text, *pool, *owner;
    json_int_t size_bytes, epoch;
    if (id_parse(id, &name.id) < 0 ||
        json_unpack((json_t *)told, "{s:s, s:I, s:s, s:s, s:I}", "name", &text, "size_bytes",
            &size_bytes, "pool", &pool, "owner", &owner, "epoch", &epoch) < 0 ||
        !name_valid(text) || size_bytes < 512 || (uint64_t)size_bytes > VOLUME_SIZE_BYTES_MAX ||
        epoch < 0 || epoch > UINT32_MAX || strlen(pool) >= sizeof(name.pool) ||
        strlen(owner) >= sizeof(name.owner))
        return;
    strcpy(name.name, text);
    strcpy(name.pool, pool);
    strcpy(name.owner, owner);
    name.size_bytes = (uint64_t)size_bytes;
    name.epoch = (uint32_t)epoch;
    const struct member *member = members_find(node->members, owner);
    name.owner_session = member ? member->session : 0;
    volumes_remember(node->volumes, &name);
}

void admin_ask_what_others_serve(void *ctx)
{
    struct node *node = ctx;
    uint64_t now_ns = env_now_ns();
    if (!node->peers || now_ns < node->others_asked_ns + OTHERS_AGAIN_NS)
        return;
    node->others_asked_ns = now_ns;
    json_t *owners = json_object(), *value;
    const char *id;
    list_for_each (it, peers_all(node->peers)) {
        const struct peer *peer = list_entry(it, struct peer, link);
        if (peer_connected(peer))
            json_object_set_new(owners, peer->name, json_true());
    }
    json_t *told = ask_owners(node, owners);
    json_object_foreach (told, id, value)
        remember(node, id, value);
    json_decref(told);
}

bool admin_recall(struct node *node, const char *name, struct volumes_name *ret_name)
{
    if (volumes_recall(node->volumes, name, ret_name))
        return true;
    admin_ask_what_others_serve(node);
    return volumes_recall(node->volumes, name, ret_name);
}

int method_volume_list(struct admin_call *call)
{
    struct node *node = call->ctx;
    json_t *volumes;
    bool recalled;
    bool clients = admin_params_bool(&call->params, "clients", false);
    bool open_only = admin_params_bool(&call->params, "open_only", false);
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    if (open_only) {
        call->result = json_pack("{s:o}", "open", open_here(node));
        return 0;
    }
    if (volumes_store_away(node->volumes))
        admin_ask_what_others_serve(node);
    r = admin_volumes_json(node, &volumes, &recalled);
    if (r < 0)
        return admin_fail(call, r, "the store does not list the volumes");
    if (clients && node->peers)
        add_what_owners_know(node, volumes);
    call->result = json_pack("{s:o, s:b}", "volumes", volumes, "recalled", recalled);
    return 0;
}
