/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "blockd/nbd/server.h"
#include "blockd/volume/volume.h"
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

/* --- Addresses ------------------------------------------------------------------------------- */

/* Behind the last colon of `len` bytes. */
static bool has_port(const char *address, size_t len)
{
    size_t digits = 0;
    while (digits < len && address[len - digits - 1] >= '0' && address[len - digits - 1] <= '9')
        digits++;
    return digits > 0 && digits <= 5 && len > digits + 1 && address[len - digits - 1] == ':' &&
           strtoul(address + len - digits, NULL, 10) <= UINT16_MAX;
}

/* tcp:HOST:PORT (env.h), with a host in numbers. */
static bool tcp_address_valid(const char *address)
{
    if (strncmp(address, "tcp:", 4) != 0 || !has_port(address + 4, strlen(address + 4)))
        return false;
    const char *host = address + 4, *colon = strrchr(address, ':');
    bool v6 = host[0] == '[';
    char text[INET6_ADDRSTRLEN + 20] = "";
    struct in6_addr ignored;
    if (v6 && (colon < host + 3 || colon[-1] != ']'))
        return false;
    size_t len = (size_t)(colon - host) - (v6 ? 2 : 0);
    if (len >= sizeof(text))
        return false;
    memcpy(text, host + v6, len);
    if (v6)
        text[strcspn(text, "%")] = 0; /* the interface of a link-local one */
    return inet_pton(v6 ? AF_INET6 : AF_INET, text, &ignored) == 1;
}

