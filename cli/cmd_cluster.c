/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "cli/commands.h"
#include "cli/table.h"
#include "common/mem.h"

int cmd_cluster_init(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "cluster.init", NULL, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(result);
    else
        printf("Cluster %s is made, and this node is in it. On each other node: 'holdfast cluster "
               "join'.\n",
            json_text(result, "cluster"));
    return CLI_OK;
}

int cmd_cluster_join(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "cluster.join", NULL, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(result);
    else
        printf("This node is in cluster %s now.\n", json_text(result, "cluster"));
    return CLI_OK;
}

/* The first digits tell one start of a process or machine from the next. */
static void short_id(const char *text, char *ret_text, size_t bytes)
{
    snprintf(ret_text, bytes, "%.8s", text);
}

static void add_node(struct table *table, const json_t *node)
{
    char since[DURATION_TEXT_BYTES], disks[24], boot[9], incarnation[9];
    uint64_t since_s = json_number(node, "since_s");
    duration_format(since_s * 1000000000u, since);
    snprintf(disks, sizeof(disks), "%" PRIu64, json_number(node, "disks"));
    short_id(json_text(node, "boot"), boot, sizeof(boot));
    short_id(json_text(node, "incarnation"), incarnation, sizeof(incarnation));
    table_add(table, json_text(node, "name"), json_text(node, "state"), since_s > 0 ? since : "0 s",
        json_text(node, "address"), json_text(node, "rack"), disks, boot, incarnation,
        json_text(node, "version"));
}

int cmd_node_list(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "node.list", NULL, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(result);
        return CLI_OK;
    }
    const json_t *node;
    size_t i;
    struct table *table = table_new("llrllrlll", "NODE", "STATE", "SINCE", "ADDRESS", "RACK",
        "DISKS", "BOOT", "START", "VERSION");
    json_array_foreach (json_object_get(result, "nodes"), i, node)
        add_node(table, node);
    table_print(table, stdout);
    if (json_flag(result, "recalled"))
        puts("! The store does not answer: this is what this node last saw.");
    return CLI_OK;
}

int cmd_node_remove(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0];
    return cli_do(cli, "node.remove", json_pack("{s:s}", "name", name),
        "Node '%s' is out of the cluster.", name);
}
