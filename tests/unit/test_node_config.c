/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blockd/config.h"
#include "common/check.h"
#include "common/mem.h"

static struct node_config parse(const char *text)
{
    struct node_config config;
    CLEANUP_FREE char *error = NULL;
    if (node_config_parse(text, "host1.example", &config, &error) < 0)
        fail_msg("%s", error);
    return config;
}

static void everything_has_a_default(void **state)
{
    struct node_config config = parse("");
    assert_string_equal(config.name, "host1.example");
    assert_string_equal(config.run_dir, "/run/holdfast");
    assert_string_equal(config.state_dir, "/var/lib/holdfast");
    assert_string_equal(config.store_path, "/var/lib/holdfast/store");
    assert_string_equal(config.admin_address, "unix:/run/holdfast/admin.sock");
    assert_int_equal(config.nbd_address_count, 1);
    assert_string_equal(config.nbd_addresses[0], "unix:/run/holdfast/nbd.sock");
    assert_int_equal(config.memory_bytes, 1 << 30);
    assert_int_equal(config.map_cache_bytes, 64 << 20);
    assert_int_equal(config.log_level, LOG_LEVEL_INFO);
    assert_int_equal(config.row_blocks, 0); /* the engine's own */
    assert_int_equal(config.idle_close_ns, 600000000000);
    assert_int_equal(config.io_timeout_ns, 30000000000);
    node_config_fini(&config);
}

static void paths_and_caches_follow_what_they_derive_from(void **state)
{
    struct node_config config =
        parse("[node]\nname=n2\nrun_dir=/a/\nstate_dir=/b//\nmemory=4GiB\n"
              "[nbd]\nlisten=unix:/x tcp:127.0.0.1:10809\nlisten = tcp:[::1]:0\n"
              "[volume]\nrow_blocks=16\nidle_close=1s\n[scrub]\nrate=0\n[repair]\nwait=0\n"
              "[disk]\nio_timeout=1s\n");
    assert_string_equal(config.name, "n2");
    assert_string_equal(config.admin_address, "unix:/a/admin.sock");
    assert_string_equal(config.store_path, "/b/store");
    assert_int_equal(config.nbd_address_count, 3);
    assert_string_equal(config.nbd_addresses[1], "tcp:127.0.0.1:10809");
    assert_string_equal(config.nbd_addresses[2], "tcp:[::1]:0");
    assert_int_equal(config.trailer_cache_bytes, 256 << 20);
    assert_int_equal(config.row_blocks, 16);
    assert_int_equal(config.scrub_rate_bytes, 0);
    assert_int_equal(config.repair_wait_ns, 0);
    assert_int_equal(config.io_timeout_ns, 1000000000);
    node_config_fini(&config);
}

#define ETCD "[store]\ntype=etcd\nendpoints=http://a:1\n"

