/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/admin/methods.h"
#include "blockd/node.h"
#include "common/env.h"
#include "common/mem.h"

int method_cluster_init(struct admin_call *call)
{
    struct node *node = call->ctx;
    char uuid[UUID_TEXT_BYTES];
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        r = node_cluster_init(node, &call->error);
    if (r == 0)
        call->result =
            json_pack("{s:s}", "cluster", uuid_format(&node->identity.cluster.uuid, uuid));
    return r;
}

int method_cluster_join(struct admin_call *call)
{
    struct node *node = call->ctx;
    char uuid[UUID_TEXT_BYTES];
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        r = node_cluster_join(node, &call->error);
    if (r == 0)
        call->result =
            json_pack("{s:s}", "cluster", uuid_format(&node->identity.cluster.uuid, uuid));
    return r;
}

/* --- Nodes ------------------------------------------------------------------------------------- */

unsigned admin_node_disks(struct node *node, const char *name)
{
    unsigned count = 0;
    if (strcmp(name, node->config->name) == 0) {
        list_for_each (it, disks_entries(node->disks))
            count++;
        return count;
    }
    list_for_each (it, &members_disks(node->members)->all) {
        const struct disk *disk = list_entry(it, struct disk, link);
        count += disk->number && !disk->local && strcmp(disk->node, name) == 0;
    }
    return count;
}

static json_t *node_json(struct node *node, const struct member *member)
{
    const struct session_record *process = &member->process;
    uint64_t since_ns = member->session ? member->since_ns : member->down_since_ns;
    char uuid[UUID_TEXT_BYTES], boot[UUID_TEXT_BYTES], incarnation[17];
    struct uuid boot_id;
    memcpy(boot_id.bytes, process->boot_id, sizeof(boot_id.bytes));
    snprintf(incarnation, sizeof(incarnation), "%016" PRIx64, process->incarnation);
    return json_pack("{s:s, s:s, s:b, s:s, s:I, s:s, s:s, s:i, s:s, s:s, s:s}", "name",
        member->record.name, "node", uuid_format(&member->record.uuid, uuid), "self",
        strcmp(member->record.name, node->config->name) == 0, "state",
        member->session ? "up" : "down", "since_s",
        (json_int_t)((env_now_ns() - since_ns) / 1000000000), "address", member->record.address,
        "rack", member->record.rack, "disks", (int)admin_node_disks(node, member->record.name),
        "boot", process->id ? uuid_format(&boot_id, boot) : "", "incarnation",
        process->id ? incarnation : "", "version", process->software);
}

json_t *admin_nodes_json(struct node *node)
{
    json_t *nodes = json_array();
    list_for_each (it, members_all(node->members))
        json_array_append_new(nodes, node_json(node, list_entry(it, struct member, link)));
    return nodes;
}

int method_node_list(struct admin_call *call)
{
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    struct node *node = call->ctx;
    call->result = json_pack("{s:o}", "nodes", admin_nodes_json(node));
    if (volumes_store_away(node->volumes))
        json_object_set_new(call->result, "recalled", json_true());
    return 0;
}

/* What this node was told may be old. */
MAY_SUSPEND static int check_down(struct admin_call *call, const char *name)
{
    struct node *node = call->ctx;
    int r = node_session_alive(node->store, name);
    if (r == 1)
        call->error = mem_printf("node '%s' is up; stop its holdfast-blockd first", name);
    return r == 1 ? -EBUSY : r < 0 ? admin_fail(call, r, "the store does not say who is up") : 0;
}

/* Whether nothing of the node would be lost: it is dead and has no disks. */
MAY_SUSPEND static int check_removable(struct admin_call *call, const char *name)
{
    struct node *node = call->ctx;
    const struct member *member = members_find(node->members, name);
    unsigned disks = member ? admin_node_disks(node, name) : 0;
    if (!member)
        call->error = mem_printf("no node named '%s'; see 'holdfast node list'", name);
    else if (strcmp(name, node->config->name) == 0)
        call->error =
            mem_printf("'%s' is this node; remove it on another one, once it is stopped", name);
    else if (!member->session && disks > 0)
        call->error = mem_printf("node '%s' has %u disk%s; 'holdfast disk remove' forgets each "
                                 "(see 'holdfast disk list')",
            name, disks, disks == 1 ? "" : "s");
    else
        return check_down(call, name);
    return member ? -EBUSY : -ENOENT;
}

int admin_remove_record(
    struct admin_call *call, const char *key, const char *node_name, const char *what)
{
    struct node *node = call->ctx;
    struct store_value value;
    int r = store_get(node->store, key, &value);
    if (r < 0)
        return admin_fail(call, r, what);
    struct store_compare compare = {key, value.revision};
    store_value_fini(&value);
    r = check_down(call, node_name);
    if (r < 0)
        return r;
    struct store_op op = {.type = STORE_DELETE, .key = key};
    r = store_txn(node->store, &compare, 1, &op, 1, NULL);
    return r < 0 ? admin_fail(call, r, what) : 0;
}

int method_node_remove(struct admin_call *call)
{
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    int r = admin_params_end(&call->params, &call->error);
    if (r == 0)
        r = check_removable(call, name);
    if (r < 0)
        return r;
    char key[KEY_BYTES_MAX];
    return admin_remove_record(
        call, key_node(name, key), name, "the node was not removed from the store");
}

/* From another node, whose scrub or read found it: this one owns the volume. */
int method_shard_damaged(struct admin_call *call)
{
    struct node *node = call->ctx;
    struct admin_params *params = &call->params;
    struct shard_key key = {0};
    const char *volume = admin_params_text(params, "volume", ADMIN_REQUIRED, 17);
    const char *chunk = admin_params_text(params, "chunk", ADMIN_REQUIRED, 17);
    key.index =
        (uint8_t)admin_params_number(params, "index", ADMIN_REQUIRED, 0, CODE_SHARDS_MAX - 1, 0);
    uint64_t disk = admin_params_number(params, "disk", ADMIN_REQUIRED, 1, UINT32_MAX, 0);
    uint64_t block = admin_params_number(params, "block", ADMIN_REQUIRED, 0, UINT32_MAX, 0);
    int r = admin_params_end(params, &call->error);
    if (r == 0 && (id_parse(volume, &key.volume) < 0 || id_parse(chunk, &key.chunk) < 0)) {
        call->error = mem_strdup("volume and chunk are 16 hexadecimal digits");
        r = -EINVAL;
    }
    if (r == 0)
        adopt_damaged(node->adopt, key, (uint32_t)disk, (uint32_t)block);
    return r;
}
