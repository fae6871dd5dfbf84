/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/table.h"
#include "common/mem.h"

int cmd_version(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *status = NULL;
    CLEANUP_FREE char *error = NULL;
    int code = cli_call_quiet(cli, "status", NULL, &status, &error);
    const char *daemon = code == CLI_OK ? json_text(status, "version") : NULL;
    if (cli->json) {
        CLEANUP_JSON json_t *both =
            json_pack("{s:s, s:s?}", "holdfast", HOLDFAST_VERSION, "daemon", daemon);
        cli_print_json(both);
    } else {
        printf("holdfast %s\n", HOLDFAST_VERSION);
        printf("holdfast-blockd %s\n", daemon ? daemon : "does not answer");
    }
    return CLI_OK;
}

static uint64_t sum_of(const json_t *array, const char *member)
{
    const json_t *item;
    uint64_t sum = 0;
    size_t i;
    json_array_foreach (array, i, item)
        sum += json_number(item, member);
    return sum;
}

static size_t count_where(const json_t *array, const char *member, const char *text)
{
    const json_t *item;
    size_t count = 0, i;
    json_array_foreach (array, i, item)
        count += strcmp(json_text(item, member), text) == 0;
    return count;
}

/* A node alone is not news. */
static void print_nodes(const json_t *nodes)
{
    size_t count = json_array_size(nodes), up = count_where(nodes, "state", "up");
    if (count > 1)
        printf("%-10s %zu, %zu up\n", "Nodes:", count, up);
}

static void print_disks(const json_t *disks)
{
    size_t count = json_array_size(disks), in = count_where(disks, "state", "in");
    printf("%-10s %zu", "Disks:", count);
    if (in < count)
        printf(", %zu of them not working", count - in);
    if (count > 0)
        printf("; %s of %s free", size_text(sum_of(disks, "free_bytes")),
            size_text(sum_of(disks, "size_bytes")));
    putchar('\n');
}

static void print_pools(const json_t *pools)
{
    const json_t *pool;
    size_t i;
    printf("%-10s %zu\n", "Pools:", json_array_size(pools));
    json_array_foreach (pools, i, pool) {
        if (json_number(pool, "size_bytes") > 0)
            printf("  %s: %s, %s of %s free\n", json_text(pool, "name"), json_text(pool, "code"),
                json_size(pool, "free_bytes"), json_size(pool, "size_bytes"));
        else
            printf("  %s: %s, fewer disks (%" PRIu64 ") than its code wants\n",
                json_text(pool, "name"), json_text(pool, "code"), json_number(pool, "disks"));
    }
}

static void print_volumes(const json_t *volumes)
{
    const json_t *volume;
    size_t open = 0, i;
    json_array_foreach (volumes, i, volume)
        open += json_flag(volume, "open");
    printf("%-10s %zu, %zu open; %s connected\n", "Volumes:", json_array_size(volumes), open,
        count_text(sum_of(volumes, "connections"), "client"));
}

static void print_scrub(const json_t *scrub)
{
    if (!scrub || (!json_flag(scrub, "running") && json_number(scrub, "passes") == 0))
        return;
    printf("%-10s ", "Scrub:");
    if (json_flag(scrub, "running"))
        printf(
            "disk %" PRIu64 ", %s checked", json_number(scrub, "disk"), json_size(scrub, "bytes"));
    else
        printf("done");
    printf(", %" PRIu64 " damaged shards found\n", json_number(scrub, "damaged_shards"));
}

static void print_status(const json_t *status)
{
    char uptime[DURATION_TEXT_BYTES];
    const json_t *memory = json_object_get(status, "memory"), *item;
    const json_t *problems = json_object_get(status, "problems");
    uint64_t uptime_s = json_number(status, "uptime_s");
    size_t i;
    printf("%-10s %s (Holdfast %s, up %s)\n", "Node:", json_text(status, "node"),
        json_text(status, "version"),
        uptime_s > 0 ? duration_format(uptime_s * 1000000000u, uptime) : "0 s");
    printf("%-10s %s\n", "Health:", json_text(status, "health"));
    json_array_foreach (problems, i, item)
        printf("  ! %s\n", json_string_value(item));
    if (!json_object_get(status, "disks"))
        return; /* it waits, and has said for what */
    print_nodes(json_object_get(status, "nodes"));
    print_disks(json_object_get(status, "disks"));
    print_pools(json_object_get(status, "pools"));
    print_volumes(json_object_get(status, "volumes"));
    printf("%-10s %s of %s\n", "Memory:", json_size(memory, "used_bytes"),
        json_size(memory, "budget_bytes"));
    print_scrub(json_object_get(status, "scrub"));
    if (*json_text(status, "repairing"))
        printf("%-10s volume '%s'\n", "Repairing:", json_text(status, "repairing"));
    json_array_foreach (json_object_get(status, "nbd"), i, item)
        printf("%-10s %s\n", i == 0 ? "NBD:" : "", json_string_value(item));
}

int cmd_status(struct cli *cli, const struct args *args)
{
    CLEANUP_JSON json_t *status = NULL;
    int code = cli_call(cli, "status", NULL, &status);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        cli_print_json(status);
    else
        print_status(status);
    return CLI_OK;
}
