/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/nbd_link.h"
#include "cli/table.h"
#include "common/mem.h"

int cmd_volume_create(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0], *pool = args_text(args, "pool");
    uint64_t size_bytes = args_number(args, "size", 0);
    CLEANUP_FREE char *only_pool = NULL;
    int code = pool ? CLI_OK : cli_default_pool(cli, &only_pool);
    if (code != CLI_OK)
        return code;
    if (!pool)
        pool = only_pool;
    return cli_do(cli, "volume.create",
        json_pack(
            "{s:s, s:I, s:s}", "name", name, "size_bytes", (json_int_t)size_bytes, "pool", pool),
        "Volume '%s' is made: %s in pool '%s'.", name, size_text(size_bytes), pool);
}

/* "SIZE" or "+SIZE". */
static int read_new_size(
    struct cli *cli, const char *name, const char *text, uint64_t *ret_size_bytes)
{
    uint64_t size_bytes;
    bool more = text[0] == '+';
    if (size_parse(text + more, &size_bytes) < 0) {
        cli_fail("'%s' is not a size: bytes, or a number with KiB, MiB, GiB or TiB, for example "
                 "20GiB, or +5GiB for so much more",
            text);
        return CLI_USAGE;
    }
    CLEANUP_JSON json_t *info = NULL;
    int code =
        more ? cli_call(cli, "volume.info", json_pack("{s:s}", "name", name), &info) : CLI_OK;
    if (code == CLI_OK)
        *ret_size_bytes = size_bytes + (more ? json_number(info, "size_bytes") : 0);
    return code;
}

int cmd_volume_resize(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0];
    uint64_t size_bytes;
    int code = read_new_size(cli, name, args->operands[1], &size_bytes);
    if (code != CLI_OK)
        return code;
    return cli_do(cli, "volume.resize",
        json_pack("{s:s, s:I}", "name", name, "size_bytes", (json_int_t)size_bytes),
        "Volume '%s' has %s now.", name, size_text(size_bytes));
}

int cmd_volume_rename(struct cli *cli, const struct args *args)
{
    return cli_do(cli, "volume.rename",
        json_pack("{s:s, s:s}", "name", args->operands[0], "new_name", args->operands[1]),
        "Volume '%s' is named '%s' now.", args->operands[0], args->operands[1]);
}

static int confirm_delete(struct cli *cli, const char *name)
{
    CLEANUP_JSON json_t *info = NULL;
    int code = cli_call(cli, "volume.info", json_pack("{s:s}", "name", name), &info);
    if (code != CLI_OK)
        return code;
    CLEANUP_FREE char *question = mem_printf(
        "Delete volume '%s' (%s, %s stored in pool '%s', %s connected) and all its data?", name,
        json_size(info, "size_bytes"), json_size(info, "stored_bytes"), json_text(info, "pool"),
        count_text(json_number(info, "connections"), "client"));
    return cli_confirm(question) ? CLI_OK : cli_fail("volume '%s' is left as it was", name);
}

int cmd_volume_delete(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0];
    int code = args_has(args, "yes") ? CLI_OK : confirm_delete(cli, name);
    if (code != CLI_OK)
        return code;
    json_t *params = json_pack("{s:s}", "name", name);
    if (args_has(args, "force"))
        json_object_set_new(params, "force", json_true());
    return cli_do(cli, "volume.delete", params, "Volume '%s' is deleted.", name);
}

int cmd_volume_flush(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0];
    return cli_do(cli, "volume.flush", json_pack("{s:s}", "name", name),
        "All that was written to volume '%s' is durable.", name);
}

int cmd_volume_move(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0], *node = args_text(args, "to");
    if (!node) {
        cli_fail("volume move: --to NODE is missing; see 'holdfast node list'");
        return CLI_USAGE;
    }
    return cli_do(cli, "volume.move", json_pack("{s:s, s:s}", "name", name, "node", node),
        "Node '%s' serves volume '%s' now.", node, name);
}

int cmd_volume_close(struct cli *cli, const struct args *args)
{
    const char *name = args->operands[0];
    return cli_do(
        cli, "volume.close", json_pack("{s:s}", "name", name), "Volume '%s' is closed.", name);
}

/* --- List, info ------------------------------------------------------------------------------ */

/* A volume that is not open has no news; it was well when it was closed. */
static const char *state_text(const json_t *volume)
{
    const char *health = json_text(volume, "health");
    if (strcmp(json_text(volume, "state"), "deleting") == 0)
        return "deleting";
    if (*health && strcmp(health, "ok") != 0)
        return health;
    return json_flag(volume, "open") ? "open" : "closed";
}