static void add_address(struct node_config *config, const char *address, size_t len)
{
    CLEANUP_FREE char *text = mem_printf("%.*s", (int)len, address);
    if (strncmp(text, "unix:/", 6) != 0 && !tcp_address_valid(text))
        config_reject(config->file, "nbd", "listen",
            "is not an address: unix:/PATH or tcp:HOST:PORT is, with a host in numbers (IPv6 in "
            "brackets), several with spaces between");
    else if (config->nbd_address_count == NBD_ADDRESSES_MAX)
        config_reject(config->file, "nbd", "listen", "has more than 32 addresses");
    else
        config->nbd_addresses[config->nbd_address_count++] = mem_strdup(text);
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

/* --- Store and cluster ----------------------------------------------------------------------- */

static void add_endpoint(struct node_config *config, const char *endpoint, size_t len)
{
    size_t scheme = strncmp(endpoint, "http://", 7) == 0    ? 7
                    : strncmp(endpoint, "https://", 8) == 0 ? 8
                                                            : 0;
    if (!scheme || len <= scheme || memchr(endpoint + scheme, '/', len - scheme) ||
        !has_port(endpoint + scheme, len - scheme))
        config_reject(config->file, "store", "endpoints",
            "is not a list of etcd's addresses: http://HOST:PORT or https://HOST:PORT, with commas "
            "between");
    else if (config->store_endpoint_count == STORE_ETCD_ENDPOINTS_MAX)
        config_reject(config->file, "store", "endpoints", "has more than 16 addresses");
    else
        config->store_endpoints[config->store_endpoint_count++] =
            mem_printf("%.*s", (int)len, endpoint);
}

static void read_endpoints(struct node_config *config)
{
    const char *list;
    for (unsigned n = 0; (list = config_string_nth(config->file, "store", "endpoints", n)); n++)
        for (size_t len; *(list += strspn(list, " \t,")); list += len) {
            len = strcspn(list, " \t,");
            add_endpoint(config, list, len);
        }
}

static char *read_optional_path(struct node_config *config, const char *key)
{
    if (!config_string(config->file, "store", key, NULL))
        return NULL;
    return read_path(config->file, "store", key, mem_strdup("/"));
}

/* The first line of the file. */
static char *read_password_file(struct node_config *config, const char *path)
{
    char line[512] = "";
    FILE *file = fopen(path, "re");
    if (!file || !fgets(line, sizeof(line), file) || line[0] == '\n') {
        CLEANUP_FREE char *why =
            mem_printf("cannot be used: %s", file ? "its first line is empty" : strerror(errno));
        config_reject(config->file, "store", "password_file", why);
    }
    if (file)
        fclose(file);
    line[strcspn(line, "\r\n")] = 0;
    return mem_strdup(line);
}

static void read_login(struct node_config *config)
{
    struct config *file = config->file;
    config->store_ca = read_optional_path(config, "ca");
    config->store_cert = read_optional_path(config, "cert");
    config->store_key = read_optional_path(config, "key");
    if (!config->store_cert != !config->store_key)
        config_reject(
            file, "store", config->store_cert ? "cert" : "key", "needs both: [store] cert and key");
    config->store_user = config_string(file, "store", "user", NULL);
    const char *password = config_string(file, "store", "password", NULL);
    CLEANUP_FREE char *path = read_optional_path(config, "password_file");
    if (password && path)
        config_reject(file, "store", "password_file", "stands beside [store] password: choose one");
    else if (!config->store_user && (password || path))
        config_reject(file, "store", "user", "is missing beside the password");
    else if (config->store_user && !password && !path)
        config_reject(file, "store", "user", "needs [store] password_file (or password)");
    else if (path)
        config->store_password = read_password_file(config, path);
    else if (password)
        config->store_password = mem_strdup(password);
}

static void read_store(struct node_config *config)
{
    static const char *const types[] = {"embedded", "etcd", NULL};
    struct config *file = config->file;
    config->store_type = (enum store_type)config_enum(file, "store", "type", types, 0);
    config->store_path =
        read_path(file, "store", "path", mem_printf("%s/store", config->state_dir));
    read_endpoints(config);
    read_login(config);
    if (config->store_type == STORE_TYPE_ETCD && config->store_endpoint_count == 0)
        config_reject(file, "store", "endpoints",
            "must name etcd's members with [store] type = etcd: http://HOST:PORT, with commas "
            "between");
    if (config->store_type == STORE_TYPE_EMBEDDED && config->store_endpoint_count > 0)
        config_reject(file, "store", "endpoints", "needs [store] type = etcd");
}

/* Other nodes are told it, so it has to be this host's. */
static bool address_wrong(const char *address)
{
    return !tcp_address_valid(address) || strcmp(strrchr(address, ':'), ":0") == 0 ||
           strncmp(address, "tcp:0.0.0.0:", 12) == 0 || strncmp(address, "tcp:[::]:", 9) == 0 ||
           strlen(address) >= sizeof(((struct node_record *)0)->address);
}

static void read_cluster(struct node_config *config)
{
    struct config *file = config->file;
    bool etcd = config->store_type == STORE_TYPE_ETCD;
    config->cluster_address = config_string(file, "cluster", "address", NULL);
    config->rack = config_string(file, "cluster", "rack", "");
    config->session_ttl_ns = config_duration_ns(
        file, "cluster", "session_ttl", 5 * SECOND_NS, SECOND_NS, 600 * SECOND_NS);
    config->silence_ns = config_duration_ns(
        file, "cluster", "silence", 2 * SECOND_NS, SECOND_NS / 10, 60 * SECOND_NS);
    if (config->cluster_address && !etcd)
        config_reject(file, "cluster", "address",
            "needs [store] type = etcd: a node with a store "
            "of its own has no others to talk to");
    else if (etcd && !config->cluster_address)
        config_reject(file, "cluster", "address",
            "must be set with [store] type = etcd: tcp:HOST:PORT, where the other nodes reach this "
            "one");
    else if (etcd && address_wrong(config->cluster_address))
        config_reject(file, "cluster", "address",
            "is not tcp:HOST:PORT with an IP address of this host (IPv6 in brackets)");
    if (config->rack[0] &&
        (!name_valid(config->rack) || strlen(config->rack) >= sizeof(((struct disk *)0)->rack)))
        config_reject(file, "cluster", "rack",
            "is not a name: a letter or digit, then letters, digits, '.', '_', '-', at most 63 in "
            "all");
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
    config->handoff_after_ns =
        config_duration_ns(file, "volume", "handoff_after", SECOND_NS, SECOND_NS / 10, DAY_NS);
    if (!config_bool(file, "volume", "handoff", true))
        config->handoff_after_ns = UINT64_MAX;
    config->hold_timeout_ns =
        config_duration_ns(file, "volume", "hold_timeout", 0, 0, 365 * DAY_NS);
    config->scrub_rate_bytes = config_size_bytes(file, "scrub", "rate", 8 * MIB, 0, TIB);
    config->scrub_interval_ns =
        config_duration_ns(file, "scrub", "interval", 7 * DAY_NS, SECOND_NS, 365 * DAY_NS);
    config->io_timeout_ns =
        config_duration_ns(file, "disk", "io_timeout", 30 * SECOND_NS, SECOND_NS, 3600 * SECOND_NS);
    config->repair_wait_ns =
        config_duration_ns(file, "repair", "wait", 600 * SECOND_NS, 0, 365 * DAY_NS);
}

#define MEMORY_REST_MIN (24 * MIB)

/* The rest is for what is in no share: stacks, requests, what is being cleaned, what malloc wastes. */
static void share_memory(struct node_config *config)
{
    struct memory_shares *shares = &config->memory;
    uint64_t all = config->memory_bytes, others = MAX(all / 8, MEMORY_REST_MIN);
    shares->io_bytes = MAX(all / 8, MEMORY_IO_MIN);
    shares->nbd_bytes = MIN(MAX(all / 8, NBD_BUFFER_BYTES_MIN), GIB);
    shares->delta_bytes = all / 16;
    others += shares->io_bytes + shares->nbd_bytes + shares->delta_bytes;
    if (__builtin_add_overflow(others, config->map_cache_bytes, &others) ||
        __builtin_add_overflow(others, config->trailer_cache_bytes, &others) ||
        __builtin_add_overflow(others, MEMORY_BLOCKS_MIN, &others) || others > all)
        config_reject(config->file, "volume",
            config->map_cache_bytes > config->trailer_cache_bytes ? "map_cache" : "trailer_cache",
            "is too large for [node] memory, of which map_cache and trailer_cache have a sixteenth "
            "each by default: make it smaller, or memory larger");
    else
        shares->blocks_bytes = MIN(all / 2, all - others + MEMORY_BLOCKS_MIN);
}

static int read_all(
    struct config *file, const char *hostname, struct node_config *ret_config, char **ret_error)
{
    struct node_config config = {.file = file};
    read_node(&config, hostname);
    read_nbd(&config);
    read_store(&config);
    read_cluster(&config);
    read_log(&config);
    read_tunables(&config);
    share_memory(&config);
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
    mem_free(config->store_ca);
    mem_free(config->store_cert);
    mem_free(config->store_key);
    mem_free(config->store_password);
    for (unsigned i = 0; i < config->store_endpoint_count; i++)
        mem_free(config->store_endpoints[i]);
    for (unsigned i = 0; i < config->nbd_address_count; i++)
        mem_free(config->nbd_addresses[i]);
    config_free(config->file);
}
