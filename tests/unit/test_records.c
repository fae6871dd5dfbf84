/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "common/check.h"
#include "common/mem.h"

static const struct uuid some_uuid = {
    {0xde, 0xad, 0xbe, 0xef, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static struct cluster_record some_cluster(void)
{
    return (struct cluster_record){some_uuid, UINT32_MAX};
}

static struct node_record some_node(void)
{
    return (struct node_record){some_uuid, "node-1.example"};
}

static struct disk_record some_disk(void)
{
    return (struct disk_record){7, some_uuid, "/dev/disk/by-id/x \"y\"", "node1", "ssd", DISK_OUT};
}

static struct pool some_pool(void)
{
    return (struct pool){"fast.pool-1", {4, 2}, 5, 2, DOMAIN_NODE, "", "ssd"};
}

static struct volume_root some_root(void)
{
    return (struct volume_root){
        .id = 0xfedcba9876543210,
        .name = "vm1",
        .size_bytes = 1ull << 40,
        .pool = "default",
        .state = VOLUME_RELEASED,
        .epoch = 3,
        .owner = "node1",
        .owner_session = UINT64_MAX,
        .manifest = {.chunk = 0x300000001,
            .count = 3,
            .places = {{1, 11}, {0, 0}, {UINT32_MAX, UINT64_MAX}}},
    };
}

/* The exact text of version 1: what is in users' stores. */
static void version_1_is_this_text(void **state)
{
    struct cluster_record cluster = some_cluster();
    struct node_record node = some_node();
    struct disk_record disk = some_disk();
    struct pool pool = some_pool();
    struct volume_root root = some_root();
    CLEANUP_FREE char *a = cluster_record_encode(&cluster, NULL);
    CLEANUP_FREE char *n = node_record_encode(&node, NULL);
    assert_string_equal(n, "{\"version\":1,\"uuid\":\"deadbeef-0506-0708-090a-0b0c0d0e0f10\","
                           "\"name\":\"node-1.example\"}");
    CLEANUP_FREE char *b = disk_record_encode(&disk, NULL);
    CLEANUP_FREE char *c = pool_encode(&pool, NULL);
    CLEANUP_FREE char *d = volume_root_encode(&root, NULL);
    assert_string_equal(a, "{\"version\":1,\"uuid\":\"deadbeef-0506-0708-090a-0b0c0d0e0f10\","
                           "\"disk_number_next\":4294967295}");
    assert_string_equal(b, "{\"version\":1,\"number\":7,"
                           "\"uuid\":\"deadbeef-0506-0708-090a-0b0c0d0e0f10\","
                           "\"path\":\"/dev/disk/by-id/x \\\"y\\\"\",\"node\":\"node1\","
                           "\"class\":\"ssd\",\"state\":\"out\"}");
    assert_string_equal(c, "{\"version\":1,\"name\":\"fast.pool-1\",\"code\":\"4+2\","
                           "\"shards_min\":5,\"log_copies_min\":2,\"domain\":\"node\","
                           "\"data_class\":\"\",\"log_class\":\"ssd\"}");
    assert_string_equal(d,
        "{\"version\":1,\"id\":\"fedcba9876543210\",\"name\":\"vm1\","
        "\"size_bytes\":1099511627776,\"pool\":\"default\",\"state\":\"released\","
        "\"epoch\":3,\"owner\":\"node1\",\"owner_session\":\"ffffffffffffffff\","
        "\"manifest\":{\"chunk\":\"0000000300000001\",\"places\":["
        "{\"disk\":1,\"instance\":\"000000000000000b\"},"
        "{\"disk\":0,\"instance\":\"0000000000000000\"},"
        "{\"disk\":4294967295,\"instance\":\"ffffffffffffffff\"}]}}");
}

static void records_survive_encoding(void **state)
{
    char *error = NULL;
    struct cluster_record cluster = some_cluster(), cluster2;
    struct disk_record disk = some_disk(), disk2;
    struct pool pool = some_pool(), pool2;
    struct volume_root root = some_root(), root2;
    CLEANUP_FREE char *a = cluster_record_encode(&cluster, NULL);
    CLEANUP_FREE char *b = disk_record_encode(&disk, NULL);
    CLEANUP_FREE char *c = pool_encode(&pool, NULL);
    CLEANUP_FREE char *d = volume_root_encode(&root, NULL);
    assert_int_equal(cluster_record_decode(a, &cluster2, &error), 0);
    assert_int_equal(disk_record_decode(b, &disk2, &error), 0);
    assert_int_equal(pool_decode(c, &pool2, &error), 0);
    assert_int_equal(volume_root_decode(d, &root2, &error), 0);
    CLEANUP_FREE char *a2 = cluster_record_encode(&cluster2, NULL);
    CLEANUP_FREE char *b2 = disk_record_encode(&disk2, NULL);
    CLEANUP_FREE char *c2 = pool_encode(&pool2, NULL);
    CLEANUP_FREE char *d2 = volume_root_encode(&root2, NULL);
    assert_string_equal(a, a2);
    assert_string_equal(b, b2);
    assert_string_equal(c, c2);
    assert_string_equal(d, d2);
}

static void members_of_a_newer_daemon_are_kept(void **state)
{
    struct pool pool = some_pool();
    const char *old = "{\"version\":1,\"name\":\"was\",\"colour\":{\"of\":[\"paint\"]}}";
    CLEANUP_FREE char *text = pool_encode(&pool, old);
    assert_non_null(strstr(text, "\"colour\":{\"of\":[\"paint\"]}"));
    assert_non_null(strstr(text, "\"name\":\"fast.pool-1\""));
    struct pool pool2;
    char *error;
    assert_int_equal(pool_decode(text, &pool2, &error), 0);
}

/* Decodes `good` with `member` replaced by the JSON `value` (NULL: taken away) and wants a
 * complaint that names it. */
typedef int decode_fn(const char *text, char **ret_error);

static void assert_member_refused(
    decode_fn *decode, const char *good, const char *path, const char *value)
{
    char *error = NULL, member[32];
    json_t *json = json_loads(good, 0, NULL), *object = json;
    snprintf(member, sizeof(member), "%s", path);
    char *slash = strchr(member, '/');
    if (slash) {
        *slash = 0;
        object = json_object_get(json, member);
        memmove(member, slash + 1, strlen(slash + 1) + 1);
    }
    if (value)
        assert_int_equal(
            json_object_set_new(object, member, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
    else
        assert_int_equal(json_object_del(object, member), 0);
    char *text = json_dumps(json, 0);
    if (decode(text, &error) != -EBADMSG)
        fail_msg("accepted: %s", text);
    if (!strstr(error, member))
        fail_msg("does not name %s: %s", member, error);
    mem_free(error);
    free(text);
    json_decref(json);
}

static int decode_cluster(const char *text, char **ret_error)
{
    struct cluster_record record;
    return cluster_record_decode(text, &record, ret_error);
}

static int decode_node(const char *text, char **ret_error)
{
    struct node_record record;
    return node_record_decode(text, &record, ret_error);
}

static int decode_disk(const char *text, char **ret_error)
{
    struct disk_record record;
    return disk_record_decode(text, &record, ret_error);
}

static int decode_pool(const char *text, char **ret_error)
{
    struct pool pool;
    return pool_decode(text, &pool, ret_error);
}

static int decode_root(const char *text, char **ret_error)
{
    struct volume_root root;
    return volume_root_decode(text, &root, ret_error);
}

static void a_node_with_address_and_rack_keeps_them_and_one_without_has_none(void **state)
{
    struct node_record node = some_node(), again;
    char *error = NULL;
    strcpy(node.address, "tcp:10.0.0.1:7000");
    strcpy(node.rack, "r2");
    CLEANUP_FREE char *with = node_record_encode(&node, NULL);
    assert_non_null(strstr(with, "\"address\":\"tcp:10.0.0.1:7000\""));
    assert_int_equal(node_record_decode(with, &again, &error), 0);
    assert_string_equal(again.address, node.address);
    assert_string_equal(again.rack, "r2");
    node.address[0] = 0;
    node.rack[0] = 0;
    CLEANUP_FREE char *without = node_record_encode(&node, with);
    assert_null(strstr(without, "address"));
    assert_null(strstr(without, "rack"));
    assert_int_equal(node_record_decode(without, &again, &error), 0);
    assert_string_equal(again.address, "");
}

static void each_member_is_needed_and_of_its_type(void **state)
{
    struct cluster_record cluster = some_cluster();
    struct node_record node = some_node();
    struct disk_record disk = some_disk();
    struct pool pool = some_pool();
    struct volume_root root = some_root();
    struct {
        decode_fn *decode;
        char *text;
    } all[] = {
        {decode_cluster, cluster_record_encode(&cluster, NULL)},
        {decode_node, node_record_encode(&node, NULL)},
        {decode_disk, disk_record_encode(&disk, NULL)},
        {decode_pool, pool_encode(&pool, NULL)},
        {decode_root, volume_root_encode(&root, NULL)},
    };
    static const char *const types[] = {NULL, "null", "true", "-1", "1.5", "[]", "{}", "\"\\n\""};
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        json_t *json = json_loads(all[i].text, 0, NULL), *value;
        const char *member;
        json_object_foreach (json, member, value) {
            for (unsigned t = 0; t < ARRAY_SIZE(types); t++)
                assert_member_refused(all[i].decode, all[i].text, member, types[t]);
        }
        json_decref(json);
        mem_free(all[i].text);
    }
}

static void values_out_of_range_are_refused_by_name(void **state)
{
    struct disk_record disk = some_disk();
    struct pool pool = some_pool();
    struct volume_root root = some_root();
    CLEANUP_FREE char *b = disk_record_encode(&disk, NULL);
    CLEANUP_FREE char *c = pool_encode(&pool, NULL);
    CLEANUP_FREE char *d = volume_root_encode(&root, NULL);
    struct {
        decode_fn *decode;
        const char *text, *member, *value;
    } bad[] = {
        {decode_disk, b, "number", "0"},
        {decode_disk, b, "number", "4294967296"},
        {decode_disk, b, "uuid", "\"00000000-0000-0000-0000-000000000000\""},
        {decode_disk, b, "path", "\"\""},
        {decode_disk, b, "class", "\"0123456789abcdef\""},
        {decode_disk, b, "state", "\"failed\""},
        {decode_disk, b, "version", "2"},
        {decode_disk, b, "version", "0"},
        {decode_pool, c, "code", "\"17+0\""},
        {decode_pool, c, "code", "\"4+5\""},
        {decode_pool, c, "code", "\"4\""},
        {decode_pool, c, "shards_min", "3"},
        {decode_pool, c, "shards_min", "7"},
        {decode_pool, c, "log_copies_min", "0"},
        {decode_pool, c, "log_copies_min", "4"},
        {decode_pool, c, "domain", "\"planet\""},
        {decode_pool, c, "name", "\"../x\""},
        {decode_root, d, "id", "\"0000000000000000\""},
        {decode_root, d, "id", "\"fedcba987654321\""},
        {decode_root, d, "id", "\"fedcba98765432100\""},
        {decode_root, d, "id", "\"FEDCBA9876543210\""},
        {decode_root, d, "size_bytes", "0"},
        {decode_root, d, "size_bytes", "513"},
        {decode_root, d, "size_bytes", "1125899906843136"},
        {decode_root, d, "epoch", "4294967296"},
        {decode_root, d, "state", "\"lost\""},
        {decode_root, d, "name", "\"\""},
        {decode_root, d, "manifest/chunk", "\"0000000000000000\""},
        {decode_root, d, "manifest/places", "[]"},
        {decode_root, d, "manifest/places", "[1]"},
        {decode_root, d, "manifest/places", "[{},{},{},{},{},{}]"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        /* The complaint about a place names its first member. */
        bool place = strcmp(bad[i].value, "[1]") == 0;
        if (!place && strcmp(bad[i].member, "manifest/chunk") != 0) {
            assert_member_refused(bad[i].decode, bad[i].text, bad[i].member, bad[i].value);
            continue;
        }
        char *error = NULL;
        json_t *json = json_loads(bad[i].text, 0, NULL);
        json_object_set_new(json_object_get(json, "manifest"), strchr(bad[i].member, '/') + 1,
            json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(json, 0);
        assert_int_equal(bad[i].decode(text, &error), -EBADMSG);
        assert_non_null(
            strstr(error, place ? "manifest: member 'disk'" : "manifest: member 'places'"));
        mem_free(error);
        free(text);
        json_decref(json);
    }
}

static void codes_are_parsed_exactly(void **state)
{
    struct shard_code code;
    assert_int_equal(code_parse("1+0", &code), 0);
    assert_int_equal(code_parse("16+4", &code), 0);
    assert_int_equal(code.k, 16);
    assert_int_equal(code.m, 4);
    static const char *const bad[] = {"", "+", "4", "4+", "+2", "0+1", "17+1", "4+5", "04+2",
        "4+02", "4+2 ", " 4+2", "4-2", "100+1", "4+2+1", "4+-1"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(code_parse(bad[i], &code), -EINVAL);
    assert_int_equal(code.k, 16);
}

static void names_are_checked(void **state)
{
    char longest[NAME_BYTES_MAX + 1];
    memset(longest, 'a', sizeof(longest));
    longest[NAME_BYTES_MAX] = 0;
    assert_false(name_valid(longest));
    longest[NAME_BYTES_MAX - 1] = 0;
    assert_true(name_valid(longest));
    assert_true(name_valid("a"));
    assert_true(name_valid("0.vm-1_x"));
    static const char *const bad[] = {"", ".", "..", "-x", "a/b", "a b", "\xc3\xa4", "a\n"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(name_valid(bad[i]));
}

/* --- In the store ---------------------------------------------------------------------------- */

static void put(struct store *store, const char *key, const char *text)
{
    struct store_op op = {STORE_PUT, key, text, strlen(text), false};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
}

/* Members that are there while they say something. `root` is in the store. */
static void optional_members(struct store *store, struct volume_root *root)
{
    struct volume_root read;
    struct store_value value;
    char key[KEY_BYTES_MAX];
    /* The successor is there while it is named. */
    strcpy(root->successor, "node2");
    assert_int_equal(volume_root_save(store, root), 0);
    assert_int_equal(volume_root_load(store, root->id, &read), 0);
    assert_string_equal(read.successor, "node2");
    root->successor[0] = 0;
    assert_int_equal(volume_root_save(store, root), 0);
    assert_int_equal(store_get(store, key_volume(root->id, key), &value), 0);
    assert_null(strstr(value.data, "successor"));
    assert_null(strstr(value.data, "loss"));
    store_value_fini(&value);
    root->loss_epoch = 4;
    root->loss_time_s = 1795000000;
    assert_int_equal(volume_root_save(store, root), 0);
    assert_int_equal(volume_root_load(store, root->id, &read), 0);
    assert_int_equal(read.loss_epoch, 4);
    assert_int_equal(read.loss_time_s, 1795000000);
    assert_int_equal(read.tail_log, 0);
    root->tail_log = 0x8000000700000011;
    root->tail_blocks = 900;
    assert_int_equal(volume_root_save(store, root), 0);
    assert_int_equal(volume_root_load(store, root->id, &read), 0);
    assert_true(read.tail_log == 0x8000000700000011 && read.tail_blocks == 900);
    root->tail_log = 0;
    assert_int_equal(volume_root_save(store, root), 0);
    assert_int_equal(store_get(store, key_volume(root->id, key), &value), 0);
    assert_null(strstr(value.data, "tail"));
    store_value_fini(&value);
}

static bool finished;

static void in_store(void *arg)
{
    struct store *store = store_mem_open(arg);
    struct volume_root root = some_root(), loaded, stale;
    struct pool pool;
    char key[KEY_BYTES_MAX];
    uint64_t id;
    assert_int_equal(volume_root_load(store, root.id, &loaded), -ENOENT);
    assert_int_equal(volume_root_save(store, &root), 0);
    assert_true(root.revision > 0);
    assert_int_equal(volume_root_load(store, root.id, &loaded), 0);
    assert_int_equal(loaded.revision, root.revision);
    assert_string_equal(loaded.owner, root.owner);
    assert_true(loaded.manifest.places[2].instance == UINT64_MAX);

    stale = loaded;
    loaded.epoch++;
    assert_int_equal(volume_root_save(store, &loaded), 0);
    assert_true(loaded.revision > stale.revision);
    assert_int_equal(volume_root_save(store, &stale), -ECANCELED);
    stale.revision = 0; /* absent, it says */
    assert_int_equal(volume_root_save(store, &stale), -ECANCELED);
    assert_int_equal(volume_root_load(store, root.id, &stale), 0);
    assert_int_equal(stale.epoch, root.epoch + 1);

    /* A newer daemon's member survives a save. */
    put(store, key_volume(root.id, key),
        "{\"version\":1,\"id\":\"fedcba9876543210\",\"name\":\"vm1\",\"size_bytes\":512,"
        "\"pool\":\"p\",\"state\":\"new\",\"epoch\":0,\"owner\":\"\","
        "\"owner_session\":\"0000000000000000\",\"layers\":7,"
        "\"manifest\":{\"chunk\":\"0000000000000000\",\"places\":[]}}");
    assert_int_equal(volume_root_load(store, root.id, &loaded), 0);
    loaded.size_bytes = 1024;
    assert_int_equal(volume_root_save(store, &loaded), 0);
    struct store_value value;
    assert_int_equal(store_get(store, key, &value), 0);
    assert_non_null(strstr(value.data, "\"layers\":7"));
    assert_non_null(strstr(value.data, "\"size_bytes\":1024"));
    store_value_fini(&value);

    optional_members(store, &loaded);

    /* Not while that session is there (S10). */
    char session_key[KEY_BYTES_MAX];
    put(store, key_session(0xabc, session_key), "{}");
    assert_string_equal(session_key, "holdfast/sessions/0000000000000abc");
    char *root_text = NULL;
    assert_int_equal(volume_root_load_text(store, root.id, &loaded, &root_text), 0);
    assert_int_equal(volume_root_save_unless(store, &loaded, 0xabc, &root_text), -ECANCELED);
    loaded.epoch = 77;
    assert_int_equal(volume_root_save_unless(store, &loaded, 0xabd, &root_text), 0);
    assert_non_null(strstr(root_text, "\"epoch\":77"));
    assert_non_null(strstr(root_text, "\"layers\":7"));
    mem_free(root_text);

    put(store, key_volume(5, key), "{}");
    assert_int_equal(volume_root_load(store, 5, &loaded), -EBADMSG);
    put(store, key_name("vm1", key), "fedcba9876543210");
    assert_int_equal(volume_id_by_name(store, "vm1", &id), 0);
    assert_true(id == root.id);
    put(store, key, "fedc");
    assert_int_equal(volume_id_by_name(store, "vm1", &id), -EBADMSG);
    assert_int_equal(volume_id_by_name(store, "vm2", &id), -ENOENT);
    assert_int_equal(volume_id_by_name(store, "/", &id), -ENOENT);
    pool = some_pool();
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    put(store, key_pool("p", key), text);
    assert_int_equal(pool_load(store, "p", &pool), 0);
    assert_int_equal(pool.code.k, 4);
    assert_int_equal(pool_load(store, "q", &pool), -ENOENT);
    store_close(store);
    finished = true;
}

static void roots_are_saved_by_compare_and_swap(void **state)
{
    struct store_mem *mem = store_mem_new();
    struct fake_env fake;
    fiber_sched_init(4);
    fake_env_init(&fake);
    fake_env_run(&fake, in_store, mem);
    assert_true(finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
    store_mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1_is_this_text),
        cmocka_unit_test(records_survive_encoding),
        cmocka_unit_test(members_of_a_newer_daemon_are_kept),
        cmocka_unit_test(a_node_with_address_and_rack_keeps_them_and_one_without_has_none),
        cmocka_unit_test(each_member_is_needed_and_of_its_type),
        cmocka_unit_test(values_out_of_range_are_refused_by_name),
        cmocka_unit_test(codes_are_parsed_exactly),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(roots_are_saved_by_compare_and_swap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