int cmd_volume_list(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call(cli, "volume.list", json_pack("{s:b}", "clients", 1), &result);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(result);
        return CLI_OK;
    }
    const json_t *volumes = json_object_get(result, "volumes"), *volume;
    size_t i;
    if (json_array_size(volumes) == 0) {
        puts("No volumes yet: see 'holdfast volume create --help'.");
        return CLI_OK;
    }
    struct table *table =
        table_new("lrlllr", "VOLUME", "SIZE", "POOL", "STATE", "OWNER", "CLIENTS");
    json_array_foreach (volumes, i, volume) {
        char clients[24];
        if (json_object_get(volume, "connections"))
            snprintf(clients, sizeof(clients), "%" PRIu64, json_number(volume, "connections"));
        else
            strcpy(clients, "?"); /* its owner has not answered */
        table_add(table, json_text(volume, "name"), json_size(volume, "size_bytes"),
            json_text(volume, "pool"), state_text(volume), json_text(volume, "owner"), clients);
    }
    table_print(table, stdout);
    if (json_flag(result, "recalled"))
        puts("! The store does not answer: this is what this node knows or last saw.");
    return CLI_OK;
}

static void print_addresses(struct cli *cli, const char *name)
{
    CLEANUP_JSON json_t *status = NULL;
    CLEANUP_FREE char *error = NULL;
    if (cli_call_quiet(cli, "status", NULL, &status, &error) != CLI_OK)
        return;
    const json_t *addresses = json_object_get(status, "nbd"), *address;
    size_t i;
    json_array_foreach (addresses, i, address) {
        CLEANUP_FREE char *uri = nbd_link_uri(json_string_value(address), name);
        printf("%-14s %s\n", i == 0 ? "Address:" : "", uri);
    }
}

/* S6: not a fault of now, and not forgotten. */
static void print_loss(const json_t *info)
{
    time_t at = (time_t)json_number(info, "loss_time");
    struct tm tm;
    char text[32] = "";
    if (localtime_r(&at, &tm))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    printf("%-14s power was lost before it was opened at %s (epoch %" PRIu64
           "): writes that were not flushed then may be lost\n",
        "Possible loss:", text, json_number(info, "loss_epoch"));
}

static void print_info(struct cli *cli, const json_t *info)
{
    const char *health = json_text(info, "health"), *problem = json_text(info, "problem");
    printf("%-14s %s\n", "Volume:", json_text(info, "name"));
    printf("%-14s %s\n", "Id:", json_text(info, "volume"));
    printf("%-14s %s (%" PRIu64 " bytes)\n", "Size:", json_size(info, "size_bytes"),
        json_number(info, "size_bytes"));
    printf("%-14s %s\n", "Pool:", json_text(info, "pool"));
    printf("%-14s %s%s%s\n", "Health:", *health ? health : "ok", *problem ? ": " : "", problem);
    printf("%-14s %s", "State:", json_flag(info, "open") ? "open" : "closed");
    if (json_object_get(info, "connections")) /* its owner has answered */
        printf(", %s connected", count_text(json_number(info, "connections"), "client"));
    putchar('\n');
    if (json_flag(info, "recalled"))
        puts("! The store does not answer: this is what this node last saw.");
    const json_t *attached = json_object_get(info, "attached"), *node;
    size_t i;
    const char *owner = json_text(info, "owner");
    if (*owner && json_object_get(info, "epoch"))
        printf("%-14s %s (epoch %" PRIu64 ")\n", "Owner:", owner, json_number(info, "epoch"));
    else if (*owner) /* that is away */
        printf("%-14s %s\n", "Owner:", owner);
    json_array_foreach (attached, i, node)
        printf("%-14s %s\n", i == 0 ? "Used on:" : "", json_string_value(node));
    if (json_object_get(info, "allocated_bytes")) {
        printf("%-14s %s\n", "Data:", json_size(info, "allocated_bytes"));
        printf("%-14s %s on disks, with redundancy\n", "Stored:", json_size(info, "stored_bytes"));
        printf("%-14s %s, %s in memory\n", "Log:", json_size(info, "log_bytes"),
            json_size(info, "memtable_bytes"));
        printf("%-14s %" PRIu64 ", %" PRIu64 " degraded, %" PRIu64 " lost",
            "Chunks:", json_number(info, "chunks"), json_number(info, "chunks_degraded"),
            json_number(info, "chunks_lost"));
        if (json_number(info, "chunks_crowded") > 0)
            printf(", %" PRIu64 " with shards in one failure domain",
                json_number(info, "chunks_crowded"));
        putchar('\n');
    }
    if (json_object_get(info, "loss_epoch"))
        print_loss(info);
    print_addresses(cli, json_text(info, "name"));
}

int cmd_volume_info(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *info = NULL;
    int code = cli_call(cli, "volume.info", json_pack("{s:s}", "name", args->operands[0]), &info);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(info);
    else
        print_info(cli, info);
    return CLI_OK;
}
