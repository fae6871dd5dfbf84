/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "cli/commands.h"
#include "cli/table.h"
#include "common/mem.h"

int cmd_disk_format(struct cli *cli, const struct args *args)
{
    CLEANUP_FREE char *path = cli_absolute_path(args->operands[0]);
    CLEANUP_JSON json_t *result = NULL;
    json_t *params = json_pack("{s:s, s:b}", "path", path, "force", args_has(args, "force"));
    if (!params)
        return cli_fail("'%s' is not UTF-8: the daemon cannot be told", path);
    if (args_has(args, "size"))
        json_object_set_new(
            params, "size_bytes", json_integer((json_int_t)args_number(args, "size", 0)));
    if (args_has(args, "class"))
        json_object_set_new(params, "class", json_string(args_text(args, "class")));
    int code = cli_call(cli, "disk.format", params, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(result);
    else
        printf("%s is disk %s now, %s. Take it into use with 'holdfast disk add %s'.\n", path,
            json_text(result, "disk"), json_size(result, "size_bytes"), path);
    return CLI_OK;
}

int cmd_disk_add(struct cli *cli, const struct args *args)
{
    CLEANUP_FREE char *path = cli_absolute_path(args->operands[0]);
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "disk.add", json_pack("{s:s}", "path", path), &result);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(result);
    else
        printf("%s is in use as disk number %" PRIu64 ".\n", path, json_number(result, "number"));
    return CLI_OK;
}

int cmd_disk_remove(struct cli *cli, const struct args *args)
{
    const char *disk = args->operands[0];
    return cli_do(cli, "disk.remove",
        json_pack("{s:s, s:b}", "disk", disk, "force", args_has(args, "force")),
        "Disk '%s' is removed.", disk);
}

int cmd_disk_scrub(struct cli *cli, const struct args *args)
{
    const char *node = args_text(args, "node");
    if (!node)
        return cli_do(cli, "disk.scrub", NULL,
            "Checking all disks of this node; 'holdfast status' shows how far.");
    return cli_do(cli, "disk.scrub", json_pack("{s:s}", "node", node),
        "Checking all disks of node '%s'; 'holdfast status' there shows how far.", node);
}

int cmd_disk_list(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "disk.list", NULL, &result);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(result);
        return CLI_OK;
    }
    const json_t *disks = json_object_get(result, "disks");
    const json_t *disk;
    size_t i;
    if (json_array_size(disks) == 0) {
        puts("No disks yet: see 'holdfast disk format --help' and 'holdfast disk add --help'.");
        return CLI_OK;
    }
    struct table *table = table_new(
        "rllrrrrll", "NO", "NODE", "STATE", "SIZE", "FREE", "SHARDS", "ERRORS", "CLASS", "PATH");
    json_array_foreach (disks, i, disk) {
        bool there = json_number(disk, "size_bytes") > 0;
        char number[24], shards[24], errors[24];
        snprintf(number, sizeof(number), "%" PRIu64, json_number(disk, "number"));
        snprintf(shards, sizeof(shards), "%" PRIu64, json_number(disk, "shards"));
        snprintf(errors, sizeof(errors), "%" PRIu64, json_number(disk, "errors"));
        bool here = json_object_get(disk, "shards"); /* other nodes do not tell */
        table_add(table, number, json_text(disk, "node"), json_text(disk, "state"),
            there ? json_size(disk, "size_bytes") : "", there ? json_size(disk, "free_bytes") : "",
            there && here ? shards : "", there ? errors : "", json_text(disk, "class"),
            json_text(disk, "path"));
    }
    table_print(table, stdout);
    json_array_foreach (disks, i, disk)
        if (*json_text(disk, "problem"))
            printf("! %s\n", json_text(disk, "problem"));
    return CLI_OK;
}
