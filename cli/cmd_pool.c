/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "cli/commands.h"
#include "cli/table.h"
#include "common/mem.h"

int cmd_pool_create(struct cli *cli, const struct args *args)
{
    static const struct {
        const char *option, *param;
    } texts[] = {{"domain", "domain"}, {"class", "class"}, {"log-class", "log_class"}};
    const char *name = args->operands[0], *code = args_text(args, "code");
    json_t *params = json_pack("{s:s, s:s}", "name", name, "code", code);
    for (unsigned i = 0; i < 3; i++)
        if (args_has(args, texts[i].option))
            json_object_set_new(
                params, texts[i].param, json_string(args_text(args, texts[i].option)));
    if (args_has(args, "min-shards"))
        json_object_set_new(
            params, "min_shards", json_integer((json_int_t)args_number(args, "min-shards", 0)));
    return cli_do(cli, "pool.create", params, "Pool '%s' is made, with code %s.", name, code);
}

int cmd_pool_delete(struct cli *cli, const struct args *args)
{
    return cli_do(cli, "pool.delete", json_pack("{s:s}", "name", args->operands[0]),
        "Pool '%s' is deleted.", args->operands[0]);
}

int cmd_pool_list(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "pool.list", NULL, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(result);
        return CLI_OK;
    }
    const json_t *pools = json_object_get(result, "pools"), *pool;
    size_t i;
    if (json_array_size(pools) == 0) {
        puts("No pools yet: see 'holdfast pool create --help'.");
        return CLI_OK;
    }
    struct table *table =
        table_new("llrrrll", "POOL", "CODE", "SIZE", "FREE", "DISKS", "DOMAIN", "CLASS");
    json_array_foreach (pools, i, pool) {
        /* None: fewer disks than the code wants are up. */
        bool enough = json_number(pool, "size_bytes") > 0;
        char disks[24];
        snprintf(disks, sizeof(disks), "%" PRIu64, json_number(pool, "disks"));
        table_add(table, json_text(pool, "name"), json_text(pool, "code"),
            enough ? json_size(pool, "size_bytes") : "",
            enough ? json_size(pool, "free_bytes") : "", disks, json_text(pool, "domain"),
            json_text(pool, "class"));
    }
    table_print(table, stdout);
    return CLI_OK;
}
