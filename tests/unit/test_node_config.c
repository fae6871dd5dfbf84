/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
    node_config_fini(&config);
}

static void paths_and_caches_follow_what_they_derive_from(void **state)
{
    struct node_config config =
        parse("[node]\nname=n2\nrun_dir=/a/\nstate_dir=/b//\nmemory=4GiB\n"
              "[nbd]\nlisten=unix:/x tcp:127.0.0.1:10809\nlisten = tcp:[::1]:0\n"
              "[volume]\nrow_blocks=16\nidle_close=1s\n[scrub]\nrate=0\n[repair]\nwait=0\n");
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
    node_config_fini(&config);
}

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
        {"[store]\ntype=etcd\n", "embedded"},
        {"[log]\nlevel=loud\n", "level"},
        {"[volume]\nrow_blocks=249\n", "row_blocks"},
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

/* With every key set to what the comment says is its default, nothing changes. */
static void sample_file_states_the_defaults(void **state)
{
    char text[8192], bare[8192] = "", line[512], *error = NULL;
    FILE *file = fopen(SAMPLE_PATH, "r");
    assert_non_null(file);
    text[0] = 0;
    while (fgets(line, sizeof(line), file)) {
        bool key = line[0] == '#' && strstr(line, " = ") && !strstr(line, "(the host");
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
        cmocka_unit_test(sample_file_states_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
