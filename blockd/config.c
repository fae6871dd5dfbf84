/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/config.h"

#include <errno.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "common/check.h"
#include "common/mem.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)
#define SECOND_NS 1000000000ull
#define DAY_NS (86400 * SECOND_NS)

/* An absolute path, without the slash at its end. */
static char *read_path(
    struct config *file, const char *section, const char *key, char *default_path)
{
    const char *path = config_string(file, section, key, default_path);
    if (path[0] != '/')
        config_reject(file, section, key, "is not an absolute path");
    char *copy = mem_strdup(path);
    for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
        copy[len - 1] = 0;
    mem_free(default_path);
    return copy;
}

static void read_node(struct node_config *config, const char *hostname)
{
    struct config *file = config->file;
    config->name = config_string(file, "node", "name", hostname);
    if (!name_valid(config->name) || strlen(config->name) >= sizeof(((struct disk *)0)->node))
        config_reject(file, "node", "name",
            "is not a node's name: a letter or digit, then letters, digits, '.', '_', '-', at most "
            "63 "
            "in all (it is the host's name unless [node] name says otherwise)");
    config->run_dir = read_path(file, "node", "run_dir", mem_strdup("/run/holdfast"));
    config->state_dir = read_path(file, "node", "state_dir", mem_strdup("/var/lib/holdfast"));
    config->memory_bytes = config_size_bytes(file, "node", "memory", GIB, 128 * MIB, 64 * TIB);
    char *default_socket = mem_printf("%s/admin.sock", config->run_dir);
    char *socket = read_path(file, "admin", "socket", default_socket);
    config->admin_address = mem_printf("unix:%s", socket);
    mem_free(socket);
}

static void add_address(struct node_config *config, const char *address, size_t len)
{
    bool known = strncmp(address, "unix:/", 6) == 0 || strncmp(address, "tcp:", 4) == 0;
    if (!known)
        config_reject(config->file, "nbd", "listen",
            "is not an address: unix:/PATH or tcp:HOST:PORT is, several with spaces between");
    else if (config->nbd_address_count == NBD_ADDRESSES_MAX)
        config_reject(config->file, "nbd", "listen", "has more than 32 addresses");
    else
        config->nbd_addresses[config->nbd_address_count++] = mem_printf("%.*s", (int)len, address);
}

static void read_nbd(struct node_config *config)
{
    const char *list;
    for (unsigned n = 0; (list = config_string_nth(config->file, "nbd", "listen", n)); n++)
        for (size_t len; *(list += strspn(list, " \t")); list += len) {
            len = strcspn(list, " \t");
            add_address(config, list, len);
        }
    if (config->nbd_address_count == 0)
        config->nbd_addresses[config->nbd_address_count++] =
            mem_printf("unix:%s/nbd.sock", config->run_dir);
}

static void read_store(struct node_config *config)
{
    static const char *const types[] = {"embedded", NULL};
    (void)config_enum(config->file, "store", "type", types, 0);
    config->store_path =
        read_path(config->file, "store", "path", mem_printf("%s/store", config->state_dir));
}

static void read_log(struct node_config *config)
{
    static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
    config->log_level =
        (enum log_level)config_enum(config->file, "log", "level", levels, LOG_LEVEL_INFO);
}

/* Zero means the engine's own default. */
static void read_tunables(struct node_config *config)
{
    struct config *file = config->file;
    uint64_t cache = MAX(config->memory_bytes / 16, 8 * MIB);
    config->row_blocks = config_u64(file, "volume", "row_blocks", 0, 0, APPEND_ENTRIES_MAX);
    config->log_limit_bytes = config_size_bytes(file, "volume", "log_limit", 0, 4 * MIB, 16 * GIB);
    config->map_cache_bytes =
        config_size_bytes(file, "volume", "map_cache", cache, 64 << 10, 16 * TIB);
    config->trailer_cache_bytes =
        config_size_bytes(file, "volume", "trailer_cache", cache, 64 << 10, 16 * TIB);
    config->delta_limit_bytes =
        config_size_bytes(file, "volume", "delta_limit", 0, 64 << 10, 16 * GIB);
    config->bypass_min_bytes = config_size_bytes(file, "volume", "bypass_min", 0, 4096, GIB);
    config->flush_after_ns =
        config_duration_ns(file, "volume", "flush_after", 0, SECOND_NS / 10, 60 * SECOND_NS);
    config->idle_close_ns =
        config_duration_ns(file, "volume", "idle_close", 600 * SECOND_NS, SECOND_NS, 365 * DAY_NS);
    config->scrub_rate_bytes = config_size_bytes(file, "scrub", "rate", 8 * MIB, 0, TIB);
    config->scrub_interval_ns =
        config_duration_ns(file, "scrub", "interval", 7 * DAY_NS, SECOND_NS, 365 * DAY_NS);
    config->repair_wait_ns =
        config_duration_ns(file, "repair", "wait", 600 * SECOND_NS, 0, 365 * DAY_NS);
}

static int read_all(
    struct config *file, const char *hostname, struct node_config *ret_config, char **ret_error)
{
    struct node_config config = {.file = file};
    read_node(&config, hostname);
    read_nbd(&config);
    read_store(&config);
    read_log(&config);
    read_tunables(&config);
    int r = config_finish(file, ret_error);
    if (r < 0)
        node_config_fini(&config);
    else
        *ret_config = config;
    return r;
}

int node_config_load(
    const char *path, const char *hostname, struct node_config *ret_config, char **ret_error)
{
    struct config *file;
    int r = config_load(path, &file, ret_error);
    return r < 0 ? r : read_all(file, hostname, ret_config, ret_error);
}

int node_config_parse(
    const char *text, const char *hostname, struct node_config *ret_config, char **ret_error)
{
    struct config *file;
    int r = config_parse("blockd.conf", text, &file, ret_error);
    return r < 0 ? r : read_all(file, hostname, ret_config, ret_error);
}

void node_config_fini(struct node_config *config)
{
    mem_free(config->run_dir);
    mem_free(config->state_dir);
    mem_free(config->admin_address);
    mem_free(config->store_path);
    for (unsigned i = 0; i < config->nbd_address_count; i++)
        mem_free(config->nbd_addresses[i]);
    config_free(config->file);
}