static void mistakes_are_named(void **state)
{
    static const struct {
        const char *text, *want;
    } bad[] = {
        {"[node]\nname=a/b\n", "is not a node's name"},
        {"[node]\nrun_dir=here\n", "is not an absolute path"},
        {"[node]\nmemory=1MiB\n", "memory"},
        {"[nbd]\nlisten=/run/x\n", "is not an address"},
        {"[nbd]\nlisten=unix:relative\n", "is not an address"},
        {"[nbd]\nlisten=unix:/x tcp:localhost:10809\n", "is not an address"},
        {"[nbd]\nlisten=tcp:127.0.0.1\n", "is not an address"},
        {"[nbd]\nlisten=tcp:127.0.0.1:70000\n", "is not an address"},
        {"[nbd]\nlisten=tcp:[::1:1\n", "is not an address"},
        {"[store]\ntype=consul\n", "embedded"},
        {"[store]\nendpoints=http://a:1\n", "needs [store] type = etcd"},
        {"[store]\nca=ca.pem\n", "is not an absolute path"},
        {"[store]\ncert=/c.pem\n", "needs both: [store] cert and key"},
        {"[store]\nkey=/k.pem\n", "needs both: [store] cert and key"},
        {"[store]\nuser=u\n", "needs [store] password_file"},
        {"[store]\nendpoints=http://, b\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[store]\nendpoints=ftp://a:1\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[store]\nendpoints=http://a\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[store]\nendpoints=http://[::1]\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[store]\nendpoints=http://a:x1\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[store]\nendpoints=http://a:1/x\ntype=etcd\n", "is not a list of etcd's addresses"},
        {"[cluster]\naddress=tcp:10.0.0.1:1\n", "needs [store] type = etcd"},
        {"[cluster]\naddress=tcp:0.0.0.0:7100\n" ETCD, "is not tcp:HOST:PORT"},
        {"[cluster]\naddress=tcp:[::]:7100\n" ETCD, "is not tcp:HOST:PORT"},
        {"[cluster]\naddress=10.0.0.1:7100\n" ETCD, "is not tcp:HOST:PORT"},
        {"[cluster]\naddress=unix:/x\n" ETCD, "is not tcp:HOST:PORT"},
        {"[cluster]\nrack=a b\n", "is not a name"},
        {"[cluster]\nsession_ttl=1ms\n", "session_ttl"},
        {"[cluster]\nsilence=soon\n", "silence"},
        {"[log]\nlevel=loud\n", "level"},
        {"[volume]\nrow_blocks=249\n", "row_blocks"},
        {"[volume]\nmap_cache=1GiB\n", "map_cache = '1GiB' is too large for [node] memory"},
        {"[volume]\ntrailer_cache=1TiB\n", "too large for [node] memory"},
        {"[scrub]\nspeed=1\n", "speed"},
        {"[nodes]\nname=x\n", "nodes"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct node_config config;
        CLEANUP_FREE char *error = NULL;
        assert_int_equal(node_config_parse(bad[i].text, "h", &config, &error), -EINVAL);
        if (!strstr(error, bad[i].want) || !strstr(error, "blockd.conf:2"))
            fail_msg("wanted '%s', got '%s'", bad[i].want, error);
    }
    struct node_config config;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(node_config_parse("", "not a name!", &config, &error), -EINVAL);
    assert_non_null(strstr(error, "is not a node's name"));
}

static void shares_fit_into_memory(void **state)
{
    static const uint64_t sizes_mib[] = {128, 129, 192, 256, 500, 1024, 65536, 64ull << 20};
    for (unsigned i = 0; i < ARRAY_SIZE(sizes_mib); i++) {
        char text[64];
        snprintf(text, sizeof(text), "[node]\nmemory=%lluMiB\n", (unsigned long long)sizes_mib[i]);
        struct node_config config = parse(text);
        const struct memory_shares *shares = &config.memory;
        assert_true(shares->blocks_bytes >= 16 << 20);
        assert_true(shares->io_bytes >= 24 << 20);
        assert_true(shares->nbd_bytes >= 40 << 20); /* one request of 32 MiB, and more */
        uint64_t sum = shares->blocks_bytes + shares->io_bytes + shares->nbd_bytes +
                       shares->delta_bytes + config.map_cache_bytes + config.trailer_cache_bytes;
        assert_true(sum <= config.memory_bytes - config.memory_bytes / 8);
        node_config_fini(&config);
    }
    struct node_config config = parse("[volume]\nmap_cache=300MiB\n");
    assert_int_equal(config.memory.blocks_bytes, (1024 - 128 - 128 - 128 - 64 - 64 - 300) << 20);
    node_config_fini(&config);
}

static void a_cluster_has_etcd_and_an_address(void **state)
{
    struct node_config config = parse(
        "[store]\ntype=etcd\nendpoints=http://a:2379, https://b:2379\nendpoints = http://[::1]:1\n"
        "ca=/ca\ncert=/c\nkey=/k\nuser=u\npassword=p\n"
        "[cluster]\naddress=tcp:10.0.0.1:7100\nrack=r1\nsession_ttl=10s\nsilence=1s\n");
    assert_int_equal(config.store_type, STORE_TYPE_ETCD);
    assert_int_equal(config.store_endpoint_count, 3);
    assert_string_equal(config.store_endpoints[0], "http://a:2379");
    assert_string_equal(config.store_endpoints[1], "https://b:2379");
    assert_string_equal(config.store_endpoints[2], "http://[::1]:1");
    assert_string_equal(config.store_ca, "/ca");
    assert_string_equal(config.store_cert, "/c");
    assert_string_equal(config.store_key, "/k");
    assert_string_equal(config.store_user, "u");
    assert_string_equal(config.store_password, "p");
    assert_string_equal(config.cluster_address, "tcp:10.0.0.1:7100");
    assert_string_equal(config.rack, "r1");
    assert_int_equal(config.session_ttl_ns, 10000000000);
    assert_int_equal(config.silence_ns, 1000000000);
    node_config_fini(&config);

    config = parse("");
    assert_int_equal(config.store_type, STORE_TYPE_EMBEDDED);
    assert_null(config.cluster_address);
    assert_null(config.store_user);
    assert_null(config.store_ca);
    assert_string_equal(config.rack, "");
    assert_int_equal(config.session_ttl_ns, 5000000000);
    assert_int_equal(config.silence_ns, 2000000000);
    node_config_fini(&config);
}

static void what_a_cluster_lacks_is_named(void **state)
{
    static const struct {
        const char *text, *want;
    } bad[] = {
        {"[store]\ntype=etcd\n", "must name etcd's members"},
        {"[store]\ntype=etcd\nendpoints=http://a:1\n", "[cluster] address (not set)"},
        {"[store]\ntype=etcd\nendpoints=http://a:1\n[cluster]\naddress=tcp:n1:7100\n",
            "is not tcp:HOST:PORT with an IP address"},
        {"[store]\ntype=etcd\nendpoints=http://a:1\n[cluster]\naddress=tcp:10.0.0.1:71000\n",
            "is not tcp:HOST:PORT with an IP address"},
        {"[store]\npassword=secret\n", "[store] user (not set) is missing beside the password"},
        {"[store]\nuser=u\npassword=p\npassword_file=/x\n", "choose one"},
        {"[store]\nuser=u\npassword_file=/nowhere/x\n", "No such file"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct node_config config;
        CLEANUP_FREE char *error = NULL;
        assert_int_equal(node_config_parse(bad[i].text, "h", &config, &error), -EINVAL);
        if (!strstr(error, bad[i].want) || strstr(error, "secret"))
            fail_msg("wanted '%s', got '%s'", bad[i].want, error);
    }
}

static void the_password_is_the_first_line_of_its_file(void **state)
{
    char path[] = "/tmp/holdfast-password-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "s3cret word\nmore\n", 17), 17);
    close(fd);
    CLEANUP_FREE char *text = mem_printf("[store]\nuser=u\npassword_file=%s\n", path);
    struct node_config config = parse(text);
    assert_string_equal(config.store_password, "s3cret word");
    node_config_fini(&config);
    unlink(path);
}

/* With every key set to what the comment says is its default, nothing changes. Indented ones are
 * examples. */
static void sample_file_states_the_defaults(void **state)
{
    char text[8192], bare[8192] = "", line[512], *error = NULL;
    FILE *file = fopen(SAMPLE_PATH, "r");
    assert_non_null(file);
    text[0] = 0;
    while (fgets(line, sizeof(line), file)) {
        bool key =
            line[0] == '#' && line[2] != ' ' && strstr(line, " = ") && !strstr(line, "(the host");
        strcat(bare, line);
        strcat(text, key ? line + 2 : line);
    }
    fclose(file);
    struct node_config config = parse(bare), defaults = parse(""), set;
    if (node_config_parse(text, "host1.example", &set, &error) < 0)
        fail_msg("%s", error);
    assert_string_equal(set.admin_address, defaults.admin_address);
    assert_string_equal(set.store_path, defaults.store_path);
    assert_string_equal(set.nbd_addresses[0], defaults.nbd_addresses[0]);
    assert_int_equal(set.memory_bytes, defaults.memory_bytes);
    assert_int_equal(set.idle_close_ns, defaults.idle_close_ns);
    assert_int_equal(set.scrub_rate_bytes, defaults.scrub_rate_bytes);
    assert_int_equal(set.scrub_interval_ns, defaults.scrub_interval_ns);
    assert_int_equal(set.repair_wait_ns, defaults.repair_wait_ns);
    assert_int_equal(set.log_level, defaults.log_level);
    node_config_fini(&config);
    node_config_fini(&defaults);
    node_config_fini(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_has_a_default),
        cmocka_unit_test(paths_and_caches_follow_what_they_derive_from),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(shares_fit_into_memory),
        cmocka_unit_test(a_cluster_has_etcd_and_an_address),
        cmocka_unit_test(what_a_cluster_lacks_is_named),
        cmocka_unit_test(the_password_is_the_first_line_of_its_file),
        cmocka_unit_test(sample_file_states_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
